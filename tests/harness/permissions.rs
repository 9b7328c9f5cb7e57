//! The table of who gets through on which route, for the tests of both services: reading it, and
//! comparing its rows with the routes there are.
//!
//! A row is `METHOD path none other reader member admin [body]`: no token, a member of another
//! project, and three callers in the project of the resource. An answer is `401`, `403` (refused),
//! `404` (hidden), or `ok`: let through, whatever the state of the resource says then.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::http::header::ALLOW;
use axum::http::{Request, StatusCode};
use tower::ServiceExt;

pub const CALLERS: [&str; 5] = ["none", "other", "reader", "member", "admin"];

#[derive(Debug, Clone)]
pub struct Row {
    pub line: usize,
    pub method: String,
    /// `{name}` stands for a fresh resource.
    pub path: String,
    pub answers: [String; 5],
    pub body: Option<String>,
}

/// The rows of a table; lines that are empty or begin with # are none.
pub fn rows(table: &str) -> Vec<Row> {
    let lines = table.lines().enumerate();
    let rows = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    rows.map(|(index, line)| {
        let (head, body) = match line.split_once('{') {
            // The body begins after the answers; a brace before them is part of the path.
            Some(_) => match line.find(" {") {
                Some(at) => (&line[..at], Some(line[at..].trim().to_owned())),
                None => (line, None),
            },
            None => (line, None),
        };
        let words: Vec<_> = head.split_whitespace().map(str::to_owned).collect();
        let [method, path, answers @ ..] = words.as_slice() else {
            panic!("line {}: {line}", index + 1);
        };
        Row {
            line: index + 1,
            method: method.clone(),
            path: path.clone(),
            answers: answers
                .to_vec()
                .try_into()
                .unwrap_or_else(|_| panic!("line {}: five answers: {line}", index + 1)),
            body,
        }
    })
    .collect()
}

/// What the table calls this status.
pub fn answer(status: StatusCode) -> String {
    match status.as_u16() {
        401 | 403 | 404 => status.as_u16().to_string(),
        status if status < 500 || status == 501 => "ok".to_owned(),
        status => format!("failed with {status}"),
    }
}

/// Every route of a router as (method, path), asked of the router itself.
async fn routes(router: &Router) -> BTreeSet<(String, String)> {
    // axum tells its paths nowhere but here.
    let shown = format!("{router:?}");
    let quoted = shown.split('"').filter(|text| text.starts_with('/'));
    // `/` and `/{*…}` are its fallback's.
    let paths: BTreeSet<_> = quoted
        .filter(|text| text.len() > 1 && !text.contains("{*"))
        .collect();
    let mut routes = BTreeSet::new();
    for path in paths {
        let request = Request::builder()
            .method("NONE")
            .uri(path.replace(['{', '}'], ""));
        let request = request.body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let methods = response.headers().get(ALLOW);
        let methods =
            methods.unwrap_or_else(|| panic!("{path} takes any method: {}", response.status()));
        let methods = methods.to_str().unwrap();
        let methods = methods.split(',').filter(|method| *method != "HEAD");
        routes.extend(methods.map(|method| (method.to_owned(), path.to_owned())));
    }
    assert!(!routes.is_empty(), "the router shows no routes: {shown}");
    routes
}

/// Fails where a route has no row, or a row no route.
pub async fn compare(router: &Router, rows: &[Row]) {
    let routes = routes(router).await;
    let mut missing = routes.clone();
    for row in rows {
        let fits = |(method, path): &&(String, String)| {
            *method == row.method && literals(path, &row.path).is_some()
        };
        let fitting = routes.iter().filter(fits);
        let route = fitting.max_by_key(|(_, path)| literals(path, &row.path));
        let route = route.unwrap_or_else(|| {
            panic!(
                "line {}: there is no route {} {}",
                row.line, row.method, row.path
            )
        });
        missing.remove(route);
    }
    assert!(
        missing.is_empty(),
        "routes without a row in the table: {missing:#?}"
    );
}

/// How many segments of a route's path a row's path names; `None`: it is another path.
fn literals(route: &str, path: &str) -> Option<usize> {
    let (path, _query) = path.split_once('?').unwrap_or((path, ""));
    let (route, path): (Vec<_>, Vec<_>) = (route.split('/').collect(), path.split('/').collect());
    if route.len() != path.len() {
        return None;
    }
    let mut equal = 0;
    for (of_route, of_path) in route.iter().zip(&path) {
        if of_route == of_path && !of_route.starts_with('{') {
            equal += 1;
        } else if !of_route.starts_with('{') {
            return None;
        }
    }
    Some(equal)
}
