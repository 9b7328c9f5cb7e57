//! `group-snapshot:create`: snapshots of all volumes of a group, taken together.
//!
//! Stores take snapshots of one image at a time. All are asked for at once, and a run that finds
//! only some of them (a crash came between) drops those and takes all anew: what becomes
//! available was never taken in two halves.

use std::collections::HashSet;

use async_trait::async_trait;
use database::Tx;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use storage::SnapshotSpec;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::{settle, tell};
use super::steps::{STORE_RETRY, ensure_snapshot, protect, remove_snapshot, store_failure};
use super::{Requester, addressed, group_lock, group_snapshot_lock, snapshot_lock, volume_lock};
use crate::db::messages::{Action, Detail, Resource};
use crate::db::metadata::{self, Kind};
use crate::db::{Change, status};
use crate::manager::{Manager, Placement, snapshot_name};

/// A volume of the group and its snapshot.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Member {
    pub snapshot_id: Uuid,
    pub volume_id: Uuid,
}

/// Parameters of [`CreateGroupSnapshot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateGroupSnapshotParams {
    pub group_snapshot_id: Uuid,
    pub group_id: Uuid,
    pub members: Vec<Member>,
}

/// Group snapshot and snapshots `creating` → `available`, or `error`.
pub struct CreateGroupSnapshot;

impl CreateGroupSnapshot {
    /// To insert together with the rows (`creating`).
    pub fn new_flow(
        params: &CreateGroupSnapshotParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<CreateGroupSnapshot>(params)?;
        let resource = ("group_snapshot", params.group_snapshot_id);
        let flow = addressed(flow, queue, resource, by)
            .lock_exclusive(group_snapshot_lock(params.group_snapshot_id))
            .lock_shared(group_lock(params.group_id));
        Ok(params.members.iter().fold(flow, |flow, member| {
            flow.lock_exclusive(snapshot_lock(member.snapshot_id))
                .lock_shared(volume_lock(member.volume_id))
        }))
    }
}

#[async_trait]
impl Flow for CreateGroupSnapshot {
    const KIND: &'static str = "group-snapshot:create";
    type Context = Manager;
    type Params = CreateGroupSnapshotParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(TakeSnapshots), boxed(ProtectSnapshots), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// Where a member's image is, and the snapshot of it.
struct Part<'a> {
    place: Placement<'a>,
    snapshot: SnapshotSpec,
}

async fn parts(run: &Run<CreateGroupSnapshot>) -> Result<Vec<Part<'_>>, TaskError> {
    let mut parts = Vec::new();
    for member in &run.params.members {
        let volume = run.ctx.volume(member.volume_id).await?;
        let place = run.ctx.place(&volume)?;
        let snapshot = place.image.at(snapshot_name(member.snapshot_id));
        parts.push(Part { place, snapshot });
    }
    Ok(parts)
}

/// All of them; the first failure when one fails, after the others have ended.
async fn for_all<'a, R>(
    parts: &'a [Part<'a>],
    step: impl Fn(&'a Part<'a>) -> R,
) -> Result<(), TaskError>
where
    R: Future<Output = Result<(), TaskError>>,
{
    join_all(parts.iter().map(step)).await.into_iter().collect()
}

/// The snapshots `snapshot-<id>`, all of one moment.
struct TakeSnapshots;

#[async_trait]
impl Task<CreateGroupSnapshot> for TakeSnapshots {
    const NAME: &'static str = "take_snapshots";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateGroupSnapshot>) -> Result<(), TaskError> {
        let parts = parts(run).await?;
        let mut taken = Vec::new();
        for part in &parts {
            let info = part.place.store().info(&part.place.image).await;
            let names: HashSet<String> = info
                .map_err(store_failure)?
                .snapshots
                .into_iter()
                .map(|snapshot| snapshot.name)
                .collect();
            if names.contains(&part.snapshot.snapshot) {
                taken.push(part);
            }
        }
        // Of a store that takes them in steps, the last may be half taken.
        let are_whole = parts
            .iter()
            .all(|part| part.place.store().makes_images_atomically());
        if are_whole && !parts.is_empty() && taken.len() == parts.len() {
            return Ok(());
        }
        for part in taken {
            remove_snapshot(part.place.store(), &part.snapshot).await?;
        }
        for_all(&parts, |part| {
            ensure_snapshot(part.place.store(), &part.snapshot)
        })
        .await
    }

    async fn revert(
        &self,
        run: &Run<CreateGroupSnapshot>,
        _: Option<&()>,
    ) -> Result<(), TaskError> {
        for member in &run.params.members {
            let Some(place) = run.ctx.place_if_any(member.volume_id).await? else {
                continue;
            };
            let snapshot = place.image.at(snapshot_name(member.snapshot_id));
            remove_snapshot(place.store(), &snapshot).await?;
        }
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<CreateGroupSnapshot>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// Nothing removes them any more, and they can be cloned.
struct ProtectSnapshots;

#[async_trait]
impl Task<CreateGroupSnapshot> for ProtectSnapshots {
    const NAME: &'static str = "protect_snapshots";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateGroupSnapshot>) -> Result<(), TaskError> {
        let parts = parts(run).await?;
        for_all(&parts, |part| protect(part.place.store(), &part.snapshot)).await
    }
}

