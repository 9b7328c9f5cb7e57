//! The outermost layer of a service: request ids, one access-log line per request, panics as
//! 500s, error bodies in the service's shape, and `/healthcheck`.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures_util::FutureExt;
use http::header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tracing::Instrument;

use crate::base_url::PublicEndpoint;
use crate::body::{self, LimitBytes, declared_bytes};
use crate::context::new_request_id;
use crate::cors::{self, Cors};
use crate::healthcheck;
use crate::http_client;
use crate::shape::{Pending, Rendered, default_message};
use crate::{ErrorShape, ImageFault, RequestContext};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");
const COMPUTE_REQUEST_ID: HeaderName = HeaderName::from_static("x-compute-request-id");

/// Glance's `max_request_id_length`.
const MAX_REQUEST_ID_CHARS: usize = 64;

/// The ids of a request, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestId {
    /// `req-…`: ours, or (image service) the client's.
    pub id: String,
    /// `req-<uuid>` that the client calls it by.
    pub global_id: Option<String>,
}

#[derive(Debug, Clone)]
pub struct FrameOptions {
    pub shape: ErrorShape,
    /// JSON bodies above this are a 413.
    pub json_limit_bytes: usize,
    /// `public_endpoint`: the base of links; `None`: as the request's Host says.
    pub public_endpoint: Option<Arc<str>>,
    /// `disable_by_file_path`: while this file is there, `/healthcheck` answers 503.
    pub healthcheck_disable_file: Option<PathBuf>,
    /// What pages of other origins may do from a browser; `None`: nothing.
    pub cors: Option<Cors>,
}

impl FrameOptions {
    pub fn new(shape: ErrorShape) -> Self {
        let json_limit_bytes = match shape {
            ErrorShape::Volume | ErrorShape::Identity => body::DEFAULT_LIMIT_BYTES,
            // Image bodies carry up to 128 properties of 64 KiB text each.
            ErrorShape::Image => 1 << 20,
        };
        Self {
            shape,
            json_limit_bytes,
            public_endpoint: None,
            healthcheck_disable_file: None,
            cors: None,
        }
    }
}

/// Puts `router` into the frame and adds `/healthcheck`.
pub fn apply(router: Router, options: FrameOptions) -> Router {
    let cors = options.cors.clone();
    let framed = healthcheck::router(options.healthcheck_disable_file.clone())
        .merge(router)
        .layer(from_fn_with_state(Arc::new(options), frame));
    match cors {
        Some(cors) => cors::apply(framed, cors),
        None => framed,
    }
}

async fn frame(
    State(options): State<Arc<FrameOptions>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let accept = accept_of(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let own_id = || RequestId {
        id: new_request_id(),
        global_id: None,
    };
    let id = identify(request.headers(), options.shape);
    let id_too_long = id.is_none();
    let id = id.unwrap_or_else(own_id);
    let global_request_id = id.global_id.as_deref();
    let span = tracing::info_span!("request", request_id = %id.id, global_request_id);
    let request_id = id.id.clone();
    let forwarded = id.global_id.clone().unwrap_or_else(|| id.id.clone());
    let too_large = options.shape == ErrorShape::Volume
        && declared_bytes(request.headers())
            .is_some_and(|bytes| bytes > options.json_limit_bytes as u64);

    let extensions = request.extensions_mut();
    extensions.insert(id);
    extensions.insert(LimitBytes(options.json_limit_bytes));
    if let Some(url) = &options.public_endpoint {
        extensions.insert(PublicEndpoint(Arc::clone(url)));
    }
    let response = if id_too_long {
        let message =
            format!("x-openstack-request-id is too long, max size {MAX_REQUEST_ID_CHARS}");
        Pending::response(StatusCode::PAYLOAD_TOO_LARGE, message)
    } else if too_large {
        body::too_large()
    } else {
        let work = run(request, next).instrument(span.clone());
        http_client::on_behalf_of(forwarded, work).await
    };
    let mut response = in_shape(response, options.shape, &accept, &method);
    stamp(response.headers_mut(), &request_id, options.shape);
    span.in_scope(|| log(&response, &method, &path, started));
    response
}

/// The one header of a request that decides on the form of an error.
fn accept_of(headers: &HeaderMap) -> HeaderMap {
    headers
        .get(ACCEPT)
        .map(|value| (ACCEPT, value.clone()))
        .into_iter()
        .collect()
}

/// The handler's answer; a panic is logged and becomes a 500.
async fn run(request: Request, next: Next) -> Response {
    let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        tracing::error!(
            panic = text.as_deref().unwrap_or("unknown"),
            "a handler panicked"
        );
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Pending::response(status, default_message(status))
    })
}

