//! Version documents (Image API ref, "API versions"). They need no token.

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use rest::BaseUrl;

use crate::views::{LinkView, VersionView, VersionsView};

/// Newest first: what one store without an image cache offers.
pub const VERSIONS: &[(&str, &str)] = &[
    ("v2.17", "CURRENT"),
    ("v2.15", "SUPPORTED"),
    ("v2.9", "SUPPORTED"),
    ("v2.7", "SUPPORTED"),
    ("v2.6", "SUPPORTED"),
    ("v2.5", "SUPPORTED"),
    ("v2.4", "SUPPORTED"),
    ("v2.3", "SUPPORTED"),
    ("v2.2", "SUPPORTED"),
    ("v2.1", "SUPPORTED"),
    ("v2.0", "SUPPORTED"),
];

pub fn routes() -> Router {
    let choices = async |base: BaseUrl| (StatusCode::MULTIPLE_CHOICES, document(&base));
    let all = async |base: BaseUrl| document(&base);
    Router::new()
        .route("/", get(choices))
        .route("/versions", get(all))
        .route("/versions/", get(all))
        .route("/v2", get(all))
        .route("/v2/", get(all))
}

fn document(base: &BaseUrl) -> Json<VersionsView> {
    let view = |(id, status): &(&'static str, &'static str)| VersionView {
        id,
        status,
        links: vec![LinkView {
            rel: "self",
            href: base.join("/v2/"),
        }],
    };
    Json(VersionsView {
        versions: VERSIONS.iter().map(view).collect(),
    })
}
