//! Volume types, extra specs, access.

use serde_json::json;

use crate::world::{ADMIN, MEMBER, OTHER_PROJECT, PROJECT, World};

async fn new_type(world: &World, name: &str, public: bool) -> String {
    let body = json!({"volume_type": {"name": name, "os-volume-type-access:is_public": public,
        "extra_specs": {"volume_backend_name": "store", "multiattach": "<is> False"}}});
    let body = world.post(ADMIN, "/types", body).send().await.expect(200);
    body["volume_type"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn types_are_made_changed_and_deleted() {
    let world = World::new().await;
    let body = world.get(MEMBER, "/types/default").send().await.expect(200);
    assert_eq!(body["volume_type"]["name"], "__DEFAULT__");
    let default_id = body["volume_type"]["id"].as_str().unwrap().to_owned();
    let id = new_type(&world, "fast", true).await;
    let again = json!({"volume_type": {"name": "fast"}});
    let text = world
        .post(ADMIN, "/types", again)
        .send()
        .await
        .fault(409, "conflictingRequest");
    assert_eq!(text, "Volume Type fast already exists.");
    let path = format!("/types/{id}");
    let update = json!({"volume_type": {"name": "faster", "description": "d"}});
    let body = world.put(ADMIN, &path, update).send().await.expect(200);
    assert_eq!(body["volume_type"]["name"], "faster");
    world
        .put(ADMIN, &path, json!({"volume_type": {}}))
        .send()
        .await
        .fault(400, "badRequest");
    world
        .put(
            ADMIN,
            &path,
            json!({"volume_type": {"name": "__DEFAULT__"}}),
        )
        .send()
        .await
        .fault(409, "conflictingRequest");
    world
        .delete(ADMIN, &format!("/types/{default_id}"))
        .send()
        .await
        .fault(400, "badRequest");
    let volume = world
        .volume_with(json!({"size": 1, "volume_type": "faster"}))
        .await;
    let text = world
        .delete(ADMIN, &path)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Target volume type is still in use.");
    world.forget_volume(&volume).await;
    world.delete(ADMIN, &path).send().await.expect(202);
    world
        .get(ADMIN, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    new_type(&world, "faster", true).await;
}

#[tokio::test]
async fn extra_specs_are_hidden_from_users_and_fixed_in_use() {
    let world = World::new().await;
    let id = new_type(&world, "fast", true).await;
    let path = format!("/types/{id}/extra_specs");
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(
        body["extra_specs"],
        json!({"multiattach": "<is> False", "volume_backend_name": "store"})
    );
    let body = world.get(MEMBER, &path).send().await.expect(200);
    assert_eq!(body["extra_specs"], json!({"multiattach": "<is> False"}));
    let body = world
        .get(MEMBER, &format!("/types/{id}"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        body["volume_type"]["extra_specs"],
        json!({"multiattach": "<is> False"})
    );
    assert!(body["volume_type"].get("qos_specs_id").is_none());
    world
        .post(ADMIN, &path, json!({"extra_specs": {"a": "1"}}))
        .send()
        .await
        .expect(200);
    let body = world
        .put(ADMIN, &format!("{path}/a"), json!({"a": "2"}))
        .send()
        .await
        .expect(200);
    assert_eq!(body, json!({"a": "2"}));
    world
        .put(ADMIN, &format!("{path}/a"), json!({"b": "2"}))
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(
        world
            .get(ADMIN, &format!("{path}/a"))
            .send()
            .await
            .expect(200),
        json!({"a": "2"})
    );
    world
        .delete(ADMIN, &format!("{path}/a"))
        .send()
        .await
        .expect(202);
    world
        .delete(ADMIN, &format!("{path}/a"))
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .volume_with(json!({"size": 1, "volume_type": id}))
        .await;
    let text = world
        .post(ADMIN, &path, json!({"extra_specs": {"a": "1"}}))
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Volume Type is currently in use.");
}

#[tokio::test]
async fn private_types_are_seen_by_those_who_have_access() {
    let world = World::new().await;
    let id = new_type(&world, "secret", false).await;
    let names = async |token: &'static str, query: &str| -> Vec<String> {
        let body = world
            .get(token, &format!("/types{query}"))
            .send()
            .await
            .expect(200);
        let types = body["volume_types"].as_array().unwrap();
        let mut names: Vec<String> = types
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(MEMBER, "").await, ["__DEFAULT__"]);
    assert_eq!(names(ADMIN, "").await, ["__DEFAULT__"]);
    assert_eq!(
        names(ADMIN, "?is_public=None").await,
        ["__DEFAULT__", "secret"]
    );
    assert_eq!(names(ADMIN, "?is_public=False").await, ["secret"]);
    world
        .get(MEMBER, &format!("/types/{id}"))
        .send()
        .await
        .fault(404, "itemNotFound");
    let create = json!({"volume": {"size": 1, "volume_type": "secret"}});
    world
        .post(MEMBER, "/volumes", create)
        .send()
        .await
        .fault(404, "itemNotFound");
    let action = format!("/types/{id}/action");
    let grant = |project: &str| json!({"addProjectAccess": {"project": project}});
    world
        .post(MEMBER, &action, grant(PROJECT))
        .send()
        .await
        .fault(403, "forbidden");
    world
        .post(ADMIN, &action, grant(PROJECT))
        .send()
        .await
        .expect(202);
    world
        .post(ADMIN, &action, grant(PROJECT))
        .send()
        .await
        .fault(409, "conflictingRequest");
    assert_eq!(names(MEMBER, "").await, ["__DEFAULT__", "secret"]);
    let body = world
        .get(ADMIN, &format!("/types/{id}/os-volume-type-access"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        body,
        json!({"volume_type_access": [{"volume_type_id": id, "project_id": PROJECT}]})
    );
    let revoke = |project: &str| json!({"removeProjectAccess": {"project": project}});
    world
        .post(ADMIN, &action, revoke(OTHER_PROJECT))
        .send()
        .await
        .fault(404, "itemNotFound");
    world
        .post(ADMIN, &action, revoke(PROJECT))
        .send()
        .await
        .expect(202);
    world
        .get(MEMBER, &format!("/types/{id}"))
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn specs_that_exclude_each_other_are_refused() {
    let world = World::new().await;
    let id = new_type(&world, "fast", true).await;
    let path = format!("/types/{id}/extra_specs");
    let both = json!({"extra_specs": {"multiattach": "<is> True", "cacheable": "<is> True"}});
    let text = world
        .post(ADMIN, &path, both)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "cacheable cannot be set with multiattach.");
    let one = json!({"extra_specs": {"cacheable": "<is> True"}});
    world.post(ADMIN, &path, one).send().await.expect(200);
    let other = json!({"multiattach": "<is> True"});
    world
        .put(ADMIN, &format!("{path}/multiattach"), other)
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn limits_follow_the_name_of_a_type() {
    let world = World::new().await;
    let id = new_type(&world, "fast", true).await;
    let set = format!("/os-quota-sets/{PROJECT}");
    let body = world.get(ADMIN, &set).send().await.expect(200);
    assert_eq!(body["quota_set"]["volumes_fast"], -1);
    let limit = json!({"quota_set": {"volumes_fast": 1}});
    world.put(ADMIN, &set, limit).send().await.expect(200);
    let rename = json!({"volume_type": {"name": "faster"}});
    let path = format!("/types/{id}");
    world.put(ADMIN, &path, rename).send().await.expect(200);
    let body = world.get(ADMIN, &set).send().await.expect(200);
    assert_eq!(body["quota_set"]["volumes_faster"], 1);
    assert!(body["quota_set"].get("volumes_fast").is_none());
    let volume = json!({"size": 1, "volume_type": "faster"});
    world.volume_with(volume.clone()).await;
    world
        .post(MEMBER, "/volumes", json!({ "volume": volume }))
        .send()
        .await
        .fault(413, "overLimit");
}

#[tokio::test]
async fn lists_show_what_the_project_may_use() {
    let world = World::new().await;
    new_type(&world, "open", true).await;
    let closed = new_type(&world, "closed", false).await;
    let names = async |token, path: &str| -> Vec<String> {
        let body = world.get(token, path).send().await.expect(200);
        let rows = body["volume_types"].as_array().unwrap().clone();
        let mut names: Vec<String> = rows
            .iter()
            .map(|row| row["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let public = ["__DEFAULT__", "open"];
    assert_eq!(names(MEMBER, "/types").await, public);
    assert_eq!(names(ADMIN, "/types").await, public);
    assert_eq!(names(MEMBER, "/types?is_public=False").await, public);
    assert_eq!(names(ADMIN, "/types?is_public=False").await, ["closed"]);
    let all = ["__DEFAULT__", "closed", "open"];
    assert_eq!(names(ADMIN, "/types?is_public=None").await, all);
    let access = json!({"addProjectAccess": {"project": PROJECT}});
    let path = format!("/types/{closed}/action");
    world.post(ADMIN, &path, access).send().await.expect(202);
    assert_eq!(names(MEMBER, "/types").await, all);
    // Users do not learn of hidden specs by filters.
    let hidden = "/types?extra_specs={'volume_backend_name':'store'}";
    assert_eq!(names(ADMIN, hidden).await, ["closed", "open"]);
    assert!(names(MEMBER, hidden).await.is_empty());
    let shown = "/types?extra_specs={'multiattach':'%3Cis%3E+False'}";
    assert_eq!(names(MEMBER, shown).await, ["closed", "open"]);
}

#[tokio::test]
async fn answers_to_changes_show_what_cinder_shows() {
    let world = World::new().await;
    let body = json!({"volume_type": {"name": "t"}});
    let body = world.post(ADMIN, "/types", body).send().await.expect(200);
    assert!(body["volume_type"].get("qos_specs_id").is_none());
    assert_eq!(body["volume_type"]["os-volume-type-access:is_public"], true);
    let path = format!("/types/{}", body["volume_type"]["id"].as_str().unwrap());
    let change = json!({"volume_type": {"description": "d", "is_public": false}});
    let body = world.put(ADMIN, &path, change).send().await.expect(200);
    let fields = body["volume_type"].as_object().unwrap();
    let keys: Vec<_> = fields.keys().collect();
    assert_eq!(
        keys,
        ["description", "extra_specs", "id", "is_public", "name"]
    );
}

#[tokio::test]
async fn types_limit_the_sizes_of_their_volumes() {
    let world = World::new().await;
    let specs = json!({"provisioning:min_vol_size": "2", "provisioning:max_vol_size": "4"});
    let body = json!({"volume_type": {"name": "sized", "extra_specs": specs}});
    world.post(ADMIN, "/types", body).send().await.expect(200);
    for (size, status) in [(1, 400), (2, 202), (4, 202), (5, 400)] {
        let body = json!({"volume": {"size": size, "volume_type": "sized"}});
        let answer = world.post(MEMBER, "/volumes", body).send().await;
        assert_eq!(answer.status.as_u16(), status, "{size}");
    }
}
