//! `CapacityWeigher`: the room that is left, counted as it may be promised.

use crate::scheduler::candidate::{Candidate, reserved_gb};
use crate::scheduler::request::Request;

pub(super) fn weigh(candidate: &Candidate, request: &Request) -> f64 {
    let capabilities = &candidate.pool.capabilities;
    let reserved = reserved_gb(capabilities);
    if capabilities.thin_provisioning_support && request.thin() {
        let promised = capabilities.total_capacity_gb * capabilities.max_over_subscription_ratio;
        return promised - capabilities.provisioned_capacity_gb - reserved;
    }
    capabilities.free_capacity_gb - reserved
}
