//! Retypes and migrations as the API takes them, and where the scheduler sends them.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;
use volume_service::db::placements;
use volume_service::scheduler::Scheduler;

use crate::world::{ADMIN, MEMBER, POOL, World};

const SECOND: &str = "host@second#volumes";

async fn make_type(world: &World, name: &str, specs: Value) {
    let body = json!({"volume_type": {"name": name, "extra_specs": specs}});
    world.post(ADMIN, "/types", body).send().await.expect(200);
}

async fn schedule(world: &World) {
    let scheduler = Scheduler::new(world.service.clone(), Arc::new(Notify::new()));
    assert_eq!(scheduler.schedule_waiting().await.unwrap(), 1);
}

async fn act(world: &World, token: &str, id: &str, body: Value) -> crate::world::Answer {
    world
        .post(token, &format!("/volumes/{id}/action"), body)
        .send()
        .await
}

async fn volume(world: &World, id: &str) -> Value {
    let shown = world.get(ADMIN, &format!("/volumes/{id}")).send().await;
    shown.expect(200)["volume"].clone()
}

async fn target(world: &World, id: &str) -> Option<String> {
    let placement = placements::get(&world.service.database, id.parse().unwrap()).await;
    placement
        .unwrap()
        .and_then(|placement| placement.target_host)
}

