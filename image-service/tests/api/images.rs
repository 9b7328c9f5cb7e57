//! Create, show, delete, tags, actions, schemas, info, versions, hostile bodies.

use axum::body::Body;
use axum::http::Method;
use image_service::Options;
use serde_json::{Value, json};
use storage::memory::MemoryStore;
use storage::{ImageSpec, ImageStore};

use crate::support::{ADMIN, ALICE, BOB, READER, SERVICE, World};

#[tokio::test]
async fn a_new_image_has_glances_defaults() {
    let world = World::new().await;
    let body = json!({
        "name": "cirros", "disk_format": "qcow2", "container_format": "bare", "protected": true,
        "min_disk": 1, "min_ram": 2, "tags": ["b", "a", "b"], "hw_disk_bus": "virtio", "kernel_id": null,
    });
    let answer = world.post(ALICE, "/v2/images", body).await.expect(201);
    let image = answer.json();
    let id = image["id"].as_str().unwrap();
    assert_eq!(
        answer.header("location"),
        format!("http://glance/v2/images/{id}")
    );
    assert!(answer.header("x-openstack-request-id").starts_with("req-"));
    let expected = json!({
        "id": id, "name": "cirros", "status": "queued", "visibility": "shared", "protected": true,
        "os_hidden": false, "checksum": null, "os_hash_algo": null, "os_hash_value": null,
        "owner": "alice", "size": null, "virtual_size": null, "container_format": "bare",
        "disk_format": "qcow2", "created_at": image["created_at"], "updated_at": image["updated_at"],
        "min_ram": 2, "min_disk": 1, "tags": ["a", "b"], "self": format!("/v2/images/{id}"),
        "file": format!("/v2/images/{id}/file"), "schema": "/v2/schemas/image",
        "hw_disk_bus": "virtio", "kernel_id": null,
    });
    assert_eq!(image, expected);
    assert_eq!(
        world
            .get(READER, &format!("/v2/images/{id}"))
            .await
            .expect(200)
            .json(),
        expected
    );
    assert_eq!(
        world
            .get(READER, &format!("/v2.5/images/{id}"))
            .await
            .expect(200)
            .json(),
        expected
    );
}

#[tokio::test]
async fn what_must_not_be_created() {
    let world = World::new().await;
    let id = "2f1f7e0d-5d24-4bd5-8bd6-5ac65cf0c7a6";
    assert_eq!(world.create(ALICE, json!({"id": id})).await, id);
    let long = "x".repeat(256);
    let cases: Vec<(&str, Value, u16)> = vec![
        (ALICE, json!({"id": id}), 409),
        (ALICE, json!({"id": "1"}), 400),
        (ALICE, json!({"id": 1}), 400),
        (ALICE, json!({"name": 5}), 400),
        (ALICE, json!({"name": long}), 400),
        (ALICE, json!({"name": "a\u{0}b"}), 400),
        (ALICE, json!({"visibility": "secret"}), 400),
        (ALICE, json!({"visibility": "public"}), 403),
        (ALICE, json!({"owner": "bob"}), 403),
        (ALICE, json!({"owner": null}), 403),
        (READER, json!({}), 403),
        (SERVICE, json!({}), 403),
        (ALICE, json!({"status": "active"}), 403),
        (ALICE, json!({"size": 1}), 403),
        (ALICE, json!({"deleted": "1"}), 403),
        (ALICE, json!({"os_glance_import_task": "x"}), 403),
        (ALICE, json!({"locations": []}), 403),
        (ALICE, json!({"disk_format": "floppy"}), 400),
        (ALICE, json!({"container_format": 3}), 400),
        (ALICE, json!({"min_disk": -1}), 400),
        (ALICE, json!({"min_disk": 1.5}), 400),
        (ALICE, json!({"min_ram": 4_294_967_296_u64}), 400),
        (ALICE, json!({"protected": "yes"}), 400),
        (ALICE, json!({"tags": "a"}), 400),
        (ALICE, json!({"tags": [1]}), 400),
        (ALICE, json!({"tags": [long]}), 400),
        (ALICE, json!({"a": 1}), 400),
        (ALICE, json!({"a": {}}), 400),
        (ALICE, json!({"a": null}), 400),
        (ALICE, json!({"kernel_id": "vmlinuz"}), 400),
        (
            ALICE,
            json!({"cinder_encryption_key_deletion_policy": "never"}),
            400,
        ),
        (ALICE, json!({"": "a"}), 400),
        (ALICE, json!({long.as_str(): "a"}), 400),
        (ALICE, json!({"a": "x".repeat(65_536)}), 400),
        (ALICE, json!([]), 400),
        (ALICE, json!("x"), 400),
        (ALICE, Value::Null, 400),
    ];
    for (token, body, status) in cases {
        let shown: String = body.to_string().chars().take(60).collect();
        let answer = world.post(token, "/v2/images", body).await;
        assert_eq!(answer.status.as_u16(), status, "{shown}: {}", answer.text());
    }
    let images = world.get(ADMIN, "/v2/images").await.expect(200).json();
    assert_eq!(images["images"].as_array().unwrap().len(), 1);
    world
        .create(ADMIN, json!({"owner": "bob", "visibility": "public"}))
        .await;
}

