//! Group types and their specs.

use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, World};

async fn group_type(world: &World, body: Value) -> String {
    let body = json!({ "group_type": body });
    let body = world.post(ADMIN, "/group_types", body).send().await;
    body.expect(202)["group_type"]["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn types_are_made_shown_changed_and_deleted() {
    let world = World::new().await;
    let specs = json!({"consistent_group_snapshot_enabled": "<is> False"});
    let id = group_type(
        &world,
        json!({"name": "g", "description": "d", "group_specs": specs}),
    )
    .await;
    let path = format!("/group_types/{id}");
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(
        body["group_type"],
        json!({"id": id, "name": "g", "description": "d", "is_public": true, "group_specs": specs})
    );
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert!(body["group_type"].get("group_specs").is_none());
    let again = json!({"group_type": {"name": "g"}});
    world
        .post(ADMIN, "/group_types", again)
        .send()
        .await
        .fault(409, "conflictingRequest");
    let change = json!({"group_type": {"name": "h", "is_public": false}});
    let body = world.put(ADMIN, &path, change).send().await.expect(200);
    assert_eq!(body["group_type"]["name"], "h");
    assert_eq!(body["group_type"]["description"], "d");
    world
        .get(MEMBER, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    for bad in [json!({}), json!({"name": " "}), json!({"other": 1})] {
        let body = json!({ "group_type": bad });
        world
            .put(ADMIN, &path, body)
            .send()
            .await
            .fault(400, "badRequest");
    }
    world.delete(ADMIN, &path).send().await.expect(202);
    world
        .get(ADMIN, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    group_type(&world, json!({"name": "h"})).await;
}

#[tokio::test]
async fn lists_show_public_types_and_admins_ask_for_others() {
    let world = World::new().await;
    group_type(&world, json!({"name": "open"})).await;
    group_type(&world, json!({"name": "closed", "is_public": false})).await;
    let names = async |token, path: &str| -> Vec<String> {
        let body = world.get(token, path).send().await.expect(200);
        let rows = body["group_types"].as_array().unwrap().clone();
        let mut names: Vec<String> = rows
            .iter()
            .map(|row| row["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let public = ["default_cgsnapshot_type", "open"];
    assert_eq!(names(MEMBER, "/group_types").await, public);
    assert_eq!(names(ADMIN, "/group_types").await, public);
    let path = "/group_types?is_public=none";
    assert_eq!(names(MEMBER, path).await, public);
    assert_eq!(
        names(ADMIN, path).await,
        ["closed", "default_cgsnapshot_type", "open"]
    );
    let text = world
        .get(MEMBER, "/group_types/default")
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(text, "Default group type can not be found.");
    world
        .get(MEMBER, "/group_types")
        .version(10)
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn specs_are_set_one_by_one_and_together() {
    let world = World::new().await;
    let id = group_type(&world, json!({"name": "g"})).await;
    let path = format!("/group_types/{id}/group_specs");
    let given = json!({"group_specs": {"key1": "value1", "key2": "value2"}});
    let body = world.post(ADMIN, &path, given.clone()).send().await;
    assert_eq!(body.expect(202), given);
    let one = format!("{path}/key2");
    let body = world.put(ADMIN, &one, json!({"key2": "new"})).send().await;
    assert_eq!(body.expect(200), json!({"key2": "new"}));
    for bad in [
        json!({"other": "x"}),
        json!({"key2": "x", "key3": "y"}),
        json!({"key2": 5}),
    ] {
        world
            .put(ADMIN, &one, bad)
            .send()
            .await
            .fault(400, "badRequest");
    }
    let body = world.get(ADMIN, &one).send().await.expect(200);
    assert_eq!(body, json!({"key2": "new"}));
    world.delete(ADMIN, &one).send().await.expect(202);
    world
        .delete(ADMIN, &one)
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .get(ADMIN, &one)
        .send()
        .await
        .fault(404, "itemNotFound");
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(body, json!({"group_specs": {"key1": "value1"}}));
    world
        .get(MEMBER, &path)
        .send()
        .await
        .fault(403, "forbidden");
}
