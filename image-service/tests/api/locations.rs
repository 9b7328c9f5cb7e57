//! Locations: by PATCH, and by the API of their own.

use image_service::Options;
use serde_json::{Value, json};
use storage::memory::MemoryStore;
use storage::{ImageSpec, ImageStore};

use crate::imports::{DATA, multi_store, web};
use crate::support::{ADMIN, ALICE, SERVICE, World};

fn add(location: Value) -> Value {
    json!([{"op": "add", "path": "/locations/-", "value": location}])
}

fn at(url: &str) -> Value {
    json!({"url": url, "metadata": {"foo": "bar"}})
}

#[tokio::test]
async fn a_location_of_the_web_makes_a_queued_image_active() {
    let (world, web) = (multi_store().await, web().await);
    let url = format!("{web}/data");
    let id = world.create_raw(ALICE).await;
    assert_eq!(world.show(&id).await["locations"], json!([]));
    for (location, status) in [
        (at("gopher://info.cern.ch"), 400),
        (at(&format!("{web}/none")), 400),
        (at("http://169.254.169.254/"), 400),
        (at("rbd://a/b/c/d"), 400),
        (json!({"url": url}), 400),
        (
            json!({"url": url, "metadata": {}, "validation_data": {"os_hash_algo": "sha512"}}),
            400,
        ),
    ] {
        world.patch(ALICE, &id, add(location)).await.expect(status);
    }
    world.patch(ALICE, &id, add(at(&url))).await.expect(200);
    let image = world.show(&id).await;
    assert_eq!(
        (&image["status"], &image["size"]),
        (&json!("active"), &json!(DATA.len()))
    );
    assert_eq!(image["os_hash_algo"], Value::Null);
    assert_eq!(image["stores"], "web");
    assert_eq!(image["direct_url"], url);
    let metadata = json!({"foo": "bar", "store": "web"});
    assert_eq!(
        image["locations"],
        json!([{"url": url, "metadata": metadata}])
    );
    let file = format!("/v2/images/{id}/file");
    assert_eq!(world.get(ALICE, &file).await.expect(200).text(), DATA);
    world.patch(ALICE, &id, add(at(&url))).await.expect(400);
    world.upload(ALICE, &id, DATA).await.expect(409);
}

#[tokio::test]
async fn several_locations_are_replaced_and_removed() {
    let (world, web) = (multi_store().await, web().await);
    let id = world.create_raw(ALICE).await;
    let urls = [format!("{web}/data"), format!("{web}/data#new")];
    for url in &urls {
        world.patch(ALICE, &id, add(at(url))).await.expect(200);
    }
    let mut held = world.show(&id).await["locations"].clone();
    let replace = |value: Value| json!([{"op": "replace", "path": "/locations", "value": value}]);
    world
        .patch(ALICE, &id, replace(held.clone()))
        .await
        .expect(200);
    held[0]["metadata"]["date"] = json!("2015-10-15");
    world
        .patch(ALICE, &id, replace(held.clone()))
        .await
        .expect(200);
    assert_eq!(world.show(&id).await["locations"], held);
    world
        .patch(ALICE, &id, replace(json!([held[0]])))
        .await
        .expect(400);
    world
        .patch(ALICE, &id, replace(json!([])))
        .await
        .expect(403);
    let remove = |at: &str| json!([{"op": "remove", "path": format!("/locations/{at}")}]);
    world.patch(ALICE, &id, remove("0")).await.expect(403);
    world.patch(ADMIN, &id, remove("7")).await.expect(400);
    world.patch(ADMIN, &id, remove("0")).await.expect(200);
    assert_eq!(world.show(&id).await["locations"], json!([held[1]]));
    world.patch(ADMIN, &id, remove("0")).await.expect(403);
}

