//! Requests that have no body by their route. One that comes with a body all the same is a 400, as
//! with Glance: its sender means something that would not happen.

use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Error;

/// Refuses a body where the route takes none.
pub async fn refuse_unexpected(request: Request, next: Next) -> Response {
    if has_body(request.headers()) && takes_none(request.method(), request.uri().path()) {
        let message = "A body is not expected with this request.";
        return Error::BadRequest(message.to_owned()).into_response();
    }
    next.run(request).await
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0_u64) > 0 || headers.contains_key(header::TRANSFER_ENCODING)
}

/// `path` without the version.
fn takes_none(method: &Method, path: &str) -> bool {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method.as_str(), segments.as_slice()) {
        // Glance's lists do not look.
        ("GET", ["images" | "tasks"]) => false,
        ("GET" | "DELETE", _) => true,
        ("POST", ["images", _, "actions", "deactivate" | "reactivate"]) => true,
        ("PUT", ["images", _, "tags", _]) => true,
        ("POST", ["metadefs", "namespaces", _, "tags", _]) => true,
        _ => false,
    }
}
