//! `volume:manage`: an image that is there already becomes a volume. `volume:unmanage`: a volume
//! becomes an image that nobody here knows.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::ImageSpec;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::outcome::settle;
use super::steps::{STORE_RETRY, store_failure};
use super::{Requester, addressed, volume_lock};
use crate::db::{Change, status, volume_types, volumes};
use crate::domain::quota::{self, Addition};
use crate::manager::{Manager, volume_id_of_image};

/// The reference does not name an image that can be managed.
pub(super) const INVALID_REFERENCE: &str = "InvalidReference";
/// How a Cinder service renames a volume that is deleted while clones hang on it.
const DELETED_SUFFIX: &str = ".deleted";

/// Parameters of [`ManageVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManageVolumeParams {
    pub volume_id: Uuid,
    /// The image's present name, in the pool of the volume's host.
    pub source_name: String,
}

/// Volume `managing` → `available`, or `error_managing`.
pub struct ManageVolume;

impl ManageVolume {
    /// To insert together with the volume's row (`managing`, size 0).
    pub fn new_flow(
        params: &ManageVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<ManageVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        // Two cannot manage the same image: one after the other in a pool.
        Ok(flow
            .lock_exclusive(volume_lock(params.volume_id))
            .lock_exclusive(format!("manage/{queue}")))
    }
}

#[async_trait]
impl Flow for ManageVolume {
    const KIND: &'static str = "volume:manage";
    type Context = Manager;
    type Params = ManageVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(Inspect), boxed(RenameImage), boxed(Finish)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The image can be managed, and the project has room for its size. The output is the size in GiB.
struct Inspect;

#[async_trait]
impl Task<ManageVolume> for Inspect {
    const NAME: &'static str = "inspect";
    type Output = u32;

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<ManageVolume>) -> Result<u32, TaskError> {
        let (place, source) = images(run).await?;
        let name = &run.params.source_name;
        if let Some(id) = volume_id_of_image(name)
            && !volumes::of_images(&run.ctx.database, &[id])
                .await?
                .is_empty()
        {
            let text = format!("{name} is managed already");
            return Err(TaskError::new(INVALID_REFERENCE, text));
        }
        if name.ends_with(DELETED_SUFFIX) {
            let text = format!("{name} is marked as deleted");
            return Err(TaskError::new(INVALID_REFERENCE, text));
        }
        match place.store().info(&source).await {
            Ok(info) => whole_gib(info.size_bytes),
            Err(error @ (storage::Error::NotFound(_) | storage::Error::Invalid(_))) => {
                Err(TaskError::new(INVALID_REFERENCE, error.to_string()))
            }
            Err(error) => Err(store_failure(error)),
        }
    }

    async fn record(
        &self,
        run: &Run<ManageVolume>,
        size_gib: &u32,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let id = run.params.volume_id;
        let Some(volume) = volumes::get(&mut *tx, id).await? else {
            return Err(TaskError::new(
                "VolumeNotFound",
                format!("volume {id} is gone"),
            ));
        };
        let volume_type = volume_types::get(&mut *tx, volume.volume_type_id).await?;
        if let Some(volume_type) = volume_type {
            let (to_gib, by_gib) = (*size_gib, size_gib.saturating_sub(volume.size_gib));
            let growth = Addition::Growth { to_gib };
            let options = &run.ctx.options;
            quota::check_volumes(
                options,
                tx,
                &volume.project_id,
                &volume_type,
                growth,
                by_gib,
            )
            .await
            .map_err(quota_failure)?;
        }
        Change::volume(id)
            .set("size_gib = ?", *size_gib)
            .apply(tx)
            .await?;
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<ManageVolume>,
        _: Option<&u32>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// Sizes of volumes are whole GiB; the image keeps its own.
pub(super) fn whole_gib(size_bytes: u64) -> Result<u32, TaskError> {
    u32::try_from(size_bytes.div_ceil(1 << 30)).map_err(|_| {
        TaskError::new(
            INVALID_REFERENCE,
            format!("{size_bytes} bytes are too many"),
        )
    })
}

fn quota_failure(error: crate::Error) -> TaskError {
    match error {
        crate::Error::Database(error) => error.into(),
        other => TaskError::new("OverQuota", other.to_string()),
    }
}

/// The image's place and its name from before.
async fn images<'a>(
    run: &'a Run<ManageVolume>,
) -> Result<(crate::manager::Placement<'a>, ImageSpec), TaskError> {
    let volume = run.ctx.volume(run.params.volume_id).await?;
    let place = run.ctx.place(&volume)?;
    let source = ImageSpec::new(&place.image.pool, &run.params.source_name);
    Ok((place, source))
}

/// The image has the volume's name.
struct RenameImage;

#[async_trait]
impl Task<ManageVolume> for RenameImage {
    const NAME: &'static str = "rename_image";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<ManageVolume>) -> Result<(), TaskError> {
        let (place, source) = images(run).await?;
        match place.store().rename(&source, &place.image.image).await {
            // Unless an earlier run has done it, the image went since it was inspected.
            Err(storage::Error::NotFound(what)) => match place.store().info(&place.image).await {
                Ok(_) => Ok(()),
                Err(storage::Error::NotFound(_)) => Err(TaskError::new(INVALID_REFERENCE, what)),
                Err(error) => Err(store_failure(error)),
            },
            other => other.map_err(store_failure),
        }
    }

