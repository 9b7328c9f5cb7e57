//! Image data in a pool: `<id>@snap`, protected. Every call is safe to repeat, and finds or
//! removes what an earlier one left half-made.

use std::fmt::Display;

use storage::diff_stream::{export, import};
use storage::{Change, ImageSpec, SnapshotSpec};
use taskflow::{LeaseWatch, TaskError};
use uuid::Uuid;

use super::{gone_is_done, store_error};
use crate::stores::Pool;

/// Makes the image's data final: the snapshot that readers and clones use.
pub async fn protect(pool: &Pool, name: impl Display + Send) -> Result<(), TaskError> {
    ensure_protected(pool, &pool.snapshot(name)).await
}

/// A protected snapshot of now. One of an earlier run is taken anew where a crash may have left a
/// part of one; protecting comes last, so what is protected is whole.
pub async fn ensure_protected(pool: &Pool, snapshot: &SnapshotSpec) -> Result<(), TaskError> {
    let engine = pool.engine.as_ref();
    match engine.create_snapshot(snapshot).await {
        Err(storage::Error::Exists(_)) if is_protected(pool, snapshot).await? => return Ok(()),
        Err(storage::Error::Exists(_)) if engine.makes_images_atomically() => {}
        Err(storage::Error::Exists(_)) => {
            gone_is_done(engine.remove_snapshot(snapshot).await)?;
            let taken = engine.create_snapshot(snapshot).await;
            taken.map_err(store_error)?;
        }
        other => other.map_err(store_error)?,
    }
    let protected = engine.protect_snapshot(snapshot).await;
    protected.map_err(store_error)
}

/// Undoes [`protect`] for data that nobody has seen yet.
pub async fn unprotect(pool: &Pool, id: Uuid) -> Result<(), TaskError> {
    let snapshot = pool.snapshot(id);
    gone_is_done(pool.engine.unprotect_snapshot(&snapshot).await)?;
    gone_is_done(pool.engine.remove_snapshot(&snapshot).await)
}

/// Makes `to` hold the image's data as the snapshot in `from` has it: in the same store a clone
/// that is made independent at once, which moves nothing on an engine that flattens instantly.
pub async fn place(
    (from, source): (&Pool, &SnapshotSpec),
    to: &Pool,
    id: Uuid,
) -> Result<(), TaskError> {
    let snapshot = to.snapshot(id);
    if is_protected(to, &snapshot).await? {
        return Ok(());
    }
    unprotect(to, id).await?;
    gone_is_done(to.engine.remove(&snapshot.image).await)?;
    if from.engine.fsid() == to.engine.fsid() {
        let cloned = to.engine.clone_image(source, &snapshot.image).await;
        cloned.map_err(store_error)?;
        let flattened = to.engine.flatten(&snapshot.image).await;
        flattened.map_err(store_error)?;
    } else {
        copy((from, source), &snapshot.image, to).await?;
    }
    protect(to, id).await
}

/// The data goes from one store into the other through this process, a piece at a time.
async fn copy(
    (from, source): (&Pool, &SnapshotSpec),
    target: &ImageSpec,
    to: &Pool,
) -> Result<(), TaskError> {
    to.engine.create(target, 0).await.map_err(store_error)?;
    let whole = Change {
        from: None,
        to: Some(&source.snapshot),
    };
    let stream = export(&from.engine, &source.image, whole);
    let imported = import(to.engine.as_ref(), target, stream).await;
    imported.map_err(store_error).map(drop)
}

/// Whether an earlier run has finished: the snapshot is protected last.
async fn is_protected(pool: &Pool, snapshot: &SnapshotSpec) -> Result<bool, TaskError> {
    match pool.engine.info(&snapshot.image).await {
        Ok(info) => {
            let mut found = info.snapshots.iter();
            Ok(found.any(|found| found.name == snapshot.snapshot && found.protected))
        }
        Err(storage::Error::NotFound(_)) => Ok(false),
        Err(error) => Err(store_error(error)),
    }
}

/// Makes clones of the image's data independent and lets go of its protection.
pub async fn detach_clones(pool: &Pool, id: Uuid, lease: &LeaseWatch) -> Result<(), TaskError> {
    detach(pool, &pool.snapshot(id), lease).await
}

async fn detach(pool: &Pool, snapshot: &SnapshotSpec, lease: &LeaseWatch) -> Result<(), TaskError> {
    let clones = match pool.engine.children(snapshot).await {
        Ok(clones) => clones,
        Err(storage::Error::NotFound(_)) => return Ok(()),
        Err(error) => return Err(store_error(error)),
    };
    for clone in clones {
        if lease.is_lost() {
            return Err(TaskError::interrupted());
        }
        gone_is_done(pool.engine.flatten(&clone).await)?;
    }
    // A clone that was made in between makes this `Busy`.
    gone_is_done(pool.engine.unprotect_snapshot(snapshot).await)
}

/// Removes the image's data, which nothing is cloned from any more.
pub async fn remove_detached(pool: &Pool, id: Uuid) -> Result<(), TaskError> {
    remove_both(pool, &pool.snapshot(id)).await
}

async fn remove_both(pool: &Pool, snapshot: &SnapshotSpec) -> Result<(), TaskError> {
    gone_is_done(pool.engine.remove_snapshot(snapshot).await)?;
    gone_is_done(pool.engine.remove(&snapshot.image).await)
}

/// Removes the image's data, whatever is cloned from it.
pub async fn remove(
    pool: &Pool,
    name: impl Display + Send,
    lease: &LeaseWatch,
) -> Result<(), TaskError> {
    let snapshot = pool.snapshot(name);
    detach(pool, &snapshot, lease).await?;
    remove_both(pool, &snapshot).await
}
