//! Every route with every caller, compared with `permissions.txt`. A new route needs a row.

use serde_json::{Value, json};
use volume_service::Options;
use volume_service::db::messages::{self, Action, Detail, NewMessage, Resource};

use crate::permission_rows::{CALLERS, answer, compare, rows};
use crate::world::{ADMIN, MEMBER, PROJECT, READER, STRANGER, World};

const TABLE: &str = include_str!("permissions.txt");

/// What the table may ask for.
const NAMES: &[&str] = &[
    "volume",
    "snapshot",
    "backup",
    "type",
    "private-type",
    "encrypted-type",
    "qos",
    "attachment",
    "transfer",
    "group-type",
    "private-group-type",
    "group",
    "group-snapshot",
    "cgroup",
    "cgsnapshot",
    "message",
];

#[tokio::test]
async fn every_route_has_a_row() {
    let world = World::new().await;
    let routes = volume_service::api::resources().with_state(world.service.clone());
    compare(&routes, &rows(TABLE)).await;
}

#[tokio::test]
#[should_panic(expected = "/v3/unheard-of")]
async fn a_route_without_a_row_is_noticed() {
    let world = World::new().await;
    let routes = volume_service::api::resources().with_state(world.service.clone());
    let routes = routes.route("/v3/unheard-of/{id}", axum::routing::get(async || ()));
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
        quota_groups: -1,
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
    for name in NAMES {
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
        "attachment" => {
            let body = json!({"attachment": {"volume_uuid": world.volume(1).await}});
            id_of(world, MEMBER, "/attachments", body, "attachment").await
        }
        "transfer" => {
            let body = json!({"transfer": {"volume_id": world.volume(1).await}});
            id_of(world, MEMBER, "/volume-transfers", body, "transfer").await
        }
        "message" => message(world).await,
        "type" | "private-type" | "encrypted-type" | "qos" => types(world, name).await,
        "group-type" | "private-group-type" => group_type(world, name == "group-type").await,
        _ => Box::pin(groups(world, name)).await,
    }
}

async fn types(world: &World, name: &str) -> String {
    let unique = format!("{name}-{}", uuid::Uuid::new_v4());
    if name == "qos" {
        let body = json!({"qos_specs": {"name": unique, "a": "b"}});
        return id_of(world, ADMIN, "/qos-specs", body, "qos_specs").await;
    }
    // No pool has the capability.
    let extra_specs = match name {
        "plain-type" => json!({}),
        _ => json!({"a": "b"}),
    };
    let body = json!({"volume_type": {
        "name": unique, "extra_specs": extra_specs, "os-volume-type-access:is_public": name != "private-type",
    }});
    let id = id_of(world, ADMIN, "/types", body, "volume_type").await;
    if name == "encrypted-type" {
        let body = json!({"encryption": {"provider": "luks", "control_location": "front-end", "cipher": "aes"}});
        let path = format!("/types/{id}/encryption");
        world.post(ADMIN, &path, body).send().await.expect(200);
    }
    id
}

async fn group_type(world: &World, is_public: bool) -> String {
    let name = format!("group-type-{}", uuid::Uuid::new_v4());
    let body =
        json!({"group_type": {"name": name, "is_public": is_public, "group_specs": {"a": "b"}}});
    id_of(world, ADMIN, "/group_types", body, "group_type").await
}

/// A group or a consistency group with a volume, or a snapshot of one.
async fn groups(world: &World, name: &str) -> String {
    let volume_type = types(world, "plain-type").await;
    let (path, key, body) = if name.starts_with("cg") {
        let body = json!({"consistencygroup": {"volume_types": format!("{volume_type},")}});
        ("/consistencygroups", "consistencygroup", body)
    } else {
        let group_type = group_type(world, true).await;
        let body = json!({"group": {"group_type": group_type, "volume_types": [volume_type]}});
        ("/groups", "group", body)
    };
    let group = id_of(world, MEMBER, path, body, key).await;
    world.set("volume_groups", &group, "available").await;
    let member = match key {
        "group" => "group_id",
        _ => "consistencygroup_id",
    };
    let volume = json!({"size": 1, "volume_type": volume_type, member: group});
    world.volume_with(volume).await;
    let snapshot = match name {
        "group-snapshot" => {
            let body = json!({"group_snapshot": {"group_id": group}});
            id_of(world, MEMBER, "/group_snapshots", body, "group_snapshot").await
        }
        "cgsnapshot" => {
            let body = json!({"cgsnapshot": {"consistencygroup_id": group}});
            id_of(world, MEMBER, "/cgsnapshots", body, "cgsnapshot").await
        }
        _ => return group,
    };
    world.set("group_snapshots", &snapshot, "available").await;
    world.end_flows().await;
    snapshot
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
