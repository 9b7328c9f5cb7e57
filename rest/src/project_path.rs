//! Every route of the Block Storage API exists twice, `/v3/{project_id}/…` and `/v3/…`: the
//! project is taken out of the path before routing, so handlers are registered once.

use axum::Router;
use axum::extract::{OriginalUri, Request, State};
use axum::response::Response;
use http::Uri;
use tower::ServiceExt;

/// The project of the path; [`crate::auth`] compares it with the token's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathProject(pub String);

/// Routes `<prefix>/{project_id}/rest` as `<prefix>/rest`. The request keeps its own address in
/// the extension [`OriginalUri`].
pub fn apply(router: Router, prefix: &'static str) -> Router {
    // A router of its own, because a layer would run after the route is chosen.
    Router::new().fallback(strip).with_state((router, prefix))
}

async fn strip(
    State((router, prefix)): State<(Router, &'static str)>,
    mut request: Request,
) -> Response {
    let original = request.uri().clone();
    if let Some((project, uri)) = split(&original, prefix) {
        *request.uri_mut() = uri;
        request.extensions_mut().insert(PathProject(project));
    }
    request.extensions_mut().insert(OriginalUri(original));
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The project and the address without it; `project_id_regex` is Cinder's `[0-9a-f\-]+`.
fn split(uri: &Uri, prefix: &str) -> Option<(String, Uri)> {
    let rest = uri.path().strip_prefix(prefix)?.strip_prefix('/')?;
    let (project, rest) = rest.split_once('/')?;
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-');
    if project.is_empty() || rest.is_empty() || !project.bytes().all(hex) {
        return None;
    }
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let path: Uri = format!("{prefix}/{rest}{query}").parse().ok()?;
    Some((project.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_path(path: &'static str) -> Option<(String, String)> {
        split(&Uri::from_static(path), "/v3").map(|(project, uri)| (project, uri.to_string()))
    }

    #[test]
    fn paths() {
        let split = split_path("/v3/0a-f/volumes/detail?a=b").unwrap();
        assert_eq!(
            split,
            ("0a-f".to_owned(), "/v3/volumes/detail?a=b".to_owned())
        );
        for same in [
            "/v3/volumes/abc",
            "/v3/",
            "/v3",
            "/v3/abc",
            "/v3/abc/",
            "/v2/abc/volumes",
            "/v3x/a/b",
        ] {
            assert_eq!(split_path(same), None, "{same}");
        }
    }
}
