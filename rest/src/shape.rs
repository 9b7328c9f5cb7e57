//! The error bodies of the three services, for layers that serve all of them.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};

use crate::{Fault, ImageFault, identity};

/// Whose error body a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"itemNotFound": {"code": 404, "message": …}}` (Cinder).
    Volume,
    /// webob's: HTML, or JSON where `Accept` asks for it (Glance).
    Image,
    /// `{"error": {"code", "title", "message"}}` (Keystone).
    Identity,
}

impl ErrorShape {
    /// An error in this shape. `request_headers` decide between HTML and JSON for images.
    pub fn response(
        self,
        status: StatusCode,
        message: impl Into<Cow<'static, str>>,
        request_headers: &HeaderMap,
    ) -> Response {
        match self {
            Self::Volume => Fault::new(status, message).into_response(),
            Self::Image => ImageFault::new(status, message).render(request_headers),
            Self::Identity => identity::KeystoneError::new(status, message).into_response(),
        }
    }
}

/// Marks an error response whose body is final.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rendered;

/// An error that a shared extractor found: the frame layer writes its body in the service's shape.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub message: Cow<'static, str>,
}

impl Pending {
    pub fn response(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response.extensions_mut().insert(Self {
            message: message.into(),
        });
        response
    }
}

/// The sentence for a status when there is nothing better to say (webob's).
pub fn default_message(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => {
            "The server could not comply with the request since it is either malformed or otherwise incorrect."
        }
        401 => {
            "This server could not verify that you are authorized to access the document you requested."
        }
        403 => "Access was denied to this resource.",
        404 => "The resource could not be found.",
        405 => "The method is not allowed for this resource.",
        406 => "The resource could not be generated that was acceptable to your browser.",
        408 => "The server has waited too long for the request to be sent by the client.",
        409 => "There was a conflict when trying to complete your request.",
        413 => "The body of your request was too large for this server.",
        415 => "The request media type is not supported by this server.",
        416 => "The Range requested is not available.",
        501 => "The server does not support the functionality required to fulfill the request.",
        503 => "The server is currently unavailable. Please try again at a later time.",
        _ => "The server has either erred or is incapable of performing the requested operation.",
    }
}
