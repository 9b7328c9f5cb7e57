//! The encryption of volume types.

use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, World};

async fn volume_type(world: &World) -> String {
    let body = json!({"volume_type": {"name": "secret"}});
    let body = world.post(ADMIN, "/types", body).send().await.expect(200);
    body["volume_type"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn types_get_change_and_lose_their_encryption() {
    let world = World::new().await;
    let id = volume_type(&world).await;
    let path = format!("/types/{id}/encryption");
    assert_eq!(world.get(ADMIN, &path).send().await.expect(200), json!({}));
    let given = json!({"provider": "luks", "key_size": "256", "cipher": "aes-xts-plain64",
        "control_location": "front-end"});
    let body = json!({"encryption": given});
    let made = world.post(ADMIN, &path, body.clone()).send().await;
    let made = made.expect(200)["encryption"].clone();
    assert_eq!(made["volume_type_id"], json!(id));
    assert_eq!(made["key_size"], 256);
    assert_eq!(made.as_object().unwrap().len(), 6);
    let text = world
        .post(ADMIN, &path, body)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(
        text,
        format!("Volume type encryption for type {id} already exists.")
    );
    let one = format!("{path}/{}", made["encryption_id"].as_str().unwrap());
    let change = json!({"encryption": {"key_size": 128, "control_location": "back-end"}});
    let body = world.put(ADMIN, &one, change.clone()).send().await;
    assert_eq!(body.expect(200), change);
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(body["key_size"], 128);
    assert_eq!(body["provider"], "luks");
    assert_eq!(body["deleted"], false);
    assert_eq!(body["deleted_at"], Value::Null);
    assert!(body["updated_at"].is_string());
    let body = world.get(ADMIN, &format!("{path}/cipher")).send().await;
    assert_eq!(body.expect(200), json!({"cipher": "aes-xts-plain64"}));
    world
        .get(ADMIN, &format!("{path}/nothing"))
        .send()
        .await
        .fault(404, "itemNotFound");
    world.delete(ADMIN, &one).send().await.expect(202);
    world
        .delete(ADMIN, &one)
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(world.get(ADMIN, &path).send().await.expect(200), json!({}));
}

#[tokio::test]
async fn a_used_type_keeps_what_it_has() {
    let world = World::new().await;
    let id = volume_type(&world).await;
    world
        .volume_with(json!({"size": 1, "volume_type": id}))
        .await;
    let path = format!("/types/{id}/encryption");
    let body = json!({"encryption": {"provider": "luks", "control_location": "front-end"}});
    let text = world
        .post(ADMIN, &path, body)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Cannot create encryption specs. Volume type in use.");
}

#[tokio::test]
async fn bad_bodies_and_users_are_refused() {
    let world = World::new().await;
    let id = volume_type(&world).await;
    let path = format!("/types/{id}/encryption");
    for bad in [
        json!({"provider": "luks"}),
        json!({"control_location": "front-end"}),
        json!({"provider": "luks", "control_location": "nowhere"}),
        json!({"provider": 5, "control_location": "front-end"}),
        json!({"provider": "luks", "control_location": "front-end", "key_size": -1}),
    ] {
        world
            .post(ADMIN, &path, json!({ "encryption": bad }))
            .send()
            .await
            .fault(400, "badRequest");
    }
    world
        .get(MEMBER, &path)
        .send()
        .await
        .fault(403, "forbidden");
    let body = json!({"encryption": {"provider": "luks", "control_location": "front-end"}});
    let missing = "/types/11111111-1111-4111-8111-111111111111/encryption";
    world
        .post(ADMIN, missing, body)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn no_volume_is_plain_that_was_to_be_encrypted() {
    let world = World::new().await;
    let id = volume_type(&world).await;
    let path = format!("/types/{id}/encryption");
    let body = json!({"encryption": {"provider": "luks", "control_location": "front-end"}});
    world.post(ADMIN, &path, body).send().await.expect(200);
    let body = json!({"volume": {"size": 1, "volume_type": id}});
    let text = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Key manager error");
}
