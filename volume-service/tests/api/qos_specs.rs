//! QoS specs and the volume types that have them.

use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, World};

async fn specs(world: &World, body: Value) -> String {
    let body = world
        .post(ADMIN, "/qos-specs", json!({ "qos_specs": body }))
        .send()
        .await
        .expect(200);
    assert_eq!(body["links"].as_array().unwrap().len(), 2);
    body["qos_specs"]["id"].as_str().unwrap().to_owned()
}

async fn volume_type(world: &World, name: &str) -> String {
    let body = json!({"volume_type": {"name": name}});
    let body = world.post(ADMIN, "/types", body).send().await.expect(200);
    body["volume_type"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn specs_are_made_changed_and_deleted() {
    let world = World::new().await;
    let id = specs(
        &world,
        json!({"name": " q ", "consumer": "front-end", "read_iops_sec": "5"}),
    )
    .await;
    let path = format!("/qos-specs/{id}");
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(
        body["qos_specs"],
        json!({"id": id, "name": "q", "consumer": "front-end", "specs": {"read_iops_sec": "5"}})
    );
    let change = json!({"qos_specs": {"consumer": "both", "iops_bytes": "500"}});
    let body = world.put(ADMIN, &path, change.clone()).send().await;
    assert_eq!(body.expect(200), change);
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(body["qos_specs"]["consumer"], "both");
    assert_eq!(
        body["qos_specs"]["specs"],
        json!({"iops_bytes": "500", "read_iops_sec": "5"})
    );
    let keys = format!("{path}/delete_keys");
    let text = world
        .put(ADMIN, &keys, json!({"keys": ["iops_bytes", "none"]}))
        .send()
        .await
        .fault(404, "itemNotFound");
    assert!(text.ends_with("has no spec with key none."), "{text}");
    world
        .put(ADMIN, &keys, json!({"keys": ["iops_bytes"]}))
        .send()
        .await
        .expect(202);
    let body = world.get(ADMIN, "/qos-specs").send().await.expect(200);
    assert_eq!(
        body["qos_specs"],
        json!([{"id": id, "name": "q", "consumer": "both", "specs": {"read_iops_sec": "5"}}])
    );
    world.delete(ADMIN, &path).send().await.expect(202);
    let text = world
        .get(ADMIN, &path)
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(text, format!("No such QoS spec {id}."));
    specs(&world, json!({"name": "q"})).await;
}

#[tokio::test]
async fn bad_specs_are_refused() {
    let world = World::new().await;
    specs(&world, json!({"name": "q"})).await;
    world
        .post(ADMIN, "/qos-specs", json!({"qos_specs": {"name": "q"}}))
        .send()
        .await
        .fault(409, "conflictingRequest");
    for bad in [
        json!({"name": ""}),
        json!({"consumer": "both"}),
        json!({"name": "r", "consumer": "nobody"}),
        json!({"name": "r", "key": 5}),
        json!({"name": "r", "key": "v".repeat(256)}),
        json!({"name": "r", "": "v"}),
    ] {
        let body = json!({ "qos_specs": bad });
        world
            .post(ADMIN, "/qos-specs", body)
            .send()
            .await
            .fault(400, "badRequest");
    }
    world
        .post(MEMBER, "/qos-specs", json!({"qos_specs": {"name": "m"}}))
        .send()
        .await
        .fault(403, "forbidden");
    world
        .get(MEMBER, "/qos-specs")
        .send()
        .await
        .fault(403, "forbidden");
}

#[tokio::test]
async fn types_have_one_set_of_specs() {
    let world = World::new().await;
    let (fast, slow) = (
        volume_type(&world, "fast").await,
        volume_type(&world, "slow").await,
    );
    let first = specs(&world, json!({"name": "first"})).await;
    let second = specs(&world, json!({"name": "second"})).await;
    let associate = |specs: &str, volume_type: &str| {
        format!("/qos-specs/{specs}/associate?vol_type_id={volume_type}")
    };
    for volume_type in [&fast, &slow, &fast] {
        let path = associate(&first, volume_type);
        world.get(ADMIN, &path).send().await.expect(202);
    }
    let text = world
        .get(ADMIN, &associate(&second, &fast))
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("already associated"), "{text}");
    let body = world.get(ADMIN, &format!("/types/{fast}")).send().await;
    assert_eq!(
        body.expect(200)["volume_type"]["qos_specs_id"],
        json!(first)
    );
    let path = format!("/qos-specs/{first}/associations");
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(
        body["qos_associations"],
        json!([{"association_type": "volume_type", "id": fast, "name": "fast"},
               {"association_type": "volume_type", "id": slow, "name": "slow"}])
    );
    let text = world
        .delete(ADMIN, &format!("/qos-specs/{first}"))
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Qos specs still in use.");
    let one = format!("/qos-specs/{first}/disassociate?vol_type_id={slow}");
    world.get(ADMIN, &one).send().await.expect(202);
    let missing = format!("/qos-specs/{first}/disassociate");
    world
        .get(ADMIN, &missing)
        .send()
        .await
        .fault(400, "badRequest");
    world
        .get(ADMIN, &associate(&first, &first))
        .send()
        .await
        .fault(404, "itemNotFound");
    let all = format!("/qos-specs/{first}/disassociate_all");
    world.get(ADMIN, &all).send().await.expect(202);
    let body = world.get(ADMIN, &path).send().await.expect(200);
    assert_eq!(body["qos_associations"], json!([]));
    world
        .get(ADMIN, &associate(&second, &fast))
        .send()
        .await
        .expect(202);
    let forced = format!("/qos-specs/{second}?force=True");
    world.delete(ADMIN, &forced).send().await.expect(202);
    let body = world.get(ADMIN, &format!("/types/{fast}")).send().await;
    assert_eq!(body.expect(200)["volume_type"]["qos_specs_id"], Value::Null);
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        specs(&world, json!({"name": name, "consumer": "back-end"})).await;
    }
    let path = "/qos-specs?sort=name:asc&limit=2";
    let body = world.get(ADMIN, path).send().await.expect(200);
    assert_eq!(body["qos_specs"].as_array().unwrap().len(), 2);
    let next = body["qos_specs_links"][0]["href"].as_str().unwrap();
    let next = next.split("/v3").nth(1).unwrap();
    let body = world.get(ADMIN, next).send().await.expect(200);
    assert_eq!(body["qos_specs"][0]["name"], "c");
    let body = world.get(ADMIN, "/qos-specs?consumer=both").send().await;
    assert_eq!(body.expect(200)["qos_specs"], json!([]));
}

#[tokio::test]
async fn clients_are_told_what_they_enforce() {
    let world = World::new().await;
    for (name, consumer, told) in [
        ("a", "front-end", true),
        ("b", "both", true),
        ("c", "back-end", false),
    ] {
        let body = json!({"name": name, "consumer": consumer, "read_iops_sec_per_gb": "5", "write_iops_sec": "9"});
        let id = specs(&world, body).await;
        let of = volume_type(&world, &format!("of-{name}")).await;
        let path = format!("/qos-specs/{id}/associate?vol_type_id={of}");
        world.get(ADMIN, &path).send().await.expect(202);
        let volume = world
            .volume_with(json!({"size": 3, "volume_type": of}))
            .await;
        let body = json!({"attachment": {"volume_uuid": volume, "connector": {"host": "h"}}});
        let body = world
            .post(MEMBER, "/attachments", body)
            .send()
            .await
            .expect(200);
        let expected = match told {
            true => json!({"read_iops_sec": "15", "write_iops_sec": "9"}),
            false => Value::Null,
        };
        assert_eq!(body["attachment"]["connection_info"]["qos_specs"], expected);
    }
}
