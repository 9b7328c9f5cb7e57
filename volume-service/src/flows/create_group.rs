//! `group:create`: a group, empty or with volumes that other flows make.
//!
//! Stores know nothing of groups: the flow makes sure that the back-end answers and that the
//! volumes which the request inserted with the group were made. Their flows hold their locks
//! exclusively and are older, so this one starts when they have ended.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::settle;
use super::steps::{STORE_RETRY, store_failure};
use super::{Requester, addressed, group_lock, volume_lock};
use crate::db::{Change, groups, status, volumes};
use crate::manager::Manager;

/// Parameters of [`CreateGroup`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateGroupParams {
    pub group_id: Uuid,
    /// The volumes that are made with it; none for an empty group.
    pub volume_ids: Vec<Uuid>,
}

/// Group `creating` → `available`, or `error`.
pub struct CreateGroup;

impl CreateGroup {
    /// To insert together with the group's row (`creating`), after the flows of its volumes.
    pub fn new_flow(
        params: &CreateGroupParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<CreateGroup>(params)?;
        let flow = addressed(flow, queue, ("group", params.group_id), by);
        let flow = flow.lock_exclusive(group_lock(params.group_id));
        let volumes = params.volume_ids.iter();
        Ok(volumes.fold(flow, |flow, id| flow.lock_shared(volume_lock(*id))))
    }
}

#[async_trait]
impl Flow for CreateGroup {
    const KIND: &'static str = "group:create";
    type Context = Manager;
    type Params = CreateGroupParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(CheckBackend), boxed(CheckVolumes), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The store of the group's back-end answers.
struct CheckBackend;

#[async_trait]
impl Task<CreateGroup> for CheckBackend {
    const NAME: &'static str = "check_backend";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateGroup>) -> Result<(), TaskError> {
        let group = groups::get(&run.ctx.database, run.params.group_id).await?;
        let Some(group) = group else {
            return Err(TaskError::new("GroupNotFound", "the group is gone"));
        };
        let backend = run.ctx.backend(group.host.as_deref())?;
        backend
            .store
            .capacity(&backend.pool)
            .await
            .map_err(store_failure)?;
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<CreateGroup>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// Every volume that was to come with the group is there.
struct CheckVolumes;

#[async_trait]
impl Task<CreateGroup> for CheckVolumes {
    const NAME: &'static str = "check_volumes";
    type Output = ();

    async fn execute(&self, run: &Run<CreateGroup>) -> Result<(), TaskError> {
        let made = volumes::get_many(&run.ctx.database, &run.params.volume_ids).await?;
        for id in &run.params.volume_ids {
            let volume = made.iter().find(|volume| volume.id == *id);
            let usable = volume.is_some_and(|volume| {
                ![status::CREATING, status::ERROR].contains(&volume.status.as_str())
            });
            if !usable {
                return Err(TaskError::new(
                    "VolumeMissing",
                    format!("volume {id} of the group was not made"),
                ));
            }
        }
        Ok(())
    }
}

/// The group is `available`.
struct Finish;

#[async_trait]
impl Task<CreateGroup> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<CreateGroup>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<CreateGroup>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let change = Change::group(run.params.group_id).when(&[status::CREATING]);
        settle(tx, change.status(status::AVAILABLE)).await
    }
}

async fn failed(run: &Run<CreateGroup>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::group(run.params.group_id).when(&[status::CREATING]);
    change.status(status::ERROR).apply(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{Expected, HOST, World, requester};
    use super::super::{CreateVolume, VolumeSource, volume_queue};
    use super::*;

    fn flow(group_id: Uuid, volume_ids: &[Uuid]) -> NewFlow {
        let params = CreateGroupParams {
            group_id,
            volume_ids: volume_ids.to_vec(),
        };
        CreateGroup::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    #[tokio::test]
    async fn groups_are_available_or_in_error_and_leave_the_store_alone() {
        exhaust::<CreateGroup, _>(async || {
            let world = World::new().await;
            let volume_id = world.filled_volume(3).await;
            let group_id = world.group_row(&[volume_id]).await;
            world
                .set_status("volume_groups", group_id, status::CREATING)
                .await;
            let store = world.inventory().await;
            let expect = |group, store| Expected {
                store,
                rows: vec![
                    ("volume_groups", group_id, Some(group)),
                    ("volumes", volume_id, Some(status::AVAILABLE)),
                ],
            };
            let done = expect(status::AVAILABLE, store.clone());
            let reverted = expect(status::ERROR, store);
            world
                .case(flow(group_id, &[volume_id]), done, reverted)
                .await
        })
        .await;
    }

    #[tokio::test]
    async fn a_group_waits_for_its_volumes_and_fails_with_them() {
        let world = World::new().await;
        let good = world.volume_row(1, None).await;
        let bad = world.volume_row(1, None).await;
        let group_id = world.group_row(&[good, bad]).await;
        world
            .set_status("volume_groups", group_id, status::CREATING)
            .await;
        let made = world
            .insert(world.create_flow(good, 1, VolumeSource::Empty))
            .await;
        let missing = VolumeSource::Volume {
            volume_id: Uuid::new_v4(),
        };
        let failing = world.insert(world.create_flow(bad, 1, missing)).await;
        let group = world.insert(flow(group_id, &[good, bad])).await;
        assert!(world.is_blocked(group).await);
        assert_eq!(world.finish::<CreateVolume>(made).await, "SUCCESS");
        assert!(world.is_blocked(group).await);
        assert_eq!(world.finish::<CreateVolume>(failing).await, "REVERTED");
        assert!(!world.is_blocked(group).await);
        assert_eq!(world.finish::<CreateGroup>(group).await, "REVERTED");
        let state = world.column("volume_groups", group_id, "status").await;
        assert_eq!(state.as_deref(), Some(status::ERROR));
    }
}
