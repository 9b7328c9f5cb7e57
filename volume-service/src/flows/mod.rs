//! The flows of the Block Storage service: one file per flow.
//!
//! Each file reads in the same order: parameters, constructor, task list, the tasks with their
//! reverts, tests. The REST domain functions insert a flow with `X::new_flow(...)` in the
//! transaction that writes the resource row; [`register`] makes a worker run them all.
//!
//! **Names** of everything made in a store come from the ids in the parameters, so that a task
//! that runs again after a crash finds what it made.
//!
//! **Locks.** A volume's image is deleted, resized and rolled back under the exclusive lock of
//! the volume; everything that reads it or hangs a snapshot on it holds the lock shared. The
//! backups of one volume share a base image, so what writes that image holds the chain's lock.
//!
//! **Rows.** The first task's `record_revert` writes the error status (it is undone last), the
//! last task's `record` the final status; both are conditional on the status the flow expects.

mod backup_data;
mod backup_plan;
pub mod complete_migration;
pub mod create_backup;
mod create_from_backup;
mod create_from_image;
mod create_from_snapshot;
mod create_from_volume;
pub mod create_group;
pub mod create_group_snapshot;
pub mod create_snapshot;
pub mod create_volume;
pub mod delete_backup;
pub mod delete_group;
pub mod delete_group_snapshot;
pub mod delete_snapshot;
pub mod delete_volume;
mod encrypted;
pub mod extend_volume;
#[cfg(test)]
mod fake_images;
mod image_disk;
mod image_setup;
mod image_source;
pub mod manage_snapshot;
pub mod manage_volume;
pub mod migrate_volume;
mod outcome;
mod recrypt;
pub mod reimage_volume;
mod relocate;
pub(crate) mod removal;
pub mod restore_backup;
pub mod retype_volume;
pub mod revert_volume;
pub(crate) mod steps;
#[cfg(test)]
mod story;
pub(crate) mod swap;
pub(crate) mod sweep;
mod tell_servers;
#[cfg(test)]
pub(crate) mod testbed;
mod transfer;
pub mod upload_volume;

use taskflow::{NewFlow, WorkerBuilder};
use uuid::Uuid;

use crate::manager::Manager;

pub use complete_migration::{CompleteMigration, CompleteMigrationParams};
pub(crate) use create_from_volume::CLONE_SUFFIX;

pub use create_backup::{CreateBackup, CreateBackupParams};
pub use create_group::{CreateGroup, CreateGroupParams};
pub use create_group_snapshot::{CreateGroupSnapshot, CreateGroupSnapshotParams, Member};
pub use create_snapshot::{CreateSnapshot, CreateSnapshotParams};
pub use create_volume::{CreateVolume, CreateVolumeParams, Encryption, VolumeSource};
pub use delete_backup::{DeleteBackup, DeleteBackupParams};
pub use delete_group::{DeleteGroup, DeleteGroupParams};
pub use delete_group_snapshot::{DeleteGroupSnapshot, DeleteGroupSnapshotParams};
pub use delete_snapshot::{DeleteSnapshot, DeleteSnapshotParams};
pub use delete_volume::{DeleteVolume, DeleteVolumeParams};
pub use extend_volume::{ExtendVolume, ExtendVolumeParams};
pub use manage_snapshot::{
    ManageSnapshot, ManageSnapshotParams, UnmanageSnapshot, UnmanageSnapshotParams,
};
pub use manage_volume::{ManageVolume, ManageVolumeParams, UnmanageVolume, UnmanageVolumeParams};
pub use migrate_volume::{MigrateVolume, MigrateVolumeParams, migration_failed};
pub use reimage_volume::{ReimageVolume, ReimageVolumeParams};
pub use relocate::Recryption;
pub use restore_backup::{RestoreBackup, RestoreBackupParams};
pub use retype_volume::{MigrationPolicy, RetypeVolume, RetypeVolumeParams, retype_failed};
pub use revert_volume::{RevertVolume, RevertVolumeParams};
pub use upload_volume::{UploadVolume, UploadVolumeParams};

/// Who asked for a flow: kept in its record, its logs and its user messages.
#[derive(Debug, Clone)]
pub struct Requester {
    /// `req-<uuid>`
    pub request_id: String,
    pub project_id: String,
    pub user_id: String,
}

/// The queue of the manager that serves `host` (`host@backend#pool`, a volume row's `host`).
pub fn volume_queue(host: &str) -> String {
    format!("volume:{host}")
}

/// The queue of the backup service on `host` (a backup row's `host`).
pub fn backup_queue(host: &str) -> String {
    format!("backup:{host}")
}

/// Makes a worker run every flow of this service.
pub fn register(worker: WorkerBuilder<Manager>) -> WorkerBuilder<Manager> {
    worker
        .flow::<CreateVolume>()
        .flow::<DeleteVolume>()
        .flow::<ExtendVolume>()
        .flow::<RevertVolume>()
        .flow::<UploadVolume>()
        .flow::<ReimageVolume>()
        .flow::<tell_servers::TellServers>()
        .flow::<ManageVolume>()
        .flow::<UnmanageVolume>()
        .flow::<RetypeVolume>()
        .flow::<MigrateVolume>()
        .flow::<CompleteMigration>()
        .flow::<CreateSnapshot>()
        .flow::<DeleteSnapshot>()
        .flow::<ManageSnapshot>()
        .flow::<UnmanageSnapshot>()
        .flow::<CreateGroup>()
        .flow::<DeleteGroup>()
        .flow::<CreateGroupSnapshot>()
        .flow::<DeleteGroupSnapshot>()
        .flow::<CreateBackup>()
        .flow::<RestoreBackup>()
        .flow::<DeleteBackup>()
}

/// The lock of a volume and of the image that holds it.
pub(crate) fn volume_lock(id: Uuid) -> String {
    format!("volume/{id}")
}

/// The lock of a snapshot.
pub(crate) fn snapshot_lock(id: Uuid) -> String {
    format!("snapshot/{id}")
}

/// The lock of a group.
pub(crate) fn group_lock(id: Uuid) -> String {
    format!("group/{id}")
}

/// The lock of a group snapshot.
pub(crate) fn group_snapshot_lock(id: Uuid) -> String {
    format!("group-snapshot/{id}")
}

/// The lock of the base images that hold the backups of a volume.
pub(crate) fn chain_lock(volume_id: Uuid) -> String {
    format!("backups-of/{volume_id}")
}

/// Queue, resource and requester of a new flow.
fn addressed(flow: NewFlow, queue: &str, resource: (&str, Uuid), requester: &Requester) -> NewFlow {
    flow.queue(queue).resource(resource.0, resource.1).request(
        &requester.request_id,
        &requester.project_id,
        &requester.user_id,
    )
}
