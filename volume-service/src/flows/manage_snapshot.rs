//! `snapshot:manage`: a snapshot that a volume's image has already becomes a snapshot of the
//! volume. `snapshot:unmanage`: the other way round.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::SnapshotSpec;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::create_from_volume::CLONE_SUFFIX;
use super::manage_volume::{INVALID_REFERENCE, whole_gib};
use super::outcome::settle;
use super::steps::{STORE_RETRY, store_failure};
use super::{Requester, addressed, snapshot_lock, volume_lock};
use crate::db::metadata::{self, Kind};
use crate::db::{Change, snapshots, status};
use crate::manager::{Manager, Placement, snapshot_id_of_name, snapshot_name};

/// Snapshots that backups have made begin so.
const BACKUP_PREFIX: &str = "backup.";

/// Parameters of [`ManageSnapshot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManageSnapshotParams {
    pub snapshot_id: Uuid,
    pub volume_id: Uuid,
    /// The snapshot's present name.
    pub source_name: String,
}

/// Snapshot `creating` → `available`, or `error`.
pub struct ManageSnapshot;

impl ManageSnapshot {
    /// To insert together with the snapshot's row (`creating`).
    pub fn new_flow(
        params: &ManageSnapshotParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<ManageSnapshot>(params)?;
        let flow = addressed(flow, queue, ("snapshot", params.snapshot_id), by);
        Ok(flow
            .lock_exclusive(snapshot_lock(params.snapshot_id))
            .lock_shared(volume_lock(params.volume_id))
            .lock_exclusive(format!("manage/{}", params.volume_id)))
    }
}

#[async_trait]
impl Flow for ManageSnapshot {
    const KIND: &'static str = "snapshot:manage";
    type Context = Manager;
    type Params = ManageSnapshotParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(Inspect), boxed(RenameSnapshot), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// What the snapshot is like before.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    size_gib: u32,
    protected: bool,
}

/// The snapshot is there and nobody else's.
struct Inspect;

#[async_trait]
impl Task<ManageSnapshot> for Inspect {
    const NAME: &'static str = "inspect";
    type Output = Found;

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<ManageSnapshot>) -> Result<Found, TaskError> {
        let volume = run.ctx.volume(run.params.volume_id).await?;
        let place = run.ctx.place(&volume)?;
        let name = &run.params.source_name;
        let refused = |reason: &str| TaskError::new(INVALID_REFERENCE, format!("{name} {reason}"));
        if let Some(id) = snapshot_id_of_name(name)
            && snapshots::get(&run.ctx.database, id).await?.is_some()
        {
            return Err(refused("is managed already"));
        }
        if name.ends_with(CLONE_SUFFIX) || name.starts_with(BACKUP_PREFIX) {
            return Err(refused("belongs to a clone or a backup"));
        }
        let info = place.store().info(&place.image).await;
        let found = info.map_err(store_failure)?.snapshots.into_iter();
        let found = found
            .into_iter()
            .find(|snapshot| snapshot.name == *name)
            .ok_or_else(|| refused("is no snapshot of the volume"))?;
        Ok(Found {
            size_gib: whole_gib(found.size_bytes)?,
            protected: found.protected,
        })
    }

    async fn record(
        &self,
        run: &Run<ManageSnapshot>,
        found: &Found,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        Change::snapshot(run.params.snapshot_id)
            .set("size_gib = ?", found.size_gib)
            .apply(tx)
            .await?;
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<ManageSnapshot>,
        _: Option<&Found>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The snapshot has the name of ours, and is protected.
struct RenameSnapshot;

#[async_trait]
impl Task<ManageSnapshot> for RenameSnapshot {
    const NAME: &'static str = "rename_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<ManageSnapshot>) -> Result<(), TaskError> {
        let volume = run.ctx.volume(run.params.volume_id).await?;
        let place = run.ctx.place(&volume)?;
        let source = place.image.at(&run.params.source_name);
        let name = snapshot_name(run.params.snapshot_id);
        match place.store().rename_snapshot(&source, &name).await {
            // An earlier run has done it, or protecting tells that it is gone.
            Ok(()) | Err(storage::Error::NotFound(_)) => {}
            Err(error) => return Err(store_failure(error)),
        }
        let protected = place.store().protect_snapshot(&place.image.at(name)).await;
        protected.map_err(store_failure)
    }

    async fn revert(&self, run: &Run<ManageSnapshot>, _: Option<&()>) -> Result<(), TaskError> {
        let Some(place) = run.ctx.place_if_any(run.params.volume_id).await? else {
            return Ok(());
        };
        let snapshot = place.image.at(snapshot_name(run.params.snapshot_id));
        if !run.output::<Inspect>()?.protected {
            unless_missing(place.store().unprotect_snapshot(&snapshot).await)?;
        }
        let name = &run.params.source_name;
        unless_missing(place.store().rename_snapshot(&snapshot, name).await)
    }
}