/// The ids of a request. Cinder takes the client's as a global id beside its own; Glance takes
/// it as the id itself, and `None` is one that is too long.
fn identify(headers: &HeaderMap, shape: ErrorShape) -> Option<RequestId> {
    let sent = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let well_formed = sent
        .strip_prefix("req-")
        .is_some_and(|id| id.len() == 36 && uuid::Uuid::try_parse(id).is_ok());
    let global_id = well_formed.then(|| sent.to_owned());
    if shape != ErrorShape::Image || sent.is_empty() {
        return Some(RequestId {
            id: new_request_id(),
            global_id,
        });
    }
    if sent.len() > MAX_REQUEST_ID_CHARS {
        return None;
    }
    let id = if sent.starts_with("req-") {
        sent.to_owned()
    } else {
        format!("req-{sent}")
    };
    Some(RequestId { id, global_id })
}

/// Writes the body of an error that has none of its own yet: those of shared extractors, and
/// axum's own 404, 405 and rejections.
fn in_shape(
    response: Response,
    shape: ErrorShape,
    headers: &HeaderMap,
    method: &Method,
) -> Response {
    if !(response.status().is_client_error() || response.status().is_server_error()) {
        return response;
    }
    let extensions = response.extensions();
    let mut fresh = if let Some(pending) = extensions.get::<Pending>() {
        shape.response(response.status(), pending.message.clone(), headers)
    } else if let Some(fault) = extensions.get::<ImageFault>() {
        fault.clone().render(headers)
    } else if extensions.get::<Rendered>().is_some() || !is_bare(&response, method) {
        return response;
    } else {
        // Cinder's router knows no 405: what no route takes is not found.
        let status = match (response.status(), shape) {
            (StatusCode::METHOD_NOT_ALLOWED, ErrorShape::Volume) => StatusCode::NOT_FOUND,
            (status, _) => status,
        };
        shape.response(status, default_message(status), headers)
    };
    let (old, _) = response.into_parts();
    let rendered = fresh.headers().clone();
    for (name, value) in &old.headers {
        let ours = name == CONTENT_TYPE || name == CONTENT_LENGTH;
        let misplaced = name == ALLOW && fresh.status() == StatusCode::NOT_FOUND;
        if !ours && !misplaced && (name == VARY || !rendered.contains_key(name)) {
            fresh.headers_mut().append(name, value.clone());
        }
    }
    if let Some(context) = old.extensions.get::<Arc<RequestContext>>() {
        fresh.extensions_mut().insert(Arc::clone(context));
    }
    fresh
}

/// No body, or axum's plain text.
fn is_bare(response: &Response, method: &Method) -> bool {
    use hyper::body::Body as _;
    let empty = response.body().size_hint().exact() == Some(0) && method != Method::HEAD;
    let content_type = response.headers().get(CONTENT_TYPE);
    empty || content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/plain"))
}

fn stamp(headers: &mut HeaderMap, request_id: &str, shape: ErrorShape) {
    let Ok(value) = HeaderValue::from_str(request_id) else {
        return;
    };
    if shape == ErrorShape::Volume {
        headers.insert(COMPUTE_REQUEST_ID, value.clone());
    }
    headers.insert(REQUEST_ID, value);
}

fn log(response: &Response, method: &Method, path: &str, started: Instant) {
    let context = response.extensions().get::<Arc<RequestContext>>();
    let project = context
        .and_then(|context| context.project_id.as_deref())
        .unwrap_or("-");
    let global_id = context
        .and_then(|context| context.global_request_id.as_deref())
        .unwrap_or("-");
    let took_us = started.elapsed().as_micros();
    // Only the path: a query may hold a secret.
    tracing::info!(
        target: "rest::access",
        %method,
        path,
        status = response.status().as_u16(),
        ms = format_args!("{}.{:03}", took_us / 1000, took_us % 1000),
        project,
        global_id,
        "request"
    );
}
