//! Encrypted volumes: each has a key of its own, which is the owner's and goes with it.

use serde_json::{Value, json};
use volume_service::Options;

use crate::fake_keys::FakeKeys;
use crate::world::{ADMIN, MEMBER, OTHER_PROJECT, PROJECT, STRANGER, World};

struct Scene {
    world: World,
    keys: FakeKeys,
    encrypted: String,
}

async fn volume_type(world: &World, name: &str, key_size: Option<u32>) -> String {
    let body = json!({"volume_type": {"name": name}});
    let made = world.post(ADMIN, "/types", body).send().await.expect(200);
    let id = made["volume_type"]["id"].as_str().unwrap().to_owned();
    if let Some(key_size) = key_size {
        let body = json!({"encryption": {
            "provider": "luks", "control_location": "front-end", "cipher": "aes-xts-plain64", "key_size": key_size,
        }});
        let path = format!("/types/{id}/encryption");
        world.post(ADMIN, &path, body).send().await.expect(200);
    }
    id
}

impl Scene {
    async fn new(options: Options) -> Self {
        let keys = FakeKeys::default();
        let world = World::with(options).await.with_keys(&keys).await;
        let encrypted = volume_type(&world, "secret", Some(512)).await;
        Scene {
            world,
            keys,
            encrypted,
        }
    }

    async fn volume(&self) -> String {
        let volume = json!({"size": 1, "volume_type": self.encrypted});
        self.world.volume_with(volume).await
    }

    async fn show(&self, token: &str, volume: &str) -> Value {
        let path = format!("/volumes/{volume}");
        let shown = self.world.get(token, &path).send().await.expect(200);
        shown["volume"].clone()
    }

    async fn act(&self, volume: &str, body: Value) -> crate::world::Answer {
        let path = format!("/volumes/{volume}/action");
        self.world.post(ADMIN, &path, body).send().await
    }
}

#[tokio::test]
async fn a_volume_has_a_key_as_long_as_it_lives() {
    let scene = Scene::new(Options::default()).await;
    let world = &scene.world;
    let body = json!({"volume": {"size": 1, "volume_type": "secret"}});
    let made = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .expect(202);
    let flow = world.flow_params().await;
    let volume = made["volume"]["id"].as_str().unwrap();
    let shown = scene.show(MEMBER, volume).await;
    assert_eq!(shown["encrypted"], true);
    let key = &shown["encryption_key_id"];
    assert_eq!(flow["encryption"], json!({"key_id": key, "key_bits": 512}));
    let stored = scene.keys.get(key).unwrap();
    assert_eq!(stored.project, PROJECT);
    assert_eq!(
        (&stored.body["algorithm"], &stored.body["bit_length"]),
        (&json!("aes"), &json!(512))
    );
    let path = format!("/volumes/{volume}");
    let older = world
        .get(MEMBER, &path)
        .version(63)
        .send()
        .await
        .expect(200);
    assert!(older["volume"].get("encryption_key_id").is_none());
    let encryption = world
        .get(MEMBER, &format!("{path}/encryption"))
        .send()
        .await;
    let expected = json!({
        "encryption_key_id": key, "control_location": "front-end", "cipher": "aes-xts-plain64",
        "key_size": 512, "provider": "luks",
    });
    assert_eq!(encryption.expect(200), expected);
    let one = world
        .get(MEMBER, &format!("{path}/encryption/key_size"))
        .send()
        .await;
    assert_eq!(one.expect(200), json!(512));

    world.finish_volume(volume).await;
    let body = json!({"attachment": {"volume_uuid": volume, "connector": {"host": "h"}}});
    let body = world
        .post(MEMBER, "/attachments", body)
        .send()
        .await
        .expect(200);
    assert_eq!(body["attachment"]["connection_info"]["encrypted"], true);
    let id = body["attachment"]["id"].as_str().unwrap();
    world
        .delete(MEMBER, &format!("/attachments/{id}"))
        .send()
        .await
        .expect(200);

    let text = scene
        .act(volume, json!({"os-unmanage": {}}))
        .await
        .fault(400, "badRequest");
    assert!(
        text.contains("Unmanaging encrypted volumes is not supported"),
        "{text}"
    );
    world.delete(MEMBER, &path).send().await.expect(202);
    assert!(scene.keys.all().is_empty());
}

