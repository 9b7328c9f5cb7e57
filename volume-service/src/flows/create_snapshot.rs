//! `snapshot:create`: a protected snapshot of a volume.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::{settle, tell};
use super::steps::{STORE_RETRY, ensure_protected_snapshot, remove_snapshot};
use super::{Requester, addressed, snapshot_lock, volume_lock};
use crate::db::messages::{Action, Detail, Resource};
use crate::db::metadata::{self, Kind};
use crate::db::{Change, status};
use crate::manager::{Manager, snapshot_name};

/// Parameters of [`CreateSnapshot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateSnapshotParams {
    pub snapshot_id: Uuid,
    pub volume_id: Uuid,
}

/// Snapshot `creating` → `available`, or `error`.
pub struct CreateSnapshot;

impl CreateSnapshot {
    /// To insert together with the snapshot's row (`creating`).
    pub fn new_flow(
        params: &CreateSnapshotParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<CreateSnapshot>(params)?;
        let flow = addressed(flow, queue, ("snapshot", params.snapshot_id), by);
        Ok(flow
            .lock_exclusive(snapshot_lock(params.snapshot_id))
            .lock_shared(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for CreateSnapshot {
    const KIND: &'static str = "snapshot:create";
    type Context = Manager;
    type Params = CreateSnapshotParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(TakeSnapshot), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The protected snapshot `snapshot-<id>`.
struct TakeSnapshot;

#[async_trait]
impl Task<CreateSnapshot> for TakeSnapshot {
    const NAME: &'static str = "take_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateSnapshot>) -> Result<(), TaskError> {
        let volume = run.ctx.volume(run.params.volume_id).await?;
        let place = run.ctx.place(&volume)?;
        let snapshot = place.image.at(snapshot_name(run.params.snapshot_id));
        ensure_protected_snapshot(place.store(), &snapshot).await
    }

    async fn revert(&self, run: &Run<CreateSnapshot>, _: Option<&()>) -> Result<(), TaskError> {
        let Some(place) = run.ctx.place_if_any(run.params.volume_id).await? else {
            return Ok(());
        };
        remove_snapshot(
            place.store(),
            &place.image.at(snapshot_name(run.params.snapshot_id)),
        )
        .await
    }

    async fn record_revert(
        &self,
        run: &Run<CreateSnapshot>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The snapshot is `available` and keeps its volume's image properties.
struct Finish;

#[async_trait]
impl Task<CreateSnapshot> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<CreateSnapshot>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<CreateSnapshot>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let id = run.params.snapshot_id;
        let properties = metadata::get(&mut *tx, Kind::VolumeImage, run.params.volume_id).await?;
        metadata::merge(tx, Kind::SnapshotImage, id, &properties).await?;
        let change = Change::snapshot(id)
            .when(&[status::CREATING])
            .status(status::AVAILABLE);
        settle(tx, change.set("progress = ?", "100%")).await
    }
}

async fn failed(run: &Run<CreateSnapshot>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.snapshot_id;
    let change = Change::snapshot(id)
        .when(&[status::CREATING])
        .status(status::ERROR);
    if change.apply(tx).await?.is_done() {
        let resource = (Resource::VolumeSnapshot, id);
        tell(
            tx,
            &run.flow,
            resource,
            Action::SnapshotCreate,
            Detail::SnapshotCreateError,
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{Expected, HOST, World, image_key, requester, snapshot_key};
    use super::super::volume_queue;
    use super::*;

    #[tokio::test]
    async fn snapshots_are_there_and_protected_or_not_there() {
        for in_steps in [false, true] {
            exhaust::<CreateSnapshot, _>(async || {
                let world = World::making(in_steps).await;
                let volume_id = world.filled_volume(2).await;
                let snapshot_id = world.snapshot_row(volume_id).await;
                let before = world.inventory().await;
                let mut after = before.clone();
                let image = after.images.get_mut(&image_key(volume_id)).unwrap();
                image
                    .snapshots
                    .insert(snapshot_key(snapshot_id), (image.head.clone(), true));
                let params = CreateSnapshotParams {
                    snapshot_id,
                    volume_id,
                };
                let flow =
                    CreateSnapshot::new_flow(&params, &volume_queue(HOST), &requester()).unwrap();
                let rows = |status| vec![("snapshots", snapshot_id, Some(status))];
                let done = Expected {
                    store: after,
                    rows: rows(status::AVAILABLE),
                };
                let reverted = Expected {
                    store: before,
                    rows: rows(status::ERROR),
                };
                world.case(flow, done, reverted).await
            })
            .await;
        }
    }

    #[tokio::test]
    async fn image_properties_go_to_the_snapshot_and_on_to_its_clones() {
        let world = World::new().await;
        let image = world.images.add("raw", Some(vec![1; 4096].into()), None);
        let volume_id = world
            .volume(1, super::super::VolumeSource::Image { image })
            .await;
        let snapshot_id = world.snapshot(volume_id).await;
        let clone = world
            .volume(
                1,
                super::super::VolumeSource::Snapshot {
                    snapshot_id,
                    volume_id,
                },
            )
            .await;
        let kept = metadata::get(&world.database, Kind::VolumeImage, volume_id)
            .await
            .unwrap();
        assert!(kept.contains_key("image_id"));
        assert_eq!(
            metadata::get(&world.database, Kind::SnapshotImage, snapshot_id)
                .await
                .unwrap(),
            kept
        );
        assert_eq!(
            metadata::get(&world.database, Kind::VolumeImage, clone)
                .await
                .unwrap(),
            kept
        );
        assert!(world.manager.volume(clone).await.unwrap().bootable);
    }
}
