//! Groups of volumes.

use database::params;
use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, POOL, READER, STRANGER, World};

/// A volume type and a group type.
pub async fn types(world: &World) -> (String, String) {
    let body = json!({"volume_type": {"name": "vt"}});
    let made = world.post(ADMIN, "/types", body).send().await.expect(200);
    let body = json!({"group_type": {"name": "gt"}});
    let group_type = world.post(ADMIN, "/group_types", body).send().await;
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    (
        id(&made["volume_type"]),
        id(&group_type.expect(202)["group_type"]),
    )
}

/// A group that a manager has finished, of these types.
pub async fn group(world: &World, volume_type: &str, group_type: &str) -> String {
    let body =
        json!({"group": {"name": "g", "group_type": group_type, "volume_types": [volume_type]}});
    let body = world.post(MEMBER, "/groups", body).send().await.expect(202);
    let id = body["group"]["id"].as_str().unwrap().to_owned();
    world.set("volume_groups", &id, "available").await;
    world.end_flows().await;
    id
}

/// A volume in a group that a manager has finished.
pub async fn member(world: &World, group: &str) -> String {
    world
        .volume_with(json!({"size": 1, "volume_type": "vt", "group_id": group}))
        .await
}

async fn act(world: &World, group: &str, body: Value) -> crate::world::Answer {
    let path = format!("/groups/{group}/action");
    world.post(MEMBER, &path, body).send().await
}

async fn show(world: &World, group: &str) -> Value {
    let path = format!("/groups/{group}?list_volume=True");
    world.get(MEMBER, &path).send().await.expect(200)["group"].clone()
}