#[tokio::test]
async fn copies_have_copies_of_the_key() {
    let scene = Scene::new(Options::default()).await;
    let world = &scene.world;
    let source = scene.volume().await;
    let snapshot = world.snapshot(&source).await;
    let shown = scene.show(MEMBER, &source).await;
    let original = scene.keys.get(&shown["encryption_key_id"]).unwrap();
    let plain = volume_type(world, "plain", None).await;
    let short = volume_type(world, "short", Some(256)).await;
    for from in [
        json!({"source_volid": source}),
        json!({"snapshot_id": snapshot}),
    ] {
        for other in [&plain, &short] {
            let mut volume = from.clone();
            volume["volume_type"] = json!(other);
            let body = json!({ "volume": volume });
            let answer = world.post(MEMBER, "/volumes", body).send().await;
            let text = answer.fault(400, "badRequest");
            assert!(text.contains("requested type is not compatible"), "{text}");
        }
        let body = json!({ "volume": from });
        let made = world
            .post(MEMBER, "/volumes", body)
            .send()
            .await
            .expect(202);
        // Its bytes are encrypted already.
        assert_eq!(world.flow_params().await["encryption"], Value::Null);
        let copy = scene
            .show(MEMBER, made["volume"]["id"].as_str().unwrap())
            .await;
        assert_ne!(copy["encryption_key_id"], shown["encryption_key_id"]);
        let key = scene.keys.get(&copy["encryption_key_id"]).unwrap();
        assert_eq!(key.body["payload"], original.body["payload"]);
    }
    let backup = json!({"backup": {"volume_id": source}});
    let backup = world
        .post(MEMBER, "/backups", backup)
        .send()
        .await
        .expect(202);
    let backup = backup["backup"]["id"].as_str().unwrap();
    let path = format!("/backups/{backup}");
    let of_backup = world.get(MEMBER, &path).send().await.expect(200);
    let key = scene
        .keys
        .get(&of_backup["backup"]["encryption_key_id"])
        .unwrap();
    assert_eq!(key.body["payload"], original.body["payload"]);
    world.set("backups", backup, "available").await;
    let count = scene.keys.all().len();
    for (name, status) in [("plain", 400), ("secret", 202)] {
        let body = json!({"volume": {"size": 1, "backup_id": backup, "volume_type": name}});
        world
            .post(MEMBER, "/volumes", body)
            .send()
            .await
            .expect(status);
    }
    assert_eq!(scene.keys.all().len(), count + 1);
}

