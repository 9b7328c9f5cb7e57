//! `backup:create`: a full or incremental backup of a volume or of a snapshot.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::{Change as DiskChange, ImageSpec, ImageStore, SnapshotSpec};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::backup_data::remove_metadata;
use super::backup_plan::{MakePlan, Plan};
use super::outcome::{fail_reason, settle, tell};
use super::steps::{
    STORE_RETRY, ensure_image, ensure_snapshot, remove_image, remove_snapshot, store_failure,
};
use super::transfer::{Changes, copy_changes};
use super::{Requester, addressed, chain_lock, snapshot_lock, volume_lock};
use crate::backup::{BackupSnapshot, VolumeMetadata, metadata_object};
use crate::db::messages::{Action, Detail, Resource};
use crate::db::metadata::{self, Kind};
use crate::db::{Change, status};
use crate::manager::{Manager, Placement};

/// Parameters of [`CreateBackup`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateBackupParams {
    pub backup_id: Uuid,
    pub volume_id: Uuid,
    /// Back up this snapshot of the volume rather than its present bytes.
    pub snapshot_id: Option<Uuid>,
    /// Incremental to this backup; see [`crate::backup::choose_parent`].
    pub parent_id: Option<Uuid>,
}

/// Backup `creating` → `available`, or `error`. The volume `backing-up` → its `previous_status`
/// (the snapshot `backing-up` → `available` when one is backed up) in any case.
pub struct CreateBackup;

impl CreateBackup {
    /// To insert together with the backup's row (`creating`) and the source's `backing-up`.
    pub fn new_flow(
        params: &CreateBackupParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<CreateBackup>(params)?;
        let flow = addressed(flow, queue, ("backup", params.backup_id), by);
        let flow = flow
            .lock_exclusive(chain_lock(params.volume_id))
            .lock_shared(volume_lock(params.volume_id));
        Ok(match params.snapshot_id {
            Some(snapshot_id) => flow.lock_shared(snapshot_lock(snapshot_id)),
            None => flow,
        })
    }
}

#[async_trait]
impl Flow for CreateBackup {
    const KIND: &'static str = "backup:create";
    type Context = Manager;
    type Params = CreateBackupParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![
            boxed(MakePlan),
            boxed(SnapshotSource),
            boxed(CopyChanges),
            boxed(WriteMetadata),
            boxed(Finish),
        ]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The moment that is backed up, unless it is a snapshot already.
struct SnapshotSource;

#[async_trait]
impl Task<CreateBackup> for SnapshotSource {
    const NAME: &'static str = "snapshot_source";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateBackup>) -> Result<(), TaskError> {
        if run.params.snapshot_id.is_some() {
            return Ok(());
        }
        let source = source(run).await?;
        ensure_snapshot(
            source.store(),
            &source.image.at(&run.output::<MakePlan>()?.source),
        )
        .await
    }

    async fn revert(&self, run: &Run<CreateBackup>, _: Option<&()>) -> Result<(), TaskError> {
        let source = run.ctx.place_if_any(run.params.volume_id).await?;
        let Some(source) = source.filter(|_| run.params.snapshot_id.is_none()) else {
            return Ok(());
        };
        remove_snapshot(
            source.store(),
            &source.image.at(&run.output::<MakePlan>()?.source),
        )
        .await
    }
}

/// The base has the volume's bytes and a snapshot of this backup.
struct CopyChanges;

#[async_trait]
impl Task<CreateBackup> for CopyChanges {
    const NAME: &'static str = "copy_changes";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateBackup>) -> Result<(), TaskError> {
        let plan = run.output::<MakePlan>()?;
        let source = source(run).await?;
        let (store, base) = base(run, plan);
        let snapshot = base.at(&plan.snapshot);
        // The snapshot is the last step: with it, an attempt before a crash was complete, where the
        // store takes snapshots at once.
        if has_snapshot(store, &snapshot).await? {
            if store.makes_images_atomically() {
                return Ok(());
            }
            remove_snapshot(store, &snapshot).await?;
        }
        match &plan.parent {
            None => {
                store.ensure_pool(&base.pool).await.map_err(store_failure)?;
                let opened = source.store().open(&source.image, Some(&plan.source)).await;
                let size_bytes = opened.map_err(store_failure)?.size_bytes();
                ensure_image(store, &base, size_bytes).await?;
            }
            Some(parent) => return_to(store, &base.at(&parent.base)).await?,
        }
        let from = plan.parent.as_ref().map(|parent| parent.source.as_str());
        let changes = Changes {
            store: source.store(),
            image: &source.image,
            from,
            to: &plan.source,
        };
        copy_changes(changes, (store, &base), run).await?;
        ensure_snapshot(store, &snapshot).await
    }

    async fn revert(&self, run: &Run<CreateBackup>, _: Option<&()>) -> Result<(), TaskError> {
        let plan = run.output::<MakePlan>()?;
        let (store, base) = base(run, plan);
        remove_snapshot(store, &base.at(&plan.snapshot)).await?;
        match &plan.parent {
            None => remove_image(store, &base).await,
            Some(parent) => return_to(store, &base.at(&parent.base)).await,
        }
    }
}

