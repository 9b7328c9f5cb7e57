//! What a caller can do about an image that cannot be read or written.

use std::io;

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source does not start with a qcow2 header of version 2 or 3.
    #[error("the image is not qcow2")]
    NotQcow2,
    /// The image is an overlay; the file it names is never opened.
    #[error("the image has a backing file")]
    BackingFile,
    /// The image keeps its data in another file, which is never opened.
    #[error("the image has an external data file")]
    ExternalDataFile,
    #[error("the image is encrypted")]
    Encrypted,
    /// Incompatible feature bits that this reader does not know.
    #[error("the image uses unknown features (bits {0:#x})")]
    UnknownFeatures(u64),
    /// The image contradicts itself or the file is cut.
    #[error("the image is corrupt: {0}")]
    Corrupt(String),
    /// An argument that can never work: an extent past the end, a disk too large for the format.
    #[error("{0}")]
    Invalid(String),
    /// The source failed; the call may be repeated.
    #[error("the image could not be read: {0}")]
    Source(#[from] io::Error),
}

impl Error {
    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Error::Corrupt(detail.into())
    }
}
