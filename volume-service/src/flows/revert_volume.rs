//! `volume:revert`: a volume back to its latest snapshot.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::settle;
use super::steps::{STORE_RETRY, store_failure};
use super::{Requester, addressed, snapshot_lock, volume_lock};
use crate::db::{Change, status};
use crate::manager::{Manager, snapshot_name};

/// Parameters of [`RevertVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RevertVolumeParams {
    pub volume_id: Uuid,
    pub snapshot_id: Uuid,
}

/// Volume `reverting` → `available`, or `error`; snapshot `restoring` → `available`.
pub struct RevertVolume;

impl RevertVolume {
    /// To insert together with the statuses `reverting` and `restoring`.
    pub fn new_flow(
        params: &RevertVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<RevertVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        Ok(flow
            .lock_exclusive(volume_lock(params.volume_id))
            .lock_exclusive(snapshot_lock(params.snapshot_id)))
    }
}

#[async_trait]
impl Flow for RevertVolume {
    const KIND: &'static str = "volume:revert";
    type Context = Manager;
    type Params = RevertVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(RollBack), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The volume's bytes are the snapshot's. There is no way back from here, so a failure leaves
/// the volume in `error`.
struct RollBack;

#[async_trait]
impl Task<RevertVolume> for RollBack {
    const NAME: &'static str = "roll_back";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<RevertVolume>) -> Result<(), TaskError> {
        let volume = run.ctx.volume(run.params.volume_id).await?;
        let place = run.ctx.place(&volume)?;
        let snapshot = place.image.at(snapshot_name(run.params.snapshot_id));
        place
            .store()
            .roll_back(&snapshot)
            .await
            .map_err(store_failure)
    }

    async fn record_revert(
        &self,
        run: &Run<RevertVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// Both rows are `available`.
struct Finish;

#[async_trait]
impl Task<RevertVolume> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<RevertVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<RevertVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let change = Change::volume(run.params.volume_id).when(&[status::REVERTING]);
        settle(tx, change.status(status::AVAILABLE)).await?;
        release_snapshot(run, tx).await
    }
}

/// Volume `error`, snapshot `available`.
async fn failed(run: &Run<RevertVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::volume(run.params.volume_id).when(&[status::REVERTING]);
    change.status(status::ERROR).apply(tx).await?;
    release_snapshot(run, tx).await
}

async fn release_snapshot(run: &Run<RevertVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::snapshot(run.params.snapshot_id).when(&[status::RESTORING]);
    change.status(status::AVAILABLE).apply(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{Case, Expected, HOST, World, image_key, pattern, requester};
    use super::super::volume_queue;
    use super::*;

    /// A failed revert may have changed the bytes: the fixture asks for rows alone.
    struct Reverting(Case);

    #[async_trait]
    impl Fixture<RevertVolume> for Reverting {
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
            let Expected { rows, .. } = &self.0.reverted;
            let store = self.0.world.inventory().await;
            assert!(store == self.0.reverted.store || store == self.0.done.store);
            self.0
                .world
                .assert_is(&Expected {
                    store,
                    rows: rows.clone(),
                })
                .await;
        }
    }

    #[tokio::test]
    async fn volumes_go_back_to_their_snapshot() {
        exhaust::<RevertVolume, _>(async || {
            let world = World::new().await;
            let volume_id = world.filled_volume(2).await;
            let snapshot_id = world.snapshot(volume_id).await;
            let then = world.head(volume_id).await;
            world.write(volume_id, 0, pattern(7, 20_000)).await;
            world
                .set_status("volumes", volume_id, status::REVERTING)
                .await;
            world
                .set_status("snapshots", snapshot_id, status::RESTORING)
                .await;
            let before = world.inventory().await;
            let mut after = before.clone();
            after.images.get_mut(&image_key(volume_id)).unwrap().head = then;
            let params = RevertVolumeParams {
                volume_id,
                snapshot_id,
            };
            let flow = RevertVolume::new_flow(&params, &volume_queue(HOST), &requester()).unwrap();
            let rows = |volume| {
                vec![
                    ("volumes", volume_id, Some(volume)),
                    ("snapshots", snapshot_id, Some(status::AVAILABLE)),
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
            Reverting(world.case(flow, done, reverted).await)
        })
        .await;
    }
}