/// Makes the head of a base its snapshot again, if an attempt that was cut, or a later backup
/// that is deleted now, has changed it.
async fn return_to(store: &dyn ImageStore, snapshot: &SnapshotSpec) -> Result<(), TaskError> {
    let info = store.info(&snapshot.image).await.map_err(store_failure)?;
    let then = info
        .snapshots
        .iter()
        .find(|known| known.name == snapshot.snapshot);
    let same_size = then.is_some_and(|then| then.size_bytes == info.size_bytes);
    let since = DiskChange {
        from: Some(&snapshot.snapshot),
        to: None,
    };
    if same_size
        && store
            .diff(&snapshot.image, since, 0, 1)
            .await
            .map_err(store_failure)?
            .is_empty()
    {
        return Ok(());
    }
    store.roll_back(snapshot).await.map_err(store_failure)
}

/// False also where there is no image yet: a full backup makes its base first.
async fn has_snapshot(store: &dyn ImageStore, snapshot: &SnapshotSpec) -> Result<bool, TaskError> {
    let info = match store.info(&snapshot.image).await {
        Ok(info) => info,
        Err(storage::Error::NotFound(_)) => return Ok(false),
        Err(error) => return Err(store_failure(error)),
    };
    let mut snapshots = info.snapshots.iter();
    Ok(snapshots.any(|known| known.name == snapshot.snapshot))
}

/// What the volume is beside its bytes, in the object `backup.<id>.meta`.
struct WriteMetadata;

#[async_trait]
impl Task<CreateBackup> for WriteMetadata {
    const NAME: &'static str = "write_metadata";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateBackup>) -> Result<(), TaskError> {
        let volume = run.ctx.volume(run.params.volume_id).await?;
        let database = &run.ctx.database;
        let kept = VolumeMetadata {
            bootable: volume.bootable,
            metadata: metadata::get(database, Kind::Volume, volume.id).await?,
            image_metadata: metadata::get(database, Kind::VolumeImage, volume.id).await?,
        };
        let target = &run.ctx.backups;
        let (name, object) = (
            metadata_object(run.params.backup_id),
            kept.to_object(&volume),
        );
        target
            .store
            .put_object(&target.pool, &name, object.into())
            .await
            .map_err(store_failure)?;
        drop_old_snapshots(&run.ctx, &run.ctx.place(&volume)?).await
    }

    async fn revert(&self, run: &Run<CreateBackup>, _: Option<&()>) -> Result<(), TaskError> {
        remove_metadata(&run.ctx, run.params.backup_id).await
    }
}

/// Keeps the newest `backup_ceph_max_snapshots` backup snapshots of the volume. Nothing to undo:
/// the next incremental backup on one that is gone becomes a full one.
async fn drop_old_snapshots(manager: &Manager, source: &Placement<'_>) -> Result<(), TaskError> {
    if manager.backups.max_snapshots == 0 {
        return Ok(());
    }
    let info = source
        .store()
        .info(&source.image)
        .await
        .map_err(store_failure)?;
    let names = info.snapshots.iter().map(|snapshot| snapshot.name.as_str());
    let mut ours: Vec<&str> = names
        .filter(|name| BackupSnapshot::parse(name).is_some())
        .collect();
    ours.truncate(ours.len().saturating_sub(manager.backups.max_snapshots));
    for name in ours {
        remove_snapshot(source.store(), &source.image.at(name)).await?;
    }
    Ok(())
}

/// The backup is `available`, its source back in its previous status.
struct Finish;

#[async_trait]
impl Task<CreateBackup> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<CreateBackup>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<CreateBackup>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let change = Change::backup(run.params.backup_id).when(&[status::CREATING]);
        settle(tx, change.status(status::AVAILABLE)).await?;
        release_source(run, tx).await.map(drop)
    }
}

