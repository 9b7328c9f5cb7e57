//! Version documents (Image API ref, "API versions"), and which version a request means. Neither
//! needs a token.

use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use rest::BaseUrl;
use tower::ServiceExt;

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
        .fallback(async move |base: BaseUrl, uri: Uri| unknown(&base, &uri, offered))
}

/// What no route takes: a resource that is not there, or a version that is not.
fn unknown(base: &BaseUrl, uri: &Uri, offered: Offered) -> Response {
    let mut segments = uri.path().split('/').skip(1);
    match segments
        .next()
        .is_some_and(|first| is_version(first, offered))
    {
        true => StatusCode::NOT_FOUND.into_response(),
        false => (StatusCode::MULTIPLE_CHOICES, document(base, offered)).into_response(),
    }
}

fn is_version(word: &str, offered: Offered) -> bool {
    word == "v2" || listed(offered).any(|id| id == word)
}

/// Begins the media type of clients that name the version there and not in the path.
const MEDIA_TYPE: &str = "application/vnd.openstack.images-";

/// Puts the version of the media type into the path, for the router behind this one.
pub fn by_media_type(router: Router, offered: Offered) -> Router {
    let rewritten = router.map_request(move |mut request: Request| {
        if let Some(uri) = with_version(&request, offered) {
            *request.uri_mut() = uri;
        }
        request
    });
    Router::new().fallback_service(rewritten)
}

fn with_version(request: &Request, offered: Offered) -> Option<Uri> {
    let accepted = request.headers().get(header::ACCEPT)?.to_str().ok()?;
    let version = accepted.strip_prefix(MEDIA_TYPE)?;
    let version = version.split(['+', ';', ',']).next()?.trim();
    if !is_version(version, offered) {
        return None;
    }
    let uri = request.uri();
    let first = uri.path().split('/').nth(1)?;
    if is_version(first, offered) {
        return None;
    }
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("/{version}{path}").parse().ok()?);
    Uri::from_parts(parts).ok()
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
