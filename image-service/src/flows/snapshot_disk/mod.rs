//! `image:snapshot_disk`: a server's disk in the same store becomes an image, without its data
//! going through anybody's hands. It is what Nova does for `image-create` on RBD.
//!
//! | Task | Does | Undone by |
//! |---|---|---|
//! | `SnapshotDisk` | `<pool>/<uuid>_disk@image-<image id>`, protected | removing it; saving → queued |
//! | `CloneDisk` | the clone `images/<id>` of it | removing the clone |
//! | `FlattenClone` | the image independent of the disk | – |
//! | `RemoveDiskSnapshot` | the temporary snapshot goes | – |
//! | `ProtectSnapshot` | `images/<id>@snap`, protected | unprotecting and removing it |
//! | `Activate` | size, location, saving → active; older backups of the server deleted; hashes follow | – |

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::{ImageSpec, ImageStore, SnapshotSpec};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::delete::DeleteImage;
use super::hash_image::{self, HashImage};
use super::{class, data, gone_is_done, store_error, unknown_store};
use crate::ImageService;
use crate::db::{disk_snapshots, images, locations};
use crate::image::lock_key;
use crate::stores::{Pool, Store};

/// The flow. Its id is the upload's: the image is `saving` for nobody else.
pub struct SnapshotDiskToImage;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
    /// The disk of the server: `vms/<server id>_disk`.
    pub disk: ImageSpec,
    /// How many backups of the server and of the image's `backup_type` stay, this one included;
    /// `None`: all.
    #[serde(default)]
    pub rotation: Option<u32>,
}

impl Params {
    fn disk_snapshot(&self) -> SnapshotSpec {
        self.disk.at(format!("image-{}", self.image_id))
    }
}

impl Flow for SnapshotDiskToImage {
    const KIND: &'static str = "image:snapshot_disk";
    type Context = ImageService;
    type Params = Params;

    fn tasks(_: &Params) -> Vec<BoxTask<Self>> {
        vec![
            boxed(SnapshotDisk),
            boxed(CloneDisk),
            boxed(FlattenClone),
            boxed(RemoveDiskSnapshot),
            boxed(ProtectSnapshot),
            boxed(Activate),
        ]
    }
}

/// The default store, which the disk has to be in as well.
fn target(run: &Run<SnapshotDiskToImage>) -> Result<(&Store, &Pool), TaskError> {
    run.ctx.stores.choose_pool(None).map_err(unknown_store)
}

const RETRY: Retry = Retry::times(3, 500);

/// An earlier run may have made it.
fn made_is_done(result: storage::Result<()>) -> Result<(), TaskError> {
    match result {
        Ok(()) | Err(storage::Error::Exists(_)) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}

async fn remove_snapshot(
    engine: &dyn ImageStore,
    snapshot: &SnapshotSpec,
) -> Result<(), TaskError> {
    gone_is_done(engine.unprotect_snapshot(snapshot).await)?;
    gone_is_done(engine.remove_snapshot(snapshot).await)
}

struct SnapshotDisk;

#[async_trait]
impl Task<SnapshotDiskToImage> for SnapshotDisk {
    const NAME: &'static str = "snapshot_disk";
    type Output = ();

    fn retry(&self) -> Retry {
        RETRY
    }

    async fn execute(&self, run: &Run<SnapshotDiskToImage>) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        data::ensure_protected(pool, &run.params.disk_snapshot()).await
    }

    async fn revert(
        &self,
        run: &Run<SnapshotDiskToImage>,
        _: Option<&()>,
    ) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        remove_snapshot(pool.engine.as_ref(), &run.params.disk_snapshot()).await
    }

    async fn record_revert(
        &self,
        run: &Run<SnapshotDiskToImage>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        Ok(images::abandon_upload(tx, run.params.image_id, run.flow.id).await?)
    }
}

struct CloneDisk;

#[async_trait]
impl Task<SnapshotDiskToImage> for CloneDisk {
    const NAME: &'static str = "clone_disk";
    /// Bytes of the disk.
    type Output = u64;

    fn retry(&self) -> Retry {
        RETRY
    }

    async fn execute(&self, run: &Run<SnapshotDiskToImage>) -> Result<u64, TaskError> {
        let (_, pool) = target(run)?;
        let image = pool.image(run.params.image_id);
        let parent = run.params.disk_snapshot();
        match pool.engine.clone_image(&parent, &image).await {
            Err(storage::Error::Exists(_)) if !pool.engine.makes_images_atomically() => {
                gone_is_done(pool.engine.remove(&image).await)?;
                made_is_done(pool.engine.clone_image(&parent, &image).await)?;
            }
            made => made_is_done(made)?,
        }
        let info = pool.engine.info(&image).await.map_err(store_error)?;
        Ok(info.size_bytes)
    }

