//! Backups: create, chains, update, delete, restore, actions.

use database::params;
use serde_json::{Value, json};
use volume_service::connection::Connection;
use volume_service::db::{connections, services};

use crate::world::{ADMIN, MEMBER, POOL, World};

async fn backup(world: &World, backup: Value) -> String {
    let body = world
        .post(MEMBER, "/backups", json!({"backup": backup}))
        .send()
        .await
        .expect(202);
    assert_eq!(
        body["backup"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["id", "links", "name"]
    );
    body["backup"]["id"].as_str().unwrap().to_owned()
}

/// As the manager leaves things: backup and volume available.
async fn finish(world: &World, backup: &str, volume: &str) {
    world.set("backups", backup, "available").await;
    world.set("volumes", volume, "available").await;
    world.end_flows().await;
}

#[tokio::test]
async fn a_backup_is_made_of_an_idle_volume() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let id = backup(
        &world,
        json!({"volume_id": volume, "name": "b", "metadata": {"k": "v"}}),
    )
    .await;
    assert_eq!(
        world.flows().await,
        [("backup:create".to_owned(), "backup:host".to_owned())]
    );
    let body = world
        .get(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["volume"]["status"], "backing-up");
    let shown = world
        .get(MEMBER, &format!("/backups/{id}"))
        .send()
        .await
        .expect(200);
    let shown = &shown["backup"];
    let expected = json!({
        "id": id, "status": "creating", "size": 1, "object_count": 0, "availability_zone": "nova",
        "container": "backups", "created_at": shown["created_at"], "updated_at": null, "name": "b",
        "description": null, "fail_reason": null, "volume_id": volume, "links": shown["links"],
        "is_incremental": false, "has_dependent_backups": false, "snapshot_id": null,
        "data_timestamp": shown["created_at"], "metadata": {"k": "v"},
    });
    assert_eq!(*shown, expected);
    let body = json!({"backup": {"volume_id": volume}});
    let text = world
        .post(MEMBER, "/backups", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(
        text.contains("the current status is \"backing-up\""),
        "{text}"
    );
    world.set("volumes", &volume, "in-use").await;
    let body = json!({"backup": {"volume_id": volume}});
    let text = world
        .post(MEMBER, "/backups", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("must use the force flag"), "{text}");
    backup(&world, json!({"volume_id": volume, "force": true})).await;
}

#[tokio::test]
async fn chains_of_incrementals() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let incremental = json!({"volume_id": volume, "incremental": true});
    let refused = world
        .post(MEMBER, "/backups", json!({"backup": incremental}))
        .send()
        .await;
    assert!(
        refused
            .fault(400, "badRequest")
            .contains("No backups available to do an incremental backup.")
    );
    let body = world
        .get(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        body["volume"]["status"], "available",
        "a refused backup leaves nothing"
    );
    let full = backup(&world, json!({"volume_id": volume})).await;
    finish(&world, &full, &volume).await;
    let second = backup(&world, incremental).await;
    finish(&world, &second, &volume).await;
    let body = world
        .get(ADMIN, &format!("/backups/{full}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["backup"]["has_dependent_backups"], true);
    assert_eq!(body["backup"]["user_id"], "member");
    let body = world
        .get(MEMBER, &format!("/backups/{second}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["backup"]["is_incremental"], true);
    let text = world
        .delete(MEMBER, &format!("/backups/{full}"))
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(
        text,
        "Invalid backup: Incremental backups exist for this backup."
    );
    world
        .delete(MEMBER, &format!("/backups/{second}"))
        .send()
        .await
        .expect(202);
    assert_eq!(
        world.flows().await,
        [("backup:delete".to_owned(), "backup:host".to_owned())]
    );
}

#[tokio::test]
async fn restores_go_to_an_idle_volume_or_a_new_one() {
    let world = World::new().await;
    let volume = world.volume(2).await;
    let id = backup(&world, json!({"volume_id": volume})).await;
    let path = format!("/backups/{id}/restore");
    let to = |volume: &str| json!({"restore": {"volume_id": volume}});
    world
        .post(MEMBER, &path, to(&volume))
        .send()
        .await
        .fault(400, "badRequest");
    finish(&world, &id, &volume).await;
    let small = world.volume(1).await;
    let text = world
        .post(MEMBER, &path, to(&small))
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(
        text,
        "Invalid volume: volume size 1 is too small to restore backup of size 2."
    );
    world.set("volumes", &volume, "in-use").await;
    world
        .post(MEMBER, &path, to(&volume))
        .send()
        .await
        .fault(400, "badRequest");
    world.set("volumes", &volume, "available").await;
    let body = world
        .post(MEMBER, &path, to(&volume))
        .send()
        .await
        .expect(202);
    assert_eq!(
        body,
        json!({"restore": {"backup_id": id, "volume_id": volume, "volume_name": null}})
    );
    assert_eq!(
        world.flows().await,
        [("backup:restore".to_owned(), "backup:host".to_owned())]
    );
    finish(&world, &id, &volume).await;

    let body = world
        .post(MEMBER, &path, json!({"restore": {}}))
        .send()
        .await
        .expect(202);
    assert_eq!(
        body["restore"]["volume_name"],
        format!("restore_backup_{id}")
    );
    assert_eq!(
        world.flows().await,
        [("volume:create".to_owned(), "scheduler".to_owned())]
    );
    let body = world
        .get(MEMBER, &format!("/backups/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(body["backup"]["status"], "restoring");
    world
        .post(MEMBER, &path, json!({"restore": {"volume_id": 5}}))
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn update_and_actions() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let id = backup(&world, json!({"volume_id": volume})).await;
    finish(&world, &id, &volume).await;
    let path = format!("/backups/{id}");
    world
        .put(MEMBER, &path, json!({"backup": {"name": "n"}}))
        .version(8)
        .send()
        .await
        .fault(404, "itemNotFound");
    let body = world
        .put(
            MEMBER,
            &path,
            json!({"backup": {"name": "n", "metadata": {"a": "b"}}}),
        )
        .send()
        .await
        .expect(200);
    assert_eq!(body["backup"]["name"], "n");
    world
        .put(MEMBER, &path, json!({"backup": {}}))
        .send()
        .await
        .fault(400, "badRequest");
    let action = format!("{path}/action");
    world
        .post(
            ADMIN,
            &action,
            json!({"os-reset_status": {"status": "deleting"}}),
        )
        .send()
        .await
        .fault(400, "badRequest");
    world
        .post(
            ADMIN,
            &action,
            json!({"os-reset_status": {"status": "error"}}),
        )
        .send()
        .await
        .expect(202);
    world
        .post(MEMBER, &action, json!({"os-force_delete": {}}))
        .send()
        .await
        .fault(403, "forbidden");
    world
        .post(ADMIN, &action, json!({"os-force_delete": {}}))
        .send()
        .await
        .expect(202);
}

#[tokio::test]
async fn without_a_backup_service_there_is_no_backup() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    world
        .service
        .database
        .execute("UPDATE volume_services SET heartbeat_at = 0", params![])
        .await
        .unwrap();
    let body = json!({"backup": {"volume_id": volume}});
    world
        .post(MEMBER, "/backups", body)
        .send()
        .await
        .fault(503, "serviceUnavailable");
}

/// Two backup services, each with a store of its own.
async fn services_of_two_stores(world: &World) {
    let mut tx = world.service.database.begin().await.unwrap();
    for (host, fsid) in [("host", "a"), ("other", "b"), ("third", "a")] {
        services::heartbeat(&mut tx, services::BACKUP, host, "nova")
            .await
            .unwrap();
        services::set_store(&mut tx, host, fsid).await.unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_volume_in_an_embedded_store_is_backed_up_on_its_host() {
    let world = World::new().await;
    services_of_two_stores(&world).await;
    let nbd = Connection::Nbd {
        socket: None,
        address: None,
        tls: false,
    };
    let mut tx = world.service.database.begin().await.unwrap();
    connections::report(&mut tx, POOL, &nbd).await.unwrap();
    tx.commit().await.unwrap();
    for _ in 0..8 {
        let volume = world.volume(1).await;
        world.end_flows().await;
        backup(&world, json!({"volume_id": volume})).await;
        assert_eq!(world.flows().await[0].1, "backup:host");
        world.end_flows().await;
    }
}

#[tokio::test]
async fn a_backup_is_deleted_by_a_service_of_its_store() {
    let world = World::new().await;
    services_of_two_stores(&world).await;
    for (made_by, able) in [
        ("other", vec!["backup:other"]),
        ("host", vec!["backup:host", "backup:third"]),
    ] {
        for _ in 0..4 {
            let volume = world.volume(1).await;
            let id = backup(&world, json!({"volume_id": volume})).await;
            finish(&world, &id, &volume).await;
            let sql = "UPDATE backups SET host = ? WHERE id = ?";
            let values = params![made_by, &id].to_vec();
            let written = world.service.database.execute(sql, &values);
            assert_eq!(written.await.unwrap(), 1);
            world.end_flows().await;
            let path = format!("/backups/{id}");
            world.delete(MEMBER, &path).send().await.expect(202);
            let queue = world.flows().await.remove(0).1;
            assert!(able.contains(&queue.as_str()), "{queue} for {made_by}");
        }
    }
}