fn unless_missing(result: storage::Result<()>) -> Result<(), TaskError> {
    match result {
        Err(storage::Error::NotFound(_)) => Ok(()),
        other => other.map_err(store_failure),
    }
}

/// The snapshot is `available` and keeps its volume's image properties.
struct Finish;

#[async_trait]
impl Task<ManageSnapshot> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<ManageSnapshot>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<ManageSnapshot>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let id = run.params.snapshot_id;
        let volume = (Kind::VolumeImage, run.params.volume_id);
        metadata::copy(tx, volume, (Kind::SnapshotImage, id)).await?;
        let change = Change::snapshot(id)
            .when(&[status::CREATING])
            .status(status::AVAILABLE);
        settle(tx, change.set("progress = ?", "100%")).await
    }
}

/// Snapshot `error`; it does not count against the quota.
async fn failed(run: &Run<ManageSnapshot>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::snapshot(run.params.snapshot_id)
        .when(&[status::CREATING])
        .status(status::ERROR)
        .set("consumes_quota = ?", false);
    change.apply(tx).await?;
    Ok(())
}

/// Parameters of [`UnmanageSnapshot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnmanageSnapshotParams {
    pub snapshot_id: Uuid,
    pub volume_id: Uuid,
}

/// Snapshot `unmanaging` → gone, or `error_deleting`. The image's snapshot keeps its name.
pub struct UnmanageSnapshot;

