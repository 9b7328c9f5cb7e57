//! What browsers are told about requests of pages of other origins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use rest::ErrorShape;
use rest::cors::Cors;
use rest::frame::FrameOptions;
use tower::ServiceExt;

const HORIZON: &str = "https://horizon.example.com";

fn service(cors: Option<Cors>) -> Router {
    let mut options = FrameOptions::new(ErrorShape::Image);
    options.cors = cors;
    let api = Router::new().route("/v2/images", get(async || "[]"));
    rest::frame::apply(api, options)
}

fn horizon_only() -> Cors {
    Cors::new(ErrorShape::Image, vec![HORIZON.to_owned()])
}

async fn send(app: &Router, method: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap) {
    at(app, method, "/v2/images", headers).await
}

async fn at(
    app: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let (parts, _) = app.clone().oneshot(request).await.unwrap().into_parts();
    (parts.status, parts.headers)
}

/// The answer's headers for CORS, sorted.
fn told(headers: &HeaderMap) -> Vec<String> {
    let mut told: Vec<String> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-"))
        .map(|(name, value)| format!("{}={}", &name.as_str()[15..], value.to_str().unwrap()))
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn a_preflight_names_what_was_asked_for() {
    let app = service(Some(horizon_only()));
    let (status, headers) = send(
        &app,
        "OPTIONS",
        &[
            ("origin", HORIZON),
            ("access-control-request-method", "PUT"),
            (
                "access-control-request-headers",
                "x-auth-token, Content-Type",
            ),
        ],
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["vary"], "Origin");
    let expected = [
        "allow-credentials=true",
        "allow-headers=x-auth-token, Content-Type",
        "allow-methods=PUT",
        "allow-origin=https://horizon.example.com",
        "max-age=3600",
    ];
    assert_eq!(told(&headers), expected);
}

#[tokio::test]
async fn a_preflight_that_may_not_is_told_nothing() {
    let app = service(Some(horizon_only()));
    let method = ("access-control-request-method", "PUT");
    let refused: [&[(&str, &str)]; 4] = [
        &[("origin", "https://horizon.example.com.evil"), method],
        &[
            ("origin", HORIZON),
            ("access-control-request-method", "TRACE"),
        ],
        &[
            ("origin", HORIZON),
            method,
            ("access-control-request-headers", "x-auth-token,x-other"),
        ],
        &[("origin", HORIZON)],
    ];
    for headers in refused {
        let (status, answer) = send(&app, "OPTIONS", headers).await;
        assert_eq!(status, StatusCode::OK, "{headers:?}");
        assert_eq!(told(&answer), [""; 0], "{headers:?}");
    }
    // Without an origin it is no preflight.
    let (status, _) = send(&app, "OPTIONS", &[]).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_page_may_read_answers_and_errors() {
    let app = service(Some(horizon_only()));
    for path in ["/v2/images", "/nowhere"] {
        let (_, headers) = at(&app, "GET", path, &[("origin", HORIZON)]).await;
        let told = told(&headers);
        assert_eq!(
            told[..2],
            [
                "allow-credentials=true".to_owned(),
                format!("allow-origin={HORIZON}")
            ]
        );
        assert!(
            told[2].starts_with("expose-headers=") && told[2].contains("X-OpenStack-Request-ID")
        );
    }
    for headers in [&[("origin", "null")][..], &[]] {
        let (status, answer) = send(&app, "GET", headers).await;
        assert_eq!((status, told(&answer).len()), (StatusCode::OK, 0));
    }
}

#[tokio::test]
async fn everybody_or_nobody() {
    let everybody = Cors {
        allow_credentials: false,
        expose_headers: Vec::new(),
        ..Cors::new(ErrorShape::Volume, vec!["*".to_owned()])
    };
    let app = service(Some(everybody));
    let (_, headers) = send(&app, "GET", &[("origin", "https://any")]).await;
    assert_eq!(told(&headers), ["allow-origin=*"]);
    assert!(!headers.contains_key("vary"));
    let (status, headers) = send(&service(None), "GET", &[("origin", HORIZON)]).await;
    assert_eq!((status, told(&headers).len()), (StatusCode::OK, 0));
}
