//! PATCH documents: a table of operations and what they do.

use serde_json::{Value, json};

use crate::support::{ADMIN, ALICE, READER, World};

const V20: &str = "application/openstack-images-v2.0-json-patch";
const V21: &str = "application/openstack-images-v2.1-json-patch";

fn op(op: &str, path: &str, value: Value) -> Value {
    json!([{"op": op, "path": path, "value": value}])
}

async fn image(world: &World) -> String {
    let body = json!({"name": "a", "disk_format": "raw", "container_format": "bare", "p": "1", "tags": ["t"]});
    world.create(ALICE, body).await
}

#[tokio::test]
async fn operations_change_what_they_name() {
    let world = World::new().await;
    let cases = [
        (op("replace", "/name", json!("b")), "name", json!("b")),
        (op("add", "/name", json!(null)), "name", Value::Null),
        (op("replace", "/p", json!("2")), "p", json!("2")),
        (op("add", "/p", json!("2")), "p", json!("2")),
        (op("add", "/q", json!("3")), "q", json!("3")),
        (op("add", "/a~1b~0c", json!("3")), "a/b~c", json!("3")),
        (
            op("replace", "/tags", json!(["x", "y", "x"])),
            "tags",
            json!(["x", "y"]),
        ),
        (
            op("replace", "/visibility", json!("community")),
            "visibility",
            json!("community"),
        ),
        (
            op("replace", "/os_hidden", json!(true)),
            "os_hidden",
            json!(true),
        ),
        (op("replace", "/min_disk", json!(7)), "min_disk", json!(7)),
        (
            op("replace", "/disk_format", json!("qcow2")),
            "disk_format",
            json!("qcow2"),
        ),
        (json!([]), "name", json!("a")),
        (
            json!([{"op": "add", "path": "/z", "value": "1"}, {"op": "replace", "path": "/z", "value": "2"}]),
            "z",
            json!("2"),
        ),
    ];
    for (document, key, value) in cases {
        let id = image(&world).await;
        let answer = world.patch(ALICE, &id, document.clone()).await.expect(200);
        assert_eq!(answer.json()[key], value, "{document}");
        assert_eq!(world.show(&id).await, answer.json(), "{document}");
    }
    let id = image(&world).await;
    let removed = world
        .patch(ALICE, &id, json!([{"op": "remove", "path": "/p"}]))
        .await
        .expect(200)
        .json();
    assert_eq!(removed.get("p"), None);
}

#[tokio::test]
async fn refused_operations_change_nothing() {
    let world = World::new().await;
    let id = image(&world).await;
    let before = world.show(&id).await;
    let cases = [
        (json!({}), 400),
        (json!(["x"]), 400),
        (json!([{}]), 400),
        (json!([{"op": "add"}]), 400),
        (json!([{"op": "add", "path": "/x"}]), 400),
        (json!([{"op": "add", "path": 5, "value": "x"}]), 400),
        (op("test", "/name", json!("a")), 400),
        (op("move", "/name", json!("a")), 400),
        (op("add", "name", json!("a")), 400),
        (op("add", "/", json!("a")), 400),
        (op("add", "//name", json!("a")), 400),
        (op("add", "/name/", json!("a")), 400),
        (op("add", "/na~2me", json!("a")), 400),
        (op("add", "/na~", json!("a")), 400),
        (op("add", "/a/b", json!("a")), 400),
        (op("add", "/tags/0", json!("a")), 400),
        (op("replace", "/name", json!(5)), 400),
        (op("replace", "/visibility", json!("x")), 400),
        (op("replace", "/min_ram", json!("5")), 400),
        (op("add", "/q", json!(5)), 400),
        (op("replace", "/id", json!("x")), 403),
        (op("replace", "/status", json!("active")), 403),
        (op("add", "/checksum", json!("x")), 403),
        (op("add", "/os_glance_x", json!("x")), 403),
        (op("add", "/deleted", json!("x")), 403),
        (op("replace", "/owner", json!("bob")), 403),
        (op("replace", "/visibility", json!("public")), 403),
        (op("replace", "/locations", json!([])), 403),
        (op("add", "/locations/-", json!({})), 403),
        (op("replace", "/none", json!("x")), 409),
        (json!([{"op": "remove", "path": "/none"}]), 409),
        (json!([{"op": "remove", "path": "/name"}]), 403),
        (json!([{"op": "remove", "path": "/status"}]), 403),
        (
            json!([{"op": "add", "path": "/q", "value": "1"}, {"op": "replace", "path": "/r", "value": "1"}]),
            409,
        ),
    ];
    for (document, status) in cases {
        let answer = world.patch(ALICE, &id, document.clone()).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{document}: {}",
            answer.text()
        );
        assert_eq!(world.show(&id).await, before, "{document}");
    }
    world
        .patch(READER, &id, op("replace", "/name", json!("b")))
        .await
        .expect(403);
    world
        .patch(ADMIN, &id, op("replace", "/owner", json!("bob")))
        .await
        .expect(200);
}

#[tokio::test]
async fn the_older_media_type_has_its_own_form() {
    let world = World::new().await;
    let id = image(&world).await;
    let changed = world
        .patch_as(ALICE, &id, V20, json!([{"replace": "/name", "value": "b"}]))
        .await
        .expect(200);
    assert_eq!(changed.json()["name"], "b");
    world
        .patch_as(ALICE, &id, V20, json!([{"add": "/q", "value": "1"}]))
        .await
        .expect(200);
    world
        .patch_as(ALICE, &id, V20, json!([{"add": "/q", "value": "1"}]))
        .await
        .expect(409);
    world
        .patch_as(ALICE, &id, V20, json!([{"add": "/name", "value": "1"}]))
        .await
        .expect(409);
    world
        .patch_as(ALICE, &id, V20, json!([{"remove": "/q"}]))
        .await
        .expect(200);
    world
        .patch_as(
            ALICE,
            &id,
            V20,
            json!([{"add": "/q", "remove": "/q", "value": "1"}]),
        )
        .await
        .expect(400);
    world
        .patch_as(ALICE, &id, V20, op("add", "/q", json!("1")))
        .await
        .expect(400);
    world
        .patch_as(
            ALICE,
            &id,
            &format!("{V21}; charset=utf-8"),
            op("add", "/q", json!("1")),
        )
        .await
        .expect(200);
    let refused = world
        .patch_as(ALICE, &id, "application/json", op("add", "/q", json!("1")))
        .await
        .expect(415);
    assert!(refused.header("accept-patch").contains(V21));
}

#[tokio::test]
async fn quotas_and_formats_of_an_active_image() {
    let world = World::new().await;
    let id = image(&world).await;
    let many = |count: usize| -> Value {
        (0..count)
            .map(|n| json!({"op": "add", "path": format!("/p{n}"), "value": "v"}))
            .collect()
    };
    world.patch(ALICE, &id, many(128)).await.expect(413);
    world.patch(ALICE, &id, many(127)).await.expect(200);
    world
        .patch(ALICE, &id, op("add", "/q", json!("x")))
        .await
        .expect(413);
    world
        .patch(ALICE, &id, op("replace", "/p", json!("x")))
        .await
        .expect(200);
    world.upload(ALICE, &id, "data").await.expect(204);
    world
        .patch(ALICE, &id, op("replace", "/disk_format", json!("qcow2")))
        .await
        .expect(403);
    world
        .patch(ALICE, &id, op("replace", "/name", json!("still works")))
        .await
        .expect(200);
}
