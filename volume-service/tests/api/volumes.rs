//! Volumes: create, show, list, update, delete, metadata, actions.

use database::params;
use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, POOL, PROJECT, World};

#[tokio::test]
async fn a_created_volume_waits_for_the_scheduler_and_is_shown_in_full() {
    let world = World::new().await;
    let request =
        json!({"volume": {"size": "2", "name": " a ", "description": "d", "metadata": {"k": "v"}}});
    let answer = world.post(MEMBER, "/volumes", request).send().await;
    assert_eq!(answer.headers["openstack-api-version"], "volume 3.71");
    assert_eq!(answer.headers["vary"], "OpenStack-API-Version");
    assert!(
        answer.headers["x-compute-request-id"]
            .to_str()
            .unwrap()
            .starts_with("req-")
    );
    let created = answer.expect(202);
    let volume = &created["volume"];
    assert_eq!(volume["status"], "creating");
    assert_eq!(volume["name"], "a");
    assert_eq!(
        world.flows().await,
        [("volume:create".to_owned(), "scheduler".to_owned())]
    );
    assert_eq!(world.rung(), ["scheduler"]);

    let id = volume["id"].as_str().unwrap();
    let shown = world
        .get(MEMBER, &format!("/{PROJECT}/volumes/{id}"))
        .send()
        .await
        .expect(200);
    let type_id = shown["volume"]["volume_type_id"].clone();
    let created_at = shown["volume"]["created_at"].clone();
    assert_eq!(
        created_at.as_str().unwrap().len(),
        "2026-01-02T03:04:05.000006".len()
    );
    let base = "http://volume.example:8776";
    let expected = json!({
        "id": id, "status": "creating", "size": 2, "availability_zone": "nova", "created_at": created_at,
        "updated_at": null, "name": "a", "description": "d", "volume_type": "__DEFAULT__", "snapshot_id": null,
        "source_volid": null, "metadata": {"k": "v"}, "user_id": "member", "bootable": "false",
        "encrypted": false, "replication_status": null, "consistencygroup_id": null, "multiattach": false,
        "attachments": [], "os-vol-tenant-attr:tenant_id": PROJECT, "group_id": null, "shared_targets": false,
        "service_uuid": null, "volume_type_id": type_id, "consumes_quota": true,
        "links": [
            {"rel": "self", "href": format!("{base}/v3/{PROJECT}/volumes/{id}")},
            {"rel": "bookmark", "href": format!("{base}/{PROJECT}/volumes/{id}")},
        ],
    });
    assert_eq!(shown["volume"], expected);
}

#[tokio::test]
async fn views_follow_the_microversion_and_the_role() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let keys = async |token: &'static str, minor: u16| -> Vec<String> {
        let body = world
            .get(token, &format!("/volumes/{id}"))
            .version(minor)
            .send()
            .await
            .expect(200);
        body["volume"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    let oldest = keys(MEMBER, 0).await;
    for (key, minor) in [
        ("group_id", 13),
        ("shared_targets", 48),
        ("service_uuid", 48),
        ("volume_type_id", 63),
        ("consumes_quota", 65),
    ] {
        assert!(!oldest.iter().any(|held| held == key), "{key}");
        assert!(
            !keys(MEMBER, minor - 1).await.iter().any(|held| held == key),
            "{key}"
        );
        assert!(
            keys(MEMBER, minor).await.iter().any(|held| held == key),
            "{key}"
        );
    }
    let admin = keys(ADMIN, 71).await;
    for key in [
        "os-vol-host-attr:host",
        "migration_status",
        "os-vol-mig-status-attr:migstat",
        "provider_id",
        "cluster_name",
    ] {
        assert!(admin.iter().any(|held| held == key), "{key}");
        assert!(
            !keys(MEMBER, 71).await.iter().any(|held| held == key),
            "{key}"
        );
    }
}

