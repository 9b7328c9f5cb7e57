//! What a caller of the service can do about a refusal or a failure.

use std::fmt::Display;

use http::StatusCode;
use rest::{BadInput, Fault, policy};

use crate::images;

/// What a client is told while the database cannot be written.
const UNAVAILABLE: &str = "The server is currently unavailable. Please try again at a later time.";

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refusal or a failure. The texts are the client's (Cinder's wording); they hold no secrets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request can never work as it is, or not in the resource's present state (400).
    #[error("{0}")]
    Invalid(String),
    /// No such resource, or none that the caller may see (404).
    #[error("{0}")]
    NotFound(String),
    /// Taken, or in a state that the request conflicts with (409).
    #[error("{0}")]
    Conflict(String),
    /// Deleting something or a higher limit would help (413).
    #[error("{0}")]
    OverQuota(String),
    /// The metadata changed since the caller read it (412).
    #[error("the metadata has changed")]
    PreconditionFailed,
    /// No service that could do it is up (503); the request may be repeated.
    #[error("{0}")]
    Unavailable(String),
    /// The operator has to mend the configuration (500); the text is for the client all the same.
    #[error("{0}")]
    Misconfigured(String),
    /// The caller's roles do not allow it (403).
    #[error(transparent)]
    Denied(#[from] policy::Denied),
    /// The image service refused or is away.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// The database's own error says whether to try again.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// A flow could not be inserted.
    #[error(transparent)]
    Flow(#[from] taskflow::Error),
    /// A row that flows and the scheduler share could not be written.
    #[error(transparent)]
    Task(#[from] taskflow::TaskError),
}

impl Error {
    /// Cinder's `InvalidInput`.
    pub fn invalid_input(reason: impl Display) -> Self {
        Error::Invalid(format!("Invalid input received: {reason}"))
    }

    /// Cinder's `InvalidVolume`.
    pub fn invalid_volume(reason: impl Display) -> Self {
        Error::Invalid(format!("Invalid volume: {reason}"))
    }

    /// Cinder's `InvalidSnapshot`.
    pub fn invalid_snapshot(reason: impl Display) -> Self {
        Error::Invalid(format!("Invalid snapshot: {reason}"))
    }

    /// Cinder's `InvalidGroup`.
    pub fn invalid_group(reason: impl Display) -> Self {
        Error::Invalid(format!("Invalid Group: {reason}"))
    }

    /// Cinder's `InvalidGroupSnapshot`.
    pub fn invalid_group_snapshot(reason: impl Display) -> Self {
        Error::Invalid(format!("Invalid GroupSnapshot: {reason}"))
    }

    /// Cinder's `InvalidBackup`.
    pub fn invalid_backup(reason: impl Display) -> Self {
        Error::Invalid(format!("Invalid backup: {reason}"))
    }

    /// "Volume 1234 could not be found.", and its kin for other resources.
    pub fn no_such(resource: &str, id: impl Display) -> Self {
        Error::NotFound(format!("{resource} {id} could not be found."))
    }
}

impl From<BadInput> for Error {
    fn from(error: BadInput) -> Self {
        Error::Invalid(error.message.into_owned())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => Fault::bad_request(message),
            Error::NotFound(message) => Fault::not_found(message),
            Error::Conflict(message) => Fault::conflict(message),
            Error::OverQuota(message) => {
                let mut fault = Fault::over_limit(message);
                fault.retry_after_s = Some(0);
                fault
            }
            Error::PreconditionFailed => Fault::new(StatusCode::PRECONDITION_FAILED, ""),
            Error::Unavailable(message) => Fault::unavailable(message),
            Error::Misconfigured(message) => {
                tracing::error!("{message}");
                Fault::new(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
            Error::Denied(denied) => denied.into(),
            Error::Image(error) => image_fault(error),
            Error::Database(error @ database::Error::Unavailable(_)) => {
                tracing::error!(%error, "request failed");
                Fault::unavailable(UNAVAILABLE)
            }
            Error::Database(error) => error.into(),
            Error::Flow(error) => Fault::internal(&error),
            Error::Task(error) => Fault::internal(&error),
        }
    }
}

fn image_fault(error: images::Error) -> Fault {
    match error {
        images::Error::NotFound(id) => Fault::no_such("Image", id),
        images::Error::Forbidden(reason) => Fault::forbidden(reason),
        images::Error::Conflict(reason) => Fault::conflict(reason),
        images::Error::TooLarge(reason) => Fault::over_limit(reason),
        images::Error::Refused {
            status: 400,
            message,
        } => Fault::bad_request(message),
        images::Error::Unavailable(_) => {
            tracing::error!(%error, "request failed");
            Fault::unavailable("The image service is unavailable. Please try again later.")
        }
        images::Error::RangeRefused | images::Error::Refused { .. } => Fault::internal(&error),
    }
}
