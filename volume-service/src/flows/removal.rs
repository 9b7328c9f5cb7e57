//! Taking an image out of a store together with what hangs on it: the end of a delete and of a
//! migration.

use storage::{ImageSpec, ImageStore, SnapshotSpec};
use taskflow::TaskError;

use super::create_from_volume::CLONE_SUFFIX;
use super::steps::{flatten_children, remove_image, remove_snapshot, store_failure};

/// How a Cinder service renames a volume that is deleted while clones hang on it.
const DELETED_SUFFIX: &str = ".deleted";

/// Removes the image's snapshots; what was cloned from them stands on its own then. The answer
/// is the snapshot of another image that exists for this clone only.
///
/// Errors: [`super::steps::BUSY`] on an engine that would have to copy the clones' data; nothing
/// is gone then.
pub(super) async fn remove_snapshots(
    store: &dyn ImageStore,
    image: &ImageSpec,
) -> Result<Option<SnapshotSpec>, TaskError> {
    let info = match store.info(image).await {
        Ok(info) => info,
        Err(storage::Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(store_failure(error)),
    };
    // All clones first: an engine that cannot let them go refuses before anything is gone.
    for snapshot in &info.snapshots {
        flatten_children(store, &image.at(&snapshot.name)).await?;
    }
    for snapshot in &info.snapshots {
        remove_snapshot(store, &image.at(&snapshot.name)).await?;
    }
    Ok(info
        .parent
        .filter(|parent| parent.snapshot.ends_with(CLONE_SUFFIX)))
}

/// Removes a snapshot that nothing hangs on any more, then its image if a Cinder service has
/// only kept it (`<volume>.deleted`) for its last clone, and so on upwards.
pub(super) async fn release_parent(
    store: &dyn ImageStore,
    snapshot: SnapshotSpec,
) -> Result<(), TaskError> {
    let mut next = Some(snapshot);
    while let Some(snapshot) = next.take() {
        remove_snapshot(store, &snapshot).await?;
        if !snapshot.image.image.ends_with(DELETED_SUFFIX) {
            break;
        }
        let info = match store.info(&snapshot.image).await {
            Ok(info) => info,
            Err(storage::Error::NotFound(_)) => break,
            Err(error) => return Err(store_failure(error)),
        };
        if info.snapshots.is_empty() {
            remove_image(store, &snapshot.image).await?;
            next = info
                .parent
                .filter(|parent| parent.snapshot.ends_with(CLONE_SUFFIX));
        }
    }
    Ok(())
}
