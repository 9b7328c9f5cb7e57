//! Metadata definitions: namespaces and what they hold.

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN, ALICE, BOB, World};

const NAMESPACES: &str = "/v2/metadefs/namespaces";

/// A namespace of the project `alice`.
async fn private(world: &World, name: &str) -> String {
    let body = json!({"namespace": name, "owner": "alice"});
    world.post(ADMIN, NAMESPACES, body).await.expect(201);
    format!("{NAMESPACES}/{name}")
}

async fn names(world: &World, token: &str, query: &str) -> Vec<String> {
    let list = world.get(token, &format!("{NAMESPACES}{query}")).await;
    let list = list.expect(200).json();
    let namespaces = list["namespaces"].as_array().unwrap().iter();
    namespaces
        .map(|one| one["namespace"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_namespace_with_all_it_holds() {
    let world = World::new().await;
    let body = json!({
        "namespace": "N::1", "display_name": "One", "visibility": "public", "protected": true,
        "resource_type_associations": [{"name": "OS::Glance::Image", "prefix": "hw_"}, {"name": "X"}],
        "properties": {"p": {"title": "P", "type": "string", "enum": ["a"]}},
        "objects": [{"name": "o", "required": ["q"], "properties": {"q": {"title": "Q", "type": "integer"}}}],
        "tags": [{"name": "t"}],
    });
    world
        .post(ALICE, NAMESPACES, body.clone())
        .await
        .expect(403);
    let created = world
        .post(ADMIN, NAMESPACES, body.clone())
        .await
        .expect(201);
    assert_eq!(
        created.header("location"),
        "http://glance/v2/metadefs/namespaces/N::1"
    );
    let created = created.json();
    assert_eq!(
        (&created["owner"], &created["protected"]),
        (&json!("ops"), &json!(true))
    );
    assert_eq!(created["self"], "/v2/metadefs/namespaces/N::1");
    assert_eq!(created["schema"], "/v2/schemas/metadefs/namespace");
    world.post(ADMIN, NAMESPACES, body).await.expect(409);

    let path = format!("{NAMESPACES}/N::1");
    let shown = world.get(BOB, &path).await.expect(200).json();
    assert_eq!(shown["properties"]["p"]["enum"], json!(["a"]));
    assert_eq!(shown["objects"][0]["name"], "o");
    assert_eq!(shown["tags"], json!([{"name": "t"}]));
    assert_eq!(shown.get("description"), None);
    let prefixed = format!("{path}?resource_type=OS::Glance::Image");
    let shown = world.get(BOB, &prefixed).await.expect(200).json();
    assert_eq!(shown["properties"]["hw_p"]["title"], "P");
    assert_eq!(shown["objects"][0]["required"], json!(["hw_q"]));
    assert_eq!(shown["objects"][0]["properties"]["hw_q"]["type"], "integer");
    let types = world
        .get(ALICE, "/v2/metadefs/resource_types")
        .await
        .expect(200)
        .json();
    let known = types["resource_types"].as_array().unwrap();
    assert!(known.iter().any(|one| one["name"] == "X"));

    let bare = format!("{path}/objects/bare");
    let objects = format!("{path}/objects");
    let made = world.post(ADMIN, &objects, json!({"name": "bare"})).await;
    made.expect(201);
    let object = world.get(ALICE, &bare).await.expect(200).json();
    assert_eq!(
        (&object["required"], &object["properties"]),
        (&json!([]), &json!({}))
    );

    // Nothing that a protected namespace holds may go.
    for rest in [
        "",
        "/objects",
        "/objects/o",
        "/properties/p",
        "/tags",
        "/tags/t",
        "/resource_types/X",
    ] {
        world
            .delete(ADMIN, &format!("{path}{rest}"))
            .await
            .expect(403);
    }
    let open = json!({"namespace": "N::2", "visibility": "public", "description": "d"});
    world.put(ALICE, &path, open.clone()).await.expect(403);
    let updated = world.put(ADMIN, &path, open).await.expect(200).json();
    assert_eq!(
        (&updated["protected"], &updated["description"]),
        (&json!(false), &json!("d"))
    );
    assert_eq!(updated.get("display_name"), None);
    world.get(ADMIN, &path).await.expect(404);
    let path = format!("{NAMESPACES}/N::2");
    world.delete(ALICE, &path).await.expect(403);
    world.delete(ADMIN, &path).await.expect(204);
    world.get(ADMIN, &path).await.expect(404);
    world.delete(ADMIN, &path).await.expect(404);
}

#[tokio::test]
async fn who_sees_what_and_pages() {
    let world = World::new().await;
    private(&world, "A").await;
    let public = json!({"namespace": "B", "visibility": "public", "owner": "bob",
        "resource_type_associations": [{"name": "Mine"}]});
    world.post(ADMIN, NAMESPACES, public).await.expect(201);
    assert_eq!(
        names(&world, ALICE, "?sort_key=created_at&sort_dir=desc&limit=2").await,
        ["B", "A"]
    );
    assert_eq!(names(&world, BOB, "?limit=1").await, ["B"]);
    assert_eq!(names(&world, ALICE, "?visibility=private").await, ["A"]);
    assert_eq!(names(&world, BOB, "?visibility=private").await, [""; 0]);
    assert_eq!(
        names(&world, BOB, "?resource_types=Mine,Other").await,
        ["B"]
    );
    world.get(BOB, &format!("{NAMESPACES}/A")).await.expect(404);
    world
        .get(BOB, &format!("{NAMESPACES}/A/objects"))
        .await
        .expect(404);
    for bad in [
        "visibility=shared",
        "limit=-1",
        "limit=x",
        "sort_dir=up",
        "sort_key=colour",
    ] {
        world
            .get(ALICE, &format!("{NAMESPACES}?{bad}"))
            .await
            .expect(400);
    }
    world
        .get(ALICE, &format!("{NAMESPACES}?marker=none"))
        .await
        .expect(404);

    let mut seen = Vec::new();
    let mut next = Some(format!(
        "{NAMESPACES}?limit=7&sort_key=namespace&sort_dir=asc"
    ));
    while let Some(path) = next {
        let page = world.get(ALICE, &path).await.expect(200).json();
        let on_page = page["namespaces"].as_array().unwrap().iter();
        seen.extend(on_page.map(|one| one["namespace"].as_str().unwrap().to_owned()));
        next = page["next"].as_str().map(str::to_owned);
    }
    assert!(seen.len() > 20 && seen.is_sorted(), "{seen:?}");
    assert!(
        seen.contains(&"A".to_owned()) && seen.contains(&"OS::Compute::LibvirtImage".to_owned())
    );
}

/// Creates, reads, changes, lists and deletes items under `collection`.
async fn life_of(collection: &str, first: Value, second: Value, listed: fn(&Value) -> usize) {
    let world = World::new().await;
    let namespace = private(&world, "N").await;
    let all = format!("{namespace}/{collection}");
    let (one, two) = (format!("{all}/one"), format!("{all}/two"));
    let create = async |token: &str, body: Value| match collection {
        "tags" => {
            world
                .json(
                    token,
                    Method::POST,
                    &format!("{all}/{}", body["name"].as_str().unwrap()),
                    Value::Null,
                )
                .await
        }
        _ => world.post(token, &all, body).await,
    };
    create(ALICE, first.clone()).await.expect(403);
    let created = create(ADMIN, first.clone()).await.expect(201).json();
    assert_eq!(created["name"], "one");
    create(ADMIN, first.clone()).await.expect(409);
    world.get(BOB, &one).await.expect(404);
    assert_eq!(
        world.get(ALICE, &one).await.expect(200).json()["name"],
        "one"
    );
    world.put(ALICE, &one, second.clone()).await.expect(403);
    assert_eq!(
        world
            .put(ADMIN, &one, second.clone())
            .await
            .expect(200)
            .json()["name"],
        "two"
    );
    world.get(ALICE, &one).await.expect(404);
    create(ADMIN, first.clone()).await.expect(201);
    world.put(ADMIN, &one, second).await.expect(409);
    assert_eq!(listed(&world.get(ALICE, &all).await.expect(200).json()), 2);
    world.delete(ALICE, &two).await.expect(403);
    world.delete(ADMIN, &two).await.expect(204);
    world.delete(ADMIN, &two).await.expect(404);
    world.delete(ALICE, &all).await.expect(403);
    world.delete(ADMIN, &all).await.expect(204);
    assert_eq!(listed(&world.get(ALICE, &all).await.expect(200).json()), 0);
    world.put(ADMIN, &one, json!({})).await.expect(400);
    let read_only = json!({"name": "one", "title": "", "type": "string", "created_at": ""});
    world.put(ADMIN, &one, read_only).await.expect(403);
}

#[tokio::test]
async fn objects() {
    let object =
        |name: &str| json!({"name": name, "properties": {"p": {"title": "P", "type": "string"}}});
    let count = |list: &Value| list["objects"].as_array().unwrap().len();
    life_of("objects", object("one"), object("two"), count).await;
}

#[tokio::test]
async fn properties() {
    let property = |name: &str| json!({"name": name, "title": "P", "type": "string"});
    let count = |list: &Value| list["properties"].as_object().unwrap().len();
    life_of("properties", property("one"), property("two"), count).await;
}

#[tokio::test]
async fn tags() {
    let count = |list: &Value| list["tags"].as_array().unwrap().len();
    life_of(
        "tags",
        json!({"name": "one"}),
        json!({"name": "two"}),
        count,
    )
    .await;
}

#[tokio::test]
async fn many_tags_replace_or_append() {
    let world = World::new().await;
    let tags = format!("{}/tags", private(&world, "N").await);
    let body = |names: &[&str]| json!({"tags": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    let listed = async |query: &str| {
        let list = world
            .get(ALICE, &format!("{tags}{query}"))
            .await
            .expect(200)
            .json();
        let all = list["tags"].as_array().unwrap().iter();
        all.map(|tag| tag["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    world
        .post(ADMIN, &tags, body(&["a", "b"]))
        .await
        .expect(201);
    world
        .post(ADMIN, &tags, body(&["c", "d"]))
        .await
        .expect(201);
    world
        .post(ADMIN, &tags, body(&["e", "e"]))
        .await
        .expect(409);
    let request = World::request(ADMIN, Method::POST, &tags).header("x-openstack-append", "True");
    let request = request.body(body(&["a"]).to_string().into()).unwrap();
    world.send(request).await.expect(201);
    assert_eq!(listed("?sort_key=name&sort_dir=asc").await, ["a", "c", "d"]);
    assert_eq!(
        listed("?sort_key=name&sort_dir=asc&limit=1&marker=a").await,
        ["c"]
    );
    world
        .get(ALICE, &format!("{tags}?marker=z"))
        .await
        .expect(404);
    world
        .post(ADMIN, &tags, json!({"tags": [{"colour": "red"}]}))
        .await
        .expect(400);
}

#[tokio::test]
async fn a_namespace_is_for_types_of_resources() {
    let world = World::new().await;
    let namespace = private(&world, "N").await;
    let types = format!("{namespace}/resource_types");
    let association = json!({"name": "OS::Nova::Flavor", "prefix": "hw:"});
    world
        .post(ALICE, &types, association.clone())
        .await
        .expect(403);
    let created = world
        .post(ADMIN, &types, association.clone())
        .await
        .expect(201)
        .json();
    assert_eq!(
        (&created["prefix"], created.get("properties_target")),
        (&json!("hw:"), None)
    );
    world.post(ADMIN, &types, association).await.expect(409);
    world
        .post(ADMIN, &types, json!({"prefix": "x"}))
        .await
        .expect(400);
    let list = world.get(ALICE, &types).await.expect(200).json();
    assert_eq!(
        list["resource_type_associations"][0]["name"],
        "OS::Nova::Flavor"
    );
    let property = json!({"name": "p", "title": "P", "type": "string"});
    world
        .post(ADMIN, &format!("{namespace}/properties"), property)
        .await
        .expect(201);
    let shown =
        |name: &str| format!("{namespace}/properties/{name}?resource_type=OS::Nova::Flavor");
    assert_eq!(
        world.get(ALICE, &shown("hw:p")).await.expect(200).json()["name"],
        "p"
    );
    world.get(ALICE, &shown("p")).await.expect(404);
    world
        .delete(ADMIN, &format!("{types}/OS::Nova::Flavor"))
        .await
        .expect(204);
    world
        .delete(ADMIN, &format!("{types}/OS::Nova::Flavor"))
        .await
        .expect(404);
    world.get(ALICE, &shown("hw:p")).await.expect(404);
}

#[tokio::test]
async fn schemas() {
    let world = World::new().await;
    for (path, name) in [
        ("namespace", "namespace"),
        ("namespaces", "namespaces"),
        ("object", "object"),
        ("objects", "objects"),
        ("property", "property"),
        ("properties", "properties"),
        ("tag", "tag"),
        ("tags", "tags"),
        ("resource_type", "resource_type_association"),
        ("resource_types", "resource_type_associations"),
    ] {
        let schema = world
            .get(ALICE, &format!("/v2/schemas/metadefs/{path}"))
            .await
            .expect(200);
        assert_eq!(schema.json()["name"], name);
    }
    world
        .get(ALICE, "/v2/schemas/metadefs/colour")
        .await
        .expect(404);
}
