//! Version documents (Image API ref, "API versions"). They need no token.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use rest::BaseUrl;

use crate::views::{LinkView, VersionView, VersionsView};

/// A version's id and status.
type Version = (&'static str, &'static str);

/// What one store offers.
const WITHOUT_CACHE: &[&str] = &["v2.17", "v2.15"];
const WITH_CACHE: &[&str] = &["v2.18", "v2.17", "v2.16", "v2.15", "v2.14"];
const ALWAYS: &[&str] = &[
    "v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0",
];

/// Newest first.
pub fn listed(has_cache: bool) -> Vec<Version> {
    let newest = if has_cache { WITH_CACHE } else { WITHOUT_CACHE };
    let ids = newest.iter().chain(ALWAYS);
    ids.enumerate()
        .map(|(at, id)| (*id, if at == 0 { "CURRENT" } else { "SUPPORTED" }))
        .collect()
}

pub fn routes(versions: Vec<Version>) -> Router {
    let versions: Arc<[Version]> = versions.into();
    let document = move |base: &BaseUrl| document(&versions, base);
    let with_status = document.clone();
    let choices = async move |base: BaseUrl| (StatusCode::MULTIPLE_CHOICES, with_status(&base));
    let all = async move |base: BaseUrl| document(&base);
    Router::new()
        .route("/", get(choices))
        .route("/versions", get(all.clone()))
        .route("/versions/", get(all.clone()))
        .route("/v2", get(all.clone()))
        .route("/v2/", get(all))
}

fn document(versions: &[Version], base: &BaseUrl) -> Json<VersionsView> {
    let view = |(id, status): &Version| VersionView {
        id,
        status,
        links: vec![LinkView {
            rel: "self",
            href: base.join("/v2/"),
        }],
    };
    Json(VersionsView {
        versions: versions.iter().map(view).collect(),
    })
}