#[tokio::test]
async fn a_retype_stays_where_the_type_fits() {
    let world = World::new().await;
    let id = world.volume(1).await;
    make_type(&world, "same", json!({"volume_backend_name": "store"})).await;
    let body = json!({"os-retype": {"new_type": "same"}});
    act(&world, MEMBER, &id, body.clone()).await.expect(202);
    assert_eq!(volume(&world, &id).await["status"], "retyping");
    act(&world, MEMBER, &id, body)
        .await
        .fault(400, "badRequest");
    schedule(&world).await;
    assert_eq!(target(&world, &id).await, None);
    assert_eq!(
        world.flows().await,
        [("volume:retype".to_owned(), format!("volume:{POOL}"))]
    );
    world
        .delete(ADMIN, "/types/same")
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn a_retype_moves_only_where_it_may() {
    let world = World::new().await;
    world.report(SECOND, 50.0).await;
    let id = world.volume(1).await;
    make_type(&world, "second", json!({"multiattach": "<is> True"})).await;
    make_type(&world, "none", json!({"volume_backend_name": "nowhere"})).await;
    let sql = "UPDATE volume_services SET disabled = 1 WHERE host = 'host@store'";
    world.service.database.execute(sql, &[]).await.unwrap();
    let retype =
        |new_type, policy| json!({"os-retype": {"new_type": new_type, "migration_policy": policy}});
    for (new_type, policy) in [("second", "never"), ("none", "on-demand")] {
        act(&world, MEMBER, &id, retype(new_type, policy))
            .await
            .expect(202);
        schedule(&world).await;
        let shown = volume(&world, &id).await;
        assert_eq!(shown["status"], "available");
        assert_eq!(shown["migration_status"], json!(null));
        assert_eq!(world.flows().await, []);
    }
    let messages = world
        .get(MEMBER, &format!("/messages?resource_uuid={id}"))
        .send()
        .await;
    assert_eq!(
        messages.expect(200)["messages"].as_array().unwrap().len(),
        2
    );
    act(&world, MEMBER, &id, retype("second", "on-demand"))
        .await
        .expect(202);
    schedule(&world).await;
    assert_eq!(target(&world, &id).await.as_deref(), Some(SECOND));
}

#[tokio::test]
async fn what_cannot_be_retyped_is_refused() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let own = volume(&world, &id).await["volume_type"]
        .as_str()
        .unwrap()
        .to_owned();
    make_type(&world, "shared", json!({"multiattach": "<is> True"})).await;
    make_type(&world, "tight", json!({})).await;
    let retype = |new_type: &str| json!({"os-retype": {"new_type": new_type}});
    act(&world, MEMBER, &id, retype(&own))
        .await
        .fault(400, "badRequest");
    act(&world, MEMBER, &id, retype("unknown"))
        .await
        .fault(404, "itemNotFound");
    let body = json!({"os-retype": {"new_type": "tight", "migration_policy": "always"}});
    act(&world, MEMBER, &id, body)
        .await
        .fault(400, "badRequest");
    let limit = json!({"quota_set": {"gigabytes_tight": 1, "volumes": -1}});
    world
        .put(ADMIN, "/os-quota-sets/aaaa0000", limit)
        .send()
        .await
        .expect(200);
    act(&world, MEMBER, &id, retype("tight")).await.expect(202);
    let second = world.volume(1).await;
    act(&world, MEMBER, &second, retype("tight"))
        .await
        .fault(413, "overLimit");
    assert_eq!(volume(&world, &second).await["status"], "available");
    world.set("volumes", &second, "in-use").await;
    act(&world, MEMBER, &second, retype("shared"))
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn migrations_go_where_the_operator_says() {
    let world = World::new().await;
    world.report(SECOND, 50.0).await;
    let id = world.volume(1).await;
    let migrate =
        |host: &str, lock: bool| json!({"os-migrate_volume": {"host": host, "lock_volume": lock}});
    act(&world, MEMBER, &id, migrate("host@second", false))
        .await
        .fault(403, "forbidden");
    for host in ["host@store", POOL, "host@nowhere"] {
        act(&world, ADMIN, &id, migrate(host, false))
            .await
            .fault(400, "badRequest");
    }
    let both = json!({"os-migrate_volume": {"host": "host@second", "cluster": "c"}});
    act(&world, ADMIN, &id, both).await.fault(400, "badRequest");
    act(&world, ADMIN, &id, migrate("host@second", true))
        .await
        .expect(202);
    let shown = volume(&world, &id).await;
    assert_eq!(
        (&shown["status"], &shown["migration_status"]),
        (&json!("maintenance"), &json!("starting"))
    );
    world
        .delete(MEMBER, &format!("/volumes/{id}"))
        .send()
        .await
        .fault(400, "badRequest");
    act(&world, ADMIN, &id, migrate("host@second", true))
        .await
        .fault(400, "badRequest");
    schedule(&world).await;
    assert_eq!(target(&world, &id).await.as_deref(), Some(SECOND));

    let crowded = world.volume(1).await;
    act(&world, ADMIN, &crowded, migrate("host@second#none", true))
        .await
        .expect(202);
    schedule_one_more(&world).await;
    let shown = volume(&world, &crowded).await;
    assert_eq!(
        (&shown["status"], &shown["migration_status"]),
        (&json!("available"), &json!("error"))
    );
    let with_snapshot = world.volume(1).await;
    world.snapshot(&with_snapshot).await;
    act(&world, ADMIN, &with_snapshot, migrate("host@second", false))
        .await
        .fault(400, "badRequest");
}

async fn schedule_one_more(world: &World) {
    let scheduler = Scheduler::new(world.service.clone(), Arc::new(Notify::new()));
    scheduler.schedule_waiting().await.unwrap();
}

#[tokio::test]
async fn a_completion_needs_a_migration() {
    let world = World::new().await;
    let (one, other) = (world.volume(1).await, world.volume(1).await);
    let body = json!({"os-migrate_volume_completion": {"new_volume": other}});
    let answer = act(&world, ADMIN, &one, body.clone()).await.expect(200);
    assert_eq!(answer, json!({"save_volume_id": other}));
    let sql = "UPDATE volumes SET migration_status = 'migrating' WHERE id = ?";
    world
        .service
        .database
        .execute(sql, database::params![&one])
        .await
        .unwrap();
    act(&world, ADMIN, &one, body)
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn servers_that_got_another_volume_have_it_attached() {
    let world = World::new().await;
    let (one, other) = (world.volume(1).await, world.volume(1).await);
    let server = uuid::Uuid::new_v4().to_string();
    let attach = json!({"os-attach": {"instance_uuid": server, "mountpoint": "/dev/vdb"}});
    act(&world, ADMIN, &one, attach).await.expect(202);
    let detaching = json!({"os-begin_detaching": null});
    act(&world, ADMIN, &one, detaching).await.expect(202);
    act(&world, ADMIN, &other, json!({"os-reserve": null}))
        .await
        .expect(202);
    for (has_failed, states, attached) in [
        (true, ["detaching", "attaching"], &one),
        (false, ["available", "in-use"], &other),
    ] {
        let body =
            json!({"os-migrate_volume_completion": {"new_volume": other, "error": has_failed}});
        let answer = act(&world, ADMIN, &one, body).await.expect(200);
        assert_eq!(answer, json!({"save_volume_id": other}));
        for (volume, state) in [&one, &other].into_iter().zip(states) {
            let path = format!("/volumes/{volume}");
            let shown = world.get(ADMIN, &path).send().await.expect(200)["volume"].clone();
            assert_eq!(shown["status"], state);
            let devices: Vec<_> = shown["attachments"].as_array().unwrap().iter().collect();
            assert_eq!(devices.len(), usize::from(volume == attached));
            for device in devices {
                assert_eq!(
                    (&device["server_id"], &device["device"]),
                    (&json!(server), &json!("/dev/vdb"))
                );
            }
        }
    }
}

#[tokio::test]
async fn hints_and_zones_choose_the_pool() {
    let world = World::new().await;
    world.report(SECOND, 50.0).await;
    let first = world.volume(1).await;
    let create = async |hints: Value| {
        let body = json!({"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": hints});
        world.post(MEMBER, "/volumes", body).send().await
    };
    for (hint, pool) in [("different_host", SECOND), ("same_host", POOL)] {
        for hint in [json!({hint: first}), json!({hint: [first]})] {
            create(hint).await.expect(202);
            schedule(&world).await;
            assert_eq!(world.flows().await[0].1, format!("volume:{pool}"));
            world.end_flows().await;
        }
    }
    for hints in [
        json!({"same_host": "x"}),
        json!({"different_host": [1]}),
        json!([]),
        json!({"local_to_instance": "me"}),
        json!({"query": "x".repeat(5000)}),
    ] {
        create(hints).await.fault(400, "badRequest");
    }
    make_type(
        &world,
        "zoned",
        json!({"RESKEY:availability_zones": "nova,moon"}),
    )
    .await;
    make_type(
        &world,
        "lunar",
        json!({"RESKEY:availability_zones": "moon"}),
    )
    .await;
    let of_type = async |volume: Value| {
        world
            .post(MEMBER, "/volumes", json!({"volume": volume}))
            .send()
            .await
    };
    let made = of_type(json!({"size": 1, "volume_type": "zoned"}))
        .await
        .expect(202);
    assert_eq!(made["volume"]["availability_zone"], "nova");
    of_type(json!({"size": 1, "volume_type": "lunar"}))
        .await
        .fault(400, "badRequest");
    of_type(json!({"size": 1, "volume_type": "lunar", "availability_zone": "nova"}))
        .await
        .fault(400, "badRequest");
}
