//! `/healthcheck`, as oslo.middleware answers it: for load balancers, without a token.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

/// What is healthy as long as the process answers, unless the file at `disable_by_file_path`
/// is there: then it is to get no more requests.
pub(crate) fn router(disable_by_file_path: Option<PathBuf>) -> Router {
    Router::new()
        .route("/healthcheck", get(check))
        .with_state(Arc::new(disable_by_file_path))
}

async fn check(
    State(path): State<Arc<Option<PathBuf>>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let is_disabled = match path.as_ref() {
        Some(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
        None => false,
    };
    let (status, reason) = match (is_disabled, method == Method::HEAD) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "DISABLED BY FILE"),
        (false, true) => (StatusCode::NO_CONTENT, "OK"),
        (false, false) => (StatusCode::OK, "OK"),
    };
    let (media_type, body) = match form_of(&headers) {
        Form::Text => ("text/plain; charset=UTF-8", reason.to_owned()),
        Form::Html => (
            "text/html; charset=UTF-8",
            format!(
                "<HTML><HEAD><TITLE>Healthcheck Status</TITLE></HEAD><BODY>{reason}</BODY></HTML>"
            ),
        ),
        Form::Json => (
            "application/json; charset=UTF-8",
            format!("{:#}", json!({ "detailed": false, "reasons": [reason] })),
        ),
    };
    let mut response = (status, [(CONTENT_TYPE, media_type)], body).into_response();
    response.extensions_mut().insert(crate::shape::Rendered);
    response
}

enum Form {
    Text,
    Html,
    Json,
}

/// The first that the client names of those there are.
fn form_of(headers: &HeaderMap) -> Form {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let mut wanted = accept.unwrap_or_default().split(',');
    let form = wanted.find_map(|one| match one.split(';').next()?.trim() {
        "text/plain" | "*/*" | "text/*" => Some(Form::Text),
        "text/html" => Some(Form::Html),
        "application/json" | "application/*" => Some(Form::Json),
        _ => None,
    });
    form.unwrap_or(Form::Text)
}