/// Backup `error` with the reason; the source as after a success, with a mark.
pub(super) async fn failed(run: &Run<CreateBackup>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.backup_id;
    let change = Change::backup(id)
        .when(&[status::CREATING])
        .status(status::ERROR);
    if change
        .set("fail_reason = ?", fail_reason(run.failure()))
        .apply(tx)
        .await?
        .is_done()
    {
        let (action, detail) = (Action::BackupCreate, Detail::BackupCreateDriverError);
        tell(tx, &run.flow, (Resource::VolumeBackup, id), action, detail).await?;
    }
    if release_source(run, tx).await? && run.params.snapshot_id.is_none() {
        let change = Change::volume(run.params.volume_id);
        change
            .set("previous_status = ?", status::ERROR_BACKING_UP)
            .apply(tx)
            .await?;
    }
    Ok(())
}

/// The volume or snapshot is not `backing-up` any more; whether it was.
async fn release_source(run: &Run<CreateBackup>, tx: &mut Tx) -> Result<bool, TaskError> {
    let outcome = match run.params.snapshot_id {
        Some(id) => {
            Change::snapshot(id)
                .when(&[status::BACKING_UP])
                .status(status::AVAILABLE)
                .apply(tx)
                .await?
        }
        None => {
            let change = Change::volume(run.params.volume_id).when(&[status::BACKING_UP]);
            let previous = "status = COALESCE(previous_status, 'available')";
            change.set_expression(previous).apply(tx).await?
        }
    };
    Ok(outcome.is_done())
}

pub(super) async fn source(run: &Run<CreateBackup>) -> Result<Placement<'_>, TaskError> {
    let volume = run.ctx.volume(run.params.volume_id).await?;
    run.ctx.place(&volume)
}