    async fn revert(&self, run: &Run<ManageVolume>, _: Option<&()>) -> Result<(), TaskError> {
        let Some(place) = run.ctx.place_if_any(run.params.volume_id).await? else {
            return Ok(());
        };
        let name = &run.params.source_name;
        match place.store().rename(&place.image, name).await {
            Err(storage::Error::NotFound(_)) => Ok(()),
            other => other.map_err(store_failure),
        }
    }
}

/// The volume is `available`.
struct Finish;

#[async_trait]
impl Task<ManageVolume> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<ManageVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<ManageVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let change = Change::volume(run.params.volume_id)
            .when(&[status::MANAGING])
            .set("launched_at = ?", database::now_us())
            .status(status::AVAILABLE);
        settle(tx, change).await
    }
}

/// Volume `error_managing`; nothing of it counts against the quota.
async fn failed(run: &Run<ManageVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::volume(run.params.volume_id)
        .when(&[status::MANAGING])
        .status(status::ERROR_MANAGING)
        .set("consumes_quota = ?", false);
    change.apply(tx).await?;
    Ok(())
}

/// Parameters of [`UnmanageVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnmanageVolumeParams {
    pub volume_id: Uuid,
}

/// Volume `unmanaging` → gone, or `error_unmanaging`. The image keeps its name.
pub struct UnmanageVolume;

