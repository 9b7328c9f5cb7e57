//! `SameBackendFilter`: the hint `same_host` names volumes; the pool is on a back-end of one of
//! them.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    request
        .same_backends
        .as_ref()
        .is_none_or(|backends| backends.contains(&candidate.pool.service_host))
}
