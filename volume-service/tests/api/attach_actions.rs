//! Attaching by actions on the volume.

use serde_json::{Value, json};
use uuid::Uuid;
use volume_service::db::exports;

use crate::world::{ADMIN, Answer, MEMBER, READER, STRANGER, World};

async fn act(world: &World, token: &str, volume: &str, body: Value) -> Answer {
    world
        .post(token, &format!("/volumes/{volume}/action"), body)
        .send()
        .await
}

async fn show(world: &World, volume: &str) -> Value {
    let body = world
        .get(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(200);
    body["volume"].clone()
}

#[tokio::test]
async fn the_older_way_to_attach() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let server = Uuid::new_v4().to_string();
    act(&world, MEMBER, &volume, json!({"os-reserve": null}))
        .await
        .expect(202);
    assert_eq!(show(&world, &volume).await["status"], "attaching");
    act(&world, MEMBER, &volume, json!({"os-reserve": null}))
        .await
        .fault(400, "badRequest");
    let connector = json!({"host": "compute-1", "enforce_multipath": true});
    let initialize = json!({"os-initialize_connection": {"connector": connector}});
    let body = act(&world, MEMBER, &volume, initialize.clone())
        .await
        .expect(200);
    let info = &body["connection_info"];
    assert_eq!(info["driver_volume_type"], "nbd");
    assert_eq!(
        (&info["enforce_multipath"], &info["data"]["volume_id"]),
        (&json!(true), &json!(volume))
    );
    let again = act(&world, MEMBER, &volume, initialize).await.expect(200);
    assert_eq!(again, body, "the same host is told the same");
    let attach = json!({"os-attach": {"instance_uuid": server, "mountpoint": "/dev/vdc"}});
    act(&world, MEMBER, &volume, attach.clone())
        .await
        .expect(202);
    let shown = show(&world, &volume).await;
    assert_eq!(shown["status"], "in-use");
    assert_eq!(
        (
            &shown["metadata"]["readonly"],
            &shown["metadata"]["attached_mode"]
        ),
        (&json!("False"), &json!("rw"))
    );
    assert_eq!(
        (
            &shown["attachments"][0]["server_id"],
            &shown["attachments"][0]["device"]
        ),
        (&json!(server), &json!("/dev/vdc"))
    );
    assert_eq!(
        shown["attachments"][0]["host_name"],
        json!(null),
        "hosts are for admins"
    );
    act(&world, MEMBER, &volume, attach).await.expect(202);
    assert_eq!(
        show(&world, &volume).await["attachments"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let other = json!({"os-attach": {"instance_uuid": Uuid::new_v4(), "mountpoint": "/dev/vdc"}});
    act(&world, MEMBER, &volume, other)
        .await
        .fault(400, "badRequest");

    act(&world, MEMBER, &volume, json!({"os-begin_detaching": null}))
        .await
        .expect(202);
    let terminate = json!({"os-terminate_connection": {"connector": {"host": "compute-1"}}});
    act(&world, MEMBER, &volume, terminate).await.expect(202);
    let name = info["data"]["name"].as_str().unwrap();
    assert_eq!(
        exports::find(&world.service.database, name).await.unwrap(),
        None
    );
    act(&world, MEMBER, &volume, json!({"os-detach": {}}))
        .await
        .expect(202);
    let shown = show(&world, &volume).await;
    assert_eq!(
        (&shown["status"], &shown["attachments"]),
        (&json!("available"), &json!([]))
    );
    assert_eq!(shown["metadata"].get("attached_mode"), None);
}

#[tokio::test]
async fn reservations_are_given_back() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    act(&world, MEMBER, &volume, json!({"os-unreserve": null}))
        .await
        .expect(202);
    assert_eq!(show(&world, &volume).await["status"], "available");
    act(&world, MEMBER, &volume, json!({"os-reserve": null}))
        .await
        .expect(202);
    act(&world, MEMBER, &volume, json!({"os-unreserve": null}))
        .await
        .expect(202);
    assert_eq!(show(&world, &volume).await["status"], "available");
    act(&world, MEMBER, &volume, json!({"os-begin_detaching": null}))
        .await
        .fault(400, "badRequest");
    act(&world, MEMBER, &volume, json!({"os-roll_detaching": null}))
        .await
        .expect(202);
    act(&world, MEMBER, &volume, json!({"os-detach": null}))
        .await
        .expect(202);
    assert_eq!(show(&world, &volume).await["status"], "available");
}

#[tokio::test]
async fn a_host_attaches_read_only() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let readonly = json!({"os-update_readonly_flag": {"readonly": true}});
    act(&world, MEMBER, &volume, readonly).await.expect(202);
    let attach =
        |mode| json!({"os-attach": {"host_name": "My_Host", "mountpoint": "/mnt", "mode": mode}});
    act(&world, MEMBER, &volume, attach("rw"))
        .await
        .fault(400, "badRequest");
    act(&world, MEMBER, &volume, attach("ro")).await.expect(202);
    let body = world
        .get(ADMIN, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(200);
    let attached = &body["volume"]["attachments"][0];
    assert_eq!(
        (&attached["host_name"], &attached["server_id"]),
        (&json!("my-host"), &json!(null))
    );
    let id = attached["attachment_id"].as_str().unwrap();
    let initialize = json!({"os-initialize_connection": {"connector": {"host": "h"}}});
    let body = act(&world, MEMBER, &volume, initialize).await.expect(200);
    assert_eq!(body["connection_info"]["data"]["access_mode"], "ro");
    world.set("volumes", &volume, "error").await;
    let force = json!({"os-force_detach": {"attachment_id": id, "connector": null}});
    act(&world, MEMBER, &volume, force.clone())
        .await
        .fault(403, "forbidden");
    act(&world, ADMIN, &volume, force).await.expect(202);
    let shown = show(&world, &volume).await;
    assert_eq!(
        (&shown["status"], &shown["attachments"]),
        (&json!("available"), &json!([]))
    );
}

#[tokio::test]
async fn bodies_states_and_callers_are_checked() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    for bad in [
        json!({"os-attach": {}}),
        json!({"os-attach": {"mountpoint": "/dev/vdb"}}),
        json!({"os-attach": {"mountpoint": "", "host_name": "h"}}),
        json!({"os-attach": {"mountpoint": "m", "instance_uuid": "x"}}),
        json!({"os-attach": {"mountpoint": "m", "host_name": "h", "mode": "x"}}),
        json!({"os-detach": {"attachment_id": "x"}}),
        json!({"os-initialize_connection": {}}),
        json!({"os-initialize_connection": {"connector": "text"}}),
        json!({"os-terminate_connection": {}}),
    ] {
        act(&world, MEMBER, &volume, bad)
            .await
            .fault(400, "badRequest");
    }
    let all = [
        json!({"os-reserve": null}),
        json!({"os-unreserve": null}),
        json!({"os-begin_detaching": null}),
        json!({"os-roll_detaching": null}),
        json!({"os-attach": {"host_name": "h", "mountpoint": "m"}}),
        json!({"os-detach": {}}),
        json!({"os-initialize_connection": {"connector": {"host": "h"}}}),
        json!({"os-terminate_connection": {"connector": null}}),
    ];
    for body in all {
        act(&world, READER, &volume, body.clone())
            .await
            .fault(403, "forbidden");
        act(&world, STRANGER, &volume, body)
            .await
            .fault(404, "itemNotFound");
    }
    world.set("volumes", &volume, "maintenance").await;
    for body in [
        json!({"os-attach": {"host_name": "h", "mountpoint": "m"}}),
        json!({"os-detach": {}}),
        json!({"os-initialize_connection": {"connector": {"host": "h"}}}),
    ] {
        act(&world, MEMBER, &volume, body)
            .await
            .fault(400, "badRequest");
    }
}

#[tokio::test]
async fn an_admin_resets_what_is_attached() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let in_use = json!({"os-reset_status": {"status": "in-use"}});
    act(&world, ADMIN, &volume, in_use.clone())
        .await
        .fault(400, "badRequest");
    let attach = json!({"os-attach": {"host_name": "h", "mountpoint": "m"}});
    act(&world, MEMBER, &volume, attach).await.expect(202);
    world.set("volumes", &volume, "error").await;
    act(&world, ADMIN, &volume, in_use).await.expect(202);
    assert_eq!(show(&world, &volume).await["status"], "in-use");
    let detached = json!({"os-reset_status": {"attach_status": "detached"}});
    act(&world, ADMIN, &volume, detached).await.expect(202);
    let shown = show(&world, &volume).await;
    assert_eq!(
        (&shown["status"], &shown["attachments"]),
        (&json!("available"), &json!([]))
    );
    world
        .delete(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(202);
}
