//! `AllocatedCapacityWeigher`: what this service has placed on the pool, in GiB.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

pub(super) fn weigh(candidate: &Candidate, _: &Request) -> f64 {
    candidate.pool.capabilities.allocated_capacity_gb
}
