//! The filters, by Cinder's names: a file each. Each says of one pool whether it can take the
//! volume, from the request and the pool's last report alone.

mod availability_zone;
mod capabilities;
mod capacity;
mod different_backend;
mod driver;
mod instance_locality;
mod json;
mod retry;
mod same_backend;

use super::candidate::Candidate;
use super::request::Request;

/// Whether a pool can take the volume.
pub type Filter = fn(&Candidate, &Request) -> bool;

const FILTERS: &[(&str, Filter)] = &[
    ("AvailabilityZoneFilter", availability_zone::passes),
    ("CapacityFilter", capacity::passes),
    ("CapabilitiesFilter", capabilities::passes),
    ("DifferentBackendFilter", different_backend::passes),
    ("SameBackendFilter", same_backend::passes),
    ("InstanceLocalityFilter", instance_locality::passes),
    ("JsonFilter", json::passes),
    ("DriverFilter", driver::passes),
    ("RetryFilter", retry::passes),
    // Cinder's present name of the RetryFilter.
    ("IgnoreAttemptedHostsFilter", retry::passes),
];

/// What `scheduler_default_filters` holds unless the operator says otherwise: Cinder's three,
/// and those that do something only where a client or an operator asked for it.
pub const DEFAULT: [&str; 7] = [
    "AvailabilityZoneFilter",
    "CapacityFilter",
    "CapabilitiesFilter",
    "DifferentBackendFilter",
    "SameBackendFilter",
    "DriverFilter",
    "RetryFilter",
];

/// The names that `scheduler_default_filters` may hold.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|(name, _)| *name)
}

/// The filter of this name.
pub(super) fn find(name: &str) -> Option<(&'static str, Filter)> {
    FILTERS.iter().find(|(known, _)| *known == name).copied()
}
