//! `backup:restore`: the bytes of a backup into an existing volume.
//!
//! A restore into a new volume is [`super::CreateVolume`] with the source `Backup`.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::ImageSpec;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::backup_data::{BackupData, find_base};
use super::outcome::{settle, tell};
use super::steps::{STORE_RETRY, store_failure};
use super::transfer::{Watch, overwrite};
use super::{Requester, addressed, chain_lock, volume_lock};
use crate::backup::{VolumeMetadata, metadata_object};
use crate::db::messages::{Action, Detail, Resource};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::{Change, status};
use crate::manager::{Manager, Placement};

/// The key of a volume's metadata that names the backup its bytes came from.
pub(super) const SOURCE_BACKUP: &str = "src_backup_id";

/// Parameters of [`RestoreBackup`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreBackupParams {
    pub backup_id: Uuid,
    /// The volume that was backed up.
    pub source_volume_id: Uuid,
    /// The volume to write.
    pub volume_id: Uuid,
}

/// Volume `restoring-backup` → `available`, or `error_restoring`; backup `restoring` →
/// `available` in any case.
pub struct RestoreBackup;

impl RestoreBackup {
    /// To insert together with the statuses `restoring-backup` and `restoring`.
    pub fn new_flow(
        params: &RestoreBackupParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<RestoreBackup>(params)?;
        let flow = addressed(flow, queue, ("backup", params.backup_id), by);
        Ok(flow
            .lock_exclusive(volume_lock(params.volume_id))
            .lock_shared(chain_lock(params.source_volume_id)))
    }
}

#[async_trait]
impl Flow for RestoreBackup {
    const KIND: &'static str = "backup:restore";
    type Context = Manager;
    type Params = RestoreBackupParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(WriteVolume), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The volume's bytes are the backup's. Run again, it begins again. What was overwritten does
/// not come back, so a failure leaves the volume in `error_restoring`.
struct WriteVolume;

#[async_trait]
impl Task<RestoreBackup> for WriteVolume {
    const NAME: &'static str = "write_volume";
    type Output = VolumeMetadata;

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<RestoreBackup>) -> Result<VolumeMetadata, TaskError> {
        let data = verify(&run.ctx, run.params.backup_id).await?;
        let volume = run.ctx.volume(run.params.volume_id).await?;
        let target = run.ctx.place(&volume)?;
        write_volume(&run.ctx, &data, &target, run).await?;
        read_metadata(&run.ctx, run.params.backup_id).await
    }

    async fn record_revert(
        &self,
        run: &Run<RestoreBackup>,
        _: Option<&VolumeMetadata>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// Checks that everything the backup needs is there, before anything is overwritten. The error
/// names the piece that is missing.
pub(super) async fn verify(manager: &Manager, backup_id: Uuid) -> Result<BackupData, TaskError> {
    find_base(manager, backup_id).await
}

/// Makes the volume's bytes those of the backup, and zeroes behind them.
pub(super) async fn write_volume(
    manager: &Manager,
    data: &BackupData,
    target: &Placement<'_>,
    watch: &dyn Watch,
) -> Result<(), TaskError> {
    let base = ImageSpec::new(&manager.backups.pool, &data.base);
    let source = manager
        .backups
        .store
        .open(&base, Some(&data.snapshot))
        .await
        .map_err(store_failure)?;
    let handle = target
        .store()
        .open(&target.image, None)
        .await
        .map_err(store_failure)?;
    let (needed, there) = (source.size_bytes(), handle.size_bytes());
    if needed > there {
        let text = format!(
            "the backup of {needed} bytes does not fit into {} of {there} bytes",
            target.image
        );
        return Err(TaskError::new("VolumeTooSmall", text));
    }
    overwrite(&source, &handle, watch).await
}

/// What the backup keeps of its volume beside the bytes; nothing when the object is missing.
pub(super) async fn read_metadata(
    manager: &Manager,
    backup_id: Uuid,
) -> Result<VolumeMetadata, TaskError> {
    let target = &manager.backups;
    let name = metadata_object(backup_id);
    let object = match target.store.object(&target.pool, &name).await {
        Ok(object) => object,
        Err(storage::Error::NotFound(_)) => {
            tracing::warn!(%backup_id, "the backup has no metadata object: only bytes are restored");
            return Ok(VolumeMetadata::default());
        }
        Err(error) => return Err(store_failure(error)),
    };
    let broken = |reason| TaskError::new("BackupMetadataBroken", format!("{name}: {reason}"));
    VolumeMetadata::from_object(&object).map_err(broken)
}

/// Volume and backup are `available`; the volume has the metadata of the one backed up.
struct Finish;

#[async_trait]
impl Task<RestoreBackup> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<RestoreBackup>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<RestoreBackup>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let id = run.params.volume_id;
        let kept = run.output::<WriteVolume>()?;
        metadata::merge(tx, Kind::Volume, id, &kept.metadata).await?;
        name_source(run, tx).await?;
        metadata::merge(tx, Kind::VolumeImage, id, &kept.image_metadata).await?;
        let mut change = Change::volume(id)
            .when(&[status::RESTORING_BACKUP])
            .status(status::AVAILABLE);
        if kept.is_bootable() {
            change = change.set("bootable = ?", true);
        }
        settle(tx, change).await?;
        release_backup(run, tx).await
    }
}