#[tokio::test]
async fn hostile_bodies_are_refused() {
    let world = World::new().await;
    let deep = "[".repeat(100_000);
    let wide = format!("{{\"a\": \"{}\"}}", "x".repeat(2 << 20));
    for (body, status) in [
        ("{", 400),
        ("", 400),
        (deep.as_str(), 400),
        ("\u{fffd}\u{0}", 400),
        (&wide, 413),
    ] {
        let request = World::request(ALICE, Method::POST, "/v2/images");
        let answer = world
            .send(request.body(Body::from(body.to_owned())).unwrap())
            .await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{}",
            body.chars().take(20).collect::<String>()
        );
    }
    let properties: serde_json::Map<_, _> =
        (0..129).map(|n| (format!("p{n}"), json!("v"))).collect();
    world
        .post(ALICE, "/v2/images", Value::Object(properties))
        .await
        .expect(413);
    let tags: Vec<_> = (0..129).map(|n| format!("t{n}")).collect();
    world
        .post(ALICE, "/v2/images", json!({"tags": tags}))
        .await
        .expect(413);
    for path in [
        "/v2/images/%00",
        "/v2/images/..%2f..",
        "/v2/images/%ff",
        "/v2/nothing",
    ] {
        let status = world.get(ALICE, path).await.status.as_u16();
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
}

#[tokio::test]
async fn others_images_are_not_found() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    let path = format!("/v2/images/{id}");
    world.get(BOB, &path).await.expect(404);
    world.delete(BOB, &path).await.expect(404);
    world.patch(BOB, &id, json!([])).await.expect(404);
    world.upload(BOB, &id, "x").await.expect(404);
    world.get(BOB, &format!("{path}/file")).await.expect(404);
    world
        .put(BOB, &format!("{path}/tags/a"), Value::Null)
        .await
        .expect(404);
    world
        .post(BOB, &format!("{path}/actions/deactivate"), Value::Null)
        .await
        .expect(404);
    world.get(READER, &path).await.expect(200);
    world.delete(READER, &path).await.expect(403);
    world.upload(READER, &id, "x").await.expect(403);
    world.get(ADMIN, &path).await.expect(200);
    // Known to exist, so the refusal says so.
    world
        .patch(
            ADMIN,
            &id,
            json!([{"op": "replace", "path": "/visibility", "value": "community"}]),
        )
        .await
        .expect(200);
    world.get(BOB, &path).await.expect(200);
    world.delete(BOB, &path).await.expect(403);
}

#[tokio::test]
async fn without_a_token_only_version_documents() {
    let world = World::new().await;
    for (path, status) in [
        ("/", 300),
        ("/versions", 200),
        ("/v2/", 200),
        ("/v2/images", 401),
        ("/v2/schemas/image", 401),
    ] {
        let request = axum::http::Request::builder()
            .uri(path)
            .header("host", "glance:9292");
        let answer = world.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        if status < 400 {
            let newest = &answer.json()["versions"][0];
            let links = json!([{"rel": "self", "href": "http://glance:9292/v2/"}]);
            assert_eq!(
                newest,
                &json!({"id": "v2.17", "status": "CURRENT", "links": links})
            );
        }
    }
}

