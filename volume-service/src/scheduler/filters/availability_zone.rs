//! `AvailabilityZoneFilter`: the pool's service is in a zone that the volume may be in.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    let zones = &request.availability_zones;
    zones.is_empty() || zones.contains(&candidate.availability_zone)
}