#[tokio::test]
async fn sources_fix_the_host_and_give_size_and_type() {
    let world = World::new().await;
    let volume = world.volume(3).await;
    let snapshot = world.snapshot(&volume).await;
    world.end_flows().await;
    for (source, key) in [
        (json!({"source_volid": volume}), "source_volid"),
        (json!({"snapshot_id": snapshot}), "snapshot_id"),
    ] {
        world.rung();
        let body = world
            .post(MEMBER, "/volumes", json!({"volume": source}))
            .send()
            .await
            .expect(202);
        assert_eq!(body["volume"]["size"], 3);
        assert_eq!(body["volume"][key], source[key]);
        assert_eq!(world.rung(), [format!("volume:{POOL}")]);
    }
    let flows = world.flows().await;
    assert!(
        flows
            .iter()
            .all(|(kind, queue)| kind == "volume:create" && *queue == format!("volume:{POOL}")),
        "{flows:?}"
    );

    let small = json!({"volume": {"snapshot_id": snapshot, "size": 2}});
    let text = world
        .post(MEMBER, "/volumes", small)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(
        text.contains("cannot be smaller than the snapshot size 3GB"),
        "{text}"
    );
    let both = json!({"volume": {"snapshot_id": snapshot, "source_volid": volume}});
    let text = world
        .post(MEMBER, "/volumes", both)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(
        text.contains("only one of snapshot, source_volume"),
        "{text}"
    );
    world.set("snapshots", &snapshot, "error").await;
    let body = json!({"volume": {"snapshot_id": snapshot}});
    let text = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(
        text,
        "Invalid snapshot: Originating snapshot status must be one of 'available' values"
    );
}

#[tokio::test]
async fn updates_change_what_they_name_and_nothing_else() {
    let world = World::new().await;
    let id = world
        .volume_with(json!({"size": 1, "name": "a", "description": "d", "metadata": {"k": "v"}}))
        .await;
    let path = format!("/volumes/{id}");
    let body = world
        .put(MEMBER, &path, json!({"volume": {"name": "b"}}))
        .send()
        .await
        .expect(200);
    assert_eq!(
        (&body["volume"]["name"], &body["volume"]["description"]),
        (&json!("b"), &json!("d"))
    );
    let body = world
        .put(
            MEMBER,
            &path,
            json!({"volume": {"description": null, "metadata": {"x": "y"}}}),
        )
        .send()
        .await;
    let body = body.expect(200);
    assert_eq!(body["volume"]["description"], Value::Null);
    assert_eq!(body["volume"]["metadata"], json!({"x": "y"}));
    world
        .put(MEMBER, &path, json!({"volume": {}}))
        .send()
        .await
        .fault(400, "badRequest");
    world
        .put(MEMBER, &path, json!({"volume": {"size": 5}}))
        .send()
        .await
        .fault(400, "badRequest");
    world.set("volumes", &id, "maintenance").await;
    let text = world
        .put(MEMBER, &path, json!({"volume": {"name": "c"}}))
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(
        text,
        "Invalid volume: The volume cannot be updated during maintenance."
    );
}

