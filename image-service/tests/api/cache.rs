//! The image cache.

use image_service::Options;
use serde_json::{Value, json};
use storage::memory::MemoryStore;

use crate::support::{ADMIN, ALICE, World};

async fn world(folder: &tempfile::TempDir) -> World {
    let options = Options {
        image_cache_dir: Some(folder.path().to_owned()),
        image_cache_max_size: 10,
        ..Options::default()
    };
    World::with(options, MemoryStore::new()).await
}

async fn state(world: &World) -> Value {
    world.get(ADMIN, "/v2/cache").await.expect(200).json()
}

/// Waits until nothing is queued; the cached images.
async fn settled(world: &World) -> Vec<Value> {
    loop {
        let state = state(world).await;
        if state["queued_images"] == json!([]) {
            return state["cached_images"].as_array().unwrap().clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

async fn uploaded(world: &World, data: &'static str) -> String {
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, data).await.expect(204);
    id
}

#[tokio::test]
async fn a_queued_image_is_copied_and_read_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    let id = uploaded(&world, "12345").await;
    let cache = format!("/v2/cache/{id}");
    let queue = async |id: &str, status: u16| {
        world
            .put(ADMIN, &format!("/v2/cache/{id}"), Value::Null)
            .await
            .expect(status)
    };
    world.put(ALICE, &cache, Value::Null).await.expect(403);
    queue("no-image", 404).await;
    let empty = world.create_raw(ALICE).await;
    queue(&empty, 400).await;
    queue(&id, 202).await;
    let cached = settled(&world).await;
    assert_eq!(cached.len(), 1);
    assert_eq!(
        (
            &cached[0]["image_id"],
            &cached[0]["size"],
            &cached[0]["hits"]
        ),
        (&json!(id), &json!(5), &json!(0))
    );

    // What the copy says is what a download says.
    std::fs::write(folder.path().join(&id), "abcde").unwrap();
    let data = world
        .get(ALICE, &format!("/v2/images/{id}/file"))
        .await
        .expect(200);
    assert_eq!(data.bytes, "abcde");
    assert_eq!(settled(&world).await[0]["hits"], 1);

    // Ten bytes are the most: the copy that was not read for longest makes room.
    let second = uploaded(&world, "123456").await;
    let large = uploaded(&world, "12345678901").await;
    queue(&large, 202).await;
    queue(&second, 202).await;
    let cached = settled(&world).await;
    assert_eq!(cached.len(), 1);
    assert_eq!(cached[0]["image_id"], json!(second));

    world
        .delete(ADMIN, &format!("/v2/cache/{second}"))
        .await
        .expect(204);
    world.delete(ADMIN, "/v2/cache/no-image").await.expect(404);
    queue(&id, 202).await;
    assert_eq!(settled(&world).await.len(), 1);
    world
        .delete(ALICE, &format!("/v2/images/{id}"))
        .await
        .expect(204);
    assert_eq!(settled(&world).await.len(), 0);
}

#[tokio::test]
async fn clearing_pruning_and_versions() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    let id = uploaded(&world, "1").await;
    let clear = async |target: &str, status: u16| {
        let request = World::request(ADMIN, axum::http::Method::DELETE, "/v2/cache");
        let request = request.header("x-image-cache-clear-target", target);
        world
            .send(request.body(axum::body::Body::empty()).unwrap())
            .await
            .expect(status);
    };
    world
        .put(ADMIN, &format!("/v2/cache/{id}"), Value::Null)
        .await
        .expect(202);
    assert_eq!(settled(&world).await.len(), 1);
    clear("invalid", 400).await;
    clear("queue", 204).await;
    assert_eq!(settled(&world).await.len(), 1);
    clear("cache", 204).await;
    assert_eq!(settled(&world).await.len(), 0);
    world.delete(ADMIN, "/v2/cache").await.expect(204);
    world.delete(ALICE, "/v2/cache").await.expect(403);
    let pruned = world
        .post(ADMIN, "/v2/cache/prune", Value::Null)
        .await
        .expect(200)
        .json();
    assert_eq!(
        pruned,
        json!({"total_files_pruned": 0, "total_bytes_pruned": 0})
    );
    world
        .post(ADMIN, "/v2/cache/clean", Value::Null)
        .await
        .expect(200);
    let nodes = format!("/v2/cache/nodes/{id}");
    let known = world.get(ADMIN, &nodes).await.expect(200).json();
    assert_eq!(known, json!([]));
    world
        .put(ADMIN, &format!("/v2/cache/{id}"), Value::Null)
        .await
        .expect(202);
    settled(&world).await;
    let known = world.get(ADMIN, &nodes).await.expect(200).json();
    assert_eq!(known, json!(["localhost"]));
    world.get(ADMIN, "/v2/cache/nodes/x").await.expect(404);
    let versions = world.get(ADMIN, "/versions").await.expect(200).json();
    assert_eq!(versions["versions"][0]["id"], "v2.18");
    world.get(ALICE, "/v2.14/images").await.expect(200);
}

#[tokio::test]
async fn what_is_downloaded_whole_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let world = world(&folder).await;
    let id = uploaded(&world, "1").await;
    let file = format!("/v2/images/{id}/file");
    let request =
        World::request(ALICE, axum::http::Method::GET, &file).header("range", "bytes=0-0");
    let part = world.send(request.body(axum::body::Body::empty()).unwrap());
    part.await.expect(206);
    assert_eq!(settled(&world).await.len(), 0);
    world.get(ALICE, &file).await.expect(200);
    assert_eq!(settled(&world).await.len(), 1);
}

#[tokio::test]
async fn without_a_folder_there_is_no_cache() {
    let world = World::new().await;
    world.get(ADMIN, "/v2/cache").await.expect(404);
    world.get(ALICE, "/v2/cache").await.expect(403);
    world.get(ALICE, "/v2.14/images").await.expect(300);
}

/// The copy is of the data that the image had before.
#[tokio::test]
async fn data_that_is_replaced_is_not_read_from_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        image_cache_dir: Some(folder.path().to_owned()),
        image_cache_max_size: 10,
        show_multiple_locations: true,
        ..Options::default()
    };
    let world = World::with(options, MemoryStore::new()).await;
    let (first, second) = (
        uploaded(&world, "12345").await,
        uploaded(&world, "abcde").await,
    );
    let cache = format!("/v2/cache/{first}");
    world.put(ADMIN, &cache, Value::Null).await.expect(202);
    assert_eq!(settled(&world).await.len(), 1);
    let other = world
        .get(ALICE, &format!("/v2/images/{second}"))
        .await
        .expect(200);
    let other = &other.json()["locations"][0]["url"];
    let added =
        json!([{"op": "add", "path": "/locations/0", "value": {"url": other, "metadata": {}}}]);
    world.patch(ADMIN, &first, added).await.expect(200);
    assert_eq!(settled(&world).await.len(), 0);
}
