//! Version documents (Image API ref, "API versions"). They need no token.

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use rest::BaseUrl;

use crate::views::{LinkView, VersionView, VersionsView};

/// Newest first, with what has to be there for them.
const VERSIONS: &[(&str, Needs)] = &[
    ("v2.18", Needs::Cache),
    ("v2.17", Needs::Nothing),
    ("v2.16", Needs::Cache),
    ("v2.15", Needs::Nothing),
    ("v2.14", Needs::Cache),
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
    /// A cache of images on this node.
    Cache,
}

/// What there is of what versions are about.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    pub stores_have_ids: bool,
    pub has_cache: bool,
}

impl Offered {
    fn has(self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => true,
            Needs::Stores => self.stores_have_ids,
            Needs::Cache => self.has_cache,
        }
    }
}

/// The ids of the versions that this service offers, newest first.
pub fn listed(offered: Offered) -> impl Iterator<Item = &'static str> {
    let versions = VERSIONS.iter();
    let versions = versions.filter(move |(_, needs)| offered.has(*needs));
    versions.map(|(id, _)| *id)
}

pub fn routes(offered: Offered) -> Router {
    let all = async move |base: BaseUrl| document(&base, offered);
    let choices =
        async move |base: BaseUrl| (StatusCode::MULTIPLE_CHOICES, document(&base, offered));
    Router::new()
        .route("/", get(choices))
        .route("/versions", get(all))
        .route("/versions/", get(all))
        .route("/v2", get(all))
        .route("/v2/", get(all))
}

fn document(base: &BaseUrl, offered: Offered) -> Json<VersionsView> {
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
        versions: listed(offered).enumerate().map(view).collect(),
    })
}