#[tokio::test]
async fn deleting_looks_at_states_and_snapshots() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let path = format!("/volumes/{id}");
    for status in [
        "creating",
        "in-use",
        "uploading",
        "deleting",
        "error_deleting",
        "backing-up",
    ] {
        world.set("volumes", &id, status).await;
        let text = world
            .delete(MEMBER, &path)
            .send()
            .await
            .fault(400, "badRequest");
        assert!(
            text.starts_with("Invalid volume: Volume status must be available or error"),
            "{text}"
        );
    }
    world.set("volumes", &id, "available").await;
    let snapshot = world.snapshot(&id).await;
    world.end_flows().await;
    world
        .delete(MEMBER, &path)
        .send()
        .await
        .fault(400, "badRequest");
    world.set("snapshots", &snapshot, "creating").await;
    world
        .delete(MEMBER, &format!("{path}?cascade=true"))
        .send()
        .await
        .fault(400, "badRequest");
    let kept = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(kept["volume"]["status"], "available");
    world.set("snapshots", &snapshot, "available").await;
    world
        .delete(MEMBER, &format!("{path}?cascade=true"))
        .send()
        .await
        .expect(202);
    assert_eq!(
        world.flows().await,
        [("volume:delete".to_owned(), format!("volume:{POOL}"))]
    );
    let body = world
        .get(MEMBER, &format!("/snapshots/{snapshot}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["snapshot"]["status"], "deleting");
    world.forget_volume(&id).await;
    world
        .get(MEMBER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn a_volume_without_a_host_goes_at_once() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let sql = "UPDATE volumes SET status = 'error', host = NULL WHERE id = ?";
    world
        .service
        .database
        .execute(sql, params![&id])
        .await
        .unwrap();
    world
        .delete(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(202);
    world
        .get(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(world.flows().await, []);
}

#[tokio::test]
async fn force_is_the_admins() {
    let world = World::new().await;
    let id = world.volume(1).await;
    world.set("volumes", &id, "error_deleting").await;
    let path = format!("/volumes/{id}?force=true");
    world
        .delete(MEMBER, &path)
        .send()
        .await
        .fault(403, "forbidden");
    world
        .delete(ADMIN, &path)
        .version(22)
        .send()
        .await
        .fault(400, "badRequest");
    world.delete(ADMIN, &path).send().await.expect(202);
}

#[tokio::test]
async fn metadata_routes_and_their_entity_tags() {
    let world = World::new().await;
    let id = world
        .volume_with(json!({"size": 1, "metadata": {"a": "1"}}))
        .await;
    let path = format!("/volumes/{id}/metadata");
    let all = world.get(MEMBER, &path).send().await;
    let tag = all.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(all.expect(200), json!({"metadata": {"a": "1"}}));
    assert!(
        !world
            .get(MEMBER, &path)
            .version(14)
            .send()
            .await
            .headers
            .contains_key("etag")
    );

    let body = world
        .post(MEMBER, &path, json!({"metadata": {"b": "2"}}))
        .send()
        .await
        .expect(200);
    assert_eq!(body, json!({"metadata": {"a": "1", "b": "2"}}));
    let stale = world
        .put(MEMBER, &path, json!({"metadata": {}}))
        .header("if-match", &tag)
        .send()
        .await;
    assert_eq!(stale.status, 412);
    let quoted = format!(
        "\"{}\"",
        world.get(MEMBER, &path).send().await.headers["etag"]
            .to_str()
            .unwrap()
    );
    let fresh = world
        .put(MEMBER, &path, json!({"metadata": {"c": "3"}}))
        .header("if-match", &quoted)
        .send()
        .await;
    assert_eq!(fresh.expect(200), json!({"metadata": {"c": "3"}}));

    let entry = format!("{path}/c");
    assert_eq!(
        world.get(MEMBER, &entry).send().await.expect(200),
        json!({"meta": {"c": "3"}})
    );
    let body = world
        .put(MEMBER, &entry, json!({"meta": {"c": "4"}}))
        .send()
        .await
        .expect(200);
    assert_eq!(body, json!({"meta": {"c": "4"}}));
    world
        .put(MEMBER, &entry, json!({"meta": {"d": "4"}}))
        .send()
        .await
        .fault(400, "badRequest");
    world
        .put(MEMBER, &entry, json!({"meta": {"c": "4", "d": "5"}}))
        .send()
        .await
        .fault(400, "badRequest");
    world.delete(MEMBER, &entry).send().await.expect(200);
    let text = world
        .delete(MEMBER, &entry)
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(text, format!("Volume {id} has no metadata with key c."));
    world.set("volumes", &id, "uploading").await;
    world
        .post(MEMBER, &path, json!({"metadata": {"b": "2"}}))
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn extend_needs_a_larger_size_and_an_idle_volume() {
    let world = World::new().await;
    let id = world.volume(2).await;
    let path = format!("/volumes/{id}/action");
    let extend = |size: Value| json!({"os-extend": {"new_size": size}});
    for size in [json!(1), json!(2)] {
        let text = world
            .post(MEMBER, &path, extend(size))
            .send()
            .await
            .fault(400, "badRequest");
        assert!(
            text.contains("New size for extend must be greater than current size."),
            "{text}"
        );
    }
    for size in [
        json!(0),
        json!(-1),
        json!("x"),
        json!(null),
        json!(1.5),
        json!(2_147_483_648i64),
    ] {
        let text = world
            .post(MEMBER, &path, extend(size))
            .send()
            .await
            .fault(400, "badRequest");
        assert!(text.contains("new_size"), "{text}");
    }
    world
        .post(MEMBER, &path, extend(json!(2000)))
        .send()
        .await
        .fault(413, "overLimit");
    let body = world
        .get(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        body["volume"]["status"], "available",
        "a refused extend leaves nothing"
    );
    assert_eq!(world.flows().await, []);
    world.set("volumes", &id, "in-use").await;
    world
        .post(MEMBER, &path, extend(json!(3)))
        .version(41)
        .send()
        .await
        .fault(400, "badRequest");
    world
        .post(MEMBER, &path, extend(json!(3)))
        .version(42)
        .send()
        .await
        .expect(202);
    assert_eq!(
        world.flows().await,
        [("volume:extend".to_owned(), format!("volume:{POOL}"))]
    );
}

#[tokio::test]
async fn revert_takes_the_latest_snapshot_only() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let path = format!("/volumes/{id}/action");
    let revert = |snapshot: &str| json!({"revert": {"snapshot_id": snapshot}});
    let first = world.snapshot(&id).await;
    let second = world.snapshot(&id).await;
    world.end_flows().await;
    world
        .post(MEMBER, &path, revert(&first))
        .send()
        .await
        .fault(400, "badRequest");
    world
        .post(MEMBER, &path, revert("nonsense"))
        .send()
        .await
        .fault(400, "badRequest");
    world
        .post(MEMBER, &path, revert(&second))
        .version(39)
        .send()
        .await
        .fault(404, "itemNotFound");
    world.set("volumes", &id, "in-use").await;
    world
        .post(MEMBER, &path, revert(&second))
        .send()
        .await
        .fault(409, "conflictingRequest");
    world.set("volumes", &id, "available").await;
    world.set("snapshots", &second, "error").await;
    world
        .post(MEMBER, &path, revert(&second))
        .send()
        .await
        .fault(409, "conflictingRequest");
    let body = world
        .get(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        body["volume"]["status"], "available",
        "a refused revert leaves nothing"
    );
    world.set("snapshots", &second, "available").await;
    world
        .post(MEMBER, &path, revert(&second))
        .send()
        .await
        .expect(202);
    assert_eq!(world.flows().await[0].0, "volume:revert");
    let body = world
        .get(MEMBER, &format!("/snapshots/{second}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["snapshot"]["status"], "restoring");
}

#[tokio::test]
async fn flags_and_states_are_set() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let path = format!("/volumes/{id}/action");
    world
        .post(
            MEMBER,
            &path,
            json!({"os-set_bootable": {"bootable": true}}),
        )
        .send()
        .await
        .expect(200);
    world
        .post(
            MEMBER,
            &path,
            json!({"os-update_readonly_flag": {"readonly": "true"}}),
        )
        .send()
        .await
        .expect(202);
    let body = world
        .get(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["volume"]["bootable"], "true");
    assert_eq!(body["volume"]["metadata"], json!({"readonly": "True"}));
    world
        .post(
            MEMBER,
            &path,
            json!({"os-set_bootable": {"bootable": "maybe"}}),
        )
        .send()
        .await
        .fault(400, "badRequest");
    world
        .post(MEMBER, &path, json!({"os-set_bootable": {}}))
        .send()
        .await
        .fault(400, "badRequest");
    let reset = |value: Value| json!({"os-reset_status": value});
    world
        .post(MEMBER, &path, reset(json!({"status": "error"})))
        .send()
        .await
        .fault(403, "forbidden");
    world
        .post(ADMIN, &path, reset(json!({"status": "ERROR"})))
        .send()
        .await
        .expect(202);
    for bad in [
        json!({}),
        json!({"status": "broken"}),
        json!({"status": "deleting"}),
        json!({"status": "in-use"}),
        json!({"x": 1}),
    ] {
        world
            .post(ADMIN, &path, reset(bad))
            .send()
            .await
            .fault(400, "badRequest");
    }
    let body = world
        .get(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["volume"]["status"], "error");
    world
        .post(
            MEMBER,
            &path,
            json!({"os-update_readonly_flag": {"readonly": true}}),
        )
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn image_metadata_is_set_shown_and_unset() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let path = format!("/volumes/{id}/action");
    let set = json!({"os-set_image_metadata": {"metadata": {"image_id": "x", "os_type": "linux"}}});
    let body = world.post(MEMBER, &path, set).send().await.expect(200);
    assert_eq!(body["metadata"]["os_type"], "linux");
    let body = world
        .get(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["volume"]["volume_image_metadata"]["image_id"], "x");
    let unset = json!({"os-unset_image_metadata": {"key": "os_type"}});
    world
        .post(MEMBER, &path, unset.clone())
        .send()
        .await
        .expect(200);
    world
        .post(MEMBER, &path, unset)
        .send()
        .await
        .fault(404, "itemNotFound");
    let body = world
        .post(MEMBER, &path, json!({"os-show_image_metadata": null}))
        .send()
        .await
        .expect(200);
    assert_eq!(body, json!({"metadata": {"image_id": "x"}}));
}

#[tokio::test]
async fn totals() {
    let world = World::new().await;
    world
        .volume_with(json!({"size": 2, "metadata": {"a": "1"}}))
        .await;
    world
        .volume_with(json!({"size": 3, "metadata": {"a": "2"}}))
        .await;
    let body = world
        .get(MEMBER, "/volumes/summary")
        .send()
        .await
        .expect(200);
    assert_eq!(
        body,
        json!({"volume-summary": {"total_count": 2, "total_size": 5, "metadata": {"a": ["1", "2"]}}})
    );
    let body = world
        .get(MEMBER, "/volumes/summary")
        .version(12)
        .send()
        .await
        .expect(200);
    assert_eq!(
        body,
        json!({"volume-summary": {"total_count": 2, "total_size": 5}})
    );
    world
        .get(MEMBER, "/volumes/summary")
        .version(11)
        .send()
        .await
        .fault(404, "itemNotFound");
}