#[tokio::test]
async fn the_version_is_in_the_path_or_in_the_media_type() {
    let world = World::new().await;
    let asked = async |path: &str, accept: &str| {
        let request = World::request(ALICE, Method::GET, path).header("accept", accept);
        let answer = world.send(request.body(Body::empty()).unwrap()).await;
        answer.status.as_u16()
    };
    for (path, accept, status) in [
        (
            "/images?limit=1",
            "application/vnd.openstack.images-v2",
            200,
        ),
        ("/images", "application/vnd.openstack.images-v2.9+json", 200),
        ("/v2.7/images", "application/vnd.openstack.images-v2", 200),
        ("/images", "application/vnd.openstack.images-v3", 300),
        ("/images", "application/json", 300),
        ("/v1/images", "*/*", 300),
        ("/v2.18/images", "*/*", 300),
        ("/v2/nothing", "*/*", 404),
    ] {
        assert_eq!(asked(path, accept).await, status, "{path} {accept}");
    }
}

#[tokio::test]
async fn a_body_where_none_belongs_is_refused() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, "data").await.expect(204);
    let image = format!("/v2/images/{id}");
    for (method, path) in [
        (Method::DELETE, image.clone()),
        (Method::GET, image.clone()),
        (Method::PUT, format!("{image}/tags/a")),
        (Method::POST, format!("{image}/actions/deactivate")),
    ] {
        let request = World::request(ALICE, method.clone(), &path).header("content-length", "2");
        let answer = world.send(request.body(Body::from("{}")).unwrap()).await;
        assert_eq!(answer.status.as_u16(), 400, "{method} {path}");
    }
    let now = world.get(ALICE, &image).await.expect(200).json();
    assert_eq!(
        (&now["status"], &now["tags"]),
        (&json!("active"), &json!([]))
    );
    let request = World::request(ALICE, Method::GET, "/v2/images").header("content-length", "2");
    let answer = world.send(request.body(Body::from("{}")).unwrap()).await;
    answer.expect(200);
}

#[tokio::test]
async fn a_deactivated_image_shows_its_data_to_admins_only() {
    let options = Options {
        show_multiple_locations: true,
        show_image_direct_url: true,
        ..Options::default()
    };
    let world = World::with(options, MemoryStore::new()).await;
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, "data").await.expect(204);
    let path = format!("/v2/images/{id}");
    let shown = async |token: &str| {
        let one = world.get(token, &path).await.expect(200).json();
        let list = world.get(token, "/v2/images").await.expect(200).json();
        let listed = &list["images"][0];
        assert_eq!(one["locations"], listed["locations"]);
        assert_eq!(one.get("direct_url"), listed.get("direct_url"));
        one["locations"].as_array().unwrap().len()
    };
    assert_eq!(shown(ALICE).await, 1);
    let deactivate = format!("{path}/actions/deactivate");
    world
        .post(ALICE, &deactivate, Value::Null)
        .await
        .expect(204);
    assert_eq!((shown(ALICE).await, shown(ADMIN).await), (0, 1));
}

#[tokio::test]
async fn a_protected_image_stays_and_a_deleted_one_is_gone() {
    let world = World::new().await;
    let id = world
        .create(
            ALICE,
            json!({"protected": true, "disk_format": "raw", "container_format": "bare"}),
        )
        .await;
    let path = format!("/v2/images/{id}");
    world.upload(ALICE, &id, "data").await.expect(204);
    let refused = world.delete(ALICE, &path).await.expect(403);
    assert!(
        refused
            .text()
            .contains("is protected and cannot be deleted"),
        "{}",
        refused.text()
    );
    world
        .patch(
            ALICE,
            &id,
            json!([{"op": "replace", "path": "/protected", "value": false}]),
        )
        .await
        .expect(200);
    world.delete(ALICE, &path).await.expect(204);
    world.delete(ALICE, &path).await.expect(404);
    world.get(ALICE, &path).await.expect(404);
    world.get(ALICE, &format!("{path}/file")).await.expect(404);
    world.wait_until_store_is_empty().await;
    world
        .post(ALICE, "/v2/images", json!({"id": id}))
        .await
        .expect(409);
}

