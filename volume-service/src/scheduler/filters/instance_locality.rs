//! `InstanceLocalityFilter`: the hint `local_to_instance` asks for a pool on the machine that a
//! server runs on, which the compute service knows. While that does not say, a request with the
//! hint finds no pool.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::{Locality, Request};

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    match &request.local_to {
        Locality::Anywhere => true,
        Locality::Nowhere => false,
        Locality::Host(host) => candidate.pool.name.split('@').next() == Some(host),
    }
}
