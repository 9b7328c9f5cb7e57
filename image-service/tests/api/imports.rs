//! Staging, imports, stores and tasks.

use axum::Router;
use axum::body::Body;
use axum::http::Method;
use axum::routing::get;
use image_service::{ImportFilter, Options, StoreKind, StoreOptions};
use serde_json::{Value, json};
use storage::ImageStore;
use storage::memory::MemoryStore;

use crate::support::{ADMIN, ALICE, BOB, World};

/// Stores `fast` (the default), `big`, which is read from first, and the web on this machine.
pub fn three_stores() -> Options {
    let store = |id: &str, weight: i64| StoreOptions {
        id: id.to_owned(),
        kind: StoreKind::Rbd {
            pool: format!("pool-{id}"),
            chunk_bytes: 1 << 20,
        },
        store_description: String::new(),
        weight,
    };
    let web = StoreOptions {
        kind: StoreKind::Http,
        ..store("web", 0)
    };
    Options {
        enabled_backends: vec![store("fast", 1), store("big", 5), web],
        import_filter: ImportFilter {
            allowed_hosts: vec!["127.0.0.1".to_owned()],
            allowed_ports: Vec::new(),
            ..ImportFilter::default()
        },
        show_multiple_locations: true,
        show_image_direct_url: true,
        ..Options::default()
    }
}

pub async fn multi_store() -> World {
    World::with(three_stores(), MemoryStore::new()).await
}

/// A server on this machine that has `DATA` at `/data`; its base URL.
pub async fn web() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/data", get(async || DATA));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

pub const DATA: &str = "some data of an image";

async fn import(world: &World, token: &str, id: &str, body: Value) -> u16 {
    let path = format!("/v2/images/{id}/import");
    world.post(token, &path, body).await.status.as_u16()
}

fn direct() -> Value {
    json!({"method": {"name": "glance-direct"}})
}

#[tokio::test]
async fn staged_data_is_imported() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    assert_eq!(import(&world, ALICE, &id, direct()).await, 409);
    world.stage(BOB, &id, "x").await.expect(404);
    world.stage(ALICE, &id, DATA).await.expect(204);
    assert_eq!(world.show(&id).await["status"], "uploading");
    assert_eq!(world.show(&id).await["size"], DATA.len());
    world.stage(ALICE, &id, DATA).await.expect(409);
    world.upload(ALICE, &id, DATA).await.expect(409);
    assert_eq!(import(&world, BOB, &id, direct()).await, 404);
    assert_eq!(import(&world, ALICE, &id, direct()).await, 202);
    let task = world.wait_for_task(&id).await;
    assert_eq!(
        (&task["status"], &task["type"]),
        (&json!("success"), &json!("api_image_import"))
    );
    assert_eq!(
        task["input"]["import_req"]["method"]["name"],
        "glance-direct"
    );
    assert_eq!(task["result"]["image_id"], id);
    let image = world.show(&id).await;
    assert_eq!(image["status"], "active");
    assert_eq!(image["checksum"].as_str().unwrap().len(), 32);
    assert_eq!(image["os_glance_importing_to_stores"], "");
    assert_eq!(image.get("os_glance_import_task"), None);
    assert_eq!(image.get("stores"), None);
    let path = format!("/v2/images/{id}/file");
    assert_eq!(world.get(ALICE, &path).await.expect(200).text(), DATA);
    assert_eq!(world.store.images("images-staging").await.unwrap(), [""; 0]);
    assert_eq!(import(&world, ALICE, &id, direct()).await, 409);
}

