//! Reading a JSON body: size, time, media type, syntax.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use crate::shape::{Pending, default_message};

/// Cinder's `osapi_max_request_body_size`.
pub const DEFAULT_LIMIT_BYTES: usize = 114_688;

/// How long a client may take to send a JSON body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The limit for JSON bodies of a service; the frame layer puts it into each request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LimitBytes(pub usize);

/// The body of a request to the Block Storage API. `None`: no body, or one without Content-Type
/// (which Cinder ignores). Another media type than JSON is a 415, broken JSON a 400, and a body
/// over the limit a 413.
#[derive(Debug, Clone)]
pub struct JsonBody(pub Option<Value>);

/// The body of a request to the Image API, whatever its media type says. `None`: no body.
#[derive(Debug, Clone)]
pub struct AnyJsonBody(pub Option<Value>);

impl JsonBody {
    /// The body, or Cinder's 400 for a missing one.
    pub fn required(self) -> Result<Value, crate::BadInput> {
        self.0
            .ok_or_else(|| crate::BadInput::new("Missing required element in request body."))
    }
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Response> {
        let media_type = media_type(request.headers());
        let bytes = read(request).await.map_err(refuse)?;
        let Some(media_type) = media_type.filter(|_| !bytes.is_empty()) else {
            return Ok(Self(None));
        };
        if !matches!(
            media_type.as_str(),
            "application/json" | "application/vnd.openstack.volume+json"
        ) {
            return Err(refuse((
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Unsupported Content-Type",
            )));
        }
        let value = parse(&bytes, "Malformed request body").map_err(refuse)?;
        Ok(Self(Some(value)))
    }
}

impl<S: Send + Sync> FromRequest<S> for AnyJsonBody {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Response> {
        let bytes = read(request).await.map_err(refuse)?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        let value = parse(&bytes, "Malformed JSON in request body.").map_err(refuse)?;
        Ok(Self(Some(value)))
    }
}

/// `type/subtype` of the Content-Type in lower case, without its parameters.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next().unwrap_or_default().trim();
    (!media_type.is_empty()).then(|| media_type.to_ascii_lowercase())
}

/// Why there is no body to look at.
type Unreadable = (StatusCode, &'static str);

fn refuse((status, message): Unreadable) -> Response {
    Pending::response(status, message)
}

/// Nesting is bounded by serde_json (128 levels); everything else by the size.
fn parse(bytes: &[u8], message: &'static str) -> Result<Value, Unreadable> {
    serde_json::from_slice(bytes).map_err(|_| (StatusCode::BAD_REQUEST, message))
}

/// The whole body, within the service's limit.
async fn read(request: Request) -> Result<Bytes, Unreadable> {
    let limit = request.extensions().get::<LimitBytes>();
    let limit = limit.map_or(DEFAULT_LIMIT_BYTES, |limit| limit.0);
    if declared_bytes(request.headers()).is_some_and(|declared| declared > limit as u64) {
        return Err(TOO_LARGE);
    }
    let body: Limited<Body> = Limited::new(request.into_body(), limit);
    match tokio::time::timeout(READ_TIMEOUT, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(TOO_LARGE),
        Ok(Err(_)) => Err((
            StatusCode::BAD_REQUEST,
            "The request body could not be read.",
        )),
        Err(_elapsed) => {
            let status = StatusCode::REQUEST_TIMEOUT;
            Err((status, default_message(status)))
        }
    }
}

const TOO_LARGE: Unreadable = (StatusCode::PAYLOAD_TOO_LARGE, "Request is too large.");

pub(crate) fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(crate) fn too_large() -> Response {
    refuse(TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_as(content_type: Option<&str>, body: &str) -> Result<Option<Value>, u16> {
        let mut request = Request::builder();
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let read = JsonBody::from_request(request, &()).await;
        read.map(|body| body.0)
            .map_err(|response| response.status().as_u16())
    }

    #[tokio::test]
    async fn media_types_sizes_and_syntax() {
        let json = Some("application/json; charset=utf-8");
        assert_eq!(
            read_as(json, "{\"a\":1}").await,
            Ok(Some(serde_json::json!({"a": 1})))
        );
        let vendor = Some("application/vnd.openstack.volume+json");
        assert_eq!(read_as(vendor, "[]").await, Ok(Some(serde_json::json!([]))));
        assert_eq!(read_as(None, "{").await, Ok(None));
        assert_eq!(read_as(Some("text/plain"), "").await, Ok(None));
        assert_eq!(read_as(Some("text/plain"), "{}").await, Err(415));
        assert_eq!(read_as(json, "{").await, Err(400));
        assert_eq!(read_as(json, &"[".repeat(1000)).await, Err(400));
        assert_eq!(
            read_as(json, &" ".repeat(DEFAULT_LIMIT_BYTES + 1)).await,
            Err(413)
        );
    }
}
