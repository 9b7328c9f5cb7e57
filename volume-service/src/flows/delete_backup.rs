//! `backup:delete`: a backup that no other backup depends on.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::ImageSpec;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::backup_data::{base_of, remove_metadata};
use super::outcome::{fail_reason, tell};
use super::steps::{STORE_RETRY, remove_image, remove_snapshot, store_failure};
use super::{Requester, addressed, chain_lock, volume_lock};
use crate::backup::BackupSnapshot;
use crate::db::messages::{Action, Detail, Resource};
use crate::db::{Change, backups, status};
use crate::manager::Manager;

/// Parameters of [`DeleteBackup`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteBackupParams {
    pub backup_id: Uuid,
    /// The volume that was backed up; it may be gone.
    pub volume_id: Uuid,
}

/// Backup `deleting` → gone, or `error_deleting`.
pub struct DeleteBackup;

impl DeleteBackup {
    /// To insert together with the status `deleting`.
    pub fn new_flow(
        params: &DeleteBackupParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<DeleteBackup>(params)?;
        let flow = addressed(flow, queue, ("backup", params.backup_id), by);
        Ok(flow
            .lock_exclusive(chain_lock(params.volume_id))
            .lock_shared(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for DeleteBackup {
    const KIND: &'static str = "backup:delete";
    type Context = Manager;
    type Params = DeleteBackupParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![
            boxed(RemoveData),
            boxed(RemoveSourceSnapshot),
            boxed(Finish),
        ]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The backup's snapshot of the base is gone, with the last one the base, and the metadata
/// object. None of it comes back.
struct RemoveData;

#[async_trait]
impl Task<DeleteBackup> for RemoveData {
    const NAME: &'static str = "remove_data";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<DeleteBackup>) -> Result<(), TaskError> {
        let id = run.params.backup_id;
        if backups::count_dependents(&run.ctx.database, id).await? > 0 {
            return Err(TaskError::new(
                "BackupHasDependents",
                format!("incremental backups depend on backup {id}"),
            ));
        }
        remove_metadata(&run.ctx, id).await?;
        let Some(backup) = backups::get(&run.ctx.database, id).await? else {
            return Ok(());
        };
        let target = &run.ctx.backups;
        let base = ImageSpec::new(&target.pool, base_of(&backup));
        let info = match target.store.info(&base).await {
            Ok(info) => info,
            Err(storage::Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(store_failure(error)),
        };
        let names = info.snapshots.iter().map(|snapshot| snapshot.name.as_str());
        let ours = BackupSnapshot::of_backup(names, id);
        for name in &ours {
            remove_snapshot(target.store.as_ref(), &base.at(name)).await?;
        }
        if ours.len() == info.snapshots.len() {
            remove_image(target.store.as_ref(), &base).await?;
        }
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<DeleteBackup>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The backup's snapshot of the volume is gone, if the volume lives.
struct RemoveSourceSnapshot;

#[async_trait]
impl Task<DeleteBackup> for RemoveSourceSnapshot {
    const NAME: &'static str = "remove_source_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<DeleteBackup>) -> Result<(), TaskError> {
        let Some(source) = run.ctx.place_if_any(run.params.volume_id).await? else {
            return Ok(());
        };
        let info = match source.store().info(&source.image).await {
            Ok(info) => info,
            Err(storage::Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(store_failure(error)),
        };
        let names = info.snapshots.iter().map(|snapshot| snapshot.name.as_str());
        for name in BackupSnapshot::of_backup(names, run.params.backup_id) {
            remove_snapshot(source.store(), &source.image.at(name)).await?;
        }
        Ok(())
    }
}

/// The row is gone.
struct Finish;

#[async_trait]
impl Task<DeleteBackup> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<DeleteBackup>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<DeleteBackup>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        backups::delete(tx, run.params.backup_id).await?;
        Ok(())
    }
}

async fn failed(run: &Run<DeleteBackup>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.backup_id;
    let change = Change::backup(id)
        .when(&[status::DELETING])
        .status(status::ERROR_DELETING);
    if change
        .set("fail_reason = ?", fail_reason(run.failure()))
        .apply(tx)
        .await?
        .is_done()
    {
        let (action, detail) = (Action::BackupDelete, Detail::BackupDeleteDriverError);
        tell(tx, &run.flow, (Resource::VolumeBackup, id), action, detail).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{Case, Expected, World, image_key, pattern, requester};
    use super::*;

    fn flow(backup_id: Uuid, volume_id: Uuid) -> taskflow::Result<NewFlow> {
        DeleteBackup::new_flow(
            &DeleteBackupParams {
                backup_id,
                volume_id,
            },
            "backup:host",
            &requester(),
        )
    }

    /// A failed delete ends in `error_deleting`, and can be repeated.
    struct Deleting {
        case: Case,
        backup_id: Uuid,
        volume_id: Uuid,
    }

    #[async_trait]
    impl Fixture<DeleteBackup> for Deleting {
        fn database(&self) -> &database::Database {
            &self.case.world.database
        }

        fn context(&self) -> std::sync::Arc<Manager> {
            self.case.world.manager.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.case.flow_id
        }

        async fn restart(&mut self) {
            self.case.world.store.crash().await;
        }

        async fn assert_done(&self) {
            self.case.world.assert_is(&self.case.done).await;
        }

        async fn assert_reverted(&self) {
            let world = &self.case.world;
            let status = world.column("backups", self.backup_id, "status").await;
            assert_eq!(status.as_deref(), Some(status::ERROR_DELETING));
            world
                .set_status("backups", self.backup_id, status::DELETING)
                .await;
            assert_eq!(
                world
                    .run::<DeleteBackup>(flow(self.backup_id, self.volume_id))
                    .await,
                "SUCCESS"
            );
            world.assert_is(&self.case.done).await;
        }
    }

    #[tokio::test]
    async fn a_link_goes_and_the_ones_before_it_stay() {
        exhaust::<DeleteBackup, _>(async || {
            let world = World::new().await;
            let volume_id = world.filled_volume(2).await;
            let full = world.backup(volume_id, None).await;
            world.write(volume_id, 0, pattern(8, 4096)).await;
            let backup_id = world.backup(volume_id, Some(full)).await;
            world
                .set_status("backups", backup_id, status::DELETING)
                .await;
            let mut after = world.inventory().await;
            let snapshot = format!("backup.{backup_id}.snap");
            after
                .images
                .get_mut(&image_key(volume_id))
                .unwrap()
                .snapshots
                .remove(&snapshot)
                .unwrap();
            let base = format!("backups/{}", crate::backup::base_name(volume_id, full));
            after
                .images
                .get_mut(&base)
                .unwrap()
                .snapshots
                .remove(&snapshot)
                .unwrap();
            assert!(after.objects.remove(&format!(
                "backups/{}",
                crate::backup::metadata_object(backup_id)
            )));
            let rows = vec![
                ("backups", backup_id, None),
                ("backups", full, Some(status::AVAILABLE)),
            ];
            let done = Expected { store: after, rows };
            let case = world
                .case(flow(backup_id, volume_id).unwrap(), done.clone(), done)
                .await;
            Deleting {
                case,
                backup_id,
                volume_id,
            }
        })
        .await;
    }

    #[tokio::test]
    async fn the_last_one_takes_the_base_along_also_without_its_volume() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        let full = world.backup(volume_id, None).await;
        let second = world.backup(volume_id, Some(full)).await;
        let delete = async |backup_id| {
            world
                .set_status("backups", backup_id, status::DELETING)
                .await;
            world.run::<DeleteBackup>(flow(backup_id, volume_id)).await
        };
        assert_eq!(delete(full).await, "REVERTED", "the second depends on it");
        world
            .set_status("volumes", volume_id, status::DELETING)
            .await;
        let params = super::super::DeleteVolumeParams {
            volume_id,
            cascade: false,
        };
        let gone = super::super::DeleteVolume::new_flow(
            &params,
            "volume:host@memory#volumes",
            &requester(),
        );
        assert_eq!(
            world.run::<super::super::DeleteVolume>(gone).await,
            "SUCCESS"
        );
        assert_eq!(delete(second).await, "SUCCESS");
        assert_eq!(delete(full).await, "SUCCESS");
        assert_eq!(world.inventory().await, Default::default());
    }
}