fn base<'a>(run: &'a Run<CreateBackup>, plan: &Plan) -> (&'a dyn ImageStore, ImageSpec) {
    let target = &run.ctx.backups;
    (
        target.store.as_ref(),
        ImageSpec::new(&target.pool, &plan.base),
    )
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{
        Case, Disk, Expected, ImageState, World, image_key, pattern, requester, volume_image,
    };
    use super::*;
    use crate::backup::base_name;
    use crate::manager::snapshot_name;

    fn snapshot_of(backup_id: Uuid) -> String {
        format!("backup.{backup_id}.snap")
    }

    /// The case of a backup of `volume_id`, in the chain that begins with `first`.
    async fn case(
        world: World,
        volume_id: Uuid,
        parent_id: Option<Uuid>,
        first: Option<Uuid>,
    ) -> Case {
        let backup_id = world.backup_row(volume_id, parent_id, None).await;
        world.begin_backup(volume_id).await;
        let before = world.inventory().await;
        let mut after = before.clone();
        let head = world.head(volume_id).await;
        let volume = after.images.get_mut(&image_key(volume_id)).unwrap();
        volume
            .snapshots
            .insert(snapshot_of(backup_id), (head.clone(), false));
        let base = format!(
            "backups/{}",
            base_name(volume_id, first.unwrap_or(backup_id))
        );
        let base = after.images.entry(base).or_insert_with(ImageState::default);
        base.head = head.clone();
        base.snapshots.insert(snapshot_of(backup_id), (head, false));
        after
            .objects
            .insert(format!("backups/{}", metadata_object(backup_id)));
        let flow = world.backup_flow(backup_id, volume_id, parent_id);
        let rows = |status| {
            vec![
                ("backups", backup_id, Some(status)),
                ("volumes", volume_id, Some(status::AVAILABLE)),
            ]
        };
        let done = Expected {
            store: after,
            rows: rows(status::AVAILABLE),
        };
        let reverted = Expected {
            store: before,
            rows: rows(status::ERROR),
        };
        world.case(flow, done, reverted).await
    }

    #[tokio::test]
    async fn full_backups() {
        for in_steps in [false, true] {
            exhaust::<CreateBackup, _>(async || {
                let world = World::making(in_steps).await;
                let volume_id = world.filled_volume(2).await;
                case(world, volume_id, None, None).await
            })
            .await;
        }
    }

    #[tokio::test]
    async fn incremental_backups() {
        for in_steps in [false, true] {
            exhaust::<CreateBackup, _>(async || {
                let world = World::making(in_steps).await;
                let volume_id = world.filled_volume(2).await;
                let full = world.backup(volume_id, None).await;
                world.write(volume_id, 4096, pattern(9, 12_288)).await;
                let handle = world
                    .store
                    .open(&volume_image(volume_id), None)
                    .await
                    .unwrap();
                handle.discard((1 << 30) - 4096, 4096).await.unwrap();
                case(world, volume_id, Some(full), Some(full)).await
            })
            .await;
        }
    }

    async fn base_disk(world: &World, volume_id: Uuid, first: Uuid, backup_id: Uuid) -> Disk {
        let state =
            &world.inventory().await.images[&format!("backups/{}", base_name(volume_id, first))];
        state.snapshots[&snapshot_of(backup_id)].0.clone()
    }

    #[tokio::test]
    async fn a_chain_keeps_every_moment_also_after_revert_extend_and_deleted_links() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        let full = world.backup(volume_id, None).await;
        let mut moments = vec![(full, world.head(volume_id).await)];
        let snapshot_id = world.snapshot(volume_id).await;
        world.write(volume_id, 1 << 20, pattern(3, 30_000)).await;
        let second = world.backup(volume_id, Some(full)).await;
        moments.push((second, world.head(volume_id).await));
        // Back to where the full one was: what the second wrote must not shine through.
        world
            .store
            .roll_back(&volume_image(volume_id).at(snapshot_name(snapshot_id)))
            .await
            .unwrap();
        world
            .store
            .resize(&volume_image(volume_id), 2 << 30)
            .await
            .unwrap();
        world.write(volume_id, 3 << 29, pattern(4, 4096)).await;
        let third = world.backup(volume_id, Some(full)).await;
        moments.push((third, world.head(volume_id).await));
        let fourth = world.backup(volume_id, Some(third)).await;
        moments.push((fourth, world.head(volume_id).await));
        for (backup_id, disk) in &moments {
            assert!(
                base_disk(&world, volume_id, full, *backup_id).await == *disk,
                "{backup_id}"
            );
        }
    }

    #[tokio::test]
    async fn a_snapshot_is_backed_up_and_later_backups_build_on_it() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        let snapshot_id = world.snapshot(volume_id).await;
        let then = world.head(volume_id).await;
        world.write(volume_id, 0, pattern(7, 4096)).await;
        let backup_id = world.backup_row(volume_id, None, Some(snapshot_id)).await;
        world
            .set_status("snapshots", snapshot_id, status::BACKING_UP)
            .await;
        let params = CreateBackupParams {
            backup_id,
            volume_id,
            snapshot_id: Some(snapshot_id),
            parent_id: None,
        };
        let flow = CreateBackup::new_flow(&params, "backup:host", &requester());
        assert_eq!(world.run::<CreateBackup>(flow).await, "SUCCESS");
        assert_eq!(
            world
                .column("snapshots", snapshot_id, "status")
                .await
                .as_deref(),
            Some(status::AVAILABLE)
        );
        assert!(base_disk(&world, volume_id, backup_id, backup_id).await == then);
        let next = world.backup(volume_id, Some(backup_id)).await;
        assert!(base_disk(&world, volume_id, backup_id, next).await == world.head(volume_id).await);
        assert!(world.column("backups", next, "parent_id").await.is_some());
    }

    #[tokio::test]
    async fn without_the_parents_snapshot_the_backup_is_full_and_says_so() {
        let world = World::with(|manager| manager.backups.max_snapshots = 1).await;
        let volume_id = world.filled_volume(2).await;
        let full = world.backup(volume_id, None).await;
        let second = world.backup(volume_id, Some(full)).await;
        assert_eq!(
            world.column("backups", second, "parent_id").await,
            Some(full.to_string())
        );
        // Only the second's snapshot was kept on the volume.
        let third = world.backup(volume_id, Some(full)).await;
        assert_eq!(world.column("backups", third, "parent_id").await, None);
        assert!(base_disk(&world, volume_id, third, third).await == world.head(volume_id).await);
        let sql = "SELECT detail_id FROM volume_messages WHERE resource_id = ?";
        let row = world
            .database
            .fetch_one(sql, database::params![third])
            .await
            .unwrap();
        assert_eq!(row.get::<String>("detail_id").unwrap(), "030");
    }

    #[tokio::test]
    async fn a_broken_chain_is_an_error_that_names_the_missing_piece() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        let full = world.backup(volume_id, None).await;
        let base = ImageSpec::new("backups", base_name(volume_id, full));
        for snapshot in world.store.info(&base).await.unwrap().snapshots {
            world
                .store
                .remove_snapshot(&base.at(&snapshot.name))
                .await
                .unwrap();
        }
        let second = world.backup_row(volume_id, Some(full), None).await;
        world.begin_backup(volume_id).await;
        let flow = Ok(world.backup_flow(second, volume_id, Some(full)));
        assert_eq!(world.run::<CreateBackup>(flow).await, "REVERTED");
        let reason = world
            .column("backups", second, "fail_reason")
            .await
            .unwrap();
        assert!(
            reason.contains("its snapshot on backups/volume-"),
            "{reason}"
        );
        assert_eq!(
            world
                .column("volumes", volume_id, "status")
                .await
                .as_deref(),
            Some(status::AVAILABLE)
        );
        let previous = world.column("volumes", volume_id, "previous_status").await;
        assert_eq!(previous.as_deref(), Some(status::ERROR_BACKING_UP));
    }
}
