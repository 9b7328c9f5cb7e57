//! The flows of images: a file per flow.

pub mod add_location;
pub mod cache_image;
mod data;
pub mod delete;
mod digests;
pub mod hash_image;
pub mod import;
mod receive;
pub mod remove_from_store;
pub mod snapshot_disk;
pub mod stage;
#[cfg(test)]
pub mod testing;
pub mod upload;
mod watch;

use taskflow::TaskError;
use uuid::Uuid;

use crate::fetch::FetchError;

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
    /// Data that is fetched did not come.
    pub const FETCH: &str = "Fetch";
    /// The data is not what its hash says.
    pub const HASH_MISMATCH: &str = "HashMismatch";
    /// The configuration does not have the store (any more).
    pub const UNKNOWN_STORE: &str = "UnknownStore";
    /// The beginning of the class of a failure in one store; the store's id follows.
    pub const IN_STORE: &str = "InStore:";
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

/// A failure to fetch, told apart by what helps.
pub(crate) fn fetch_error(error: FetchError) -> TaskError {
    match error {
        FetchError::Unavailable(message) => TaskError::retryable(class::FETCH, message),
        FetchError::Refused(message) | FetchError::Failed(message) => {
            TaskError::new(class::FETCH, message)
        }
    }
}

/// The configuration changed under a flow.
pub(crate) fn unknown_store(message: String) -> TaskError {
    TaskError::new(class::UNKNOWN_STORE, message)
}

pub(crate) fn image_gone(image_id: Uuid) -> TaskError {
    let message = format!("Image {image_id} was deleted meanwhile");
    TaskError::new(class::IMAGE_GONE, message)
}

/// What is gone already needs no removal.
pub(crate) fn gone_is_done(result: storage::Result<()>) -> Result<(), TaskError> {
    match result {
        Ok(()) | Err(storage::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}
