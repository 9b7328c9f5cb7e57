//! Steps on the store that may have been made before: each finds or redoes what it made, and
//! undoing what is not there is a success.

use storage::{Error, ImageSpec, ImageStore, SnapshotSpec};
use taskflow::{Retry, TaskError};

/// The class of a failure that passes when somebody else lets go of the image.
pub(crate) const BUSY: &str = "Busy";
/// The class of a failure for want of space.
pub(crate) const OUT_OF_SPACE: &str = "OutOfSpace";

/// For tasks that a store may refuse for a moment.
pub(crate) const STORE_RETRY: Retry = Retry::times(4, 250);
/// For tasks that need the image service: it may be starting, too.
pub(crate) const IMAGE_RETRY: Retry = Retry::times(8, 500);

/// What a flow does about a store's failure.
pub(crate) fn store_failure(error: Error) -> TaskError {
    let message = error.to_string();
    match error {
        Error::NotFound(_) => TaskError::new("NotFound", message),
        Error::Exists(_) => TaskError::new("Exists", message),
        Error::Busy { .. } => TaskError::retryable(BUSY, message),
        Error::HasSnapshots { .. } => TaskError::new("HasSnapshots", message),
        Error::ReadOnly(_) => TaskError::new("ReadOnly", message),
        Error::OutOfSpace => TaskError::new(OUT_OF_SPACE, message),
        Error::Corrupt { .. } => TaskError::new("Corrupt", message),
        Error::Invalid(_) => TaskError::new("Invalid", message),
        Error::Unavailable(_) => TaskError::retryable("StoreUnavailable", message),
    }
}

/// `Ok` for what is there already, or gone already.
fn unless(result: storage::Result<()>, fine: impl Fn(&Error) -> bool) -> Result<(), TaskError> {
    match result {
        Err(error) if !fine(&error) => Err(store_failure(error)),
        _ => Ok(()),
    }
}

fn missing(error: &Error) -> bool {
    matches!(error, Error::NotFound(_))
}

pub(crate) fn gib_to_bytes(gib: u32) -> u64 {
    u64::from(gib) << 30
}

/// Whether the image has to be made, or made anew: what a crash left may be a part of one. Only
/// for images that nobody but the calling task knows of.
async fn must_make(
    store: &dyn ImageStore,
    image: &ImageSpec,
    made: storage::Result<()>,
) -> Result<bool, TaskError> {
    match made {
        Ok(()) => Ok(false),
        Err(Error::Exists(_)) if store.makes_images_atomically() => Ok(false),
        Err(Error::Exists(_)) => {
            remove_image(store, image).await?;
            Ok(true)
        }
        Err(error) => Err(store_failure(error)),
    }
}

/// An image of zeroes of at least this size.
pub(crate) async fn ensure_image(
    store: &dyn ImageStore,
    image: &ImageSpec,
    size_bytes: u64,
) -> Result<(), TaskError> {
    if must_make(store, image, store.create(image, size_bytes).await).await? {
        let made = store.create(image, size_bytes).await;
        made.map_err(store_failure)?;
    }
    ensure_size(store, image, size_bytes).await
}

/// Grows the image to `size_bytes`; a larger one stays.
pub(crate) async fn ensure_size(
    store: &dyn ImageStore,
    image: &ImageSpec,
    size_bytes: u64,
) -> Result<(), TaskError> {
    let info = store.info(image).await.map_err(store_failure)?;
    if info.size_bytes < size_bytes {
        store
            .resize(image, size_bytes)
            .await
            .map_err(store_failure)?;
    }
    Ok(())
}

pub(crate) async fn remove_image(
    store: &dyn ImageStore,
    image: &ImageSpec,
) -> Result<(), TaskError> {
    unless(store.remove(image).await, missing)
}

pub(crate) async fn ensure_clone(
    store: &dyn ImageStore,
    parent: &SnapshotSpec,
    child: &ImageSpec,
) -> Result<(), TaskError> {
    if must_make(store, child, store.clone_image(parent, child).await).await? {
        let made = store.clone_image(parent, child).await;
        made.map_err(store_failure)?;
    }
    Ok(())
}

/// A snapshot of now. One of an earlier run of the task is taken anew where a crash may have left
/// a part of one: nothing hangs on it yet.
pub(crate) async fn ensure_snapshot(
    store: &dyn ImageStore,
    snapshot: &SnapshotSpec,
) -> Result<(), TaskError> {
    match store.create_snapshot(snapshot).await {
        Err(Error::Exists(_)) if store.makes_images_atomically() => Ok(()),
        Err(Error::Exists(_)) => {
            remove_snapshot(store, snapshot).await?;
            let taken = store.create_snapshot(snapshot).await;
            taken.map_err(store_failure)
        }
        other => other.map_err(store_failure),
    }
}

/// The same, protected. Protecting comes last: what is protected is whole.
pub(crate) async fn ensure_protected_snapshot(
    store: &dyn ImageStore,
    snapshot: &SnapshotSpec,
) -> Result<(), TaskError> {
    match store.create_snapshot(snapshot).await {
        Err(Error::Exists(_)) => {
            if is_protected(store, snapshot).await? {
                return Ok(());
            }
            ensure_snapshot(store, snapshot).await?;
        }
        other => other.map_err(store_failure)?,
    }
    protect(store, snapshot).await
}

pub(crate) async fn protect(
    store: &dyn ImageStore,
    snapshot: &SnapshotSpec,
) -> Result<(), TaskError> {
    let protected = store.protect_snapshot(snapshot).await;
    protected.map_err(store_failure)
}

async fn is_protected(store: &dyn ImageStore, snapshot: &SnapshotSpec) -> Result<bool, TaskError> {
    let info = store.info(&snapshot.image).await.map_err(store_failure)?;
    let mut snapshots = info.snapshots.iter();
    let found = snapshots.find(|one| one.name == snapshot.snapshot);
    Ok(found.is_some_and(|one| one.protected))
}

/// Unprotects and removes. `Busy` when clones hang on it.
pub(crate) async fn remove_snapshot(
    store: &dyn ImageStore,
    snapshot: &SnapshotSpec,
) -> Result<(), TaskError> {
    unless(store.unprotect_snapshot(snapshot).await, missing)?;
    unless(store.remove_snapshot(snapshot).await, missing)
}

/// Makes the clones of a snapshot independent, which takes as long as the engine takes.
pub(crate) async fn flatten_children(
    store: &dyn ImageStore,
    snapshot: &SnapshotSpec,
) -> Result<(), TaskError> {
    let children = match store.children(snapshot).await {
        Ok(children) => children,
        Err(error) if missing(&error) => return Ok(()),
        Err(error) => return Err(store_failure(error)),
    };
    for child in &children {
        // A clone that is deleted meanwhile is no obstacle.
        unless(store.flatten(child).await, missing)?;
    }
    Ok(())
}
