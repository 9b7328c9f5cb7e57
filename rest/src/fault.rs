//! Cinder's error body: `{"itemNotFound": {"code": 404, "message": …}}`.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::shape::{Rendered, default_message};
use crate::{BadInput, policy};

/// An error as the Block Storage API answers it. The message is for the client: no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", status.as_u16())]
pub struct Fault {
    pub status: StatusCode,
    pub message: Cow<'static, str>,
    /// `Retry-After` header, and `retryAfter` in the body of a 413.
    pub retry_after_s: Option<u64>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $status:ident;)+) => { $(
        $(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(StatusCode::$status, message)
        }
    )+ };
}

impl Fault {
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after_s: None,
        }
    }

    constructors! {
        bad_request => BAD_REQUEST;
        unauthorized => UNAUTHORIZED;
        forbidden => FORBIDDEN;
        not_found => NOT_FOUND;
        method_not_allowed => METHOD_NOT_ALLOWED;
        not_acceptable => NOT_ACCEPTABLE;
        conflict => CONFLICT;
        /// Over quota, or a body too large.
        over_limit => PAYLOAD_TOO_LARGE;
        bad_media_type => UNSUPPORTED_MEDIA_TYPE;
        not_implemented => NOT_IMPLEMENTED;
        bad_gateway => BAD_GATEWAY;
        unavailable => SERVICE_UNAVAILABLE;
    }

    /// Logs `error` and hides it: the client gets a 500 that says nothing.
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "request failed");
        Self::hidden()
    }

    /// The 500 that says nothing.
    pub fn hidden() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, default_message(status))
    }

    /// "Volume 1234 could not be found." (Cinder's `VolumeNotFound` and its kin).
    pub fn no_such(resource: &str, id: impl std::fmt::Display) -> Self {
        Self::not_found(format!("{resource} {id} could not be found."))
    }

    /// The key of the body for this status (Cinder API ref, faults).
    pub fn key(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "badRequest",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "itemNotFound",
            405 => "badMethod",
            409 => "conflictingRequest",
            413 => "overLimit",
            415 => "badMediaType",
            501 => "notImplemented",
            503 => "serviceUnavailable",
            _ => "computeFault",
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut inner = json!({ "code": self.status.as_u16(), "message": self.message });
        if self.status == StatusCode::PAYLOAD_TOO_LARGE
            && let (Some(seconds), Some(object)) = (self.retry_after_s, inner.as_object_mut())
        {
            object.insert("retryAfter".to_owned(), seconds.to_string().into());
        }
        let body = json!({ self.key(): inner }).to_string();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Rendered);
        response
    }
}

impl From<BadInput> for Fault {
    fn from(error: BadInput) -> Self {
        Self::bad_request(error.message)
    }
}

impl From<policy::Denied> for Fault {
    fn from(denied: policy::Denied) -> Self {
        Self::forbidden(format!(
            "Policy doesn't allow {} to be performed.",
            denied.rule
        ))
    }
}

impl From<database::Error> for Fault {
    fn from(error: database::Error) -> Self {
        Self::internal(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    async fn body_of(response: Response) -> Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16)
            .await
            .unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn every_status_has_its_key() {
        let keys = [
            (400, "badRequest"),
            (401, "unauthorized"),
            (403, "forbidden"),
            (404, "itemNotFound"),
            (405, "badMethod"),
            (406, "computeFault"),
            (409, "conflictingRequest"),
            (412, "computeFault"),
            (413, "overLimit"),
            (415, "badMediaType"),
            (500, "computeFault"),
            (501, "notImplemented"),
            (502, "computeFault"),
            (503, "serviceUnavailable"),
        ];
        for (code, key) in keys {
            let fault = Fault::new(StatusCode::from_u16(code).unwrap(), "why");
            let response = fault.into_response();
            assert_eq!(response.status().as_u16(), code);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            assert_eq!(
                body_of(response).await,
                json!({ key: {"code": code, "message": "why"} })
            );
        }
    }

    #[tokio::test]
    async fn retry_after_stands_in_header_and_body_of_413() {
        let mut fault = Fault::over_limit("slow down");
        fault.retry_after_s = Some(7);
        let response = fault.into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "7");
        assert_eq!(body_of(response).await["overLimit"]["retryAfter"], "7");
    }
}
