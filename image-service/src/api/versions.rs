//! Version documents (Image API ref, "API versions"). They need no token.

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use rest::BaseUrl;

use crate::views::{LinkView, VersionView, VersionsView};

/// Newest first, with what has to be there for them.
const VERSIONS: &[(&str, Needs)] = &[
    ("v2.17", Needs::Nothing),
    ("v2.15", Needs::Nothing),
    ("v2.13", Needs::Stores),
    ("v2.12", Needs::Stores),
    ("v2.11", Needs::Stores),
    ("v2.10", Needs::Stores),
    ("v2.9", Needs::Nothing),
    ("v2.8", Needs::Stores),
    ("v2.7", Needs::Nothing),
    ("v2.6", Needs::Nothing),
    ("v2.5", Needs::Nothing),
    ("v2.4", Needs::Nothing),
    ("v2.3", Needs::Nothing),
    ("v2.2", Needs::Nothing),
    ("v2.1", Needs::Nothing),
    ("v2.0", Needs::Nothing),
];

/// What a version is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Stores that clients choose by id.
    Stores,
}

/// The ids of the versions that this service offers, newest first.
pub fn listed(stores_have_ids: bool) -> impl Iterator<Item = &'static str> {
    let offered = move |needs: Needs| stores_have_ids || needs == Needs::Nothing;
    let versions = VERSIONS.iter().filter(move |(_, needs)| offered(*needs));
    versions.map(|(id, _)| *id)
}

pub fn routes(stores_have_ids: bool) -> Router {
    let all = async move |base: BaseUrl| document(&base, stores_have_ids);
    let choices = async move |base: BaseUrl| {
        (
            StatusCode::MULTIPLE_CHOICES,
            document(&base, stores_have_ids),
        )
    };
    Router::new()
        .route("/", get(choices))
        .route("/versions", get(all))
        .route("/versions/", get(all))
        .route("/v2", get(all))
        .route("/v2/", get(all))
}

fn document(base: &BaseUrl, stores_have_ids: bool) -> Json<VersionsView> {
    let view = |(position, id): (usize, &'static str)| VersionView {
        id,
        status: if position == 0 {
            "CURRENT"
        } else {
            "SUPPORTED"
        },
        links: vec![LinkView {
            rel: "self",
            href: base.join("/v2/"),
        }],
    };
    Json(VersionsView {
        versions: listed(stores_have_ids).enumerate().map(view).collect(),
    })
}
