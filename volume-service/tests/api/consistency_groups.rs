//! The older API of consistency groups.

use serde_json::{Value, json};

use crate::groups::types;
use crate::world::{MEMBER, World};

async fn consistency_group(world: &World) -> String {
    let body = json!({"consistencygroup": {"name": "cg", "volume_types": "vt,"}});
    let body = world.post(MEMBER, "/consistencygroups", body).version(0);
    let body = body.send().await.expect(202);
    let id = body["consistencygroup"]["id"].as_str().unwrap().to_owned();
    world.set("volume_groups", &id, "available").await;
    world.end_flows().await;
    id
}

#[tokio::test]
async fn groups_are_made_shown_and_changed() {
    let world = World::new().await;
    let (volume_type, _) = types(&world).await;
    let id = consistency_group(&world).await;
    let path = format!("/consistencygroups/{id}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    let shown = &body["consistencygroup"];
    assert_eq!(shown["volume_types"], json!([volume_type]));
    assert_eq!(shown.as_object().unwrap().len(), 7);
    for path in ["/consistencygroups", "/consistencygroups/detail"] {
        let body = world.get(MEMBER, path).send().await.expect(200);
        assert_eq!(body["consistencygroups"][0]["id"], json!(id));
    }
    // The group API does not touch it.
    let body = world.get(MEMBER, "/groups").send().await.expect(200);
    assert_eq!(body["groups"], json!([]));
    let text = world
        .get(MEMBER, &format!("/groups/{id}"))
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("is reserved for migrating CGs"), "{text}");
    let volume = json!({"size": 1, "volume_type": "vt", "consistencygroup_id": id});
    let volume = world.volume_with(volume).await;
    let body = world.get(MEMBER, &format!("/volumes/{volume}"));
    let body = body.send().await.expect(200);
    assert_eq!(body["volume"]["consistencygroup_id"], json!(id));
    let change = json!({"consistencygroup": {"name": "new", "remove_volumes": volume}});
    let update = format!("{path}/update");
    world.put(MEMBER, &update, change).send().await.expect(202);
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["consistencygroup"]["name"], "new");
    let empty = json!({"consistencygroup": {}});
    world
        .put(MEMBER, &update, empty)
        .send()
        .await
        .fault(400, "badRequest");
    let delete = format!("{path}/delete");
    let body = json!({"consistencygroup": {"force": true}});
    world.post(MEMBER, &delete, body).send().await.expect(202);
    let flows = world.flows().await;
    assert_eq!(flows[0].0, "group:delete");
}

#[tokio::test]
async fn snapshots_and_copies() {
    let world = World::new().await;
    types(&world).await;
    let id = consistency_group(&world).await;
    let volume = json!({"size": 1, "volume_type": "vt", "consistencygroup_id": id});
    world.volume_with(volume).await;
    let body = json!({"cgsnapshot": {"consistencygroup_id": id, "name": "s"}});
    let body = world.post(MEMBER, "/cgsnapshots", body).send().await;
    let snapshot = body.expect(202)["cgsnapshot"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/cgsnapshots/{snapshot}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["cgsnapshot"]["consistencygroup_id"], json!(id));
    for path in ["/cgsnapshots", "/cgsnapshots/detail"] {
        let body = world.get(MEMBER, path).send().await.expect(200);
        assert_eq!(body["cgsnapshots"][0]["id"], json!(snapshot));
    }
    let body = world.get(MEMBER, "/group_snapshots").send().await;
    assert_eq!(body.expect(200)["group_snapshots"], json!([]));
    let from = json!({"consistencygroup-from-src": {"source_cgid": id, "name": "copy"}});
    let path_from = "/consistencygroups/create_from_src";
    let body = world.post(MEMBER, path_from, from).send().await;
    assert_eq!(body.expect(202)["consistencygroup"]["name"], "copy");
    for bad in [
        json!({}),
        json!({"source_cgid": id, "cgsnapshot_id": snapshot}),
    ] {
        let body = json!({ "consistencygroup-from-src": bad });
        world
            .post(MEMBER, path_from, body)
            .send()
            .await
            .fault(400, "badRequest");
    }
    world.set("group_snapshots", &snapshot, "available").await;
    world.delete(MEMBER, &path).send().await.expect(202);
    let missing: Value = json!({"consistencygroup": {"name": "x"}});
    world
        .post(MEMBER, "/consistencygroups", missing)
        .send()
        .await
        .fault(400, "badRequest");
}