#[tokio::test]
async fn an_image_with_clones_is_deleted_and_the_clones_live() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, vec![7; 10_000]).await.expect(204);
    let clone = ImageSpec::new("volumes", "volume-1");
    world.store.ensure_pool("volumes").await.unwrap();
    world
        .store
        .clone_image(&ImageSpec::new("images", &id).at("snap"), &clone)
        .await
        .unwrap();
    world
        .delete(ALICE, &format!("/v2/images/{id}"))
        .await
        .expect(204);
    while !world.stored().await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let handle = world.store.open(&clone, None).await.unwrap();
    assert_eq!(handle.read(0, 10_000).await.unwrap(), vec![7; 10_000]);
    assert_eq!(world.store.info(&clone).await.unwrap().parent, None);
}

#[tokio::test]
async fn where_flattening_copies_an_image_with_clones_stays() {
    let store = MemoryStore::new().flattening_slowly();
    let world = World::with(Options::default(), store).await;
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, vec![7; 10_000]).await.expect(204);
    let clone = ImageSpec::new("volumes", "volume-1");
    world.store.ensure_pool("volumes").await.unwrap();
    let snapshot = ImageSpec::new("images", &id).at("snap");
    world.store.clone_image(&snapshot, &clone).await.unwrap();
    let path = format!("/v2/images/{id}");
    let refused = world.delete(ALICE, &path).await.expect(409);
    assert!(refused.text().contains("in use"), "{}", refused.text());
    assert_eq!(world.show(&id).await["status"], "active");
    world.store.remove(&clone).await.unwrap();
    world.delete(ALICE, &path).await.expect(204);
    world.wait_until_store_is_empty().await;
}

#[tokio::test]
async fn tags_come_and_go() {
    let world = World::new().await;
    let id = world.create(ALICE, json!({})).await;
    let tag = |tag: &str| format!("/v2/images/{id}/tags/{tag}");
    world
        .put(ALICE, &tag("a%20b"), Value::Null)
        .await
        .expect(204);
    world
        .put(ALICE, &tag("a%20b"), Value::Null)
        .await
        .expect(204);
    assert_eq!(world.show(&id).await["tags"], json!(["a b"]));
    world.delete(ALICE, &tag("a%20b")).await.expect(204);
    world.delete(ALICE, &tag("a%20b")).await.expect(404);
    world
        .put(ALICE, &tag(&"x".repeat(256)), Value::Null)
        .await
        .expect(400);
    for n in 0..128 {
        world
            .put(ALICE, &tag(&format!("t{n}")), Value::Null)
            .await
            .expect(204);
    }
    world
        .put(ALICE, &tag("one-more"), Value::Null)
        .await
        .expect(413);
    assert_eq!(world.show(&id).await["tags"].as_array().unwrap().len(), 128);
}

#[tokio::test]
async fn deactivating_blocks_downloads_of_others() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    let path = |rest: &str| format!("/v2/images/{id}/{rest}");
    world
        .post(ALICE, &path("actions/deactivate"), Value::Null)
        .await
        .expect(403);
    world.upload(ALICE, &id, "data").await.expect(204);
    for _ in 0..2 {
        world
            .post(ALICE, &path("actions/deactivate"), Value::Null)
            .await
            .expect(204);
        assert_eq!(world.show(&id).await["status"], "deactivated");
    }
    world.get(ALICE, &path("file")).await.expect(403);
    assert_eq!(
        world.get(ADMIN, &path("file")).await.expect(200).bytes,
        "data"
    );
    world
        .post(ALICE, &path("actions/reactivate"), Value::Null)
        .await
        .expect(204);
    assert_eq!(
        world.get(ALICE, &path("file")).await.expect(200).bytes,
        "data"
    );
}

