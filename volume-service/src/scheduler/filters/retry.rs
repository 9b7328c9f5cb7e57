//! `RetryFilter`: a pool where this create has failed is not chosen again.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    !request.tried.contains(&candidate.pool.name)
}