/// All are `available` and keep their volumes' image properties.
struct Finish;

#[async_trait]
impl Task<CreateGroupSnapshot> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<CreateGroupSnapshot>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<CreateGroupSnapshot>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        for member in &run.params.members {
            let properties = metadata::get(&mut *tx, Kind::VolumeImage, member.volume_id).await?;
            metadata::merge(tx, Kind::SnapshotImage, member.snapshot_id, &properties).await?;
            let change = Change::snapshot(member.snapshot_id)
                .when(&[status::CREATING])
                .status(status::AVAILABLE);
            settle(tx, change.set("progress = ?", "100%")).await?;
        }
        let change = Change::group_snapshot(run.params.group_snapshot_id);
        settle(
            tx,
            change.when(&[status::CREATING]).status(status::AVAILABLE),
        )
        .await
    }
}

async fn failed(run: &Run<CreateGroupSnapshot>, tx: &mut Tx) -> Result<(), TaskError> {
    for member in &run.params.members {
        let id = member.snapshot_id;
        let change = Change::snapshot(id).when(&[status::CREATING]);
        if change.status(status::ERROR).apply(tx).await?.is_done() {
            let resource = (Resource::VolumeSnapshot, id);
            let detail = Detail::SnapshotCreateError;
            tell(tx, &run.flow, resource, Action::SnapshotCreate, detail).await?;
        }
    }
    let change = Change::group_snapshot(run.params.group_snapshot_id);
    change
        .when(&[status::CREATING])
        .status(status::ERROR)
        .apply(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{
        Case, Expected, HOST, World, image_key, pattern, requester, snapshot_key,
    };
    use super::super::volume_queue;
    use super::*;

    struct Scene {
        world: World,
        params: CreateGroupSnapshotParams,
    }

    impl Scene {
        async fn new(in_steps: bool) -> Self {
            let world = World::making(in_steps).await;
            let volumes = [world.filled_volume(4).await, world.filled_volume(5).await];
            let group_id = world.group_row(&volumes).await;
            let group_snapshot_id = world.group_snapshot_row(group_id).await;
            let mut members = Vec::new();
            for volume_id in volumes {
                members.push(Member {
                    snapshot_id: world.snapshot_row(volume_id).await,
                    volume_id,
                });
            }
            let params = CreateGroupSnapshotParams {
                group_snapshot_id,
                group_id,
                members,
            };
            Scene { world, params }
        }

        fn flow(&self) -> NewFlow {
            let queue = volume_queue(HOST);
            CreateGroupSnapshot::new_flow(&self.params, &queue, &requester()).unwrap()
        }

        async fn case(self) -> Case {
            let before = self.world.inventory().await;
            let mut after = before.clone();
            for member in &self.params.members {
                let image = after.images.get_mut(&image_key(member.volume_id)).unwrap();
                let snapshot = (image.head.clone(), true);
                image
                    .snapshots
                    .insert(snapshot_key(member.snapshot_id), snapshot);
            }
            let flow = self.flow();
            let rows = |state| {
                let whole = ("group_snapshots", self.params.group_snapshot_id, state);
                let parts = self.params.members.iter();
                let parts = parts.map(|member| ("snapshots", member.snapshot_id, state));
                parts.chain([whole]).collect()
            };
            let done = Expected {
                store: after,
                rows: rows(Some(status::AVAILABLE)),
            };
            let reverted = Expected {
                store: before,
                rows: rows(Some(status::ERROR)),
            };
            self.world.case(flow, done, reverted).await
        }
    }

    #[tokio::test]
    async fn all_snapshots_are_there_and_protected_or_none_is() {
        for in_steps in [false, true] {
            exhaust::<CreateGroupSnapshot, _>(async || Scene::new(in_steps).await.case().await)
                .await;
        }
    }

    #[tokio::test]
    async fn half_of_the_snapshots_of_an_earlier_run_are_taken_anew() {
        let scene = Scene::new(false).await;
        let first = scene.params.members[0];
        let image = super::super::testbed::volume_image(first.volume_id);
        let early = image.at(snapshot_name(first.snapshot_id));
        scene.world.store.create_snapshot(&early).await.unwrap();
        scene
            .world
            .write(first.volume_id, 0, pattern(9, 4096))
            .await;
        let flow = Ok(scene.flow());
        assert_eq!(
            scene.world.run::<CreateGroupSnapshot>(flow).await,
            "SUCCESS"
        );
        let head = scene.world.head(first.volume_id).await;
        let taken = scene.world.disk(&image, Some(&early.snapshot)).await;
        assert!(head == taken, "the snapshot is older than the others");
    }
}
