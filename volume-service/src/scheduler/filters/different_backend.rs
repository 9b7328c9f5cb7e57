//! `DifferentBackendFilter`: the hint `different_host` names volumes whose back-ends are avoided.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    !request
        .other_backends
        .contains(&candidate.pool.service_host)
}
