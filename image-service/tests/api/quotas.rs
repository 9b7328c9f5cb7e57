//! Limits of projects.

use axum::http::Method;
use image_service::{ImportFilter, Limits, Options};
use serde_json::{Value, json};
use storage::memory::MemoryStore;

use crate::support::{ALICE, Answer, BOB, World};

const MIB: usize = 1 << 20;

async fn world(limits: Limits) -> World {
    let options = Options {
        limits,
        import_filter: ImportFilter {
            allowed_hosts: vec!["127.0.0.1".to_owned()],
            ..ImportFilter::default()
        },
        ..Options::default()
    };
    World::with(options, MemoryStore::new()).await
}

#[tokio::test]
async fn images_are_counted() {
    let world = world(Limits {
        image_count_total: Some(2),
        ..Limits::default()
    })
    .await;
    let first = world.create_raw(ALICE).await;
    world.create_raw(ALICE).await;
    world.post(ALICE, "/v2/images", json!({})).await.expect(413);
    world.create_raw(BOB).await;
    world
        .delete(ALICE, &format!("/v2/images/{first}"))
        .await
        .expect(204);
    world.create_raw(ALICE).await;
    let usage = world.get(ALICE, "/v2/info/usage").await.expect(200).json();
    assert_eq!(
        usage["usage"]["image_count_total"],
        json!({"usage": 2, "limit": 2})
    );
    assert_eq!(
        usage["usage"]["image_size_total"],
        json!({"usage": 0, "limit": -1})
    );
}

/// What Tempest's test_unified_limits expects of sizes that are not announced.
#[tokio::test]
async fn data_is_counted_in_mib() {
    let world = world(Limits {
        image_size_total: Some(1),
        ..Limits::default()
    })
    .await;
    let unannounced = || {
        axum::body::Body::from_stream(futures_util::stream::once(async {
            Ok::<_, std::io::Error>(vec![1; MIB])
        }))
    };
    let announced = |id: &str| {
        World::request(ALICE, Method::PUT, &format!("/v2/images/{id}/file"))
            .header("content-type", "application/octet-stream")
            .header("x-openstack-image-size", MIB)
            .body(unannounced())
            .unwrap()
    };
    let first = world.create_raw(ALICE).await;
    world.send(announced(&first)).await.expect(204);
    let second = world.create_raw(ALICE).await;
    world.send(announced(&second)).await.expect(413);
    world
        .upload(ALICE, &second, unannounced())
        .await
        .expect(204);
    let third = world.create_raw(ALICE).await;
    world.upload(ALICE, &third, unannounced()).await.expect(413);
    assert_eq!(world.show(&third).await["status"], "queued");
    world
        .delete(ALICE, &format!("/v2/images/{first}"))
        .await
        .expect(204);
    world.upload(ALICE, &third, unannounced()).await.expect(204);
    let usage = world.get(ALICE, "/v2/info/usage").await.expect(200).json();
    assert_eq!(
        usage["usage"]["image_size_total"],
        json!({"usage": 2, "limit": 1})
    );
}

#[tokio::test]
async fn uploads_at_the_same_time_are_counted() {
    let world = world(Limits {
        image_count_uploading: Some(0),
        ..Limits::default()
    })
    .await;
    let id = world.create_raw(ALICE).await;
    world.upload(ALICE, &id, "data").await.expect(413);
    world.stage(ALICE, &id, "data").await.expect(413);
    web_download(&world, &id).await.expect(413);
    let image = world.show(&id).await;
    assert_eq!(image["status"], "queued");
    assert_eq!(image.get("os_glance_import_task"), None);
}

async fn import(world: &World, id: &str, method: Value) -> Answer {
    let path = format!("/v2/images/{id}/import");
    world.post(ALICE, &path, json!({"method": method})).await
}

async fn web_download(world: &World, id: &str) -> Answer {
    let method = json!({"name": "web-download", "uri": "http://127.0.0.1/x"});
    import(world, id, method).await
}

#[tokio::test]
async fn staged_data_is_counted() {
    let world = world(Limits {
        image_stage_total: Some(1),
        ..Limits::default()
    })
    .await;
    let first = world.create_raw(ALICE).await;
    world.stage(ALICE, &first, vec![1; MIB]).await.expect(204);
    let announced = world.create_raw(ALICE).await;
    let path = format!("/v2/images/{announced}/stage");
    let request = World::request(ALICE, Method::PUT, &path)
        .header("content-type", "application/octet-stream")
        .header("content-length", MIB)
        .body(axum::body::Body::from(vec![1; MIB]));
    world.send(request.unwrap()).await.expect(413);
    world
        .stage(ALICE, &announced, vec![1; MIB])
        .await
        .expect(204);
    let third = world.create_raw(ALICE).await;
    world.stage(ALICE, &third, "data").await.expect(413);
    web_download(&world, &third).await.expect(413);
    assert_eq!(world.show(&third).await["status"], "queued");
    // What is imported is staged no more.
    let direct = json!({"name": "glance-direct"});
    import(&world, &first, direct).await.expect(202);
    world.wait_for_task(&first).await;
    world.stage(ALICE, &third, "data").await.expect(204);
}

#[tokio::test]
async fn staged_data_must_fit_when_it_is_imported() {
    let world = world(Limits {
        image_size_total: Some(1),
        ..Limits::default()
    })
    .await;
    let id = world.create_raw(ALICE).await;
    world.stage(ALICE, &id, vec![1; 2 * MIB]).await.expect(204);
    let direct = json!({"name": "glance-direct"});
    import(&world, &id, direct).await.expect(413);
    assert_eq!(world.show(&id).await["status"], "uploading");
}
