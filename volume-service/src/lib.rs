//! The Block Storage API v3: volumes, snapshots, backups, types, quotas.
//!
//! **Promises.** A request that is answered with 2xx has its row, its quota effect and its flow
//! in the database, in one transaction: a crash right after it loses nothing. A request that is
//! refused leaves nothing. State changes are conditional updates; usage is summed from live
//! rows, so quota cannot drift.
//!
//! **Relies on.** The `database` for everything that must last, `taskflow` to run what the
//! requests insert, `rest` for identity, policy and the frame of the API, an image service over
//! HTTP. Rung doorbells may get lost: workers sweep.
//!
//! **On a crash.** Nothing lives in memory only. Flows that ran are resumed by their workers;
//! flows that wait for a host are scheduled by the next scheduler.

pub mod api;
pub mod backup;
pub mod compute;
pub mod connection;
pub mod db;
pub mod domain;
mod error;
pub mod export_admission;
pub mod flows;
pub mod images;
pub mod inventory;
pub mod keys;
pub mod logs;
pub mod luks;
pub mod manager;
pub mod notices;
pub mod options;
pub mod pool_check;
pub mod scheduler;

use std::sync::Arc;

use database::Database;
use rest::policy::Policy;

pub use error::{Error, Result};
pub use options::Options;

/// The queue in which flows wait for the scheduler to choose their host.
pub const SCHEDULER_QUEUE: &str = "scheduler";

/// Tells the workers of a queue that a flow was inserted. Never blocks; a ring that gets lost
/// costs time only, for workers also sweep.
pub trait Doorbell: Send + Sync + 'static {
    /// `queue` is [`SCHEDULER_QUEUE`] or one of [`flows::volume_queue`] and
    /// [`flows::backup_queue`].
    fn ring(&self, queue: &str);
}

/// What the API and the domain functions work with.
pub struct VolumeService {
    pub database: Database,
    pub options: Options,
    pub policy: Policy,
    pub images: images::Client,
    /// Asked which server has a volume.
    pub compute: compute::Compute,
    /// Makes the keys of encrypted volumes.
    pub keys: keys::KeyManager,
    /// Asked what lies in their pools.
    pub managers: Arc<dyn inventory::Managers>,
    pub doorbell: Arc<dyn Doorbell>,
    pub logs: Arc<dyn logs::LogLevels>,
    /// Told of what the API does.
    pub notices: notices::Notices,
}

impl VolumeService {
    /// The service with the default policy, in a cloud without servers.
    pub fn new(
        database: Database,
        options: Options,
        images: images::Client,
        doorbell: Arc<dyn Doorbell>,
    ) -> Self {
        VolumeService {
            database,
            options,
            policy: api::policy_rules::default_policy(),
            images,
            compute: compute::Compute::Absent,
            keys: keys::KeyManager::Absent,
            managers: Arc::new(inventory::NoManagers),
            doorbell,
            logs: Arc::new(logs::NoLog),
            notices: notices::Notices::default(),
        }
    }

    /// Operators may read and set the levels of this log.
    pub fn with_logs(self, logs: Arc<dyn logs::LogLevels>) -> Self {
        VolumeService { logs, ..self }
    }

    /// What the first start makes: the default volume type, the type of consistency groups.
    /// Idempotent.
    pub async fn bootstrap(&self) -> Result<()> {
        domain::types::ensure_default(self).await?;
        domain::group_types::ensure_default(self).await
    }
}
