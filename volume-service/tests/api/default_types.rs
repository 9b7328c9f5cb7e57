//! Default volume types of projects.

use serde_json::json;

use crate::world::{ADMIN, MEMBER, PROJECT, STRANGER, World};

#[tokio::test]
async fn a_project_has_its_own_default() {
    let world = World::new().await;
    let body = json!({"volume_type": {"name": "fast"}});
    let body = world.post(ADMIN, "/types", body).send().await.expect(200);
    let id = body["volume_type"]["id"].as_str().unwrap().to_owned();
    let path = format!("/default-types/{PROJECT}");
    let text = world
        .get(ADMIN, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(
        text,
        format!("Default type for project {PROJECT} not found.")
    );
    let set = json!({"default_type": {"volume_type": "fast"}});
    let wanted = json!({"project_id": PROJECT, "volume_type_id": id});
    let body = world.put(ADMIN, &path, set).send().await.expect(200);
    assert_eq!(body["default_type"], wanted);
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(body["default_type"], wanted);
    let body = world.get(ADMIN, "/default-types").send().await.expect(200);
    assert_eq!(body["default_types"], json!([wanted]));
    for (token, name) in [(MEMBER, "fast"), (STRANGER, "__DEFAULT__")] {
        let body = world.get(token, "/types/default").send().await.expect(200);
        assert_eq!(body["volume_type"]["name"], name);
        let body = json!({"volume": {"size": 1}});
        let body = world.post(token, "/volumes", body).send().await.expect(202);
        assert_eq!(body["volume"]["volume_type"], name);
    }
    let text = world
        .delete(ADMIN, &format!("/types/{id}"))
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("is a default volume type"), "{text}");
    world.delete(ADMIN, &path).send().await.expect(204);
    let body = world.get(MEMBER, "/types/default").send().await;
    assert_eq!(body.expect(200)["volume_type"]["name"], "__DEFAULT__");
}

#[tokio::test]
async fn what_is_not_there_is_refused() {
    let world = World::new().await;
    let path = format!("/default-types/{PROJECT}");
    let set = json!({"default_type": {"volume_type": "none"}});
    world
        .put(ADMIN, &path, set.clone())
        .send()
        .await
        .fault(400, "badRequest");
    world
        .put(MEMBER, &path, set.clone())
        .send()
        .await
        .fault(403, "forbidden");
    world
        .put(ADMIN, &path, set)
        .version(61)
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .get(ADMIN, "/default-types")
        .version(61)
        .send()
        .await
        .fault(404, "itemNotFound");
}
