//! `attachments`: states, modes, lists, who may.

use serde_json::{Value, json};
use uuid::Uuid;
use volume_service::db::exports;

use crate::world::{ADMIN, MEMBER, POOL, READER, STRANGER, World};

async fn attachment(world: &World, body: Value) -> Value {
    let body = json!({"attachment": body});
    let body = world
        .post(MEMBER, "/attachments", body)
        .send()
        .await
        .expect(200);
    body["attachment"].clone()
}

fn id(attachment: &Value) -> &str {
    attachment["id"].as_str().unwrap()
}

#[tokio::test]
async fn the_shape_is_cinders() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let server = Uuid::new_v4().to_string();
    let made = attachment(
        &world,
        json!({"volume_uuid": volume, "instance_uuid": server}),
    )
    .await;
    let expected = json!({
        "id": made["id"], "status": "reserved", "instance": server, "volume_id": volume,
        "attached_at": "", "detached_at": "", "attach_mode": "null", "connection_info": {},
    });
    assert_eq!(made, expected);
    let path = format!("/attachments/{}", id(&made));
    let shown = world.get(READER, &path).send().await.expect(200);
    assert_eq!(shown, json!({"attachment": expected}));
    let summary =
        json!({"id": made["id"], "status": "reserved", "instance": server, "volume_id": volume});
    let listed = world.get(READER, "/attachments").send().await.expect(200);
    assert_eq!(listed, json!({"attachments": [summary]}));
    let listed = world
        .get(READER, "/attachments/detail")
        .send()
        .await
        .expect(200);
    assert_eq!(listed, json!({"attachments": [expected]}));
}