#[tokio::test]
async fn staged_data_goes_with_its_image() {
    let world = World::new().await;
    let id = world.create_raw(ALICE).await;
    world.stage(ALICE, &id, DATA).await.expect(204);
    world
        .delete(ALICE, &format!("/v2/images/{id}"))
        .await
        .expect(204);
    while !world
        .store
        .images("images-staging")
        .await
        .unwrap()
        .is_empty()
    {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    world.wait_until_store_is_empty().await;
}

#[tokio::test]
async fn requests_that_cannot_be_are_refused() {
    let world = multi_store().await;
    let id = world.create_raw(ALICE).await;
    let web = |extra: Value| {
        let mut body = json!({"method": {"name": "web-download", "uri": "http://192.0.2.1/"}});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        body
    };
    let remote = json!({"name": "glance-download", "glance_region": "R", "glance_image_id": "x"});
    for (body, status) in [
        (json!({}), 400),
        (json!({"method": {}}), 400),
        (json!({"method": {"name": "nonsense"}}), 400),
        (web(json!({"all_stores": "yes"})), 400),
        (web(json!({"stores": "fast"})), 400),
        (web(json!({"stores": ["fast"], "all_stores": true})), 400),
        (web(json!({"stores": ["none"]})), 409),
        (web(json!({"stores": ["web"]})), 409),
        (web(json!({})), 400),
        (json!({"method": {"name": "web-download"}}), 400),
        (
            json!({"method": {"name": "web-download", "uri": "gopher://x"}}),
            400,
        ),
        (json!({"method": remote}), 400),
        (
            json!({"method": {"name": "copy-image"}, "all_stores": true}),
            409,
        ),
        (direct(), 409),
    ] {
        let answer = import(&world, ALICE, &id, body.clone()).await;
        assert_eq!(answer, status, "{body}");
    }
    let bare = world.create(ALICE, json!({})).await;
    assert_eq!(import(&world, ALICE, &bare, web(json!({}))).await, 409);
    assert_eq!(world.show(&id).await["status"], "queued");
}

#[tokio::test]
async fn the_web_brings_data_into_every_store_and_one_can_lose_it() {
    let (world, web) = (multi_store().await, web().await);
    let answer = world
        .post(
            ALICE,
            "/v2/images",
            json!({"disk_format": "raw", "container_format": "bare"}),
        )
        .await
        .expect(201);
    assert_eq!(answer.header("openstack-image-store-ids"), "fast,big");
    let methods = "glance-direct,web-download,copy-image,glance-download";
    assert_eq!(answer.header("openstack-image-import-methods"), methods);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let uri = format!("{web}/data");
    let body = json!({"method": {"name": "web-download", "uri": uri}, "all_stores": true});
    assert_eq!(import(&world, ALICE, &id, body).await, 202);
    assert_eq!(world.wait_for_task(&id).await["status"], "success");
    let image = world.show(&id).await;
    assert_eq!(
        (&image["status"], &image["stores"]),
        (&json!("active"), &json!("big,fast"))
    );
    assert_eq!(image["direct_url"], image["locations"][0]["url"]);
    let prefer = |store: &str| format!("/v2/images/{id}/file?prefer={store}");
    assert_eq!(
        world.get(ALICE, &prefer("fast")).await.expect(200).text(),
        DATA
    );
    world.get(ALICE, &prefer("none")).await.expect(400);

    let store = |store: &str| format!("/v2/stores/{store}/{id}");
    world.delete(ALICE, &store("big")).await.expect(403);
    world.delete(ADMIN, &store("none")).await.expect(409);
    world.delete(ADMIN, &store("web")).await.expect(404);
    world.delete(ADMIN, &store("big")).await.expect(204);
    world.delete(ADMIN, &store("fast")).await.expect(403);
    assert_eq!(world.show(&id).await["stores"], "fast");
    while !world.store.images("pool-big").await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(
        world.store.images("pool-fast").await.unwrap(),
        [id.as_str()]
    );

    let copy = json!({"method": {"name": "copy-image"}, "stores": ["big"]});
    assert_eq!(import(&world, ALICE, &id, copy.clone()).await, 403);
    assert_eq!(import(&world, ADMIN, &id, copy.clone()).await, 202);
    while world.show(&id).await["stores"] != "big,fast" {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(import(&world, ADMIN, &id, copy).await, 400);
    let all = json!({"method": {"name": "copy-image"}, "all_stores": true});
    assert_eq!(import(&world, ADMIN, &id, all).await, 202);
    let tasks = world.get(ALICE, &format!("/v2/images/{id}/tasks")).await;
    let tasks = tasks.json()["tasks"].as_array().unwrap().clone();
    assert_eq!(tasks.len(), 2);
    for task in tasks {
        assert_eq!(task["message"], "Copied 0 MiB");
        assert_eq!(task["deleted"], false);
    }
}

#[tokio::test]
async fn an_import_that_fails_leaves_the_image_queued() {
    let (world, web) = (multi_store().await, web().await);
    let id = world.create_raw(ALICE).await;
    let method = json!({"name": "web-download", "uri": format!("{web}/none")});
    let body = json!({"method": method, "stores": ["fast"]});
    assert_eq!(import(&world, ALICE, &id, body).await, 202);
    let task = world.wait_for_task(&id).await;
    assert_eq!(task["status"], "failure");
    assert!(task["message"].as_str().unwrap().contains("404"), "{task}");
    let image = world.show(&id).await;
    assert_eq!(
        (&image["status"], &image["size"]),
        (&json!("queued"), &Value::Null)
    );
    assert_eq!(image["os_glance_failed_import"], "fast");
    world.upload(ALICE, &id, DATA).await.expect(204);
}

#[tokio::test]
async fn an_upload_chooses_its_store() {
    let world = multi_store().await;
    for (store, pool) in [("big", "pool-big"), ("", "pool-fast")] {
        let id = world.create_raw(ALICE).await;
        let request = |store: &str| {
            let path = format!("/v2/images/{id}/file");
            World::request(ALICE, Method::PUT, &path)
                .header("content-type", "application/octet-stream")
                .header("x-image-meta-store", store)
                .body(Body::from(DATA))
                .unwrap()
        };
        world.send(request("none")).await.expect(400);
        world.send(request("web")).await.expect(400);
        world.send(request(store)).await.expect(204);
        assert_eq!(world.store.images(pool).await.unwrap(), [id.as_str()]);
        world
            .delete(ALICE, &format!("/v2/images/{id}"))
            .await
            .expect(204);
        while !world.store.images(pool).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn stores_are_shown() {
    let world = multi_store().await;
    let stores = world.get(ALICE, "/v2/info/stores").await.expect(200).json();
    let expected = json!({"stores": [
        {"id": "fast", "default": "true"}, {"id": "big"}, {"id": "web", "read-only": "true"},
    ]});
    assert_eq!(stores, expected);
    world.get(ALICE, "/v2/info/stores/detail").await.expect(403);
    let detail = world.get(ADMIN, "/v2/info/stores/detail").await.expect(200);
    let big = detail.json()["stores"][1].clone();
    assert_eq!((&big["type"], &big["weight"]), (&json!("rbd"), &json!(5)));
    assert_eq!(big["properties"]["pool"], "pool-big");
    assert_eq!(big["properties"]["fsid"], world.store.fsid());
    let versions = world.get("", "/versions").await.expect(200).json();
    let ids = versions["versions"].as_array().unwrap().iter();
    let ids: Vec<_> = ids.filter_map(|version| version["id"].as_str()).collect();
    assert!(ids.contains(&"v2.12"), "{ids:?}");
    world.get(ALICE, "/v2.13/images").await.expect(200);
}

#[tokio::test]
async fn admins_make_and_see_tasks() {
    let (world, web) = (multi_store().await, web().await);
    world.get(ALICE, "/v2/tasks").await.expect(403);
    let input = json!({
        "import_from": format!("{web}/data"), "import_from_format": "raw",
        "image_properties": {"name": "n", "disk_format": "raw", "container_format": "bare"},
    });
    let body = |input: Value| json!({"type": "import", "input": input});
    world
        .post(ALICE, "/v2/tasks", body(input.clone()))
        .await
        .expect(403);
    let mut broken = input.clone();
    broken["import_from"] = json!("http://no-such-host.invalid/x");
    world
        .post(ADMIN, "/v2/tasks", body(broken))
        .await
        .expect(400);
    world
        .post(ADMIN, "/v2/tasks", json!({"type": "import"}))
        .await
        .expect(400);
    let answer = world
        .post(ADMIN, "/v2/tasks", body(input))
        .await
        .expect(201);
    let task = answer.json();
    assert_eq!(
        (&task["type"], &task["status"]),
        (&json!("import"), &json!("pending"))
    );
    let path = task["self"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), path);
    let ended = loop {
        let task = world.get(ADMIN, &path).await.expect(200).json();
        if task["status"] == "success" {
            break task;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    };
    let id = ended["result"]["image_id"].as_str().unwrap();
    assert_eq!(world.show(id).await["status"], "active");
    let list = world
        .get(ADMIN, "/v2/tasks?status=success")
        .await
        .expect(200)
        .json();
    assert_eq!(list["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(list["tasks"][0].get("input"), None);
    world.get(ADMIN, "/v2/tasks?status=x").await.expect(400);
    world.get(ADMIN, "/v2/tasks/x").await.expect(404);
    world.delete(ADMIN, &path).await.expect(405);
}