impl UnmanageVolume {
    /// To insert together with the status `unmanaging`.
    pub fn new_flow(
        params: &UnmanageVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<UnmanageVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        Ok(flow.lock_exclusive(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for UnmanageVolume {
    const KIND: &'static str = "volume:unmanage";
    type Context = Manager;
    type Params = UnmanageVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![boxed(Forget)]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        not_forgotten(run, tx).await
    }
}

/// The row is gone. Being a flow, it waits until nothing else works on the volume.
struct Forget;

#[async_trait]
impl Task<UnmanageVolume> for Forget {
    const NAME: &'static str = "forget";
    type Output = ();

    async fn execute(&self, _: &Run<UnmanageVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<UnmanageVolume>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        volumes::delete(tx, run.params.volume_id).await?;
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<UnmanageVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        not_forgotten(run, tx).await
    }
}

async fn not_forgotten(run: &Run<UnmanageVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let change = Change::volume(run.params.volume_id).when(&[status::UNMANAGING]);
    change.status(status::ERROR_UNMANAGING).apply(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use storage::ImageSpec;
    use taskflow::testing::exhaust;

    use super::super::testbed::{Case, Expected, HOST, World, image_key, requester};
    use super::super::volume_queue;
    use super::*;
    use crate::Options;

    /// A world with an image of a bit more than 1 GiB.
    async fn world_with(name: &str) -> World {
        let world = World::new().await;
        let image = ImageSpec::new("volumes", name);
        world.store.create(&image, (1 << 30) + 1).await.unwrap();
        let handle = world.store.open(&image, None).await.unwrap();
        handle.write(4096, vec![7; 4096].into()).await.unwrap();
        world
            .store
            .create_snapshot(&image.at("kept"))
            .await
            .unwrap();
        world
    }

    async fn managing(world: &World) -> Uuid {
        let id = world.volume_row(0, None).await;
        world.set_status("volumes", id, status::MANAGING).await;
        id
    }

    fn flow(volume_id: Uuid, name: &str) -> NewFlow {
        let source_name = name.to_owned();
        let params = ManageVolumeParams {
            volume_id,
            source_name,
        };
        ManageVolume::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    #[tokio::test]
    async fn an_image_becomes_a_volume_or_keeps_its_name() {
        exhaust::<ManageVolume, _>(async || -> Case {
            let world = world_with("legacy").await;
            let id = managing(&world).await;
            let before = world.inventory().await;
            let mut after = before.clone();
            let image = after.images.remove("volumes/legacy").unwrap();
            after.images.insert(image_key(id), image);
            let rows = |status| vec![("volumes", id, Some(status))];
            let done = Expected {
                store: after,
                rows: rows(status::AVAILABLE),
            };
            let reverted = Expected {
                store: before,
                rows: rows(status::ERROR_MANAGING),
            };
            world.case(flow(id, "legacy"), done, reverted).await
        })
        .await;
    }

    #[tokio::test]
    async fn sizes_are_rounded_up() {
        let world = world_with("legacy").await;
        let id = managing(&world).await;
        assert_eq!(
            world.run::<ManageVolume>(Ok(flow(id, "legacy"))).await,
            "SUCCESS"
        );
        let volume = world.manager.volume(id).await.unwrap();
        assert_eq!((volume.size_gib, volume.launched_at.is_some()), (2, true));
    }

    #[tokio::test]
    async fn what_cannot_be_managed_is_left_alone() {
        let world = world_with("volume-1.deleted").await;
        let managed = world.filled_volume(1).await;
        let before = world.inventory().await;
        for name in [
            "nothing",
            "volume-1.deleted",
            &format!("volume-{managed}"),
            "a/b",
        ] {
            let id = managing(&world).await;
            assert_eq!(
                world.run::<ManageVolume>(Ok(flow(id, name))).await,
                "REVERTED",
                "{name}"
            );
            let rows = vec![("volumes", id, Some(status::ERROR_MANAGING))];
            world
                .assert_is(&Expected {
                    store: before.clone(),
                    rows,
                })
                .await;
        }
    }

    #[tokio::test]
    async fn an_image_that_passes_the_quota_is_not_managed() {
        let options = Options {
            quota_gigabytes: 1,
            ..Options::default()
        };
        let world = World::with(|manager| manager.options = options).await;
        let image = ImageSpec::new("volumes", "legacy");
        world.store.create(&image, 2 << 30).await.unwrap();
        let id = managing(&world).await;
        let mut tx = world.database.begin().await.unwrap();
        let made = volume_types::insert(&mut tx, "t", None, true)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        world
            .set("volumes", id, "volume_type_id", &made.id.to_string())
            .await;
        assert_eq!(
            world.run::<ManageVolume>(Ok(flow(id, "legacy"))).await,
            "REVERTED"
        );
        assert_eq!(world.store.images("volumes").await.unwrap(), ["legacy"]);
        let volume = world.manager.volume(id).await.unwrap();
        assert_eq!(
            (volume.status.as_str(), volume.consumes_quota),
            (status::ERROR_MANAGING, false)
        );
    }

    #[tokio::test]
    async fn an_unmanaged_volume_leaves_its_image() {
        exhaust::<UnmanageVolume, _>(async || -> Case {
            let world = World::new().await;
            let id = world.filled_volume(3).await;
            world.set_status("volumes", id, status::UNMANAGING).await;
            let store = world.inventory().await;
            let params = UnmanageVolumeParams { volume_id: id };
            let flow = UnmanageVolume::new_flow(&params, &volume_queue(HOST), &requester());
            let done = Expected {
                store: store.clone(),
                rows: vec![("volumes", id, None)],
            };
            let rows = vec![("volumes", id, Some(status::ERROR_UNMANAGING))];
            world
                .case(flow.unwrap(), done, Expected { store, rows })
                .await
        })
        .await;
    }
}
