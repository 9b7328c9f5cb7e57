//! `CapacityFilter`: there is room, and no more is promised than `max_over_subscription_ratio`
//! allows.

use crate::scheduler::candidate::{Candidate, reserved_gb};
use crate::scheduler::request::Request;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    if request.exists_on.as_deref() == Some(candidate.pool.name.as_str()) || request.size_gib == 0 {
        return true;
    }
    let capabilities = &candidate.pool.capabilities;
    let size = f64::from(request.size_gib);
    let total = capabilities.total_capacity_gb;
    if total <= 0.0 {
        return false;
    }
    let free = capabilities.free_capacity_gb - reserved_gb(capabilities);
    if !(capabilities.thin_provisioning_support && request.thin()) {
        return free >= size;
    }
    let ratio = capabilities.max_over_subscription_ratio;
    let promised = (capabilities.provisioned_capacity_gb + size) / total;
    ratio >= 1.0 && promised <= ratio && free * ratio >= size
}

#[cfg(test)]
mod tests {
    use super::super::super::choice::tests::{candidate, request};
    use super::passes;

    #[test]
    fn thin_pools_may_be_over_subscribed_so_far() {
        let mut pool = candidate("a", "nova", 100.0);
        let capabilities = &mut pool.pool.capabilities;
        capabilities.thin_provisioning_support = true;
        capabilities.provisioned_capacity_gb = 150.0;
        assert!(passes(&pool, &request(50, &[])));
        assert!(!passes(&pool, &request(51, &[])));
        pool.pool.capabilities.free_capacity_gb = 20.0;
        assert!(!passes(&pool, &request(41, &[])));
        pool.pool.capabilities.reserved_percentage = 20;
        assert!(!passes(&pool, &request(1, &[])));
    }

    #[test]
    fn thick_volumes_take_their_room_at_once() {
        let mut pool = candidate("a", "nova", 10.0);
        pool.pool.capabilities.thin_provisioning_support = true;
        assert!(passes(&pool, &request(11, &[])));
        let thick = [("provisioning:type", "thick")];
        assert!(!passes(&pool, &request(11, &thick)));
        let mut there = request(11, &thick);
        there.exists_on = Some(pool.pool.name.clone());
        assert!(passes(&pool, &there));
    }
}