#[tokio::test]
async fn nothing_is_left_of_what_was_refused() {
    let options = Options {
        quota_volumes: 0,
        ..Options::default()
    };
    let scene = Scene::new(options).await;
    let world = &scene.world;
    let body = json!({"volume": {"size": 1, "volume_type": "secret"}});
    world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .expect(413);
    let specs = json!({"extra_specs": {"multiattach": "<is> True"}});
    let path = format!("/types/{}/extra_specs", scene.encrypted);
    world.post(ADMIN, &path, specs).send().await.expect(200);
    let body = json!({"volume": {"size": 1, "volume_type": "secret"}});
    let text = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(
        text.contains("Multiattach cannot be used with encrypted volumes"),
        "{text}"
    );
    let body = json!({"volume": {"ref": {"source-name": "x"}, "host": "host@store#volumes", "volume_type": "secret"}});
    world
        .post(ADMIN, "/manageable_volumes", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(scene.keys.all().is_empty());
}

#[tokio::test]
async fn nobody_reads_a_key_of_others() {
    let scene = Scene::new(Options::default()).await;
    let world = &scene.world;
    let volume = scene.volume().await;
    let key = scene.show(MEMBER, &volume).await["encryption_key_id"].clone();
    let image = world
        .images
        .add(json!({"size": 1 << 20, "cinder_encryption_key_id": key}));
    let body = json!({"volume": {"size": 1, "volume_type": "secret", "imageRef": image}});
    let answer = world.post(STRANGER, "/volumes", body.clone()).send().await;
    assert_eq!(answer.fault(400, "badRequest"), "Key manager error");
    assert_eq!(scene.keys.all().len(), 1);
    let made = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .expect(202);
    assert_eq!(world.flow_params().await["encryption"], Value::Null);
    let copy = scene
        .show(MEMBER, made["volume"]["id"].as_str().unwrap())
        .await;
    assert_ne!(copy["encryption_key_id"], key);
}

#[tokio::test]
async fn a_transfer_hands_the_key_over() {
    let scene = Scene::new(Options::default()).await;
    let world = &scene.world;
    let volume = scene.volume().await;
    let old = scene.show(MEMBER, &volume).await["encryption_key_id"].clone();
    let payload = scene.keys.get(&old).unwrap().body["payload"].clone();
    let offer = |no_snapshots: bool| json!({"transfer": {"volume_id": volume, "no_snapshots": no_snapshots}});
    let refused = world
        .post(MEMBER, "/volume-transfers", offer(false))
        .version(69)
        .send()
        .await;
    let text = refused.fault(400, "badRequest");
    assert!(
        text.contains("transferring encrypted volume is not supported"),
        "{text}"
    );
    let refused = world
        .post(MEMBER, "/volume-transfers", offer(true))
        .send()
        .await;
    refused.fault(400, "badRequest");
    let made = world
        .post(MEMBER, "/volume-transfers", offer(false))
        .send()
        .await
        .expect(202);
    let path = format!(
        "/volume-transfers/{}/accept",
        made["transfer"]["id"].as_str().unwrap()
    );
    let accept = json!({"accept": {"auth_key": made["transfer"]["auth_key"]}});
    world.post(STRANGER, &path, accept).send().await.expect(202);
    let new = scene.show(STRANGER, &volume).await["encryption_key_id"].clone();
    assert_ne!(new, old);
    assert!(scene.keys.get(&old).is_none());
    let stored = scene.keys.get(&new).unwrap();
    assert_eq!(stored.project, OTHER_PROJECT);
    assert_eq!(stored.body["payload"], payload);
}

#[tokio::test]
async fn images_name_their_key() {
    let scene = Scene::new(Options::default()).await;
    let volume = scene.volume().await;
    let upload = |format: &str| json!({"os-volume_upload_image": {"image_name": "i", "disk_format": format}});
    let text = scene
        .act(&volume, upload("qcow2"))
        .await
        .fault(400, "badRequest");
    assert!(text.contains("must use 'raw' disk_format"), "{text}");
    assert_eq!(scene.keys.all().len(), 1);
    let body = scene.act(&volume, upload("raw")).await.expect(202);
    let id = body["os-volume_upload_image"]["image_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let image = scene.world.images.image(&id);
    assert_eq!(
        image["cinder_encryption_key_deletion_policy"],
        "on_image_deletion"
    );
    assert!(scene.keys.get(&image["cinder_encryption_key_id"]).is_some());
    assert_eq!(scene.keys.all().len(), 2);
}

#[tokio::test]
async fn a_retype_makes_a_key_where_the_encryption_changes() {
    let scene = Scene::new(Options::default()).await;
    let plain = scene.world.volume(1).await;
    let retype =
        |policy: &str| json!({"os-retype": {"new_type": "secret", "migration_policy": policy}});
    let text = scene
        .act(&plain, retype("never"))
        .await
        .fault(400, "badRequest");
    assert!(text.contains("requires migration"), "{text}");
    assert!(scene.keys.all().is_empty());
    scene.act(&plain, retype("on-demand")).await.expect(202);
    let flow = scene.world.flow_params().await;
    let key = &flow["recryption"]["to"]["key_id"];
    assert!(scene.keys.get(key).is_some());
    let expected = json!({"from": null, "to": {"key_id": key, "key_bits": 512}, "changes": true});
    assert_eq!(flow["recryption"], expected);
    // One that is refused leaves no key behind.
    scene
        .act(&plain, retype("on-demand"))
        .await
        .fault(400, "badRequest");
    assert_eq!(scene.keys.all().len(), 1);
    // Nor does one that no pool takes.
    let database = &scene.world.service.database;
    let sql = "UPDATE volume_services SET disabled = 1";
    database.execute(sql, &[]).await.unwrap();
    let bell = std::sync::Arc::new(tokio::sync::Notify::new());
    let scheduler = volume_service::scheduler::Scheduler::new(scene.world.service.clone(), bell);
    assert_eq!(scheduler.schedule_waiting().await.unwrap(), 1);
    assert!(scene.keys.all().is_empty());
    assert_eq!(scene.show(MEMBER, &plain).await["status"], "available");
}

#[tokio::test]
async fn a_retype_keeps_the_key_where_the_encryption_stays() {
    let scene = Scene::new(Options::default()).await;
    let volume = scene.volume().await;
    let key = scene.show(MEMBER, &volume).await["encryption_key_id"].clone();
    volume_type(&scene.world, "alike", Some(512)).await;
    let body = json!({"os-retype": {"new_type": "alike", "migration_policy": "never"}});
    scene.act(&volume, body).await.expect(202);
    let flow = scene.world.flow_params().await;
    let stays = json!({"key_id": key, "key_bits": 512});
    let expected = json!({"from": stays, "to": stays, "changes": false});
    assert_eq!(flow["recryption"], expected);
    assert_eq!(scene.keys.all().len(), 1);
}