    async fn revert(
        &self,
        run: &Run<SnapshotDiskToImage>,
        _: Option<&u64>,
    ) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        let image = pool.image(run.params.image_id);
        gone_is_done(pool.engine.remove(&image).await)
    }
}

struct FlattenClone;

#[async_trait]
impl Task<SnapshotDiskToImage> for FlattenClone {
    const NAME: &'static str = "flatten_clone";
    type Output = ();

    fn retry(&self) -> Retry {
        RETRY
    }

    async fn execute(&self, run: &Run<SnapshotDiskToImage>) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        let image = pool.image(run.params.image_id);
        pool.engine.flatten(&image).await.map_err(store_error)
    }
}

struct RemoveDiskSnapshot;

#[async_trait]
impl Task<SnapshotDiskToImage> for RemoveDiskSnapshot {
    const NAME: &'static str = "remove_disk_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        RETRY
    }

    async fn execute(&self, run: &Run<SnapshotDiskToImage>) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        remove_snapshot(pool.engine.as_ref(), &run.params.disk_snapshot()).await
    }
}

struct ProtectSnapshot;

#[async_trait]
impl Task<SnapshotDiskToImage> for ProtectSnapshot {
    const NAME: &'static str = "protect_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        RETRY
    }

    async fn execute(&self, run: &Run<SnapshotDiskToImage>) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        data::protect(pool, run.params.image_id).await
    }

    async fn revert(
        &self,
        run: &Run<SnapshotDiskToImage>,
        _: Option<&()>,
    ) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        data::unprotect(pool, run.params.image_id).await
    }
}

struct Activate;

#[async_trait]
impl Task<SnapshotDiskToImage> for Activate {
    const NAME: &'static str = "activate";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<SnapshotDiskToImage>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(
        &self,
        run: &Run<SnapshotDiskToImage>,
        _: &(),
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let image_id = run.params.image_id;
        let size_bytes = *run.output::<CloneDisk>()?;
        if !disk_snapshots::activate(tx, image_id, run.flow.id, size_bytes).await? {
            let message = format!("Image {image_id} was deleted during the snapshot");
            return Err(TaskError::new(class::IMAGE_GONE, message));
        }
        let (store, pool) = target(run)?;
        let location = store.location(pool.url(image_id));
        let url = location.url.clone();
        locations::replace_all(tx, image_id, &[location]).await?;
        if run.ctx.options.do_secure_hash {
            hash_later(run, url, tx).await?;
        }
        if let Some(rotation) = run.params.rotation {
            rotate(run, rotation, tx).await?;
        }
        Ok(())
    }
}

/// Nobody waits for the hashes, as where a location is added.
async fn hash_later(
    run: &Run<SnapshotDiskToImage>,
    url: String,
    tx: &mut Tx,
) -> Result<(), TaskError> {
    let image_id = run.params.image_id;
    let flow = NewFlow::of::<HashImage>(&hash_image::Params { image_id, url })
        .map_err(|error| TaskError::new("Flow", error.to_string()))?
        .queue(run.ctx.import_queue())
        .resource("image", image_id)
        .request(
            &run.flow.request_id,
            &run.flow.project_id,
            &run.flow.user_id,
        )
        .lock_shared(lock_key(image_id));
    let inserted = flow.insert(tx).await;
    inserted
        .map(|_| ())
        .map_err(|error| TaskError::new("Flow", error.to_string()))
}

/// Deletes the oldest backups of the same server and type, as `nova backup` does; protected ones
/// stay.
async fn rotate(
    run: &Run<SnapshotDiskToImage>,
    rotation: u32,
    tx: &mut Tx,
) -> Result<(), TaskError> {
    for old in disk_snapshots::backups_beyond(tx, run.params.image_id, rotation).await? {
        if !images::mark_deleted(tx, old).await? {
            continue;
        }
        let flow = NewFlow::of::<DeleteImage>(&super::delete::Params { image_id: old })
            .map_err(|error| TaskError::new("Flow", error.to_string()))?
            .queue(run.ctx.store_queue())
            .resource("image", old)
            .request(
                &run.flow.request_id,
                &run.flow.project_id,
                &run.flow.user_id,
            )
            .lock_exclusive(lock_key(old));
        flow.insert(tx)
            .await
            .map_err(|error| TaskError::new("Flow", error.to_string()))?;
    }
    Ok(())
}
