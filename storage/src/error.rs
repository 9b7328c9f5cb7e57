//! What a caller can do about a storage failure.

use crate::ImageSpec;

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A storage failure, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such pool, image, snapshot, object or metadata key; the text names it.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// The snapshot is protected or has clones, or the image is open: `children` lists the clones.
    #[error("{what} is in use")]
    Busy {
        what: String,
        children: Vec<ImageSpec>,
    },
    /// The image cannot be removed while it has snapshots.
    #[error("{image} has snapshots")]
    HasSnapshots {
        image: ImageSpec,
        snapshots: Vec<String>,
    },
    /// The image or snapshot was opened for reading, or is a snapshot.
    #[error("{0} is read-only")]
    ReadOnly(String),
    /// The store is full; deleting still works.
    #[error("no space left in the store")]
    OutOfSpace,
    /// Stored data does not match its checksum. Nothing of it was returned.
    #[error("{image}: corrupt data at offset {offset}: {detail}")]
    Corrupt {
        image: String,
        offset: u64,
        detail: String,
    },
    /// An argument that can never work: an offset past the end, a bad name, a broken diff stream.
    #[error("{0}")]
    Invalid(String),
    /// The store cannot serve now (cluster away, I/O error, stopped); the call may be repeated.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}
