//! The tasks of [`CreateVolume`] that clone a volume through a temporary snapshot of it.

use async_trait::async_trait;
use database::Tx;
use storage::{ImageSpec, ImageStore, SnapshotSpec};
use taskflow::{Retry, Run, Task, TaskError};

use super::create_from_snapshot::{check_same_store, wrong_source};
use super::create_volume::{CreateVolume, VolumeSource, failed, place, remove_volume_image};
use super::image_setup::set_up_new;
use super::steps::{
    STORE_RETRY, ensure_clone, ensure_protected_snapshot, ensure_size, gib_to_bytes,
    remove_snapshot, store_failure,
};
use crate::manager::Placement;

/// Marks the snapshots that a volume was cloned through.
pub(crate) const CLONE_SUFFIX: &str = ".clone_snap";
/// A chain of clones never gets this long; a walk along it ends here.
const DEPTH_LIMIT: u32 = 10_000;

/// The protected snapshot `volume-<new id>.clone_snap` of the source.
pub(super) struct SnapshotSource;

#[async_trait]
impl Task<CreateVolume> for SnapshotSource {
    const NAME: &'static str = "snapshot_source";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<(), TaskError> {
        let target = place(run).await?;
        let source = source(run).await?;
        check_same_store(&source, &target)?;
        ensure_protected_snapshot(
            source.store(),
            &clone_snapshot(&source.image, &target.image),
        )
        .await
    }

    async fn revert(&self, run: &Run<CreateVolume>, _: Option<&()>) -> Result<(), TaskError> {
        let VolumeSource::Volume { volume_id } = run.params.source else {
            return Err(wrong_source());
        };
        let target = run.ctx.place_if_any(run.params.volume_id).await?;
        let source = run.ctx.place_if_any(volume_id).await?;
        match (source, target) {
            (Some(source), Some(target)) => {
                remove_snapshot(
                    source.store(),
                    &clone_snapshot(&source.image, &target.image),
                )
                .await
            }
            _ => Ok(()),
        }
    }

    async fn record_revert(
        &self,
        run: &Run<CreateVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The clone of that snapshot, of the volume's size.
pub(super) struct CloneSource;

#[async_trait]
impl Task<CreateVolume> for CloneSource {
    const NAME: &'static str = "clone_source";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<(), TaskError> {
        let target = place(run).await?;
        let source = source(run).await?;
        ensure_clone(
            target.store(),
            &clone_snapshot(&source.image, &target.image),
            &target.image,
        )
        .await?;
        ensure_size(
            target.store(),
            &target.image,
            gib_to_bytes(run.params.size_gib),
        )
        .await?;
        set_up_new(run, &target).await
    }

    async fn revert(&self, run: &Run<CreateVolume>, _: Option<&()>) -> Result<(), TaskError> {
        remove_volume_image(run).await
    }
}

/// A clone at the end of too long a chain stands on its own: flattened, without the temporary
/// snapshot. Nothing to undo: the tasks before remove the clone and the snapshot.
pub(super) struct LimitDepth;

#[async_trait]
impl Task<CreateVolume> for LimitDepth {
    const NAME: &'static str = "limit_depth";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<(), TaskError> {
        let target = place(run).await?;
        let source = source(run).await?;
        let store = target.store();
        // A clone without a parent was flattened by an attempt that a crash ended.
        let flat = store
            .info(&target.image)
            .await
            .map_err(store_failure)?
            .parent
            .is_none();
        if !flat && clone_depth(store, &source.image).await? < target.backend.max_clone_depth {
            return Ok(());
        }
        store.flatten(&target.image).await.map_err(store_failure)?;
        remove_snapshot(store, &clone_snapshot(&source.image, &target.image)).await
    }
}

async fn source(run: &Run<CreateVolume>) -> Result<Placement<'_>, TaskError> {
    let VolumeSource::Volume { volume_id } = run.params.source else {
        return Err(wrong_source());
    };
    let volume = run.ctx.volume(volume_id).await?;
    run.ctx.place(&volume)
}

/// The snapshot of `source` that `target` is cloned from.
pub(super) fn clone_snapshot(source: &ImageSpec, target: &ImageSpec) -> SnapshotSpec {
    source.at(format!("{}{CLONE_SUFFIX}", target.image))
}

/// How many volumes deep `image` hangs on others; what was made of snapshots does not count.
async fn clone_depth(store: &dyn ImageStore, image: &ImageSpec) -> Result<u32, TaskError> {
    let mut image = image.clone();
    for depth in 0..DEPTH_LIMIT {
        match store.info(&image).await.map_err(store_failure)?.parent {
            Some(parent) if parent.snapshot.ends_with(CLONE_SUFFIX) => image = parent.image,
            _ => return Ok(depth),
        }
    }
    Ok(DEPTH_LIMIT)
}
