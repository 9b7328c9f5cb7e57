//! `snapshot:delete`: a snapshot; volumes cloned from it live on.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::tell;
use super::steps::{BUSY, STORE_RETRY, flatten_children, remove_snapshot};
use super::{Requester, addressed, snapshot_lock, volume_lock};
use crate::db::messages::{Action, Detail, Resource};
use crate::db::{Change, snapshots, status};
use crate::manager::{Manager, snapshot_name};

/// Parameters of [`DeleteSnapshot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteSnapshotParams {
    pub snapshot_id: Uuid,
    pub volume_id: Uuid,
}

/// Snapshot `deleting` → gone; `available` when it is busy, else `error_deleting`.
pub struct DeleteSnapshot;

impl DeleteSnapshot {
    /// To insert together with the status `deleting`.
    pub fn new_flow(
        params: &DeleteSnapshotParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<DeleteSnapshot>(params)?;
        let flow = addressed(flow, queue, ("snapshot", params.snapshot_id), by);
        Ok(flow
            .lock_exclusive(snapshot_lock(params.snapshot_id))
            .lock_shared(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for DeleteSnapshot {
    const KIND: &'static str = "snapshot:delete";
    type Context = Manager;
    type Params = DeleteSnapshotParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(RemoveSnapshot), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The snapshot is gone; its clones stand on their own. A snapshot does not come back.
struct RemoveSnapshot;

#[async_trait]
impl Task<DeleteSnapshot> for RemoveSnapshot {
    const NAME: &'static str = "remove_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<DeleteSnapshot>) -> Result<(), TaskError> {
        let Some(place) = run.ctx.place_if_any(run.params.volume_id).await? else {
            return Ok(());
        };
        let snapshot = place.image.at(snapshot_name(run.params.snapshot_id));
        flatten_children(place.store(), &snapshot).await?;
        remove_snapshot(place.store(), &snapshot).await
    }

    async fn record_revert(
        &self,
        run: &Run<DeleteSnapshot>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The row is gone.
struct Finish;

#[async_trait]
impl Task<DeleteSnapshot> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<DeleteSnapshot>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<DeleteSnapshot>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        snapshots::delete(tx, run.params.snapshot_id).await?;
        Ok(())
    }
}

/// `available` again when clones hold it, else `error_deleting`.
async fn failed(run: &Run<DeleteSnapshot>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.snapshot_id;
    let busy = run.failure().is_some_and(|failure| failure.class == BUSY);
    let (to, detail) = match busy {
        true => (status::AVAILABLE, Detail::SnapshotIsBusy),
        false => (status::ERROR_DELETING, Detail::SnapshotDeleteError),
    };
    let change = Change::snapshot(id).when(&[status::DELETING]).status(to);
    if change.apply(tx).await?.is_done() {
        tell(
            tx,
            &run.flow,
            (Resource::VolumeSnapshot, id),
            Action::SnapshotDelete,
            detail,
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{Case, Expected, HOST, World, image_key, requester, snapshot_key};
    use super::super::{VolumeSource, volume_queue};
    use super::*;

    /// A failed delete may have removed the snapshot already.
    struct Deleting(Case);

    #[async_trait]
    impl Fixture<DeleteSnapshot> for Deleting {
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
            self.0.world.assert_is(&self.0.done).await;
        }

        async fn assert_reverted(&self) {
            let store = self.0.world.inventory().await;
            assert!(store == self.0.reverted.store || store == self.0.done.store);
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
    async fn snapshots_go_and_their_clones_keep_their_bytes() {
        exhaust::<DeleteSnapshot, _>(async || {
            let world = World::new().await;
            let volume_id = world.filled_volume(2).await;
            let snapshot_id = world.snapshot(volume_id).await;
            let clone = world
                .volume(
                    1,
                    VolumeSource::Snapshot {
                        snapshot_id,
                        volume_id,
                    },
                )
                .await;
            world
                .set_status("snapshots", snapshot_id, status::DELETING)
                .await;
            let before = world.inventory().await;
            let mut after = before.clone();
            let source = after.images.get_mut(&image_key(volume_id)).unwrap();
            source.snapshots.remove(&snapshot_key(snapshot_id)).unwrap();
            after.images.get_mut(&image_key(clone)).unwrap().parent = None;
            let params = DeleteSnapshotParams {
                snapshot_id,
                volume_id,
            };
            let flow =
                DeleteSnapshot::new_flow(&params, &volume_queue(HOST), &requester()).unwrap();
            let done = Expected {
                store: after,
                rows: vec![("snapshots", snapshot_id, None)],
            };
            let rows = vec![("snapshots", snapshot_id, Some(status::ERROR_DELETING))];
            Deleting(
                world
                    .case(
                        flow,
                        done,
                        Expected {
                            store: before,
                            rows,
                        },
                    )
                    .await,
            )
        })
        .await;
    }
}
