//! `volume:delete`: a volume, with its snapshots when `cascade`.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::SnapshotSpec;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::create_from_volume::clone_snapshot;
use super::removal::{release_parent, remove_or_keep, remove_snapshots};
use super::steps::{BUSY, STORE_RETRY};
use super::{Requester, addressed, volume_lock};
use crate::db::{Change, snapshots, status, volumes};
use crate::manager::{Manager, Placement};

/// Parameters of [`DeleteVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteVolumeParams {
    pub volume_id: Uuid,
    /// The volume's snapshots go, too; their rows were set to `deleting` by the request.
    pub cascade: bool,
}

/// Volume `deleting` → gone, or `error_deleting`.
pub struct DeleteVolume;

impl DeleteVolume {
    /// To insert together with the status `deleting`.
    pub fn new_flow(
        params: &DeleteVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<DeleteVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        Ok(flow.lock_exclusive(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for DeleteVolume {
    const KIND: &'static str = "volume:delete";
    type Context = Manager;
    type Params = DeleteVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(RemoveSnapshots), boxed(RemoveImage), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The image has no snapshots any more; what was cloned from them stands on its own. The output
/// are the snapshots of other images that exist for this clone only. None of it comes back.
struct RemoveSnapshots;

#[async_trait]
impl Task<DeleteVolume> for RemoveSnapshots {
    const NAME: &'static str = "remove_snapshots";
    type Output = Vec<SnapshotSpec>;

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<DeleteVolume>) -> Result<Vec<SnapshotSpec>, TaskError> {
        let id = run.params.volume_id;
        if !run.params.cascade
            && !snapshots::of_volume(&run.ctx.database, id)
                .await?
                .is_empty()
        {
            return Err(TaskError::new(
                "VolumeHasSnapshots",
                format!("volume {id} has snapshots"),
            ));
        }
        let Some(place) = run.ctx.place_if_any(id).await? else {
            return Ok(Vec::new());
        };
        let store = place.store();
        let mut kept_for_us = snapshots_of_source(run, &place).await?;
        kept_for_us.extend(remove_snapshots(store, &place.image).await?);
        Ok(kept_for_us)
    }

    async fn record(
        &self,
        run: &Run<DeleteVolume>,
        _: &Vec<SnapshotSpec>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        for snapshot in snapshots::of_volume(&mut *tx, run.params.volume_id).await? {
            let (notices, by) = (&run.ctx.notices, &run.flow);
            notices
                .snapshot(tx, snapshot.id, "delete.start", by)
                .await?;
            snapshots::delete(tx, snapshot.id).await?;
            notices.snapshot(tx, snapshot.id, "delete.end", by).await?;
        }
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<DeleteVolume>,
        _: Option<&Vec<SnapshotSpec>>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The temporary snapshot of the source volume that this volume was cloned through: it is there
/// as long as either lives, also when the clone was flattened since.
async fn snapshots_of_source(
    run: &Run<DeleteVolume>,
    place: &Placement<'_>,
) -> Result<Vec<SnapshotSpec>, TaskError> {
    let volume = volumes::get(&run.ctx.database, run.params.volume_id).await?;
    let Some(source_id) = volume.and_then(|volume| volume.source_volid) else {
        return Ok(Vec::new());
    };
    let source = run.ctx.place_if_any(source_id).await?;
    let source = source.filter(|source| source.store().fsid() == place.store().fsid());
    Ok(source
        .map(|source| clone_snapshot(&source.image, &place.image))
        .into_iter()
        .collect())
}

/// Image and the snapshots kept for it are gone, or the image waits for the last of its clones.
struct RemoveImage;

#[async_trait]
impl Task<DeleteVolume> for RemoveImage {
    const NAME: &'static str = "remove_image";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<DeleteVolume>) -> Result<(), TaskError> {
        let Some(place) = run.ctx.place_if_any(run.params.volume_id).await? else {
            return Ok(());
        };
        if !remove_or_keep(place.store(), &place.image).await? {
            return Ok(());
        }
        for snapshot in run.output::<RemoveSnapshots>()? {
            release_parent(place.store(), snapshot.clone()).await?;
        }
        Ok(())
    }
}

/// The row is gone, and with it its share of the quota.
struct Finish;

#[async_trait]
impl Task<DeleteVolume> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<DeleteVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<DeleteVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        volumes::delete(tx, run.params.volume_id).await?;
        Ok(())
    }
}

/// `available` again when somebody holds the image, else `error_deleting`; so do its snapshots.
async fn failed(run: &Run<DeleteVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let busy = run.failure().is_some_and(|failure| failure.class == BUSY);
    let to = if busy {
        status::AVAILABLE
    } else {
        status::ERROR_DELETING
    };
    let id = run.params.volume_id;
    Change::volume(id)
        .when(&[status::DELETING])
        .status(to)
        .apply(tx)
        .await?;
    snapshots::change_all_of_volume(tx, id, &[status::DELETING], to).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use storage::testing::TestStore;
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{Case, Expected, HOST, World, image_key, requester};
    use super::super::{VolumeSource, volume_queue};
    use super::*;

    fn flow(volume_id: Uuid, cascade: bool) -> NewFlow {
        let params = DeleteVolumeParams { volume_id, cascade };
        DeleteVolume::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    async fn delete(world: &World, volume_id: Uuid, cascade: bool) -> &'static str {
        world
            .set_status("volumes", volume_id, status::DELETING)
            .await;
        world
            .run::<DeleteVolume>(Ok(flow(volume_id, cascade)))
            .await
    }

    /// A failed delete ends in `error_deleting`, and can be repeated.
    struct Deleting {
        case: Case,
        volume_id: Uuid,
    }

    #[async_trait]
    impl Fixture<DeleteVolume> for Deleting {
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
            let status = world.column("volumes", self.volume_id, "status").await;
            assert_eq!(status.as_deref(), Some(status::ERROR_DELETING));
            assert_eq!(delete(world, self.volume_id, true).await, "SUCCESS");
            world.assert_is(&self.case.done).await;
        }
    }

    /// A volume with a source, a snapshot, a backup, and clones of both kinds.
    #[tokio::test]
    async fn a_volume_goes_with_all_that_hangs_on_it_and_clones_live_on() {
        exhaust::<DeleteVolume, _>(async || {
            let world = World::new().await;
            let source = world.filled_volume(2).await;
            let volume_id = world
                .volume(1, VolumeSource::Volume { volume_id: source })
                .await;
            let snapshot_id = world.snapshot(volume_id).await;
            world.backup(volume_id, None).await;
            let of_snapshot = world
                .volume(
                    1,
                    VolumeSource::Snapshot {
                        snapshot_id,
                        volume_id,
                    },
                )
                .await;
            let of_volume = world.volume(1, VolumeSource::Volume { volume_id }).await;
            let mut after = world.inventory().await;
            let images = &mut after.images;
            let mut gone = images.remove(&image_key(volume_id)).unwrap();
            images.get_mut(&image_key(of_snapshot)).unwrap().parent = None;
            if world.store.flattens_instantly() {
                images.get_mut(&image_key(of_volume)).unwrap().parent = None;
                images
                    .get_mut(&image_key(source))
                    .unwrap()
                    .snapshots
                    .clear();
            } else {
                // It is kept for its clone, and so is what it hangs on.
                let kept = format!("{}.deleted", image_key(volume_id));
                let through = format!("volume-{of_volume}.clone_snap");
                images.get_mut(&image_key(of_volume)).unwrap().parent =
                    Some(format!("{kept}@{through}"));
                gone.snapshots.retain(|name, _| *name == through);
                images.insert(kept, gone);
            }
            world
                .set_status("volumes", volume_id, status::DELETING)
                .await;
            world
                .set_status("snapshots", snapshot_id, status::DELETING)
                .await;
            let rows = vec![
                ("volumes", volume_id, None),
                ("snapshots", snapshot_id, None),
            ];
            let done = Expected { store: after, rows };
            let case = world.case(flow(volume_id, true), done.clone(), done).await;
            Deleting { case, volume_id }
        })
        .await;
    }

    #[tokio::test]
    async fn chains_of_clones_leave_nothing_whatever_the_order() {
        for (reversed, slow) in [(false, false), (true, false), (false, true), (true, true)] {
            let world = if slow {
                let store = storage::memory::MemoryStore::new().flattening_slowly();
                World::on(TestStore::new(store).await, |_| {}).await
            } else {
                World::new().await
            };
            let mut ids = vec![world.filled_volume(1).await];
            for _ in 0..7 {
                let volume_id = *ids.last().unwrap();
                ids.push(world.volume(1, VolumeSource::Volume { volume_id }).await);
            }
            if reversed {
                ids.reverse();
            }
            let bytes = world.head(ids[7]).await;
            for id in &ids {
                assert_eq!(world.head(ids[7]).await, bytes);
                assert_eq!(delete(&world, *id, false).await, "SUCCESS");
            }
            assert_eq!(world.inventory().await, Default::default());
        }
    }

    #[tokio::test]
    async fn a_clone_that_was_flattened_still_takes_its_snapshot_along() {
        let world = World::new().await;
        let source = world.filled_volume(1).await;
        let clone = world
            .volume(1, VolumeSource::Volume { volume_id: source })
            .await;
        world
            .store
            .flatten(&super::super::testbed::volume_image(clone))
            .await
            .unwrap();
        assert_eq!(delete(&world, clone, false).await, "SUCCESS");
        assert!(
            world.inventory().await.images[&image_key(source)]
                .snapshots
                .is_empty()
        );
    }

    #[tokio::test]
    async fn where_flattening_copies_a_source_waits_for_its_last_clone() {
        let store = storage::memory::MemoryStore::new().flattening_slowly();
        let world = World::on(TestStore::new(store).await, |_| {}).await;
        let source = world.filled_volume(1).await;
        let from_source = || VolumeSource::Volume { volume_id: source };
        let (one, two) = (
            world.volume(1, from_source()).await,
            world.volume(1, from_source()).await,
        );
        assert_eq!(delete(&world, source, false).await, "SUCCESS");
        let kept = format!("{}.deleted", image_key(source));
        let waiting = world.inventory().await;
        assert_eq!(waiting.images[&kept].snapshots.len(), 2);
        assert_eq!(delete(&world, one, false).await, "SUCCESS");
        let waiting = world.inventory().await;
        assert_eq!(waiting.images[&kept].snapshots.len(), 1);
        assert_eq!(delete(&world, two, false).await, "SUCCESS");
        assert_eq!(world.inventory().await, Default::default());
    }

    #[tokio::test]
    async fn a_parent_that_cinder_kept_for_its_last_clone_goes_with_it() {
        let world = World::new().await;
        let source = world.filled_volume(1).await;
        let clone = world
            .volume(1, VolumeSource::Volume { volume_id: source })
            .await;
        let image = super::super::testbed::volume_image(source);
        world
            .store
            .rename(&image, &format!("{}.deleted", image.image))
            .await
            .unwrap();
        assert_eq!(delete(&world, clone, false).await, "SUCCESS");
        assert_eq!(world.inventory().await, Default::default());
    }

    #[tokio::test]
    async fn a_volume_with_snapshots_stays_unless_cascade() {
        let world = World::new().await;
        let volume_id = world.filled_volume(1).await;
        world.snapshot(volume_id).await;
        let before = world.inventory().await;
        assert_eq!(delete(&world, volume_id, false).await, "REVERTED");
        let rows = vec![("volumes", volume_id, Some(status::ERROR_DELETING))];
        world
            .assert_is(&Expected {
                store: before,
                rows,
            })
            .await;
    }

    #[tokio::test]
    async fn a_volume_that_somebody_has_open_is_available_again() {
        let world = World::new().await;
        let volume_id = world.filled_volume(1).await;
        let handle = world
            .store
            .open(&super::super::testbed::volume_image(volume_id), None)
            .await
            .unwrap();
        assert_eq!(delete(&world, volume_id, false).await, "REVERTED");
        assert_eq!(
            world
                .column("volumes", volume_id, "status")
                .await
                .as_deref(),
            Some(status::AVAILABLE)
        );
        drop(handle);
        assert_eq!(delete(&world, volume_id, false).await, "SUCCESS");
    }
}