#[tokio::test]
async fn modes_come_from_the_request_the_connector_or_the_volume() {
    let world = World::new().await;
    let mode = async |request: Value, connector: Value, readonly: bool| {
        let volume = world.volume(1).await;
        if readonly {
            let body = json!({"os-update_readonly_flag": {"readonly": true}});
            let path = format!("/volumes/{volume}/action");
            world.post(MEMBER, &path, body).send().await.expect(202);
        }
        let mut body = json!({"volume_uuid": volume, "connector": connector});
        if !request.is_null() {
            body["mode"] = request;
        }
        let made = attachment(&world, body).await;
        let shown = format!(
            "{} {}",
            made["attach_mode"], made["connection_info"]["access_mode"]
        );
        let name = made["connection_info"]["name"].as_str().unwrap();
        let export = exports::find(&world.service.database, name)
            .await
            .unwrap()
            .unwrap();
        let expected = if export.read_only {
            "\"ro\" \"ro\""
        } else {
            "\"rw\" \"rw\""
        };
        assert_eq!(shown, expected);
        let path = format!("/attachments/{}", id(&made));
        world.delete(MEMBER, &path).send().await.expect(200);
        assert_eq!(
            exports::find(&world.service.database, name).await.unwrap(),
            None
        );
        world.forget_volume(&volume).await;
        export.read_only
    };
    let host = json!({"host": "h"});
    assert!(!mode(json!(null), host.clone(), false).await);
    assert!(mode(json!("ro"), host.clone(), false).await);
    assert!(mode(json!(null), json!({"host": "h", "mode": "ro"}), false).await);
    assert!(!mode(json!("rw"), json!({"host": "h", "mode": "ro"}), false).await);
    assert!(mode(json!("rw"), host, true).await);
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let post = |body: Value| world.post(MEMBER, "/attachments", json!({"attachment": body}));
    for bad in [
        json!({}),
        json!({"volume_uuid": "x"}),
        json!({"volume_uuid": volume, "instance_uuid": "server"}),
        json!({"volume_uuid": volume, "connector": "host"}),
        json!({"volume_uuid": volume, "mode": "wo"}),
        json!({"volume_uuid": volume, "what": 1}),
        json!({"volume_uuid": volume, "connector": {"host": 1}}),
        json!({"volume_uuid": volume, "connector": {"host": "h", "mountpoint": "x".repeat(256)}}),
    ] {
        post(bad).send().await.fault(400, "badRequest");
    }
    let with_mode = json!({"volume_uuid": volume, "mode": "ro"});
    post(with_mode)
        .version(53)
        .send()
        .await
        .fault(400, "badRequest");
    post(json!({"volume_uuid": volume}))
        .version(26)
        .send()
        .await
        .fault(404, "itemNotFound");
    post(json!({"volume_uuid": Uuid::new_v4()}))
        .send()
        .await
        .fault(404, "itemNotFound");
    for state in [
        "error",
        "error_deleting",
        "creating",
        "deleting",
        "reserved",
        "extending",
    ] {
        world.set("volumes", &volume, state).await;
        post(json!({"volume_uuid": volume}))
            .send()
            .await
            .fault(400, "badRequest");
    }
    world.set("volumes", &volume, "available").await;
    let made = attachment(&world, json!({"volume_uuid": volume})).await;
    let path = format!("/attachments/{}", id(&made));
    let put = |connector: Value| {
        world.put(
            MEMBER,
            &path,
            json!({"attachment": {"connector": connector}}),
        )
    };
    put(json!({})).send().await.fault(400, "badRequest");
    put(json!(null)).send().await.fault(400, "badRequest");
    world.set("volumes", &volume, "error").await;
    put(json!({"host": "h"}))
        .send()
        .await
        .fault(409, "conflictingRequest");
    world.set("volumes", &volume, "deleting").await;
    put(json!({"host": "h"}))
        .send()
        .await
        .fault(409, "conflictingRequest");
    let action = format!("{path}/action");
    let complete = json!({"os-complete": null});
    world
        .post(MEMBER, &action, complete.clone())
        .version(43)
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .post(MEMBER, &action, json!({"os-dance": null}))
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn attachments_are_the_projects() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let made = attachment(&world, json!({"volume_uuid": volume})).await;
    let path = format!("/attachments/{}", id(&made));
    let action = format!("{path}/action");
    let connector = json!({"attachment": {"connector": {"host": "h"}}});
    let create = json!({"attachment": {"volume_uuid": volume}});
    let complete = json!({"os-complete": null});
    world
        .get(STRANGER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    for (token, code, key) in [(READER, 403, "forbidden"), (STRANGER, 404, "itemNotFound")] {
        world
            .post(token, "/attachments", create.clone())
            .send()
            .await
            .fault(code, key);
        world
            .put(token, &path, connector.clone())
            .send()
            .await
            .fault(code, key);
        world
            .post(token, &action, complete.clone())
            .send()
            .await
            .fault(code, key);
        world.delete(token, &path).send().await.fault(code, key);
    }
    let listed = world
        .get(STRANGER, "/attachments?all_tenants=1")
        .send()
        .await
        .expect(200);
    assert_eq!(listed, json!({"attachments": []}));
    let listed = world
        .get(ADMIN, "/attachments?all_tenants=1")
        .send()
        .await
        .expect(200);
    assert_eq!(listed["attachments"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let world = World::new().await;
    let mut all = Vec::new();
    let server = Uuid::new_v4().to_string();
    for n in 0..3 {
        let volume = world.volume(1).await;
        let mut body = json!({"volume_uuid": volume});
        if n == 1 {
            body["instance_uuid"] = json!(server);
            body["connector"] = json!({"host": "h"});
        }
        all.push(attachment(&world, body).await);
    }
    let list = async |query: &str| -> Vec<String> {
        let path = format!("/attachments{query}");
        let body = world.get(MEMBER, &path).send().await.expect(200);
        let rows = body["attachments"].as_array().unwrap();
        rows.iter().map(|one| id(one).to_owned()).collect()
    };
    let ids: Vec<_> = all.iter().map(|one| id(one).to_owned()).collect();
    assert_eq!(list("?sort=created_at:asc").await, ids);
    assert_eq!(
        list(&format!("?sort=created_at:asc&limit=2&marker={}", ids[0])).await,
        ids[1..]
    );
    assert_eq!(list(&format!("?instance_id={server}")).await, ids[1..2]);
    assert_eq!(list("?status=attaching").await, ids[1..2]);
    assert_eq!(list("?attach_status=reserved").await.len(), 2);
    let volume = all[2]["volume_id"].as_str().unwrap();
    assert_eq!(list(&format!("?volume_id={volume}")).await, ids[2..]);
    world
        .get(MEMBER, "/attachments?color=red")
        .send()
        .await
        .fault(400, "badRequest");
    world
        .get(MEMBER, "/attachments?sort=color")
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn a_pool_that_nobody_reported_cannot_be_attached() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let made = attachment(&world, json!({"volume_uuid": volume})).await;
    let sql = "DELETE FROM volume_connections WHERE pool_name = ?";
    let values = database::params![POOL];
    world.service.database.execute(sql, values).await.unwrap();
    let path = format!("/attachments/{}", id(&made));
    let body = json!({"attachment": {"connector": {"host": "h"}}});
    world
        .put(MEMBER, &path, body)
        .send()
        .await
        .fault(503, "serviceUnavailable");
    let shown = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(shown["attachment"]["status"], "error_attaching");
    let messages = world.get(MEMBER, "/messages").send().await.expect(200);
    assert_eq!(messages["messages"][0]["event_id"], "VOLUME_VOLUME_004_002");
    // An attachment with an error does not hold the volume.
    world.delete(MEMBER, &path).send().await.expect(200);
    let shown = world
        .get(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(200);
    assert_eq!(shown["volume"]["status"], "available");
}

#[tokio::test]
async fn operations_under_way_keep_their_status() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let made = attachment(
        &world,
        json!({"volume_uuid": volume, "connector": {"host": "h"}}),
    )
    .await;
    let path = format!("/attachments/{}", id(&made));
    let action = format!("{path}/action");
    world
        .post(MEMBER, &action, json!({"os-complete": null}))
        .send()
        .await
        .expect(204);
    let sql = "UPDATE volumes SET status = 'backing-up', previous_status = 'in-use' WHERE id = ?";
    let values = database::params![&volume];
    world.service.database.execute(sql, values).await.unwrap();
    world.delete(MEMBER, &path).send().await.expect(200);
    let sql = "SELECT status, previous_status, attach_status FROM volumes WHERE id = ?";
    let values = database::params![&volume];
    let row = world.service.database.fetch_one(sql, values).await.unwrap();
    let column = |name| row.get::<String>(name).unwrap();
    assert_eq!(column("status"), "backing-up");
    assert_eq!(
        (column("previous_status"), column("attach_status")),
        ("available".into(), "detached".into())
    );
}
