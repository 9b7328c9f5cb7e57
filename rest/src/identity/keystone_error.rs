//! Keystone's error body: `{"error": {"code": 404, "title": "Not Found", "message": …}}`.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, VARY};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::BadInput;
use crate::shape::Rendered;

/// An error as Keystone, and keystonemiddleware in front of the services, answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeystoneError {
    pub status: StatusCode,
    pub message: Cow<'static, str>,
}

impl KeystoneError {
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub fn unauthorized() -> Self {
        let message = "The request you have made requires authentication.";
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// `rule` is Keystone's name of the refused action: `identity:list_users`.
    pub fn forbidden(rule: &str) -> Self {
        let message = format!("You are not authorized to perform the requested action: {rule}.");
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// "Could not find project: abc."
    pub fn not_found(kind: &str, id: &str) -> Self {
        let shown: String = id.chars().take(255).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            format!("Could not find {kind}: {shown}."),
        )
    }
}

impl From<BadInput> for KeystoneError {
    fn from(error: BadInput) -> Self {
        Self::bad_request(error.message)
    }
}

impl IntoResponse for KeystoneError {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({ "error": {
            "code": self.status.as_u16(), "message": self.message, "title": title,
        } });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(VARY, HeaderValue::from_static("X-Auth-Token"));
        response.extensions_mut().insert(Rendered);
        response
    }
}