impl UnmanageSnapshot {
    /// To insert together with the status `unmanaging`.
    pub fn new_flow(
        params: &UnmanageSnapshotParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<UnmanageSnapshot>(params)?;
        let flow = addressed(flow, queue, ("snapshot", params.snapshot_id), by);
        Ok(flow
            .lock_exclusive(snapshot_lock(params.snapshot_id))
            .lock_shared(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for UnmanageSnapshot {
    const KIND: &'static str = "snapshot:unmanage";
    type Context = Manager;
    type Params = UnmanageSnapshotParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(Unprotect), boxed(Forget)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        not_forgotten(run, tx).await
    }
}

async fn placed(
    run: &Run<UnmanageSnapshot>,
) -> Result<Option<(Placement<'_>, SnapshotSpec)>, TaskError> {
    let place = run.ctx.place_if_any(run.params.volume_id).await?;
    let name = snapshot_name(run.params.snapshot_id);
    Ok(place.map(|place| {
        let snapshot = place.image.at(name);
        (place, snapshot)
    }))
}

/// The snapshot can be removed by whoever manages it next, unless clones hang on it.
struct Unprotect;

#[async_trait]
impl Task<UnmanageSnapshot> for Unprotect {
    const NAME: &'static str = "unprotect";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<UnmanageSnapshot>) -> Result<(), TaskError> {
        let Some((place, snapshot)) = placed(run).await? else {
            return Ok(());
        };
        match place.store().unprotect_snapshot(&snapshot).await {
            Err(storage::Error::Busy { .. }) => Ok(()),
            other => unless_missing(other),
        }
    }

    async fn revert(&self, run: &Run<UnmanageSnapshot>, _: Option<&()>) -> Result<(), TaskError> {
        let Some((place, snapshot)) = placed(run).await? else {
            return Ok(());
        };
        unless_missing(place.store().protect_snapshot(&snapshot).await)
    }

    async fn record_revert(
        &self,
        run: &Run<UnmanageSnapshot>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        not_forgotten(run, tx).await
    }
}

/// The row is gone.
struct Forget;

#[async_trait]
impl Task<UnmanageSnapshot> for Forget {
    const NAME: &'static str = "forget";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<UnmanageSnapshot>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<UnmanageSnapshot>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        snapshots::delete(tx, run.params.snapshot_id).await?;
        Ok(())
    }
}

async fn not_forgotten(run: &Run<UnmanageSnapshot>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::snapshot(run.params.snapshot_id).when(&[status::UNMANAGING]);
    change.status(status::ERROR_DELETING).apply(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use taskflow::testing::exhaust;

    use super::super::testbed::{
        Case, Expected, HOST, World, image_key, requester, snapshot_key, volume_image,
    };
    use super::super::{VolumeSource, volume_queue};
    use super::*;

    fn flow(snapshot_id: Uuid, volume_id: Uuid, name: &str) -> NewFlow {
        let source_name = name.to_owned();
        let params = ManageSnapshotParams {
            snapshot_id,
            volume_id,
            source_name,
        };
        ManageSnapshot::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    #[tokio::test]
    async fn a_snapshot_of_the_image_becomes_one_of_the_volume() {
        for protected in [false, true] {
            exhaust::<ManageSnapshot, _>(async || -> Case {
                let world = World::new().await;
                let volume_id = world.filled_volume(2).await;
                let there = volume_image(volume_id).at("nightly");
                world.store.create_snapshot(&there).await.unwrap();
                if protected {
                    world.store.protect_snapshot(&there).await.unwrap();
                }
                let id = world.snapshot_row(volume_id).await;
                let before = world.inventory().await;
                let mut after = before.clone();
                let image = after.images.get_mut(&image_key(volume_id)).unwrap();
                let (disk, _) = image.snapshots.remove("nightly").unwrap();
                image.snapshots.insert(snapshot_key(id), (disk, true));
                let rows = |status| vec![("snapshots", id, Some(status))];
                let done = Expected {
                    store: after,
                    rows: rows(status::AVAILABLE),
                };
                let reverted = Expected {
                    store: before,
                    rows: rows(status::ERROR),
                };
                world
                    .case(flow(id, volume_id, "nightly"), done, reverted)
                    .await
            })
            .await;
        }
    }

    #[tokio::test]
    async fn snapshots_that_others_need_are_left_alone() {
        let world = World::new().await;
        let volume_id = world.filled_volume(2).await;
        world.backup(volume_id, None).await;
        world.volume(1, VolumeSource::Volume { volume_id }).await;
        let managed = world.snapshot(volume_id).await;
        let before = world.inventory().await;
        let info = world.store.info(&volume_image(volume_id)).await.unwrap();
        let mut names: Vec<_> = info.snapshots.into_iter().map(|one| one.name).collect();
        assert!(
            names.contains(&snapshot_name(managed)) && names.len() == 3,
            "{names:?}"
        );
        names.push("nothing".into());
        for name in names {
            let id = world.snapshot_row(volume_id).await;
            let flow = Ok(flow(id, volume_id, &name));
            assert_eq!(
                world.run::<ManageSnapshot>(flow).await,
                "REVERTED",
                "{name}"
            );
            let rows = vec![("snapshots", id, Some(status::ERROR))];
            world
                .assert_is(&Expected {
                    store: before.clone(),
                    rows,
                })
                .await;
        }
    }

    #[tokio::test]
    async fn an_unmanaged_snapshot_stays_in_the_image() {
        for cloned in [false, true] {
            exhaust::<UnmanageSnapshot, _>(async || -> Case {
                let world = World::new().await;
                let volume_id = world.filled_volume(2).await;
                let snapshot_id = world.snapshot(volume_id).await;
                if cloned {
                    let source = VolumeSource::Snapshot {
                        snapshot_id,
                        volume_id,
                    };
                    world.volume(1, source).await;
                }
                world
                    .set_status("snapshots", snapshot_id, status::UNMANAGING)
                    .await;
                let before = world.inventory().await;
                let mut after = before.clone();
                let image = after.images.get_mut(&image_key(volume_id)).unwrap();
                image
                    .snapshots
                    .get_mut(&snapshot_key(snapshot_id))
                    .unwrap()
                    .1 = cloned;
                let params = UnmanageSnapshotParams {
                    snapshot_id,
                    volume_id,
                };
                let flow = UnmanageSnapshot::new_flow(&params, &volume_queue(HOST), &requester());
                let done = Expected {
                    store: after,
                    rows: vec![("snapshots", snapshot_id, None)],
                };
                let rows = vec![("snapshots", snapshot_id, Some(status::ERROR_DELETING))];
                world
                    .case(
                        flow.unwrap(),
                        done,
                        Expected {
                            store: before,
                            rows,
                        },
                    )
                    .await
            })
            .await;
        }
    }
}