#[tokio::test]
async fn hashes_of_locations_must_agree() {
    let (world, web) = (multi_store().await, web().await);
    let id = world.create_raw(ALICE).await;
    let data = json!({
        "checksum": "1".repeat(32), "os_hash_algo": "sha512", "os_hash_value": "deadbeef".repeat(16),
    });
    let with = |fragment: &str, data: &Value| {
        let url = format!("{web}/data{fragment}");
        add(json!({"url": url, "metadata": {}, "validation_data": data}))
    };
    for (name, value) in [
        ("os_hash_algo", json!("sha256")),
        ("os_hash_value", json!("beef")),
        ("checksum", json!("2".repeat(31))),
    ] {
        let mut wrong = data.clone();
        wrong[name] = value;
        world.patch(ALICE, &id, with("", &wrong)).await.expect(409);
    }
    world.patch(ALICE, &id, with("", &data)).await.expect(200);
    let image = world.show(&id).await;
    for name in ["checksum", "os_hash_algo", "os_hash_value"] {
        assert_eq!(image[name], data[name], "{name}");
    }
    assert_eq!(image["locations"][0].get("validation_data"), None);
    let mut other = data.clone();
    other["checksum"] = json!("2".repeat(32));
    world
        .patch(ALICE, &id, with("#2", &other))
        .await
        .expect(409);
    world.patch(ALICE, &id, with("#2", &data)).await.expect(200);
}

/// What Nova does after it has cloned a disk into the image's place.
#[tokio::test]
async fn data_of_the_store_belongs_to_its_own_image_only() {
    let options = Options {
        show_multiple_locations: true,
        ..Options::default()
    };
    let world = World::with(options, MemoryStore::new()).await;
    let secret = world.create_raw(ALICE).await;
    world.upload(ALICE, &secret, DATA).await.expect(204);
    let url = |id: &str| format!("rbd://{}/images/{id}/snap", world.store.fsid());
    let id = world.create_raw("bob:member,reader").await;
    let bob = "bob:member,reader";
    world
        .patch(bob, &id, add(at(&url(&secret))))
        .await
        .expect(403);
    world.patch(bob, &id, add(at(&url(&id)))).await.expect(400);
    let snapshot = ImageSpec::new("images", &id).at("snap");
    world.store.create(&snapshot.image, 4096).await.unwrap();
    world.store.create_snapshot(&snapshot).await.unwrap();
    world.store.protect_snapshot(&snapshot).await.unwrap();
    world.patch(bob, &id, add(at(&url(&id)))).await.expect(200);
    let image = world.show(&id).await;
    assert_eq!(
        (&image["status"], &image["size"]),
        (&json!("active"), &json!(4096))
    );
    world
        .delete(bob, &format!("/v2/images/{id}"))
        .await
        .expect(204);
    while world.stored().await != [secret.as_str()] {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_location_api_verifies_hashes() {
    let (world, web) = (multi_store().await, web().await);
    let url = format!("{web}/data");
    let id = world.create_raw(ALICE).await;
    let path = format!("/v2/images/{id}/locations");
    let rbd = format!("rbd://{}/pool-fast/{id}/snap", world.store.fsid());
    world
        .post(ALICE, &path, json!({"url": rbd}))
        .await
        .expect(403);
    world
        .post("bob:member,reader", &path, json!({"url": url}))
        .await
        .expect(404);
    for data in [
        json!({"os_hash_algo": "sha512", "os_hash_value": "dbc9"}),
        json!({"os_hash_value": "0".repeat(128)}),
        json!({"os_hash_algo": "sha123", "os_hash_value": "0".repeat(128)}),
    ] {
        let body = json!({"url": url, "validation_data": data});
        world.post(ALICE, &path, body).await.expect(400);
    }
    let body = json!({"url": "http://169.254.169.254/"});
    world.post(ALICE, &path, body).await.expect(400);
    let data = json!({"os_hash_algo": "sha512", "os_hash_value": "beefdead".repeat(16)});
    let body = json!({"url": url, "validation_data": data});
    world.post(ALICE, &path, body).await.expect(202);
    assert_eq!(world.wait_for_task(&id).await["status"], "failure");
    let image = world.show(&id).await;
    assert_eq!(
        (&image["status"], &image["stores"]),
        (&json!("queued"), &json!("web"))
    );
    assert_eq!(
        (&image["checksum"], &image["os_hash_algo"]),
        (&Value::Null, &Value::Null)
    );

    world
        .post(ALICE, &path, json!({"url": url}))
        .await
        .expect(202);
    while world.show(&id).await["checksum"].is_null() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let image = world.show(&id).await;
    assert_eq!(
        (&image["status"], &image["os_hash_algo"]),
        (&json!("active"), &json!("sha512"))
    );
    world
        .post(ALICE, &path, json!({"url": url}))
        .await
        .expect(409);
    let held = world.get(SERVICE, &path).await.expect(200).json();
    assert_eq!(held[0]["url"], url);
}
