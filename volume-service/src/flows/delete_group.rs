//! `group:delete`: the end of a group whose volumes other flows delete.
//!
//! Their flows hold the locks of the volumes exclusively and are older, so this one starts when
//! they have ended. A volume that would not go keeps the group, in `error`.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::{Requester, addressed, group_lock, volume_lock};
use crate::db::{Change, groups, status};
use crate::manager::Manager;

/// Parameters of [`DeleteGroup`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteGroupParams {
    pub group_id: Uuid,
    /// The volumes that go with it.
    pub volume_ids: Vec<Uuid>,
}

/// Group `deleting` → gone, or `error`.
pub struct DeleteGroup;

impl DeleteGroup {
    /// To insert together with the status `deleting`, after the flows of its volumes.
    pub fn new_flow(
        params: &DeleteGroupParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<DeleteGroup>(params)?;
        let flow = addressed(flow, queue, ("group", params.group_id), by);
        let flow = flow.lock_exclusive(group_lock(params.group_id));
        let volumes = params.volume_ids.iter();
        Ok(volumes.fold(flow, |flow, id| flow.lock_shared(volume_lock(*id))))
    }
}

#[async_trait]
impl Flow for DeleteGroup {
    const KIND: &'static str = "group:delete";
    type Context = Manager;
    type Params = DeleteGroupParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(CheckVolumes), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// No volume is in the group any more.
struct CheckVolumes;

#[async_trait]
impl Task<DeleteGroup> for CheckVolumes {
    const NAME: &'static str = "check_volumes";
    type Output = ();

    async fn execute(&self, run: &Run<DeleteGroup>) -> Result<(), TaskError> {
        let left = groups::members(&run.ctx.database, run.params.group_id).await?;
        match left.first() {
            None => Ok(()),
            Some(volume) => Err(TaskError::new(
                "VolumeRemains",
                format!("volume {} of the group was not deleted", volume.id),
            )),
        }
    }

    async fn record_revert(
        &self,
        run: &Run<DeleteGroup>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The row is gone, and with it its share of the quota.
struct Finish;

#[async_trait]
impl Task<DeleteGroup> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<DeleteGroup>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<DeleteGroup>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        groups::delete(tx, run.params.group_id).await?;
        Ok(())
    }
}

async fn failed(run: &Run<DeleteGroup>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::group(run.params.group_id).when(&[status::DELETING]);
    change.status(status::ERROR).apply(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{Expected, HOST, World, requester};
    use super::super::{DeleteVolume, DeleteVolumeParams, volume_queue};
    use super::*;

    fn flow(group_id: Uuid, volume_ids: &[Uuid]) -> NewFlow {
        let params = DeleteGroupParams {
            group_id,
            volume_ids: volume_ids.to_vec(),
        };
        DeleteGroup::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    async fn deleting_group(world: &World, volumes: &[Uuid]) -> Uuid {
        let group_id = world.group_row(volumes).await;
        world
            .set_status("volume_groups", group_id, status::DELETING)
            .await;
        group_id
    }

    #[tokio::test]
    async fn groups_go_or_are_in_error() {
        exhaust::<DeleteGroup, _>(async || {
            let world = World::new().await;
            let group_id = deleting_group(&world, &[]).await;
            let store = world.inventory().await;
            let expect = |state, store| Expected {
                store,
                rows: vec![("volume_groups", group_id, state)],
            };
            let done = expect(None, store.clone());
            let reverted = expect(Some(status::ERROR), store);
            world.case(flow(group_id, &[]), done, reverted).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_group_goes_after_its_volumes_and_stays_with_one_that_stays() {
        let world = World::new().await;
        let volumes = [world.filled_volume(1).await, world.filled_volume(2).await];
        let group_id = deleting_group(&world, &volumes).await;
        let mut deletes = Vec::new();
        for volume_id in volumes {
            let params = DeleteVolumeParams {
                volume_id,
                cascade: false,
            };
            world
                .set_status("volumes", volume_id, status::DELETING)
                .await;
            let flow = DeleteVolume::new_flow(&params, &volume_queue(HOST), &requester());
            deletes.push(world.insert(flow.unwrap()).await);
        }
        // A snapshot keeps the second volume.
        world.snapshot_row(volumes[1]).await;
        let group = world.insert(flow(group_id, &volumes)).await;
        assert_eq!(world.finish::<DeleteVolume>(deletes[0]).await, "SUCCESS");
        assert!(world.is_blocked(group).await);
        assert_eq!(world.finish::<DeleteVolume>(deletes[1]).await, "REVERTED");
        assert_eq!(world.finish::<DeleteGroup>(group).await, "REVERTED");
        let state = world.column("volume_groups", group_id, "status").await;
        assert_eq!(state.as_deref(), Some(status::ERROR));
    }
}
