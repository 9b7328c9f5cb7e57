//! `group-snapshot:delete`: the end of a group snapshot whose snapshots other flows delete.
//!
//! Their flows hold the locks of the snapshots exclusively and are older, so this one starts when
//! they have ended. A snapshot that would not go keeps the group snapshot, in `error`.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, NewFlow, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::{Requester, addressed, group_snapshot_lock, snapshot_lock};
use crate::db::{Change, group_snapshots, status};
use crate::manager::Manager;

/// Parameters of [`DeleteGroupSnapshot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteGroupSnapshotParams {
    pub group_snapshot_id: Uuid,
    /// The snapshots that go with it.
    pub snapshot_ids: Vec<Uuid>,
}

/// Group snapshot `deleting` → gone, or `error`.
pub struct DeleteGroupSnapshot;

impl DeleteGroupSnapshot {
    /// To insert together with the status `deleting`, after the flows of its snapshots.
    pub fn new_flow(
        params: &DeleteGroupSnapshotParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<DeleteGroupSnapshot>(params)?;
        let id = params.group_snapshot_id;
        let flow = addressed(flow, queue, ("group_snapshot", id), by);
        let flow = flow.lock_exclusive(group_snapshot_lock(id));
        let snapshots = params.snapshot_ids.iter();
        Ok(snapshots.fold(flow, |flow, id| flow.lock_shared(snapshot_lock(*id))))
    }
}

#[async_trait]
impl Flow for DeleteGroupSnapshot {
    const KIND: &'static str = "group-snapshot:delete";
    type Context = Manager;
    type Params = DeleteGroupSnapshotParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(CheckSnapshots), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// None of the snapshots is left.
struct CheckSnapshots;

#[async_trait]
impl Task<DeleteGroupSnapshot> for CheckSnapshots {
    const NAME: &'static str = "check_snapshots";
    type Output = ();

    async fn execute(&self, run: &Run<DeleteGroupSnapshot>) -> Result<(), TaskError> {
        let id = run.params.group_snapshot_id;
        let left = group_snapshots::members(&run.ctx.database, id).await?;
        match left.first() {
            None => Ok(()),
            Some(snapshot) => Err(TaskError::new(
                "SnapshotRemains",
                format!(
                    "snapshot {} of the group snapshot was not deleted",
                    snapshot.id
                ),
            )),
        }
    }

    async fn record_revert(
        &self,
        run: &Run<DeleteGroupSnapshot>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The row is gone.
struct Finish;

#[async_trait]
impl Task<DeleteGroupSnapshot> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<DeleteGroupSnapshot>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<DeleteGroupSnapshot>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        group_snapshots::delete(tx, run.params.group_snapshot_id).await?;
        Ok(())
    }
}

async fn failed(run: &Run<DeleteGroupSnapshot>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::group_snapshot(run.params.group_snapshot_id);
    change
        .when(&[status::DELETING])
        .status(status::ERROR)
        .apply(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{Expected, HOST, World, requester};
    use super::super::{DeleteSnapshot, DeleteSnapshotParams, volume_queue};
    use super::*;

    async fn deleting(world: &World) -> Uuid {
        let group_id = world.group_row(&[]).await;
        let id = world.group_snapshot_row(group_id).await;
        world
            .set_status("group_snapshots", id, status::DELETING)
            .await;
        id
    }

    fn flow(group_snapshot_id: Uuid, snapshot_ids: Vec<Uuid>) -> NewFlow {
        let params = DeleteGroupSnapshotParams {
            group_snapshot_id,
            snapshot_ids,
        };
        DeleteGroupSnapshot::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    #[tokio::test]
    async fn group_snapshots_go_or_are_in_error() {
        exhaust::<DeleteGroupSnapshot, _>(async || {
            let world = World::new().await;
            let id = deleting(&world).await;
            let store = world.inventory().await;
            let expect = |state, store| Expected {
                store,
                rows: vec![("group_snapshots", id, state)],
            };
            let done = expect(None, store.clone());
            let reverted = expect(Some(status::ERROR), store);
            world.case(flow(id, Vec::new()), done, reverted).await
        })
        .await;
    }

    #[tokio::test]
    async fn a_group_snapshot_goes_after_its_snapshots() {
        let world = World::new().await;
        let id = deleting(&world).await;
        let volume_id = world.filled_volume(1).await;
        let snapshot_id = world.snapshot(volume_id).await;
        let text = id.to_string();
        world
            .set("snapshots", snapshot_id, "group_snapshot_id", &text)
            .await;
        world
            .set_status("snapshots", snapshot_id, status::DELETING)
            .await;
        let params = DeleteSnapshotParams {
            snapshot_id,
            volume_id,
        };
        let delete = DeleteSnapshot::new_flow(&params, &volume_queue(HOST), &requester());
        let delete = world.insert(delete.unwrap()).await;
        let whole = world.insert(flow(id, vec![snapshot_id])).await;
        assert!(world.is_blocked(whole).await);
        assert_eq!(world.finish::<DeleteSnapshot>(delete).await, "SUCCESS");
        assert!(!world.is_blocked(whole).await);
        assert_eq!(world.finish::<DeleteGroupSnapshot>(whole).await, "SUCCESS");
        assert_eq!(world.column("group_snapshots", id, "status").await, None);
    }
}
