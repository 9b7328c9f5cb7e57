//! The task of [`CreateVolume`] that clones a snapshot.

use async_trait::async_trait;
use database::Tx;
use taskflow::{Retry, Run, Task, TaskError};

use super::create_volume::{CreateVolume, VolumeSource, failed, place, remove_volume_image};
use super::image_setup::set_up_new;
use super::steps::{STORE_RETRY, ensure_clone, ensure_size, gib_to_bytes, store_failure};
use crate::manager::{Placement, snapshot_name};

/// A clone of the snapshot, of the volume's size.
pub(super) struct CloneSnapshot;

#[async_trait]
impl Task<CreateVolume> for CloneSnapshot {
    const NAME: &'static str = "clone_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<(), TaskError> {
        let VolumeSource::Snapshot {
            snapshot_id,
            volume_id,
        } = run.params.source
        else {
            return Err(wrong_source());
        };
        let target = place(run).await?;
        let source_volume = run.ctx.volume(volume_id).await?;
        let source = run.ctx.place(&source_volume)?;
        check_same_store(&source, &target)?;
        let parent = source.image.at(snapshot_name(snapshot_id));
        ensure_clone(target.store(), &parent, &target.image).await?;
        if target.backend.flatten_volume_from_snapshot {
            target
                .store()
                .flatten(&target.image)
                .await
                .map_err(store_failure)?;
        }
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

    async fn record_revert(
        &self,
        run: &Run<CreateVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The source is in another store than its clone is to be.
pub(super) const OTHER_STORE: &str = "OtherStore";

/// Clones stay within a store.
pub(super) fn check_same_store(
    source: &Placement<'_>,
    target: &Placement<'_>,
) -> Result<(), TaskError> {
    if source.store().fsid() == target.store().fsid() {
        return Ok(());
    }
    let text = format!("{} is in another store than {}", source.image, target.image);
    Err(TaskError::new(OTHER_STORE, text))
}

/// The task list and the parameters do not fit: a defect.
pub(super) fn wrong_source() -> TaskError {
    TaskError::new("WrongSource", "the task does not belong to this source")
}
