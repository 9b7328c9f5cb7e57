//! A client's mistake that a parser found, before anyone knows which service answers.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::shape::Pending;

/// A 400 with the text the client sees; it names the field or the parameter. Turns into a
/// [`crate::Fault`] or a [`crate::ImageFault`] by `?`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadInput {
    pub message: Cow<'static, str>,
}

impl BadInput {
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
        }
    }

    /// Cinder's `InvalidInput`: the reason behind its fixed opening.
    pub fn invalid_input(reason: impl std::fmt::Display) -> Self {
        Self::new(format!("Invalid input received: {reason}"))
    }
}

impl IntoResponse for BadInput {
    fn into_response(self) -> Response {
        Pending::response(StatusCode::BAD_REQUEST, self.message)
    }
}
