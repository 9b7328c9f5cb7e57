//! Transfers of volumes between projects.

use database::params;
use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, OTHER_PROJECT, PROJECT, READER, STRANGER, World};

async fn offer(world: &World, volume: &str, extra: Value) -> Value {
    let mut transfer = json!({"volume_id": volume, "name": " gift "});
    transfer
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let body = json!({"transfer": transfer});
    world
        .post(MEMBER, "/volume-transfers", body)
        .send()
        .await
        .expect(202)["transfer"]
        .clone()
}

async fn accept(world: &World, transfer: &Value, key: &Value) -> crate::world::Answer {
    let path = format!(
        "/volume-transfers/{}/accept",
        transfer["id"].as_str().unwrap()
    );
    let body = json!({"accept": {"auth_key": key}});
    world.post(STRANGER, &path, body).send().await
}

async fn status_of(world: &World, token: &str, volume: &str) -> Value {
    let body = world.get(token, &format!("/volumes/{volume}"));
    body.send().await.expect(200)["volume"]["status"].clone()
}

async fn in_use(world: &World, token: &str, project: &str, resource: &str) -> Value {
    let path = format!("/os-quota-sets/{project}?usage=True");
    let body = world.get(token, &path).send().await.expect(200);
    body["quota_set"][resource]["in_use"].clone()
}

