//! The scheduler: chooses, requeues, rings; or fails the volume with a message.

use std::sync::Arc;

use database::params;
use serde_json::json;
use tokio::sync::Notify;
use volume_service::scheduler::Scheduler;

use crate::world::{ADMIN, MEMBER, POOL, World};

fn scheduler(world: &World) -> Scheduler {
    Scheduler::new(world.service.clone(), Arc::new(Notify::new()))
}

#[tokio::test]
async fn a_flow_moves_to_the_pool_with_the_most_room() {
    let world = World::new().await;
    world.report("host@second#volumes", 0.5).await;
    let body = world
        .post(MEMBER, "/volumes", json!({"volume": {"size": 5}}))
        .send()
        .await
        .expect(202);
    let id = body["volume"]["id"].as_str().unwrap();
    world.rung();
    assert_eq!(scheduler(&world).schedule_waiting().await.unwrap(), 1);
    assert_eq!(world.rung(), [format!("volume:{POOL}")]);
    assert_eq!(
        world.flows().await,
        [("volume:create".to_owned(), format!("volume:{POOL}"))]
    );
    let body = world
        .get(ADMIN, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["volume"]["os-vol-host-attr:host"], POOL);
    assert!(body["volume"]["service_uuid"].is_string());
    assert_eq!(scheduler(&world).schedule_waiting().await.unwrap(), 0);
}

#[tokio::test]
async fn without_a_backend_the_volume_fails_and_the_user_is_told() {
    let world = World::new().await;
    world
        .post(
            ADMIN,
            "/types",
            json!({"volume_type": {"name": "odd", "extra_specs": {"volume_backend_name": "none"}}}),
        )
        .send()
        .await
        .expect(200);
    let create = json!({"volume": {"size": 1, "volume_type": "odd"}});
    let body = world
        .post(MEMBER, "/volumes", create)
        .send()
        .await
        .expect(202);
    let id = body["volume"]["id"].as_str().unwrap();
    assert_eq!(scheduler(&world).schedule_waiting().await.unwrap(), 1);
    let body = world
        .get(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["volume"]["status"], "error");
    let body = world
        .get(MEMBER, &format!("/messages?resource_uuid={id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["messages"][0]["event_id"], "VOLUME_VOLUME_001_003");
    assert_eq!(world.flows().await, []);
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
}

#[tokio::test]
async fn pools_of_services_that_are_down_or_disabled_are_passed_over() {
    let world = World::new().await;
    world.report("host@second#volumes", 1.0).await;
    let sql = "UPDATE volume_services SET disabled = 1 WHERE host = 'host@store'";
    world
        .service
        .database
        .execute(sql, params![])
        .await
        .unwrap();
    world
        .post(MEMBER, "/volumes", json!({"volume": {"size": 1}}))
        .send()
        .await
        .expect(202);
    scheduler(&world).schedule_waiting().await.unwrap();
    assert_eq!(world.flows().await[0].1, "volume:host@second#volumes");
    world
        .service
        .database
        .execute("UPDATE volume_services SET heartbeat_at = 0", params![])
        .await
        .unwrap();
    let body = world
        .post(MEMBER, "/volumes", json!({"volume": {"size": 1}}))
        .send()
        .await
        .expect(202);
    scheduler(&world).schedule_waiting().await.unwrap();
    let path = format!("/volumes/{}", body["volume"]["id"].as_str().unwrap());
    assert_eq!(
        world.get(MEMBER, &path).send().await.expect(200)["volume"]["status"],
        "error"
    );
}

#[tokio::test]
async fn a_volume_deleted_while_it_waits_ends_its_flow() {
    let world = World::new().await;
    let body = world
        .post(MEMBER, "/volumes", json!({"volume": {"size": 1}}))
        .send()
        .await
        .expect(202);
    let path = format!(
        "/volumes/{}?force=true",
        body["volume"]["id"].as_str().unwrap()
    );
    world.delete(ADMIN, &path).send().await.expect(202);
    assert_eq!(scheduler(&world).schedule_waiting().await.unwrap(), 1);
    assert_eq!(world.flows().await, []);
}
