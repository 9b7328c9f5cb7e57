//! Every route with every caller, compared with `permissions.txt`. A new route needs a row.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;
use uuid::Uuid;

use crate::permission_rows::{CALLERS, answer, compare, rows};
use crate::support::{ADMIN, ALICE, BOB, READER, World};

const TABLE: &str = include_str!("permissions.txt");

#[tokio::test]
async fn every_route_has_a_row() {
    let world = World::new().await;
    compare(&world.service.resources(), &rows(TABLE)).await;
}

#[tokio::test]
async fn everybody_gets_where_the_table_says() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for row in rows(TABLE) {
        let mut answers = Vec::new();
        for token in ["", BOB, READER, ALICE, ADMIN] {
            let path = filled(&world, &row.path).await;
            let body = filled(&world, row.body.as_deref().unwrap_or_default()).await;
            let method: Method = row.method.parse().unwrap();
            let media_type = match (&method, path.ends_with("/file") || path.ends_with("/stage")) {
                (&Method::PATCH, _) => "application/openstack-images-v2.1-json-patch",
                (_, true) => "application/octet-stream",
                _ => "application/json",
            };
            let mut request = Request::builder().method(method).uri(format!("/v2{path}"));
            request = request
                .header("host", "glance")
                .header("content-type", media_type);
            if !token.is_empty() {
                request = request.header("x-auth-token", token);
            }
            // A patch is a list, which a row cannot begin with: it stands in an object.
            let body = body
                .strip_prefix("{\"patch\": ")
                .map_or(body.clone(), |body| {
                    body.strip_suffix('}').unwrap().to_owned()
                });
            let answered = world.send(request.body(Body::from(body)).unwrap()).await;
            answers.push(answer(answered.status));
        }
        if answers != row.answers {
            wrong.push(format!(
                "line {}: {} {}: {CALLERS:?} get {answers:?}, not {:?}",
                row.line, row.method, row.path, row.answers
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text with a new image, or namespace, of alice's project for each `{name}`.
async fn filled(world: &World, text: &str) -> String {
    let mut text = text.to_owned();
    for name in ["queued", "private", "shared", "public", "namespace"] {
        let place = format!("{{{name}}}");
        if text.contains(&place) {
            text = text.replace(&place, &made(world, name).await);
        }
    }
    text
}

async fn made(world: &World, name: &str) -> String {
    if name == "namespace" {
        return made_namespace(world).await;
    }
    let visibility = if name == "queued" { "private" } else { name };
    let body = json!({
        "disk_format": "raw", "container_format": "bare", "visibility": visibility, "tags": ["t"],
    });
    let owner = if name == "public" { ADMIN } else { ALICE };
    let id = world.create(owner, body).await;
    if name != "queued" {
        world.upload(owner, &id, "data").await.expect(204);
    }
    if name == "shared" {
        let path = format!("/v2/images/{id}/members");
        world
            .post(ALICE, &path, json!({"member": "bob"}))
            .await
            .expect(200);
    }
    id
}

async fn made_namespace(world: &World) -> String {
    let name = Uuid::new_v4().to_string();
    let body = json!({
        "namespace": name, "visibility": "private", "owner": "alice",
        "resource_type_associations": [{"name": "r"}],
        "objects": [{"name": "o"}],
        "properties": {"p": {"title": "P", "type": "string"}},
        "tags": [{"name": "t"}],
    });
    let answer = world.post(ADMIN, "/v2/metadefs/namespaces", body).await;
    answer.expect(201);
    name
}