#[tokio::test]
async fn a_volume_goes_with_its_snapshots_and_its_quota() {
    let world = World::new().await;
    let volume = world.volume(3).await;
    let snapshot = world.snapshot(&volume).await;
    let transfer = offer(&world, &volume, json!({})).await;
    assert_eq!(transfer["name"], "gift");
    assert_eq!(transfer["no_snapshots"], false);
    assert_eq!(transfer["source_project_id"], PROJECT);
    assert_eq!(transfer["destination_project_id"], Value::Null);
    assert_eq!(transfer["accepted"], false);
    let key = transfer["auth_key"].as_str().unwrap();
    assert_eq!(key.len(), 16);
    assert!(key.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(
        status_of(&world, MEMBER, &volume).await,
        "awaiting-transfer"
    );
    let text = accept(&world, &transfer, &json!("0000000000000000"))
        .await
        .fault(400, "badRequest");
    assert!(text.starts_with("Invalid auth key: "), "{text}");
    let body = accept(&world, &transfer, &transfer["auth_key"]).await;
    let body = body.expect(202);
    let mut keys: Vec<_> = body["transfer"].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["id", "links", "name", "volume_id"]);
    assert_eq!(status_of(&world, STRANGER, &volume).await, "available");
    let path = format!("/volumes/{volume}");
    let body = world.get(STRANGER, &path).send().await.expect(200);
    assert_eq!(
        body["volume"]["os-vol-tenant-attr:tenant_id"],
        OTHER_PROJECT
    );
    world
        .get(MEMBER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    let path = format!("/snapshots/{snapshot}");
    world.get(STRANGER, &path).send().await.expect(200);
    for (resource, used) in [
        ("volumes", 1),
        ("snapshots", 1),
        ("gigabytes", 6),
        ("gigabytes___DEFAULT__", 6),
        ("volumes___DEFAULT__", 1),
    ] {
        assert_eq!(
            in_use(&world, STRANGER, OTHER_PROJECT, resource).await,
            used
        );
        assert_eq!(in_use(&world, MEMBER, PROJECT, resource).await, 0);
    }
    accept(&world, &transfer, &transfer["auth_key"])
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn the_key_is_shown_once_and_stored_nowhere() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let transfer = offer(&world, &volume, json!({})).await;
    let key = transfer["auth_key"].as_str().unwrap();
    let path = format!("/volume-transfers/{}", transfer["id"].as_str().unwrap());
    for path in [&path, "/volume-transfers", "/volume-transfers/detail"] {
        let body = world.get(MEMBER, path).send().await.expect(200);
        assert!(!body.to_string().contains(key));
        assert!(!body.to_string().contains("auth_key"));
    }
    let rows = world
        .service
        .database
        .fetch_all("SELECT salt, key_hash FROM volume_transfers", params![])
        .await
        .unwrap();
    let salt: String = rows[0].get("salt").unwrap();
    let hash: String = rows[0].get("key_hash").unwrap();
    assert!(salt.len() == 8 && hash.len() == 64 && !hash.contains(key) && !salt.contains(key));
}

#[tokio::test]
async fn snapshots_may_stay_behind() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let snapshot = world.snapshot(&volume).await;
    world.set("snapshots", &snapshot, "error").await;
    let body = json!({"transfer": {"volume_id": volume}});
    world
        .post(MEMBER, "/volume-transfers", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(status_of(&world, MEMBER, &volume).await, "available");
    let transfer = offer(&world, &volume, json!({"no_snapshots": true})).await;
    accept(&world, &transfer, &transfer["auth_key"])
        .await
        .expect(202);
    let path = format!("/snapshots/{snapshot}");
    world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(in_use(&world, MEMBER, PROJECT, "snapshots").await, 1);
    assert_eq!(in_use(&world, MEMBER, PROJECT, "volumes").await, 0);
}

#[tokio::test]
async fn a_project_without_room_gets_nothing() {
    let world = World::new().await;
    let volume = world.volume(3).await;
    world.snapshot(&volume).await;
    let transfer = offer(&world, &volume, json!({})).await;
    for limits in [
        json!({"volumes": 0}),
        json!({"volumes": 1, "snapshots": 0}),
        json!({"snapshots": 1, "gigabytes": 5}),
        json!({"gigabytes": 6, "gigabytes___DEFAULT__": 5}),
        json!({"gigabytes___DEFAULT__": 6, "per_volume_gigabytes": 2}),
    ] {
        let path = format!("/os-quota-sets/{OTHER_PROJECT}");
        let body = json!({"quota_set": limits});
        world.put(ADMIN, &path, body).send().await.expect(200);
        let answer = accept(&world, &transfer, &transfer["auth_key"]).await;
        assert_eq!(answer.headers["retry-after"], "0");
        answer.fault(413, "overLimit");
        assert_eq!(
            status_of(&world, MEMBER, &volume).await,
            "awaiting-transfer"
        );
    }
    let body = json!({"quota_set": {"per_volume_gigabytes": 3}});
    let path = format!("/os-quota-sets/{OTHER_PROJECT}");
    world.put(ADMIN, &path, body).send().await.expect(200);
    accept(&world, &transfer, &transfer["auth_key"])
        .await
        .expect(202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfers_accepted_at_once_never_pass_the_limit() {
    let world = World::new().await;
    let mut transfers = Vec::new();
    for _ in 0..8 {
        let volume = world.volume(1).await;
        transfers.push(offer(&world, &volume, json!({})).await);
    }
    let path = format!("/os-quota-sets/{OTHER_PROJECT}");
    let body = json!({"quota_set": {"volumes": 3}});
    world.put(ADMIN, &path, body).send().await.expect(200);
    // Everybody tries every transfer: none goes twice, and three go.
    let tries = transfers
        .iter()
        .chain(&transfers)
        .map(|transfer| accept(&world, transfer, &transfer["auth_key"]));
    let answers = futures_util::future::join_all(tries).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(accepted, 3);
    assert!(
        answers
            .iter()
            .all(|answer| [202, 400, 404, 413].contains(&answer.status.as_u16()))
    );
    assert_eq!(in_use(&world, STRANGER, OTHER_PROJECT, "volumes").await, 3);
    assert_eq!(in_use(&world, MEMBER, PROJECT, "volumes").await, 5);
}

#[tokio::test]
async fn offers_are_withdrawn_and_only_their_owners_see_them() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let transfer = offer(&world, &volume, json!({})).await;
    let path = format!("/os-volume-transfer/{}", transfer["id"].as_str().unwrap());
    world
        .get(STRANGER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .delete(STRANGER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .delete(READER, &path)
        .send()
        .await
        .fault(403, "forbidden");
    world.get(READER, &path).send().await.expect(200);
    let listed = world.get(STRANGER, "/volume-transfers").send().await;
    assert_eq!(listed.expect(200)["transfers"], json!([]));
    let all = "/volume-transfers?all_tenants=1";
    let listed = world.get(ADMIN, all).send().await.expect(200);
    assert_eq!(listed["transfers"].as_array().unwrap().len(), 1);
    let again = json!({"transfer": {"volume_id": volume}});
    let text = world
        .post(MEMBER, "/os-volume-transfer", again)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Invalid volume: status must be available");
    world
        .delete(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .fault(400, "badRequest");
    world.delete(MEMBER, &path).send().await.expect(202);
    assert_eq!(status_of(&world, MEMBER, &volume).await, "available");
    world
        .delete(MEMBER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn fields_and_bodies_follow_the_microversion() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let transfer = offer(&world, &volume, json!({})).await;
    let path = format!("/volume-transfers/{}", transfer["id"].as_str().unwrap());
    for (minor, count) in [(0, 5), (54, 5), (55, 6), (56, 6), (57, 9), (71, 9)] {
        let body = world.get(MEMBER, &path).version(minor).send().await;
        let body = body.expect(200);
        let fields = body["transfer"].as_object().unwrap();
        assert_eq!(fields.len(), count, "3.{minor}: {body}");
    }
    let other = world.volume(1).await;
    let body = json!({"transfer": {"volume_id": other, "no_snapshots": true}});
    for (path, minor) in [("/volume-transfers", 54), ("/os-volume-transfer", 71)] {
        world
            .post(MEMBER, path, body.clone())
            .version(minor)
            .send()
            .await
            .fault(400, "badRequest");
    }
    for bad in [
        json!({"transfer": {}}),
        json!({"transfer": {"volume_id": "x"}}),
        json!({"transfer": {"volume_id": other, "name": " "}}),
        json!({"transfer": {"volume_id": other, "name": "n".repeat(256)}}),
        json!({}),
    ] {
        world
            .post(MEMBER, "/volume-transfers", bad)
            .send()
            .await
            .fault(400, "badRequest");
    }
}

#[tokio::test]
async fn lists_have_pages_order_and_filters() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let volume = world.volume(1).await;
        let body = json!({"transfer": {"volume_id": volume, "name": name}});
        let body = world.post(MEMBER, "/volume-transfers", body).send().await;
        ids.push(body.expect(202)["transfer"]["id"].clone());
    }
    let names = async |path: &str, minor| -> Vec<String> {
        let body = world.get(MEMBER, path).version(minor).send().await;
        let body = body.expect(200);
        let rows = body["transfers"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("/volume-transfers", 58).await, ["a", "b", "c"]);
    assert_eq!(names("/volume-transfers", 59).await, ["c", "b", "a"]);
    let sorted = "/volume-transfers/detail?sort=name:asc&limit=2";
    assert_eq!(names(sorted, 59).await, ["a", "b"]);
    let body = world.get(MEMBER, sorted).send().await.expect(200);
    let next = body["transfers_links"][0]["href"].as_str().unwrap();
    let next = next.split("/v3").nth(1).unwrap();
    assert_eq!(names(next, 59).await, ["c"]);
    assert_eq!(names("/volume-transfers?name=b", 59).await, ["b"]);
    assert_eq!(
        names("/volume-transfers?sort_key=name", 58).await,
        ["a", "b", "c"]
    );
    world
        .get(MEMBER, "/volume-transfers?sort=salt")
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn volumes_of_groups_stay() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    world
        .service
        .database
        .execute(
            "UPDATE volumes SET group_id = ? WHERE id = ?",
            params!["11111111-1111-4111-8111-111111111111", &volume],
        )
        .await
        .unwrap();
    let body = json!({"transfer": {"volume_id": volume}});
    world
        .post(MEMBER, "/volume-transfers", body)
        .send()
        .await
        .fault(400, "badRequest");
}
