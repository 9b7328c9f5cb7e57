//! The options of the service, by Cinder's names and with Cinder's defaults.

use std::path::PathBuf;

use rest::cors::Cors;

use crate::scheduler::{filters, weighers};

/// What the operator may set (`[DEFAULT]` of cinder.conf). Sizes are GiB, -1 is unlimited.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name this process reports its services under.
    pub host: String,
    pub storage_availability_zone: String,
    /// Where volumes go that name no zone; none: `storage_availability_zone`.
    pub default_availability_zone: Option<String>,
    /// A zone that does not exist means the default one rather than an error.
    pub allow_availability_zone_fallback: bool,
    pub cloned_volume_same_az: bool,
    /// Name of the type of volumes that name none.
    pub default_volume_type: String,
    /// Name of the group type that `group_types/default` shows.
    pub default_group_type: Option<String>,
    pub quota_volumes: i64,
    pub quota_snapshots: i64,
    pub quota_gigabytes: i64,
    pub quota_backups: i64,
    pub quota_backup_gigabytes: i64,
    pub quota_groups: i64,
    /// The largest single volume.
    pub per_volume_size_limit: i64,
    /// Snapshots do not count against `gigabytes`.
    pub no_snapshot_gb_quota: bool,
    /// Seconds since the last heartbeat after which a service counts as down.
    pub service_down_time_s: u32,
    /// The longest page of a list.
    pub osapi_max_limit: u32,
    /// The base of links, when the request's own address is not what clients use.
    pub public_endpoint: Option<String>,
    /// Attached volumes may be uploaded to images with `force`.
    pub enable_force_upload: bool,
    /// Roles of a service token that makes a request one of a service: only these may detach what
    /// a server uses (`[keystone_authtoken]`).
    pub service_token_roles: Vec<String>,
    /// Where backups go that name no container: the pool of the backup target.
    pub backup_container: String,
    /// Bytes of a request's body; a longer one is a 413.
    pub max_request_body_size: usize,
    /// While this file is there, `/healthcheck` answers 503.
    pub healthcheck_disable_file: Option<PathBuf>,
    /// What pages of other origins may do from a browser; `None`: nothing.
    pub cors: Option<Cors>,

    /// Names of filters ([`crate::scheduler::filters::names`]).
    pub scheduler_default_filters: Vec<String>,
    /// Names of weighers ([`crate::scheduler::weighers::names`]).
    pub scheduler_default_weighers: Vec<String>,
    /// How many pools a create may be tried on.
    pub scheduler_max_attempts: u32,
    pub capacity_weight_multiplier: f64,
    pub allocated_capacity_weight_multiplier: f64,
    pub volume_number_multiplier: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            host: "localhost".to_owned(),
            storage_availability_zone: "nova".to_owned(),
            default_availability_zone: None,
            allow_availability_zone_fallback: false,
            cloned_volume_same_az: true,
            default_volume_type: "__DEFAULT__".to_owned(),
            default_group_type: None,
            quota_volumes: 10,
            quota_snapshots: 10,
            quota_gigabytes: 1000,
            quota_backups: 10,
            quota_backup_gigabytes: 1000,
            quota_groups: 10,
            per_volume_size_limit: -1,
            no_snapshot_gb_quota: false,
            service_down_time_s: 60,
            osapi_max_limit: 1000,
            public_endpoint: None,
            enable_force_upload: false,
            service_token_roles: vec!["service".to_owned()],
            backup_container: "backups".to_owned(),
            max_request_body_size: rest::body::DEFAULT_LIMIT_BYTES,
            healthcheck_disable_file: None,
            cors: None,

            scheduler_default_filters: filters::DEFAULT.map(str::to_owned).into(),
            scheduler_default_weighers: weighers::DEFAULT.map(str::to_owned).into(),
            scheduler_max_attempts: 3,
            capacity_weight_multiplier: 1.0,
            allocated_capacity_weight_multiplier: -1.0,
            volume_number_multiplier: -1.0,
        }
    }
}

impl Options {
    /// The zone of volumes that name none.
    pub fn default_zone(&self) -> &str {
        self.default_availability_zone
            .as_deref()
            .unwrap_or(&self.storage_availability_zone)
    }
}
