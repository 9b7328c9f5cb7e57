//! Lists: filters, sorting, paging, and who sees what.

use serde_json::{Value, json};

use crate::support::{ADMIN, ALICE, BOB, World};

/// Names of the images of a list.
async fn names(world: &World, token: &str, query: &str) -> Vec<String> {
    let list = world
        .get(token, &format!("/v2/images{query}"))
        .await
        .expect(200)
        .json();
    let name = |image: &Value| image["name"].as_str().unwrap_or("-").to_owned();
    list["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(name)
        .collect()
}

async fn sorted_names(world: &World, token: &str, query: &str) -> Vec<String> {
    let mut names = names(world, token, query).await;
    names.sort();
    names
}

async fn five(world: &World) {
    for (name, disk, ram, tags, property) in [
        ("a", "raw", 1, vec!["x"], "1"),
        ("b", "qcow2", 2, vec!["x", "y"], "2"),
        ("c,c", "raw", 3, vec!["y"], "1"),
        ("d:d", "iso", 4, vec![], "2"),
        ("e", "vmdk", 5, vec!["z z"], "3"),
    ] {
        let body = json!({
            "name": name, "disk_format": disk, "container_format": "bare", "min_ram": ram, "tags": tags,
            "p": property, "protected": ram == 5,
        });
        world.create(ALICE, body).await;
    }
}

#[tokio::test]
async fn filters() {
    let world = World::new().await;
    five(&world).await;
    let cases: &[(&str, &[&str])] = &[
        ("", &["a", "b", "c,c", "d:d", "e"]),
        ("?name=a", &["a"]),
        ("?name=eq:a", &["a"]),
        ("?name=in:a,e,nothing", &["a", "e"]),
        ("?name=in:%22c,c%22,a", &["a", "c,c"]),
        ("?name=d:d", &["d:d"]),
        ("?disk_format=raw", &["a", "c,c"]),
        ("?disk_format=in:iso,vmdk", &["d:d", "e"]),
        ("?status=queued&name=b", &["b"]),
        ("?status=active", &[]),
        ("?tag=x", &["a", "b"]),
        ("?tag=x&tag=y", &["b"]),
        ("?tag=z%20z", &["e"]),
        ("?p=1", &["a", "c,c"]),
        ("?p=1&tag=y", &["c,c"]),
        ("?nothing=1", &[]),
        ("?min_ram_min=2&min_ram_max=3", &["b", "c,c"]),
        ("?min_ram=4", &["d:d"]),
        ("?size_min=1", &[]),
        ("?protected=true", &["e"]),
        ("?owner=alice&protected=false", &["a", "b", "c,c", "d:d"]),
        ("?owner=bob", &[]),
        (
            "?created_at=gt:2001-01-01T00:00:00Z",
            &["a", "b", "c,c", "d:d", "e"],
        ),
        ("?updated_at=lt:2001-01-01T00:00:00Z", &[]),
        ("?name=%27%20OR%201=1%20--", &[]),
    ];
    for (query, expected) in cases {
        assert_eq!(
            sorted_names(&world, ALICE, query).await,
            *expected,
            "{query}"
        );
    }
    let image = world.get(ALICE, "/v2/images?name=a").await.json()["images"][0].clone();
    let created = image["created_at"].as_str().unwrap();
    for (query, found) in [
        (format!("?name=a&created_at=eq:{created}"), true),
        (format!("?name=a&created_at={created}"), true),
        (format!("?name=a&created_at=neq:{created}"), false),
        (format!("?name=a&created_at=gt:{created}"), false),
        (format!("?name=a&created_at=gte:{created}"), true),
        (format!("?name=a&created_at=lt:{created}"), false),
        (format!("?name=a&created_at=lte:{created}"), true),
        (format!("?id={}", image["id"].as_str().unwrap()), true),
    ] {
        assert_eq!(
            names(&world, ALICE, &query).await.len() == 1,
            found,
            "{query}"
        );
    }
}

#[tokio::test]
async fn bad_parameters() {
    let world = World::new().await;
    for query in [
        "limit=-1",
        "limit=x",
        "marker=x",
        "marker=2f1f7e0d-5d24-4bd5-8bd6-5ac65cf0c7a6",
        "sort=owner",
        "sort=name:up",
        "sort_key=nothing",
        "sort_dir=x",
        "sort=name&sort_key=name",
        "visibility=secret",
        "member_status=x",
        "protected=1",
        "os_hidden=perhaps",
        "created_at=gt:yesterday",
        "created_at=x",
        "size_min=x",
        "changes-since=1",
        "name=in:%22a",
        "name=gt:a",
    ] {
        world
            .get(ALICE, &format!("/v2/images?{query}"))
            .await
            .expect(400);
    }
}

#[tokio::test]
async fn sorting_and_paging_reach_every_image_once() {
    let world = World::new().await;
    five(&world).await;
    world.create(ALICE, json!({})).await;
    assert_eq!(
        names(&world, ALICE, "").await,
        ["-", "e", "d:d", "c,c", "b", "a"]
    );
    assert_eq!(
        names(&world, ALICE, "?sort=name:asc").await,
        ["-", "a", "b", "c,c", "d:d", "e"]
    );
    assert_eq!(
        names(&world, ALICE, "?sort=disk_format:asc,name:desc").await,
        ["-", "d:d", "b", "c,c", "a", "e"]
    );
    assert_eq!(
        names(&world, ALICE, "?sort_key=name&sort_dir=desc").await,
        ["e", "d:d", "c,c", "b", "a", "-"]
    );
    assert_eq!(names(&world, ALICE, "?limit=0").await, [""; 0]);
    for order in [
        "created_at:desc",
        "name:asc",
        "disk_format:desc,name:asc",
        "size:asc",
        "id:desc",
        "status,updated_at:asc",
    ] {
        let whole = names(&world, ALICE, &format!("?sort={order}")).await;
        let mut path = format!("/v2/images?limit=2&sort={order}");
        let mut paged = Vec::new();
        loop {
            let page = world.get(ALICE, &path).await.expect(200).json();
            assert!(
                page["first"]
                    .as_str()
                    .unwrap()
                    .starts_with("/v2/images?limit=2&sort=")
            );
            for image in page["images"].as_array().unwrap() {
                paged.push(image["name"].as_str().unwrap_or("-").to_owned());
            }
            match page["next"].as_str() {
                Some(next) => path = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(paged, whole, "{order}");
    }
    let one = world.get(ALICE, "/v2/images").await.json();
    assert_eq!(
        (&one["first"], &one["schema"]),
        (&json!("/v2/images"), &json!("/v2/schemas/images"))
    );
    assert_eq!(one.get("next"), None);
}

#[tokio::test]
async fn visibility() {
    let world = World::new().await;
    for (token, name, visibility) in [
        (ALICE, "alice-private", "private"),
        (ALICE, "alice-shared", "shared"),
        (ALICE, "alice-community", "community"),
        (ADMIN, "public", "public"),
        (BOB, "bob-private", "private"),
        (BOB, "bob-community", "community"),
    ] {
        world
            .create(token, json!({"name": name, "visibility": visibility}))
            .await;
    }
    world
        .create(ALICE, json!({"name": "alice-hidden", "os_hidden": true}))
        .await;
    let cases: &[(&str, &str, &[&str])] = &[
        (
            ALICE,
            "",
            &["alice-community", "alice-private", "alice-shared", "public"],
        ),
        (
            ALICE,
            "?visibility=all",
            &[
                "alice-community",
                "alice-private",
                "alice-shared",
                "bob-community",
                "public",
            ],
        ),
        (
            ALICE,
            "?visibility=community",
            &["alice-community", "bob-community"],
        ),
        (ALICE, "?visibility=private", &["alice-private"]),
        (ALICE, "?visibility=shared", &["alice-shared"]),
        (ALICE, "?visibility=public", &["public"]),
        (ALICE, "?os_hidden=true", &["alice-hidden"]),
        (BOB, "", &["bob-community", "bob-private", "public"]),
        (BOB, "?owner=alice&visibility=all", &["alice-community"]),
        (
            ADMIN,
            "",
            &["alice-private", "alice-shared", "bob-private", "public"],
        ),
        (
            ADMIN,
            "?visibility=private",
            &["alice-private", "bob-private"],
        ),
    ];
    for (token, query, expected) in cases {
        assert_eq!(
            sorted_names(&world, token, query).await,
            *expected,
            "{token} {query}"
        );
    }
}