/// Tells in the volume's metadata which backup it came from: another volume's, or another one
/// than it came from before (Cinder's backup manager).
async fn name_source(run: &Run<RestoreBackup>, tx: &mut Tx) -> Result<(), TaskError> {
    let (id, backup_id) = (run.params.volume_id, run.params.backup_id.to_string());
    let before = metadata::get(&mut *tx, Kind::Volume, id).await?;
    let named = before.get(SOURCE_BACKUP);
    if run.params.source_volume_id == id && named.is_none_or(|named| *named == backup_id) {
        return Ok(());
    }
    let entry = Metadata::from([(SOURCE_BACKUP.to_owned(), backup_id)]);
    metadata::merge(tx, Kind::Volume, id, &entry).await?;
    Ok(())
}

/// Volume `error_restoring`, backup `available`.
async fn failed(run: &Run<RestoreBackup>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.volume_id;
    let change = Change::volume(id)
        .when(&[status::RESTORING_BACKUP])
        .status(status::ERROR_RESTORING);
    if change.apply(tx).await?.is_done() {
        let resource = (Resource::VolumeBackup, run.params.backup_id);
        tell(
            tx,
            &run.flow,
            resource,
            Action::BackupRestore,
            Detail::BackupRestoreError,
        )
        .await?;
    }
    release_backup(run, tx).await
}

