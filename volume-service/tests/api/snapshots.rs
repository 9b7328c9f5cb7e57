//! Snapshots: create, show, list, update, delete, metadata, actions.

use serde_json::json;

use crate::world::{ADMIN, MEMBER, POOL, PROJECT, World};

#[tokio::test]
async fn a_snapshot_is_created_shown_and_deleted() {
    let world = World::new().await;
    let volume = world.volume(2).await;
    let body = json!({"snapshot": {"volume_id": volume, "name": "s", "metadata": {"k": "v"}}});
    let created = world
        .post(MEMBER, "/snapshots", body)
        .send()
        .await
        .expect(202);
    let id = created["snapshot"]["id"].as_str().unwrap();
    assert_eq!(created["snapshot"]["status"], "creating");
    assert_eq!(
        world.flows().await,
        [("snapshot:create".to_owned(), format!("volume:{POOL}"))]
    );
    let shown = world
        .get(MEMBER, &format!("/snapshots/{id}"))
        .send()
        .await
        .expect(200);
    let created_at = shown["snapshot"]["created_at"].clone();
    assert_eq!(
        shown["snapshot"],
        json!({
            "id": id, "created_at": created_at, "updated_at": null, "name": "s", "description": null,
            "volume_id": volume, "status": "creating", "size": 2, "metadata": {"k": "v"},
            "os-extended-snapshot-attributes:progress": "0%",
            "os-extended-snapshot-attributes:project_id": PROJECT, "group_snapshot_id": null,
            "user_id": "member", "consumes_quota": true,
        })
    );
    let text = world
        .delete(MEMBER, &format!("/snapshots/{id}"))
        .send()
        .await
        .fault(400, "badRequest");
    assert!(
        text.contains("Snapshot status must be available or error"),
        "{text}"
    );
    world.set("snapshots", id, "available").await;
    world
        .delete(MEMBER, &format!("/snapshots/{id}"))
        .send()
        .await
        .expect(202);
    assert_eq!(world.flows().await[1].0, "snapshot:delete");
}

#[tokio::test]
async fn the_volumes_state_counts() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let body = |force: Option<bool>| match force {
        Some(force) => json!({"snapshot": {"volume_id": volume, "force": force}}),
        None => json!({"snapshot": {"volume_id": volume}}),
    };
    world.set("volumes", &volume, "in-use").await;
    world
        .post(MEMBER, "/snapshots", body(None))
        .version(65)
        .send()
        .await
        .fault(400, "badRequest");
    world
        .post(MEMBER, "/snapshots", body(Some(true)))
        .version(65)
        .send()
        .await
        .expect(202);
    world
        .post(MEMBER, "/snapshots", body(None))
        .version(66)
        .send()
        .await
        .expect(202);
    world
        .post(MEMBER, "/snapshots", body(Some(false)))
        .version(66)
        .send()
        .await
        .fault(400, "badRequest");
    for status in ["error", "maintenance", "creating", "deleting", "extending"] {
        world.set("volumes", &volume, status).await;
        let text = world
            .post(MEMBER, "/snapshots", body(None))
            .send()
            .await
            .fault(400, "badRequest");
        assert!(text.starts_with("Invalid volume: "), "{text}");
    }
}

#[tokio::test]
async fn a_snapshot_keeps_what_its_volume_has_from_an_image() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let set = json!({"os-set_image_metadata": {"metadata": {"image_id": "x"}}});
    world
        .post(MEMBER, &format!("/volumes/{volume}/action"), set)
        .send()
        .await
        .expect(200);
    let snapshot = world.snapshot(&volume).await;
    let kind = volume_service::db::metadata::Kind::SnapshotImage;
    let id = snapshot.parse().unwrap();
    let kept = volume_service::db::metadata::get(&world.service.database, kind, id)
        .await
        .unwrap();
    assert_eq!(kept["image_id"], "x");
}

#[tokio::test]
async fn update_metadata_and_actions() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let id = world.snapshot(&volume).await;
    let path = format!("/snapshots/{id}");
    let body = world
        .put(
            MEMBER,
            &path,
            json!({"snapshot": {"name": "t", "description": "d"}}),
        )
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&body["snapshot"]["name"], &body["snapshot"]["description"]),
        (&json!("t"), &json!("d"))
    );
    world
        .put(MEMBER, &path, json!({"snapshot": {}}))
        .send()
        .await
        .fault(400, "badRequest");
    world
        .put(MEMBER, &path, json!({"snapshot": {"size": 1}}))
        .send()
        .await
        .fault(400, "badRequest");

    let metadata = format!("{path}/metadata");
    world
        .post(MEMBER, &metadata, json!({"metadata": {"a": "1"}}))
        .send()
        .await
        .expect(200);
    let body = world
        .put(
            MEMBER,
            &format!("{metadata}/b"),
            json!({"meta": {"b": "2"}}),
        )
        .send()
        .await
        .expect(200);
    assert_eq!(body, json!({"meta": {"b": "2"}}));
    let body = world.get(MEMBER, &metadata).send().await.expect(200);
    assert_eq!(body, json!({"metadata": {"a": "1", "b": "2"}}));
    world
        .delete(MEMBER, &format!("{metadata}/a"))
        .send()
        .await
        .expect(200);
    let text = world
        .get(MEMBER, &format!("{metadata}/a"))
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(text, format!("Snapshot {id} has no metadata with key a."));
    world
        .put(MEMBER, &metadata, json!({"metadata": {}}))
        .send()
        .await
        .expect(200);

    let action = format!("{path}/action");
    let reset = json!({"os-reset_status": {"status": "error"}});
    world
        .post(MEMBER, &action, reset.clone())
        .send()
        .await
        .fault(403, "forbidden");
    world.post(ADMIN, &action, reset).send().await.expect(202);
    let report =
        |status: &str| json!({"os-update_snapshot_status": {"status": status, "progress": "80%"}});
    world
        .post(MEMBER, &action, report("available"))
        .send()
        .await
        .fault(400, "badRequest");
    world.set("snapshots", &id, "creating").await;
    world
        .post(MEMBER, &action, report("deleting"))
        .send()
        .await
        .fault(400, "badRequest");
    world
        .post(MEMBER, &action, report("available"))
        .send()
        .await
        .expect(202);
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(
        body["snapshot"]["os-extended-snapshot-attributes:progress"],
        "80%"
    );
    world.set("snapshots", &id, "error_deleting").await;
    world
        .post(ADMIN, &action, json!({"os-force_delete": {}}))
        .send()
        .await
        .expect(202);
}

#[tokio::test]
async fn a_snapshot_of_null_is_one_of_no_volume() {
    let world = World::new().await;
    let body = json!({"snapshot": {"volume_id": null}});
    let text = world
        .post(MEMBER, "/snapshots", body)
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(text, "Volume None could not be found.");
}
