//! Where the data of a backup is, found by its row; shared by the flows of backups.

use storage::ImageSpec;
use taskflow::TaskError;
use uuid::Uuid;

use super::steps::store_failure;
use crate::backup::{BackupSnapshot, ServiceMetadata, base_name, metadata_object};
use crate::db::backups;
use crate::manager::Manager;

/// A link of the parent's chain is not there.
pub(super) const BROKEN_CHAIN: &str = "BackupChainBroken";

/// Where the bytes of a backup are: a snapshot of a base image in the backup pool.
pub(super) struct BackupData {
    pub base: String,
    pub snapshot: String,
    /// The volume's snapshot that was backed up.
    pub snapshot_id: Option<Uuid>,
}

/// Finds them, or says which piece is missing.
pub(super) async fn find_base(manager: &Manager, backup_id: Uuid) -> Result<BackupData, TaskError> {
    let broken = |text: String| TaskError::new(BROKEN_CHAIN, format!("backup {backup_id}: {text}"));
    let backup = backups::get(&manager.database, backup_id).await?;
    let backup = backup.ok_or_else(|| broken("its record is missing".to_owned()))?;
    let base = base_of(&backup);
    let image = ImageSpec::new(&manager.backups.pool, &base);
    let info = match manager.backups.store.info(&image).await {
        Ok(info) => info,
        Err(storage::Error::NotFound(_)) => {
            return Err(broken(format!("the base image {image} is missing")));
        }
        Err(error) => return Err(store_failure(error)),
    };
    let names = info.snapshots.iter().map(|snapshot| snapshot.name.as_str());
    let mut found = BackupSnapshot::of_backup(names, backup_id);
    match (found.pop(), found.is_empty()) {
        (Some(snapshot), true) => Ok(BackupData {
            base,
            snapshot,
            snapshot_id: backup.snapshot_id,
        }),
        (None, _) => Err(broken(format!("its snapshot on {image} is missing"))),
        (Some(_), false) => Err(broken(format!("it has several snapshots on {image}"))),
    }
}

/// The base image that a backup's row names.
pub(super) fn base_of(backup: &backups::Backup) -> String {
    let metadata = backup
        .service_metadata
        .as_deref()
        .and_then(ServiceMetadata::parse);
    metadata.map_or_else(
        || base_name(backup.volume_id, backup.id),
        |metadata| metadata.base,
    )
}

/// Removes the object of a backup.
pub(super) async fn remove_metadata(manager: &Manager, backup_id: Uuid) -> Result<(), TaskError> {
    let target = &manager.backups;
    match target
        .store
        .remove_object(&target.pool, &metadata_object(backup_id))
        .await
    {
        Ok(()) | Err(storage::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(store_failure(error)),
    }
}