#[tokio::test]
async fn groups_are_placed_shown_and_listed() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let body = json!({"group": {"name": " g ", "description": "d", "group_type": "gt",
        "volume_types": ["vt"], "availability_zone": "nova"}});
    let body = world.post(MEMBER, "/groups", body).send().await.expect(202);
    let id = body["group"]["id"].as_str().unwrap().to_owned();
    assert_eq!(body["group"], json!({"id": id, "name": "g"}));
    let queue = format!("volume:{POOL}");
    assert_eq!(
        world.flows().await,
        [("group:create".to_owned(), queue.clone())]
    );
    assert_eq!(world.rung(), [queue]);
    world.set("volume_groups", &id, "available").await;
    world.end_flows().await;
    let volume = member(&world, &id).await;
    let shown = show(&world, &id).await;
    assert_eq!(shown["status"], "available");
    assert_eq!(shown["group_type"], json!(group_type));
    assert_eq!(shown["volume_types"], json!([volume_type]));
    assert_eq!(shown["volumes"], json!([volume]));
    assert_eq!(shown["replication_status"], "disabled");
    assert_eq!(shown["group_snapshot_id"], Value::Null);
    for (minor, fields) in [(13, 8), (14, 10), (24, 10), (25, 11), (38, 12), (71, 12)] {
        let path = format!("/groups/{id}?list_volume=True");
        let body = world.get(MEMBER, &path).version(minor).send().await;
        let body = body.expect(200);
        assert_eq!(
            body["group"].as_object().unwrap().len(),
            fields,
            "3.{minor}"
        );
    }
    let path = format!("/groups/{id}");
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(body["group"]["project_id"], "aaaa0000");
    let body = world.get(MEMBER, "/groups").send().await.expect(200);
    assert_eq!(body["groups"], json!([{"id": id, "name": "g"}]));
    let body = world.get(MEMBER, "/groups/detail?name=h").send().await;
    assert_eq!(body.expect(200)["groups"], json!([]));
    let path = format!("/volumes/{volume}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["volume"]["group_id"], json!(id));
    assert_eq!(body["volume"]["consistencygroup_id"], Value::Null);
    let path = format!("/volumes?group_id={id}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["volumes"].as_array().unwrap().len(), 1);
    for (token, status) in [(READER, 200), (STRANGER, 404)] {
        let answer = world.get(token, &format!("/groups/{id}")).send().await;
        answer.expect(status);
    }
    world
        .get(MEMBER, "/groups")
        .version(12)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn a_group_that_no_pool_takes_is_in_error_and_can_be_deleted() {
    let world = World::new().await;
    types(&world).await;
    let body = json!({"volume_type": {"name": "other",
        "extra_specs": {"volume_backend_name": "elsewhere"}}});
    world.post(ADMIN, "/types", body).send().await.expect(200);
    let body = json!({"group": {"group_type": "gt", "volume_types": ["vt", "other"]}});
    let body = world.post(MEMBER, "/groups", body).send().await.expect(202);
    let id = body["group"]["id"].as_str().unwrap();
    assert_eq!(show(&world, id).await["status"], "error");
    assert!(world.flows().await.is_empty());
    act(&world, id, json!({"delete": {}})).await.expect(202);
    world
        .get(MEMBER, &format!("/groups/{id}"))
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    for bad in [
        json!({"group_type": group_type}),
        json!({"group_type": group_type, "volume_types": []}),
        json!({"group_type": group_type, "volume_types": "vt"}),
        json!({"group_type": group_type, "volume_types": ["vt", "vt"]}),
        json!({"group_type": "default_cgsnapshot_type", "volume_types": ["vt"]}),
        json!({"group_type": group_type, "volume_types": ["vt"], "availability_zone": "mars"}),
        json!({"volume_types": ["vt"]}),
        json!({"group_type": group_type, "volume_types": ["vt"], "more": 1}),
    ] {
        let body = json!({ "group": bad });
        let answer = world.post(MEMBER, "/groups", body.clone()).send().await;
        assert_eq!(answer.status, 400, "{body}");
    }
    for absent in [
        json!({"group_type": group_type, "volume_types": ["none"]}),
        json!({"group_type": "none", "volume_types": ["vt"]}),
    ] {
        let body = json!({ "group": absent });
        world
            .post(MEMBER, "/groups", body)
            .send()
            .await
            .fault(404, "itemNotFound");
    }
    let id = group(&world, &volume_type, &group_type).await;
    for (volume, status) in [
        (json!({"size": 1, "group_id": id}), 400),
        (
            json!({"size": 1, "group_id": id, "volume_type": "__DEFAULT__"}),
            400,
        ),
        (
            json!({"size": 1, "volume_type": "vt", "group_id": "11111111-1111-4111-8111-111111111111"}),
            404,
        ),
    ] {
        let body = json!({ "volume": volume });
        let answer = world.post(MEMBER, "/volumes", body).send().await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
    }
    world.set("volume_groups", &id, "error").await;
    let body = json!({"volume": {"size": 1, "volume_type": "vt", "group_id": id}});
    world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn volumes_come_and_go() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let id = group(&world, &volume_type, &group_type).await;
    let volume = member(&world, &id).await;
    let path = format!("/groups/{id}");
    let update = async |body: Value| {
        let body = json!({ "group": body });
        world.put(MEMBER, &path, body).send().await
    };
    let change = json!({"name": "n", "description": "e", "remove_volumes": volume});
    update(change).await.expect(202);
    let shown = show(&world, &id).await;
    assert_eq!(shown["name"], "n");
    assert_eq!(shown["description"], "e");
    assert_eq!(shown["status"], "available");
    assert_eq!(shown["volumes"], json!([]));
    update(json!({"add_volumes": format!("{volume},")}))
        .await
        .expect(202);
    assert_eq!(show(&world, &id).await["volumes"], json!([volume]));
    let plain = world.volume(1).await;
    let other = group(&world, &volume_type, &group_type).await;
    let elsewhere = member(&world, &other).await;
    for bad in [
        json!({}),
        json!({"name": "n"}),
        json!({"add_volumes": volume}),
        json!({"add_volumes": volume, "remove_volumes": volume}),
        json!({"add_volumes": plain}),
        json!({"add_volumes": elsewhere}),
        json!({"add_volumes": "none"}),
        json!({"remove_volumes": plain}),
        json!({"remove_volumes": elsewhere, "name": "x"}),
    ] {
        let answer = update(bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}");
    }
    assert_eq!(show(&world, &id).await["name"], "n");
    world.set("volumes", &volume, "uploading").await;
    let text = update(json!({"remove_volumes": volume}))
        .await
        .fault(400, "badRequest");
    assert!(text.contains("invalid state: uploading"), "{text}");
    world.set("volume_groups", &id, "error").await;
    world.set("volumes", &volume, "available").await;
    let text = update(json!({"remove_volumes": volume}))
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Invalid Group: Group status must be available.");
}

#[tokio::test]
async fn a_group_is_deleted_with_its_volumes_or_empty() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let id = group(&world, &volume_type, &group_type).await;
    let volume = member(&world, &id).await;
    world
        .delete(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .fault(400, "badRequest");
    let text = act(&world, &id, json!({"delete": {}}))
        .await
        .fault(400, "badRequest");
    assert!(text.contains("still contains volumes"), "{text}");
    let all = json!({"delete": {"delete-volumes": true}});
    let snapshot = world.snapshot(&volume).await;
    let text = act(&world, &id, all.clone()).await.fault(400, "badRequest");
    assert!(text.contains("dependent snapshots"), "{text}");
    let sql = "UPDATE snapshots SET deleted_at = 1 WHERE id = ?";
    let database = &world.service.database;
    database.execute(sql, params![&snapshot]).await.unwrap();
    world.end_flows().await;
    act(&world, &id, all.clone()).await.expect(202);
    let kinds: Vec<_> = world.flows().await.into_iter().map(|flow| flow.0).collect();
    assert_eq!(kinds, ["volume:delete", "group:delete"]);
    assert_eq!(show(&world, &id).await["status"], "deleting");
    act(&world, &id, all).await.expect(202);
    assert_eq!(world.flows().await.len(), 2);
    let empty = group(&world, &volume_type, &group_type).await;
    let path = format!("/groups/{empty}/action");
    let body = json!({"delete": {"delete-volumes": false}});
    world
        .post(READER, &path, body.clone())
        .send()
        .await
        .fault(403, "forbidden");
    world.post(MEMBER, &path, body).send().await.expect(202);
    let path = format!("/group_types/{group_type}");
    let text = world
        .delete(ADMIN, &path)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Target group type is still in use.");
}

#[tokio::test]
async fn a_group_is_made_from_a_group() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let id = group(&world, &volume_type, &group_type).await;
    let from = json!({"create-from-src": {"source_group_id": id, "name": "copy"}});
    let text = world
        .post(MEMBER, "/groups/action", from.clone())
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("Source Group is empty"), "{text}");
    let volume = member(&world, &id).await;
    let body = world
        .post(MEMBER, "/groups/action", from.clone())
        .send()
        .await;
    let copy = body.expect(202)["group"]["id"].as_str().unwrap().to_owned();
    let shown = show(&world, &copy).await;
    assert_eq!(shown["source_group_id"], json!(id));
    assert_eq!(shown["status"], "creating");
    assert_eq!(shown["volume_types"], json!([volume_type]));
    let cloned = shown["volumes"][0].as_str().unwrap();
    let path = format!("/volumes/{cloned}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["volume"]["source_volid"], json!(volume));
    assert_eq!(body["volume"]["size"], 1);
    let kinds: Vec<_> = world.flows().await.into_iter().map(|flow| flow.0).collect();
    assert_eq!(kinds, ["volume:create", "group:create"]);
    // The source of a group in the making stays.
    let all = json!({"delete": {"delete-volumes": true}});
    act(&world, &id, all).await.fault(400, "badRequest");
    let both = json!({"create-from-src": {"source_group_id": id, "group_snapshot_id": id}});
    for bad in [both, json!({"create-from-src": {}})] {
        world
            .post(MEMBER, "/groups/action", bad)
            .send()
            .await
            .fault(400, "badRequest");
    }
    world
        .post(MEMBER, "/groups/action", from)
        .version(13)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn admins_reset_states() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let id = group(&world, &volume_type, &group_type).await;
    let path = format!("/groups/{id}/action");
    let body = json!({"reset_status": {"status": "Error"}});
    world
        .post(MEMBER, &path, body.clone())
        .send()
        .await
        .fault(403, "forbidden");
    let reset = world.post(ADMIN, &path, body).send().await;
    reset.expect(202);
    assert_eq!(show(&world, &id).await["status"], "error");
    for bad in [
        json!({"status": "in-use"}),
        json!({"status": ""}),
        json!({}),
    ] {
        let body = json!({ "reset_status": bad });
        world
            .post(ADMIN, &path, body)
            .send()
            .await
            .fault(400, "badRequest");
    }
}

#[tokio::test]
async fn nothing_replicates_groups() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let id = group(&world, &volume_type, &group_type).await;
    for action in [
        "enable_replication",
        "disable_replication",
        "failover_replication",
        "list_replication_targets",
    ] {
        let text = act(&world, &id, json!({ action: {} }))
            .await
            .fault(400, "badRequest");
        assert!(text.ends_with("is not a replication group type."), "{text}");
    }
    let specs = json!({"group_specs": {"consistent_group_replication_enabled": "<is> True"}});
    let path = format!("/group_types/{group_type}/group_specs");
    world.post(ADMIN, &path, specs).send().await.expect(202);
    let text = act(&world, &id, json!({"enable_replication": {}}))
        .await
        .fault(400, "badRequest");
    assert!(text.contains("replication_enabled"), "{text}");
    let specs = json!({"extra_specs": {"replication_enabled": "<is> True"}});
    let path = format!("/types/{volume_type}/extra_specs");
    world.post(ADMIN, &path, specs).send().await.expect(200);
    let body = act(&world, &id, json!({"list_replication_targets": {}})).await;
    assert_eq!(body.expect(200), json!({"replication_targets": []}));
    act(&world, &id, json!({"failover_replication": {}}))
        .await
        .fault(400, "badRequest");
    act(&world, &id, json!({"enable_replication": {}}))
        .await
        .expect(202);
    assert_eq!(show(&world, &id).await["replication_status"], "error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn groups_count_against_their_quota() {
    let world = World::new().await;
    types(&world).await;
    let body = json!({"quota_set": {"groups": 3}});
    let path = "/os-quota-sets/aaaa0000";
    world.put(ADMIN, path, body).send().await.expect(200);
    let body = json!({"group": {"group_type": "gt", "volume_types": ["vt"]}});
    let creates = (0..20).map(|_| world.post(MEMBER, "/groups", body.clone()).send());
    let answers = futures_util::future::join_all(creates).await;
    let made = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(made, 3);
    let text = world
        .post(MEMBER, "/groups", body)
        .send()
        .await
        .fault(413, "overLimit");
    assert_eq!(text, "Maximum number of groups allowed (3) exceeded");
    let path = "/os-quota-sets/aaaa0000?usage=True";
    let body = world.get(MEMBER, path).send().await.expect(200);
    assert_eq!(
        body["quota_set"]["groups"],
        json!({"limit": 3, "in_use": 3, "reserved": 0})
    );
}

#[tokio::test]
async fn a_group_from_a_source_needs_room_for_all_its_volumes() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let id = group(&world, &volume_type, &group_type).await;
    for _ in 0..2 {
        member(&world, &id).await;
    }
    let from = json!({"create-from-src": {"source_group_id": id}});
    for limits in [
        json!({"volumes_vt": 3}),
        json!({"volumes_vt": 4, "gigabytes": 3}),
    ] {
        let body = json!({ "quota_set": limits });
        let path = "/os-quota-sets/aaaa0000";
        world.put(ADMIN, path, body).send().await.expect(200);
        world
            .post(MEMBER, "/groups/action", from.clone())
            .send()
            .await
            .fault(413, "overLimit");
    }
    let body = world.get(MEMBER, "/groups").send().await.expect(200);
    assert_eq!(body["groups"].as_array().unwrap().len(), 1);
}
