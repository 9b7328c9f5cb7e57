//! Version documents: `GET /` (300) and `GET /v3/` (200). Neither needs a token, so that clients
//! without one (`noauth`) can look for the versions.

use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use rest::BaseUrl;
use serde::Serialize;

use super::VERSIONS;

/// When the contract of the newest microversion was fixed.
const UPDATED: &str = "2023-08-31T00:00:00Z";

/// `{"versions": […]}`
#[derive(Serialize)]
pub(super) struct Versions {
    versions: [Version; 1],
}

#[derive(Serialize)]
struct Version {
    id: &'static str,
    status: &'static str,
    version: String,
    min_version: String,
    updated: &'static str,
    links: Vec<VersionLink>,
    #[serde(rename = "media-types")]
    media_types: [MediaType; 1],
}

#[derive(Serialize)]
struct VersionLink {
    rel: &'static str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    media_type: Option<&'static str>,
    href: String,
}

#[derive(Serialize)]
struct MediaType {
    base: &'static str,
    #[serde(rename = "type")]
    media_type: &'static str,
}

fn document(base: &BaseUrl) -> Versions {
    let described_by = VersionLink {
        rel: "describedby",
        media_type: Some("text/html"),
        href: "https://docs.openstack.org/".to_owned(),
    };
    let itself = VersionLink {
        rel: "self",
        media_type: None,
        href: base.join("/v3/"),
    };
    Versions {
        versions: [Version {
            id: "v3.0",
            status: "CURRENT",
            version: VERSIONS.max.to_string(),
            min_version: VERSIONS.min.to_string(),
            updated: UPDATED,
            links: vec![described_by, itself],
            media_types: [MediaType {
                base: "application/json",
                media_type: "application/vnd.openstack.volume+json;version=3",
            }],
        }],
    }
}

/// Routes that need no token.
pub(super) fn unauthenticated() -> Router {
    Router::new()
        .route("/", get(all))
        .route("/v3", get(show))
        .route("/v3/", get(show))
}

async fn all(base: BaseUrl) -> (StatusCode, Json<Versions>) {
    (StatusCode::MULTIPLE_CHOICES, Json(document(&base)))
}

/// `GET /v3/`
async fn show(base: BaseUrl) -> Json<Versions> {
    Json(document(&base))
}
