//! Lists: pages, order, filters, counts.

use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, PROJECT, STRANGER, World};

fn names(body: &Value, collection: &str) -> Vec<String> {
    let rows = body[collection].as_array().unwrap();
    rows.iter()
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn five(world: &World) {
    for (name, size) in [("a", 3), ("b", 1), ("c", 2), ("d", 1), ("e", 2)] {
        world
            .volume_with(json!({"size": size, "name": name, "metadata": {"letter": name}}))
            .await;
    }
}

#[tokio::test]
async fn pages_follow_their_links_to_the_end() {
    let world = World::new().await;
    five(&world).await;
    for (query, expected) in [
        ("limit=2", ["e", "d", "c", "b", "a"]),
        ("limit=2&sort=size:asc,name:asc", ["b", "d", "c", "e", "a"]),
        (
            "limit=1&sort_key=name&sort_dir=asc",
            ["a", "b", "c", "d", "e"],
        ),
        (
            "limit=3&sort=updated_at:asc,name:desc",
            ["e", "d", "c", "b", "a"],
        ),
    ] {
        let mut path = format!("/{PROJECT}/volumes/detail?{query}");
        let mut seen = Vec::new();
        for _ in 0..10 {
            let body = world.get(MEMBER, &path).send().await.expect(200);
            seen.extend(names(&body, "volumes"));
            let Some(next) = body["volumes_links"][0]["href"].as_str() else {
                break;
            };
            assert!(
                next.starts_with(&format!(
                    "http://volume.example:8776/v3/{PROJECT}/volumes/detail?"
                )),
                "{next}"
            );
            path = next.split_once("/v3").unwrap().1.to_owned();
        }
        assert_eq!(seen, expected, "{query}");
    }
}

#[tokio::test]
async fn limits_markers_and_orders_are_checked() {
    let world = World::new().await;
    five(&world).await;
    let body = world
        .get(MEMBER, "/volumes?limit=0")
        .send()
        .await
        .expect(200);
    assert_eq!(body, json!({"volumes": []}));
    for bad in [
        "limit=-1",
        "limit=x",
        "offset=-1",
        "sort=nothing",
        "sort=name:sideways",
        "sort=name&sort_key=size",
    ] {
        world
            .get(MEMBER, &format!("/volumes?{bad}"))
            .send()
            .await
            .fault(400, "badRequest");
    }
    for marker in ["x", "0e4c9c9c-55a5-4c2a-8d3b-1a6a7a1f0001"] {
        world
            .get(MEMBER, &format!("/volumes?marker={marker}"))
            .send()
            .await
            .fault(404, "itemNotFound");
    }
    let body = world
        .get(MEMBER, "/volumes?offset=4")
        .send()
        .await
        .expect(200);
    assert_eq!(names(&body, "volumes"), ["a"]);
}

#[tokio::test]
async fn filters_of_volumes() {
    let world = World::new().await;
    five(&world).await;
    for (query, expected) in [
        ("name=a", vec!["a"]),
        ("name=['a','b']", vec!["b", "a"]),
        ("name~=A", vec!["a"]),
        ("size=1", vec!["d", "b"]),
        ("status=available&size=3", vec!["a"]),
        ("metadata={'letter':'c'}", vec!["c"]),
        ("bootable=true", vec![]),
        ("availability_zone=nova&name=e", vec!["e"]),
        ("created_at=gt:2020-01-01T00:00:00&name=e", vec!["e"]),
        ("created_at=lt:2020-01-01T00:00:00", vec![]),
        ("consumes_quota=true&name=e", vec!["e"]),
    ] {
        let query = query
            .replace('\'', "%27")
            .replace('{', "%7B")
            .replace('}', "%7D");
        let body = world
            .get(MEMBER, &format!("/volumes?{query}"))
            .send()
            .await
            .expect(200);
        assert_eq!(names(&body, "volumes"), expected, "{query}");
    }
    let text = world
        .get(MEMBER, "/volumes?colour=red")
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Invalid filters colour are found in query options.");
    let body = world
        .get(MEMBER, "/volumes?colour=red")
        .version(30)
        .send()
        .await
        .expect(200);
    assert_eq!(body["volumes"].as_array().unwrap().len(), 5);
    world
        .get(MEMBER, "/volumes?bootable=maybe")
        .send()
        .await
        .fault(400, "badRequest");
    world
        .get(MEMBER, "/volumes?metadata=nonsense")
        .send()
        .await
        .fault(400, "badRequest");
    world
        .get(MEMBER, "/volumes?created_at=2020-01-01T00:00:00")
        .send()
        .await
        .fault(400, "badRequest");
    world
        .get(MEMBER, "/volumes?created_at=gt:yesterday")
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn counts_and_projects() {
    let world = World::new().await;
    five(&world).await;
    let body = world
        .get(MEMBER, "/volumes?with_count=true&limit=2")
        .send()
        .await
        .expect(200);
    assert_eq!(
        (
            body["count"].as_i64(),
            body["volumes"].as_array().unwrap().len()
        ),
        (Some(5), 2)
    );
    assert!(
        world
            .get(MEMBER, "/volumes?with_count=false")
            .send()
            .await
            .expect(200)
            .get("count")
            .is_none()
    );
    let count = async |token: &'static str, query: &str| -> usize {
        let body = world
            .get(token, &format!("/volumes/detail{query}"))
            .send()
            .await
            .expect(200);
        body["volumes"].as_array().unwrap().len()
    };
    assert_eq!(count(STRANGER, "").await, 0);
    assert_eq!(count(STRANGER, "?all_tenants=1").await, 0);
    assert_eq!(count("admin@bbbb0000", "").await, 0);
    assert_eq!(count("admin@bbbb0000", "?all_tenants=1").await, 5);
    assert_eq!(
        count("admin@bbbb0000", "?all_tenants=1&project_id=aaaa0000").await,
        5
    );
    assert_eq!(
        count("admin@bbbb0000", "?all_tenants=1&project_id=cccc").await,
        0
    );
}

#[tokio::test]
async fn snapshots_and_backups_page_alike() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    for _ in 0..3 {
        world.snapshot(&volume).await;
    }
    let body = world
        .get(MEMBER, "/snapshots?limit=2")
        .send()
        .await
        .expect(200);
    assert_eq!(body["snapshots"].as_array().unwrap().len(), 2);
    assert!(
        body["snapshots"][0]
            .get("os-extended-snapshot-attributes:progress")
            .is_none()
    );
    let next = body["snapshots_links"][0]["href"].as_str().unwrap();
    let body = world
        .get(MEMBER, next.split_once("/v3").unwrap().1)
        .send()
        .await
        .expect(200);
    assert_eq!(body["snapshots"].as_array().unwrap().len(), 1);
    let path = format!("/snapshots/detail?volume_id={volume}&status=available&with_count=true");
    assert_eq!(
        world.get(MEMBER, &path).send().await.expect(200)["count"],
        3
    );
    let body = json!({"backup": {"volume_id": volume, "name": "b"}});
    world
        .post(MEMBER, "/backups", body)
        .send()
        .await
        .expect(202);
    for path in [
        "/backups?name=b",
        "/backups/detail?status=creating",
        "/backups?name~=B",
    ] {
        let body = world.get(ADMIN, path).send().await.expect(200);
        assert_eq!(names(&body, "backups"), ["b"], "{path}");
    }
}
