//! A pool that is up, as filters and weighers see it.

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::db::services::{Capabilities, Pool};

/// A pool of a service that is enabled and up.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub pool: Pool,
    pub service_id: Uuid,
    pub availability_zone: String,
    /// Volumes that are on the pool.
    pub volumes: u64,
}

impl Candidate {
    /// Counts a volume that was just placed, until the manager reports again.
    pub fn consume(&mut self, size_gib: u32) {
        let capabilities = &mut self.pool.capabilities;
        capabilities.allocated_capacity_gb += f64::from(size_gib);
        capabilities.provisioned_capacity_gb += f64::from(size_gib);
        if !capabilities.thin_provisioning_support {
            capabilities.free_capacity_gb =
                (capabilities.free_capacity_gb - f64::from(size_gib)).max(0.0);
        }
        self.volumes = self.volumes.saturating_add(1);
    }

    /// Whether the pool is `host`, or one of the pools of the service `host`.
    pub fn is_on(&self, host: &str) -> bool {
        self.pool.name == host || self.pool.service_host == host
    }

    /// Everything that the pool reports, by name: what extra specs, JSON queries and expressions
    /// read.
    pub fn reported(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut reported)) = serde_json::to_value(&self.pool.capabilities) else {
            return Map::new();
        };
        reported.insert("host".to_owned(), self.pool.service_host.as_str().into());
        reported.insert("total_volumes".to_owned(), self.volumes.into());
        reported
    }
}

/// GiB that the operator keeps free.
pub(super) fn reserved_gb(capabilities: &Capabilities) -> f64 {
    let share = f64::from(capabilities.reserved_percentage) / 100.0;
    (capabilities.total_capacity_gb * share).floor()
}
