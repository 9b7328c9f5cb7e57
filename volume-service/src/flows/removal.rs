//! Taking an image out of a store together with what hangs on it: the end of a delete and of a
//! migration.
//!
//! What was cloned from the image lives on. Where flattening takes no time, clones are made
//! independent first. Where it copies, clones of snapshots are flattened, as Cinder does; but
//! clones of the volume itself keep it, renamed `<image>.deleted`, until the last of them goes.

use storage::{Error, ImageSpec, ImageStore, SnapshotInfo, SnapshotSpec};
use taskflow::TaskError;

use super::create_from_volume::CLONE_SUFFIX;
use super::steps::{BUSY, flatten_children, remove_image, remove_snapshot, store_failure};
use crate::manager::volume_id_of_image;

/// How a volume is named that is deleted while clones hang on it.
const DELETED_SUFFIX: &str = ".deleted";

/// Removes the image's snapshots but those that keep it; what was cloned from them stands on its
/// own then. The answer is the snapshot of another image that exists for this clone only.
pub(super) async fn remove_snapshots(
    store: &dyn ImageStore,
    image: &ImageSpec,
) -> Result<Option<SnapshotSpec>, TaskError> {
    let info = match store.info(image).await {
        Ok(info) => info,
        Err(Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(store_failure(error)),
    };
    for SnapshotInfo { name, .. } in &info.snapshots {
        let snapshot = image.at(name);
        if keeps(store, &snapshot).await? {
            continue;
        }
        flatten_children(store, &snapshot).await?;
        remove_snapshot(store, &snapshot).await?;
    }
    Ok(info.parent.filter(is_of_clone))
}

fn is_of_clone(snapshot: &SnapshotSpec) -> bool {
    snapshot.snapshot.ends_with(CLONE_SUFFIX)
}

/// Whether a volume was cloned through the snapshot and still needs it.
async fn keeps(store: &dyn ImageStore, snapshot: &SnapshotSpec) -> Result<bool, TaskError> {
    if store.flattens_instantly() || !is_of_clone(snapshot) {
        return Ok(false);
    }
    match store.children(snapshot).await {
        Ok(children) => Ok(!children.is_empty()),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(store_failure(error)),
    }
}

/// Removes the image, or renames it where clones keep it. True: it is gone.
pub(super) async fn remove_or_keep(
    store: &dyn ImageStore,
    image: &ImageSpec,
) -> Result<bool, TaskError> {
    let kept = kept_name(image);
    match store.remove(image).await {
        Ok(()) => return Ok(true),
        // By an earlier run of this; or it has been renamed.
        Err(Error::NotFound(_)) => {}
        Err(Error::HasSnapshots { .. }) if !store.flattens_instantly() => {
            store
                .rename(image, &kept.image)
                .await
                .map_err(store_failure)?;
        }
        Err(error) => return Err(store_failure(error)),
    }
    // The last clone may have gone meanwhile, and not have found what it hung on.
    remove_unless_needed(store, &kept).await
}

/// Removes an image that was kept for clones, unless there still are some. True: it is gone.
async fn remove_unless_needed(store: &dyn ImageStore, kept: &ImageSpec) -> Result<bool, TaskError> {
    let snapshots = match store.info(kept).await {
        Ok(info) => info.snapshots,
        Err(Error::NotFound(_)) => return Ok(true),
        Err(error) => return Err(store_failure(error)),
    };
    let mut needed = false;
    for SnapshotInfo { name, .. } in snapshots {
        let snapshot = kept.at(name);
        match store.children(&snapshot).await {
            Ok(children) if children.is_empty() => remove_snapshot(store, &snapshot).await?,
            Ok(_) => needed = true,
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(store_failure(error)),
        }
    }
    if !needed {
        remove_image(store, kept).await?;
    }
    Ok(!needed)
}

/// Removes an image that was kept for clones when none is left, and then what it hung on itself.
/// True: it is gone.
pub(crate) async fn release_kept(
    store: &dyn ImageStore,
    kept: &ImageSpec,
) -> Result<bool, TaskError> {
    let parent = match store.info(kept).await {
        Ok(info) => info.parent.filter(is_of_clone),
        // What a crash left of its removal may have a name and nothing else.
        Err(Error::NotFound(_)) => {
            remove_image(store, kept).await?;
            return Ok(true);
        }
        Err(error) => return Err(store_failure(error)),
    };
    if !remove_unless_needed(store, kept).await? {
        return Ok(false);
    }
    if let Some(parent) = parent {
        release_parent(store, parent).await?;
    }
    Ok(true)
}

/// Whether the image was kept for clones of a volume that is deleted.
pub(crate) fn is_kept(name: &str) -> bool {
    let volume = name.strip_suffix(DELETED_SUFFIX);
    volume.and_then(volume_id_of_image).is_some()
}

fn kept_name(image: &ImageSpec) -> ImageSpec {
    ImageSpec::new(&image.pool, format!("{}{DELETED_SUFFIX}", image.image))
}

/// Removes a snapshot that nothing hangs on any more, then its image if that was only kept for
/// its last clone, and so on upwards.
pub(super) async fn release_parent(
    store: &dyn ImageStore,
    snapshot: SnapshotSpec,
) -> Result<(), TaskError> {
    let mut next = Some(snapshot);
    while let Some(mut snapshot) = next.take() {
        match remove_snapshot(store, &snapshot).await {
            // What hung on it waits in the trash: the sweep goes on when it has gone.
            Err(error) if error.class == BUSY && !store.flattens_instantly() => break,
            other => other?,
        }
        if !snapshot.image.image.ends_with(DELETED_SUFFIX) {
            if store.flattens_instantly() {
                break;
            }
            // It may have been renamed since its name was looked up.
            snapshot.image = kept_name(&snapshot.image);
            remove_snapshot(store, &snapshot).await?;
        }
        let info = match store.info(&snapshot.image).await {
            Ok(info) => info,
            Err(Error::NotFound(_)) => break,
            Err(error) => return Err(store_failure(error)),
        };
        if info.snapshots.is_empty() {
            remove_image(store, &snapshot.image).await?;
            next = info.parent.filter(is_of_clone);
        }
    }
    Ok(())
}