async fn release_backup(run: &Run<RestoreBackup>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::backup(run.params.backup_id).when(&[status::RESTORING]);
    change.status(status::AVAILABLE).apply(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{Case, Expected, World, image_key, pattern, requester};
    use super::*;

    /// A restore that failed has left some bytes, of which the status tells.
    struct Restoring(Case);

    #[async_trait]
    impl Fixture<RestoreBackup> for Restoring {
        fn database(&self) -> &database::Database {
            &self.0.world.database
        }

        fn context(&self) -> std::sync::Arc<Manager> {
            self.0.world.manager.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.0.flow_id
        }

        async fn restart(&mut self) {
            self.0.world.store.crash().await;
        }

        async fn assert_done(&self) {
            let world = &self.0.world;
            world.assert_is(&self.0.done).await;
            let (_, target, _) = self.0.done.rows[0];
            let (_, backup_id, _) = self.0.done.rows[1];
            let metadata = metadata::get(&world.database, Kind::Volume, target).await;
            assert_eq!(metadata.unwrap()[SOURCE_BACKUP], backup_id.to_string());
        }

        async fn assert_reverted(&self) {
            let store = self.0.world.inventory().await;
            self.0
                .world
                .assert_is(&Expected {
                    store,
                    rows: self.0.reverted.rows.clone(),
                })
                .await;
        }
    }

    #[tokio::test]
    async fn volumes_have_the_backups_bytes_and_nothing_newer() {
        exhaust::<RestoreBackup, _>(async || {
            let world = World::new().await;
            let volume_id = world.filled_volume(2).await;
            let full = world.backup(volume_id, None).await;
            let then = world.head(volume_id).await;
            world.write(volume_id, 0, pattern(9, 50_000)).await;
            let backup_id = world.backup(volume_id, Some(full)).await;
            // To a larger volume that is full of other bytes, from the older of two backups.
            let target = world.volume(2, super::super::VolumeSource::Empty).await;
            for offset in [0, 1 << 20, (1 << 30) - 8192, (2 << 30) - 4096] {
                world.write(target, offset, pattern(11, 4096)).await;
            }
            world
                .set_status("volumes", target, status::RESTORING_BACKUP)
                .await;
            world.set_status("backups", full, status::RESTORING).await;
            let before = world.inventory().await;
            let mut after = before.clone();
            after
                .images
                .get_mut(&image_key(target))
                .unwrap()
                .head
                .blocks = then.blocks;
            let params = RestoreBackupParams {
                backup_id: full,
                source_volume_id: volume_id,
                volume_id: target,
            };
            let flow = RestoreBackup::new_flow(&params, "backup:host", &requester()).unwrap();
            let rows = |volume| {
                vec![
                    ("volumes", target, Some(volume)),
                    ("backups", full, Some(status::AVAILABLE)),
                    ("backups", backup_id, Some(status::AVAILABLE)),
                ]
            };
            let done = Expected {
                store: after,
                rows: rows(status::AVAILABLE),
            };
            let reverted = Expected {
                store: before,
                rows: rows(status::ERROR_RESTORING),
            };
            Restoring(world.case(flow, done, reverted).await)
        })
        .await;
    }

    #[tokio::test]
    async fn each_link_of_a_chain_restores_to_the_volume_itself() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        let mut moments = Vec::new();
        let mut parent = None;
        for seed in 1..5u8 {
            world
                .write(volume_id, u64::from(seed) * 6000, pattern(seed, 9000))
                .await;
            parent = Some(world.backup(volume_id, parent).await);
            moments.push((parent.unwrap(), world.head(volume_id).await));
        }
        for (backup_id, disk) in moments.iter().chain(moments.iter().rev()) {
            world
                .set_status("volumes", volume_id, status::RESTORING_BACKUP)
                .await;
            world
                .set_status("backups", *backup_id, status::RESTORING)
                .await;
            let params = RestoreBackupParams {
                backup_id: *backup_id,
                source_volume_id: volume_id,
                volume_id,
            };
            let flow = RestoreBackup::new_flow(&params, "backup:host", &requester());
            assert_eq!(world.run::<RestoreBackup>(flow).await, "SUCCESS");
            assert!(world.head(volume_id).await == *disk);
        }
    }

    #[tokio::test]
    async fn a_missing_base_is_named_and_nothing_is_overwritten() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        let backup_id = world.backup_row(volume_id, None, None).await;
        world
            .set_status("backups", backup_id, status::RESTORING)
            .await;
        world
            .set_status("volumes", volume_id, status::RESTORING_BACKUP)
            .await;
        let before = world.inventory().await;
        let error = find_base(&world.manager, backup_id).await.err().unwrap();
        assert!(
            error.message.contains("the base image backups/volume-"),
            "{}",
            error.message
        );
        let params = RestoreBackupParams {
            backup_id,
            source_volume_id: volume_id,
            volume_id,
        };
        let flow = RestoreBackup::new_flow(&params, "backup:host", &requester());
        assert_eq!(world.run::<RestoreBackup>(flow).await, "REVERTED");
        assert_eq!(world.inventory().await, before);
        assert_eq!(
            world
                .column("volumes", volume_id, "status")
                .await
                .as_deref(),
            Some(status::ERROR_RESTORING)
        );
    }
}