#[tokio::test]
async fn locations_are_for_services() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    let path = format!("/v2/images/{id}/locations");
    assert_eq!(
        world.get(SERVICE, &path).await.expect(200).json(),
        json!([])
    );
    world.upload(ALICE, &id, "data").await.expect(204);
    let url = format!("rbd://{}/images/{id}/snap", world.store.fsid());
    assert_eq!(
        world.get(SERVICE, &path).await.expect(200).json(),
        json!([{"url": url, "metadata": {}}])
    );
    world.get(ALICE, &path).await.expect(403);
    world.get(BOB, &path).await.expect(404);
    world
        .get(SERVICE, &format!("/v2/images/{id}"))
        .await
        .expect(404);
    assert_eq!(world.show(&id).await.get("direct_url"), None);
}

#[tokio::test]
async fn schemas_and_info() {
    let world = World::new().await;
    let image = world
        .get(ALICE, "/v2/schemas/image")
        .await
        .expect(200)
        .json();
    assert_eq!(image["name"], "image");
    assert_eq!(image["properties"]["checksum"]["readOnly"], true);
    let images = world
        .get(ALICE, "/v2/schemas/images")
        .await
        .expect(200)
        .json();
    assert_eq!(images["properties"]["images"]["items"], image);
    for name in ["member", "members", "task", "tasks"] {
        assert_eq!(
            world
                .get(ALICE, &format!("/v2/schemas/{name}"))
                .await
                .expect(200)
                .json()["name"],
            name
        );
    }
    world.get(ALICE, "/v2/schemas/x").await.expect(404);
    world.get(ALICE, "/v2/info/stores").await.expect(404);
    let import = world.get(ALICE, "/v2/info/import").await.expect(200).json();
    let methods = json!([
        "glance-direct",
        "web-download",
        "copy-image",
        "glance-download"
    ]);
    assert_eq!(import["import-methods"]["value"], methods);
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, vec![1; 1 << 20]).await.expect(204);
    let usage = world.get(ALICE, "/v2/info/usage").await.expect(200).json();
    assert_eq!(
        usage["usage"]["image_count_total"],
        json!({"usage": 1, "limit": -1})
    );
    assert_eq!(usage["usage"]["image_size_total"]["usage"], 1);
    assert_eq!(
        world
            .get(ALICE, &format!("/v2/images/{id}/tasks"))
            .await
            .expect(200)
            .json(),
        json!({"tasks": []})
    );
}

/// Remembers whose token deleted which key.
#[derive(Default)]
struct Keys(std::sync::Mutex<Vec<(String, uuid::Uuid)>>);

#[async_trait::async_trait]
impl image_service::KeyManager for Keys {
    async fn delete(&self, token: &rest::Secret, id: uuid::Uuid) -> Result<(), String> {
        let mut deleted = self.0.lock().unwrap();
        deleted.push((token.expose().to_owned(), id));
        match deleted.len() {
            1 => Ok(()),
            _ => Err("the key manager is on holiday".to_owned()),
        }
    }
}

#[tokio::test]
async fn an_image_takes_its_key_along_if_it_says_so() {
    let world = World::new().await;
    let keys = std::sync::Arc::new(Keys::default());
    world.service.set_key_manager(keys.clone());
    let key = "5b1b6ef8-3f4b-4b6a-8d9c-6d0f0f1c2d3e";
    let going = "on_image_deletion";
    for (policy, id) in [
        (going, key),
        (going, key),
        ("do_not_delete", key),
        (going, "not-a-key"),
    ] {
        let body = json!({
            "name": "i", "cinder_encryption_key_id": id,
            "cinder_encryption_key_deletion_policy": policy,
        });
        let image = world.post(ALICE, "/v2/images", body).await.expect(201);
        let path = format!("/v2/images/{}", image.json()["id"].as_str().unwrap());
        // Also where the key cannot be deleted.
        world.delete(ALICE, &path).await.expect(204);
        world.get(ALICE, &path).await.expect(404);
    }
    let id = uuid::Uuid::parse_str(key).unwrap();
    let deleted = keys.0.lock().unwrap().clone();
    assert_eq!(deleted, vec![(ALICE.to_owned(), id); 2]);
}
