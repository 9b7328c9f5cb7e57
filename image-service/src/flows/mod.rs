//! The flows of images: a file per flow.

pub mod cache_image;
pub mod delete;
mod receive;
pub mod snapshot_disk;
#[cfg(test)]
pub mod testing;
pub mod upload;

use taskflow::TaskError;

/// Classes of [`TaskError`] that the API answers in their own way.
pub mod class {
    /// The request ended before its data did.
    pub const REQUEST_GONE: &str = "RequestGone";
    /// The process that received the data died.
    pub const DATA_LOST: &str = "DataLost";
    /// The image was deleted while its data came in.
    pub const IMAGE_GONE: &str = "ImageGone";
    pub const OUT_OF_SPACE: &str = "OutOfSpace";
    /// More data than the size cap or the storage quota allows.
    pub const TOO_LARGE: &str = "TooLarge";
    /// Another number of bytes than announced.
    pub const SIZE_MISMATCH: &str = "SizeMismatch";
    /// The data is not what the image's formats say.
    pub const FORMAT_MISMATCH: &str = "FormatMismatch";
    pub const STORE_UNAVAILABLE: &str = "StoreUnavailable";
}

/// A failure of the store, told apart by what helps.
pub(crate) fn store_error(error: storage::Error) -> TaskError {
    match &error {
        storage::Error::OutOfSpace => TaskError::new(class::OUT_OF_SPACE, error.to_string()),
        storage::Error::Unavailable(_) => {
            TaskError::retryable(class::STORE_UNAVAILABLE, error.to_string())
        }
        storage::Error::Busy { .. } | storage::Error::HasSnapshots { .. } => {
            TaskError::retryable("Busy", error.to_string())
        }
        _ => TaskError::new("Store", error.to_string()),
    }
}

/// What is gone already needs no removal.
pub(crate) fn gone_is_done(result: storage::Result<()>) -> Result<(), TaskError> {
    match result {
        Ok(()) | Err(storage::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}
