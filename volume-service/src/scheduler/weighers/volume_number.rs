//! `VolumeNumberWeigher`: how many volumes the pool has.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

pub(super) fn weigh(candidate: &Candidate, _: &Request) -> f64 {
    candidate.volumes as f64
}
