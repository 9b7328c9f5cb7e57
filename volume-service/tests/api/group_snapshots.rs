//! Snapshots of groups.

use serde_json::{Value, json};

use crate::groups::{group, member, types};
use crate::world::{ADMIN, MEMBER, STRANGER, World};

struct Scene {
    world: World,
    group: String,
    volume: String,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let (volume_type, group_type) = types(&world).await;
        let group = group(&world, &volume_type, &group_type).await;
        let volume = member(&world, &group).await;
        Scene {
            world,
            group,
            volume,
        }
    }

    async fn create(&self) -> crate::world::Answer {
        let body = json!({"group_snapshot": {"group_id": self.group, "name": "gs"}});
        self.world
            .post(MEMBER, "/group_snapshots", body)
            .send()
            .await
    }

    /// A group snapshot that a manager has finished, and its snapshot.
    async fn taken(&self) -> (String, String) {
        let body = self.create().await.expect(202);
        let id = body["group_snapshot"]["id"].as_str().unwrap().to_owned();
        let body = self.world.get(MEMBER, "/snapshots").send().await;
        let snapshot = body.expect(200)["snapshots"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        self.world.set("group_snapshots", &id, "available").await;
        self.world.set("snapshots", &snapshot, "available").await;
        self.world.end_flows().await;
        (id, snapshot)
    }

    async fn show(&self, id: &str) -> Value {
        let path = format!("/group_snapshots/{id}");
        let body = self.world.get(MEMBER, &path).send().await;
        body.expect(200)["group_snapshot"].clone()
    }
}

#[tokio::test]
async fn every_volume_gets_a_snapshot() {
    let scene = Scene::new().await;
    let other = member(&scene.world, &scene.group).await;
    let body = scene.create().await.expect(202);
    let keys: Vec<_> = body["group_snapshot"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["group_type_id", "id", "name"]);
    let id = body["group_snapshot"]["id"].as_str().unwrap();
    let shown = scene.show(id).await;
    assert_eq!(shown["status"], "creating");
    assert_eq!(shown["group_id"], json!(scene.group));
    let world = &scene.world;
    let body = world.get(MEMBER, "/snapshots/detail").send().await;
    let body = body.expect(200);
    let snapshots = body["snapshots"].as_array().unwrap();
    let mut volumes: Vec<_> = snapshots
        .iter()
        .map(|snapshot| snapshot["volume_id"].as_str().unwrap().to_owned())
        .collect();
    volumes.sort();
    let mut wanted = [scene.volume.clone(), other];
    wanted.sort();
    assert_eq!(volumes, wanted);
    for snapshot in snapshots {
        assert_eq!(snapshot["group_snapshot_id"], json!(id));
        assert_eq!(snapshot["name"], "gs");
    }
    let flows = world.flows().await;
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].0, "group-snapshot:create");
    let body = world.get(MEMBER, "/group_snapshots").send().await;
    assert_eq!(
        body.expect(200)["group_snapshots"],
        json!([{"id": id, "name": "gs"}])
    );
    let path = format!("/group_snapshots/detail?group_id={id}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["group_snapshots"], json!([]));
    world
        .get(STRANGER, &format!("/group_snapshots/{id}"))
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn all_or_none_is_taken() {
    let scene = Scene::new().await;
    let world = &scene.world;
    let other = member(world, &scene.group).await;
    world.set("volumes", &other, "error").await;
    scene.create().await.fault(400, "badRequest");
    world.set("volumes", &other, "available").await;
    let body = json!({"quota_set": {"snapshots": 1}});
    let path = "/os-quota-sets/aaaa0000";
    world.put(ADMIN, path, body).send().await.expect(200);
    scene.create().await.fault(413, "overLimit");
    for path in ["/snapshots", "/group_snapshots"] {
        let body = world.get(MEMBER, path).send().await.expect(200);
        assert_eq!(body[&path[1..]], json!([]));
    }
    world.set("volume_groups", &scene.group, "deleting").await;
    scene.create().await.fault(400, "badRequest");
}

#[tokio::test]
async fn group_snapshots_go_with_their_snapshots() {
    let scene = Scene::new().await;
    let (id, snapshot) = scene.taken().await;
    let world = &scene.world;
    let path = format!("/snapshots/{snapshot}");
    let text = world
        .delete(MEMBER, &path)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("must not be part of a group"), "{text}");
    let body = json!({"delete": {"delete-volumes": true}});
    let action = format!("/groups/{}/action", scene.group);
    let text = world
        .post(MEMBER, &action, body)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Invalid Group: Group has existing snapshots.");
    let path = format!("/group_snapshots/{id}");
    world.delete(MEMBER, &path).send().await.expect(202);
    let kinds: Vec<_> = world.flows().await.into_iter().map(|flow| flow.0).collect();
    assert_eq!(kinds, ["snapshot:delete", "group-snapshot:delete"]);
    assert_eq!(scene.show(&id).await["status"], "deleting");
    world
        .delete(MEMBER, &path)
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn a_group_is_made_from_a_group_snapshot() {
    let scene = Scene::new().await;
    let (id, snapshot) = scene.taken().await;
    let world = &scene.world;
    let from = json!({"create-from-src": {"group_snapshot_id": id, "name": "restored"}});
    world.set("snapshots", &snapshot, "error").await;
    world
        .post(MEMBER, "/groups/action", from.clone())
        .send()
        .await
        .fault(400, "badRequest");
    world.set("snapshots", &snapshot, "available").await;
    let body = world.post(MEMBER, "/groups/action", from).send().await;
    let restored = body.expect(202)["group"]["id"].as_str().unwrap().to_owned();
    let path = format!("/groups/{restored}?list_volume=1");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["group"]["group_snapshot_id"], json!(id));
    assert_eq!(body["group"]["source_group_id"], Value::Null);
    let volume = body["group"]["volumes"][0].as_str().unwrap();
    let path = format!("/volumes/{volume}");
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["volume"]["snapshot_id"], json!(snapshot));
    let path = format!("/group_snapshots/{id}");
    world
        .delete(MEMBER, &path)
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn admins_reset_states() {
    let scene = Scene::new().await;
    let (id, _) = scene.taken().await;
    let path = format!("/group_snapshots/{id}/action");
    let body = json!({"reset_status": {"status": "error"}});
    let world = &scene.world;
    world
        .post(MEMBER, &path, body.clone())
        .send()
        .await
        .fault(403, "forbidden");
    world
        .post(ADMIN, &path, body.clone())
        .version(18)
        .send()
        .await
        .fault(404, "itemNotFound");
    world.post(ADMIN, &path, body).send().await.expect(202);
    assert_eq!(scene.show(&id).await["status"], "error");
    world
        .post(ADMIN, &path, json!({"other": {}}))
        .send()
        .await
        .fault(400, "badRequest");
}
