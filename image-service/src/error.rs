//! What a client or a caller can do about a failure of this service.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_RANGE;
use http::{HeaderName, HeaderValue};
use rest::ImageFault;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, by the answer it gets. The text goes to the client as it is, except `Internal`'s.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// The image was deleted while its data was coming in.
    #[error("{0}")]
    Gone(String),
    /// A quota, a size limit or the store's space is used up.
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// A PATCH in a media type that is not one of the two; the answer names them.
    #[error(
        "Unsupported Content-Type: use one of {}",
        crate::api::PATCH_MEDIA_TYPES
    )]
    UnsupportedPatch,
    #[error("{reason}")]
    RangeNotSatisfiable { reason: String, size_bytes: u64 },
    /// The store or the database cannot serve now; the client may try again.
    #[error("{0}")]
    Unavailable(String),
    /// A defect or damaged data; logged, and the client learns no more than that.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The name of the failure for callers over the bus, as Glance names its exceptions.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Error::BadRequest(_) | Error::UnsupportedPatch | Error::UnsupportedMediaType(_) => {
                "Invalid"
            }
            Error::Forbidden(_) => "Forbidden",
            Error::NotFound(_) | Error::Gone(_) => "NotFound",
            Error::Conflict(_) => "Conflict",
            Error::TooLarge(_) => "LimitExceeded",
            Error::RangeNotSatisfiable { .. } => "InvalidRange",
            Error::Unavailable(_) => "ServiceUnavailable",
            Error::Internal(_) => "GlanceException",
        }
    }

    pub(crate) fn no_image(id: impl std::fmt::Display) -> Self {
        Error::NotFound(format!("No image found with ID {id}"))
    }
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        match error {
            database::Error::Unavailable(_) => Error::Unavailable(error.to_string()),
            _ => Error::Internal(error.to_string()),
        }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::OutOfSpace => {
                Error::TooLarge(format!("Image storage media is full: {error}"))
            }
            storage::Error::Busy { .. } | storage::Error::HasSnapshots { .. } => Error::Conflict(
                format!("Image storage media reports the image in use: {error}"),
            ),
            storage::Error::Unavailable(_) => Error::Unavailable(error.to_string()),
            _ => Error::Internal(error.to_string()),
        }
    }
}

impl From<rest::BadInput> for Error {
    fn from(error: rest::BadInput) -> Self {
        Error::BadRequest(error.message.into_owned())
    }
}

impl From<taskflow::Error> for Error {
    fn from(error: taskflow::Error) -> Self {
        match error {
            taskflow::Error::Database(error) => error.into(),
            other => Error::Internal(other.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let text = self.to_string();
        let fault = match self {
            Error::BadRequest(_) => ImageFault::bad_request(text),
            Error::Forbidden(_) => ImageFault::forbidden(text),
            Error::NotFound(_) => ImageFault::not_found(text),
            Error::Conflict(_) => ImageFault::conflict(text),
            Error::Gone(_) => ImageFault::gone(text),
            Error::TooLarge(_) => ImageFault::over_limit(text),
            Error::UnsupportedMediaType(_) => ImageFault::unsupported_media_type(text),
            Error::UnsupportedPatch => ImageFault::unsupported_media_type(text).with_header(
                HeaderName::from_static("accept-patch"),
                HeaderValue::from_static(crate::api::PATCH_MEDIA_TYPES),
            ),
            Error::RangeNotSatisfiable { size_bytes, .. } => {
                let range = HeaderValue::try_from(format!("bytes */{size_bytes}"));
                let range = range.unwrap_or_else(|_| HeaderValue::from_static("bytes */*"));
                ImageFault::range_not_satisfiable(text).with_header(CONTENT_RANGE, range)
            }
            Error::Unavailable(_) => {
                tracing::warn!(error = %text, "a request was turned away");
                ImageFault::unavailable(
                    "The service is temporarily unavailable. Please try again later.",
                )
            }
            Error::Internal(_) => ImageFault::internal(&text),
        };
        fault.into_response()
    }
}
