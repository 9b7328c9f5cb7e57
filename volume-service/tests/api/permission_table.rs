//! Every route with every caller, compared with `permissions.txt`. A new route needs a row.

use serde_json::{Value, json};
use volume_service::Options;
use volume_service::db::messages::{self, Action, Detail, NewMessage, Resource};

use crate::permission_rows::{CALLERS, answer, compare, rows};
use crate::world::{ADMIN, MEMBER, PROJECT, READER, STRANGER, World};

const TABLE: &str = include_str!("permissions.txt");

#[tokio::test]
async fn every_route_has_a_row() {
    let world = World::new().await;
    let routes = volume_service::api::resources().with_state(world.service.clone());
    compare(&routes, &rows(TABLE)).await;
}

#[tokio::test]
async fn everybody_gets_where_the_table_says() {
    let unlimited = Options {
        quota_volumes: -1,
        quota_snapshots: -1,
        quota_gigabytes: -1,
        quota_backups: -1,
        quota_backup_gigabytes: -1,
        ..Options::default()
    };
    let world = World::with(unlimited).await;
    let mut wrong = Vec::new();
    for row in rows(TABLE) {
        let mut answers = Vec::new();
        for token in ["", STRANGER, READER, MEMBER, ADMIN] {
            let path = filled(&world, &row.path).await;
            let path = path.strip_prefix("/v3").unwrap();
            let mut call = world.any(&row.method, token, path);
            if let Some(body) = &row.body {
                call = call.raw(&filled(&world, body).await);
            }
            let answered = call.send().await;
            let message = answered.body.to_string();
            assert!(
                !message.contains("no such action"),
                "line {}: {message}",
                row.line
            );
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

/// The text with a new resource of the project for each `{name}`.
async fn filled(world: &World, text: &str) -> String {
    let mut text = text.to_owned();
    for name in [
        "volume",
        "snapshot",
        "backup",
        "type",
        "private-type",
        "message",
    ] {
        let place = format!("{{{name}}}");
        if text.contains(&place) {
            text = text.replace(&place, &made(world, name).await);
        }
    }
    text
}

async fn made(world: &World, name: &str) -> String {
    let metadata = json!({"a": "b"});
    match name {
        "volume" => {
            world
                .volume_with(json!({"size": 1, "metadata": metadata}))
                .await
        }
        "snapshot" => {
            let volume = world.volume(1).await;
            let snapshot = world.snapshot(&volume).await;
            let body = json!({"metadata": metadata});
            let path = format!("/snapshots/{snapshot}/metadata");
            world.post(MEMBER, &path, body).send().await.expect(200);
            snapshot
        }
        "backup" => {
            let volume = world.volume(1).await;
            let body = json!({"backup": {"volume_id": volume}});
            let id = id_of(world, MEMBER, "/backups", body, "backup").await;
            world.set("backups", &id, "available").await;
            id
        }
        "type" | "private-type" => {
            let is_public = name == "type";
            let name = format!("type-{}", uuid::Uuid::new_v4());
            let body = json!({"volume_type": {
                "name": name, "extra_specs": {"a": "b"}, "os-volume-type-access:is_public": is_public,
            }});
            id_of(world, ADMIN, "/types", body, "volume_type").await
        }
        _ => message(world).await,
    }
}

async fn id_of(world: &World, token: &str, path: &str, body: Value, key: &str) -> String {
    let answer = world.post(token, path, body).send().await;
    assert!(answer.status.is_success(), "{}", answer.body);
    answer.body[key]["id"].as_str().unwrap().to_owned()
}

async fn message(world: &World) -> String {
    let mut tx = world.service.database.begin().await.unwrap();
    let message = NewMessage {
        project_id: PROJECT,
        request_id: None,
        resource: Resource::Volume,
        resource_id: uuid::Uuid::new_v4(),
        action: Action::ScheduleAllocateVolume,
        detail: Detail::UnknownError,
    };
    let id = messages::insert(&mut tx, message).await.unwrap();
    tx.commit().await.unwrap();
    id.to_string()
}
