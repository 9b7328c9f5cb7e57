//! `volume:extend`: a larger volume.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::{resting_status, settle, tell};
use super::steps::{STORE_RETRY, ensure_size, gib_to_bytes, store_failure};
use super::tell_servers::TellServers;
use super::{Requester, addressed, volume_lock};
use crate::compute::Event;
use crate::db::messages::{Action, Detail, Resource};
use crate::db::{Change, status};
use crate::manager::Manager;

/// Parameters of [`ExtendVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExtendVolumeParams {
    pub volume_id: Uuid,
    pub old_size_gib: u32,
    pub new_size_gib: u32,
}

/// Volume `extending` → `available` or `in-use`, or `error_extending`.
pub struct ExtendVolume;

impl ExtendVolume {
    /// To insert together with the status `extending`.
    pub fn new_flow(
        params: &ExtendVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<ExtendVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        Ok(flow.lock_exclusive(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for ExtendVolume {
    const KIND: &'static str = "volume:extend";
    type Context = Manager;
    type Params = ExtendVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(Resize), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The image has the new size.
struct Resize;

#[async_trait]
impl Task<ExtendVolume> for Resize {
    const NAME: &'static str = "resize";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<ExtendVolume>) -> Result<(), TaskError> {
        let volume = run.ctx.volume(run.params.volume_id).await?;
        let place = run.ctx.place(&volume)?;
        ensure_size(
            place.store(),
            &place.image,
            gib_to_bytes(run.params.new_size_gib),
        )
        .await
    }

    /// Nobody was told of the new size yet: what was added holds nothing.
    async fn revert(&self, run: &Run<ExtendVolume>, _: Option<&()>) -> Result<(), TaskError> {
        let Some(place) = run.ctx.place_if_any(run.params.volume_id).await? else {
            return Ok(());
        };
        let size_bytes = match place.store().info(&place.image).await {
            Ok(info) => info.size_bytes,
            Err(storage::Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(store_failure(error)),
        };
        if size_bytes != gib_to_bytes(run.params.new_size_gib) {
            return Ok(());
        }
        let old_bytes = gib_to_bytes(run.params.old_size_gib);
        place
            .store()
            .resize(&place.image, old_bytes)
            .await
            .map_err(store_failure)
    }

    async fn record_revert(
        &self,
        run: &Run<ExtendVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The row has the new size, the volume its resting status.
struct Finish;

#[async_trait]
impl Task<ExtendVolume> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<ExtendVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<ExtendVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let id = run.params.volume_id;
        let resting = resting_status(tx, id).await?;
        // The image has this size, also when somebody has reset the status.
        Change::volume(id)
            .set("size_gib = ?", run.params.new_size_gib)
            .set("extend_to_gib = ?", None::<i64>)
            .apply(tx)
            .await?;
        settle(
            tx,
            Change::volume(id)
                .when(&[status::EXTENDING])
                .status(resting),
        )
        .await?;
        TellServers::insert(&run.ctx, tx, &run.flow, id, Event::Extended).await
    }
}

/// Volume `error_extending` with its old size.
async fn failed(run: &Run<ExtendVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.volume_id;
    // Also when somebody has reset the status: the quota must not keep what was not made.
    Change::volume(id)
        .set("extend_to_gib = ?", None::<i64>)
        .apply(tx)
        .await?;
    let change = Change::volume(id)
        .when(&[status::EXTENDING])
        .status(status::ERROR_EXTENDING);
    if change
        .set("size_gib = ?", run.params.old_size_gib)
        .apply(tx)
        .await?
        .is_done()
    {
        let resource = (Resource::Volume, id);
        tell(
            tx,
            &run.flow,
            resource,
            Action::ExtendVolume,
            Detail::DriverFailedExtend,
        )
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{Case, Expected, HOST, World, image_key, requester};
    use super::super::volume_queue;
    use super::*;

    async fn case() -> Case {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        world
            .set_status("volumes", volume_id, status::EXTENDING)
            .await;
        let before = world.inventory().await;
        let mut after = before.clone();
        after
            .images
            .get_mut(&image_key(volume_id))
            .unwrap()
            .head
            .size_bytes = 3 << 30;
        let params = ExtendVolumeParams {
            volume_id,
            old_size_gib: 1,
            new_size_gib: 3,
        };
        let flow = ExtendVolume::new_flow(&params, &volume_queue(HOST), &requester()).unwrap();
        let done = Expected {
            store: after,
            rows: vec![("volumes", volume_id, Some(status::AVAILABLE))],
        };
        let reverted = Expected {
            store: before,
            rows: vec![("volumes", volume_id, Some(status::ERROR_EXTENDING))],
        };
        world.case(flow, done, reverted).await
    }

    #[tokio::test]
    async fn volumes_grow_or_stay() {
        exhaust::<ExtendVolume, _>(case).await;
    }

    #[tokio::test]
    async fn an_attached_volume_is_in_use_again_and_has_its_new_size() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        world
            .set_status("volumes", volume_id, status::EXTENDING)
            .await;
        world
            .set("volumes", volume_id, "attach_status", status::ATTACHED)
            .await;
        let params = ExtendVolumeParams {
            volume_id,
            old_size_gib: 1,
            new_size_gib: 2,
        };
        let flow = ExtendVolume::new_flow(&params, &volume_queue(HOST), &requester());
        assert_eq!(world.run::<ExtendVolume>(flow).await, "SUCCESS");
        let volume = world.manager.volume(volume_id).await.unwrap();
        assert_eq!(
            (volume.status.as_str(), volume.size_gib),
            (status::IN_USE, 2)
        );
    }
}
