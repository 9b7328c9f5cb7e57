//! Managing what is there already, and letting it go.

use serde_json::{Value, json};
use uuid::Uuid;
use volume_service::db::{clusters, services};
use volume_service::inventory::{StoredImage, StoredSnapshot};

use crate::world::{ADMIN, MEMBER, POOL, World};

fn image(name: &str, size_bytes: u64, snapshots: &[&str]) -> StoredImage {
    let snapshot = |name: &&str| StoredSnapshot {
        name: (*name).to_owned(),
        size_bytes,
    };
    StoredImage {
        name: name.to_owned(),
        size_bytes,
        snapshots: snapshots.iter().map(snapshot).collect(),
    }
}

async fn list(world: &World, path: &str) -> Value {
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}host={POOL}").replace('#', "%23");
    world.get(ADMIN, &path).send().await.expect(200)
}

fn names(body: &Value, key: &str) -> Vec<String> {
    let rows = body[key].as_array().unwrap().iter();
    rows.map(|row| row["reference"]["source-name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn images_are_listed_with_what_speaks_against_them() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let managed = format!("volume-{volume}");
    *world.pool.0.lock().unwrap() = vec![
        image("legacy", (3 << 30) - 1, &[]),
        image(&managed, 1 << 30, &[]),
        image("volume-x.deleted", 2 << 30, &[]),
    ];
    let body = list(&world, "/manageable_volumes").await;
    let expected = json!({"manageable-volumes": [
        {"reference": {"source-name": "volume-x.deleted"}, "size": 2, "safe_to_manage": false},
        {"reference": {"source-name": managed}, "size": 1, "safe_to_manage": false},
        {"reference": {"source-name": "legacy"}, "size": 3, "safe_to_manage": true},
    ]});
    let sorted = |mut body: Value| {
        let rows = body["manageable-volumes"].as_array_mut().unwrap();
        rows.sort_by_key(|row| row.to_string());
        body
    };
    assert_eq!(sorted(body), sorted(expected));
    let key = "manageable-volumes";
    let body = list(&world, "/os-volume-manage/detail?sort=size:desc").await;
    assert_eq!(names(&body, key), ["legacy", "volume-x.deleted", &managed]);
    let reasons: Vec<_> = body[key]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["reason_not_safe"].clone())
        .collect();
    assert_eq!(
        reasons,
        [
            json!(null),
            json!("volume marked as deleted"),
            json!("already managed")
        ]
    );
    assert_eq!(body[key][2]["cinder_id"], volume);
    assert_eq!(body[key][0]["extra_info"], json!(null));
    let page = list(&world, "/manageable_volumes?sort=size:asc&limit=1&offset=1").await;
    assert_eq!(names(&page, key), ["volume-x.deleted"]);
    let marker = "%7B%22source-name%22:%20%22volume-x.deleted%22%7D";
    let page = list(
        &world,
        &format!("/manageable_volumes?sort=size:asc&marker={marker}"),
    )
    .await;
    assert_eq!(names(&page, key), ["legacy"]);
}

#[tokio::test]
async fn snapshots_are_listed_with_what_speaks_against_them() {
    let world = World::new().await;
    let volume = world.volume(2).await;
    let snapshot = world.snapshot(&volume).await;
    let name = format!("volume-{volume}");
    let managed = format!("snapshot-{snapshot}");
    let all = [
        managed.as_str(),
        "nightly",
        "volume-2.clone_snap",
        "backup.1.snap.2",
    ];
    *world.pool.0.lock().unwrap() = vec![image(&name, 2 << 30, &all)];
    let body = list(&world, "/manageable_snapshots/detail?sort=reference:asc").await;
    let key = "manageable-snapshots";
    assert_eq!(
        names(&body, key),
        [
            "backup.1.snap.2",
            "nightly",
            &managed,
            "volume-2.clone_snap"
        ]
    );
    let expected = json!({
        "reference": {"source-name": "nightly"}, "source_reference": {"source-name": name}, "size": 2,
        "safe_to_manage": true, "reason_not_safe": null, "cinder_id": null, "extra_info": null,
    });
    assert_eq!(body[key][1], expected);
    let reasons: Vec<_> = [0, 2, 3]
        .map(|at| body[key][at]["reason_not_safe"].as_str().unwrap())
        .into();
    assert_eq!(
        reasons,
        [
            "used for volume backup",
            "already managed",
            "used for clone snap"
        ]
    );
    let body = list(&world, "/os-snapshot-manage").await;
    assert_eq!(body[key][0].as_object().unwrap().len(), 4);
}

#[tokio::test]
async fn lists_need_a_host_that_is_up() {
    let world = World::new().await;
    for path in ["/manageable_volumes", "/manageable_snapshots/detail"] {
        world.get(ADMIN, path).send().await.fault(400, "badRequest");
        world
            .get(MEMBER, &format!("{path}?host=host@store"))
            .send()
            .await
            .fault(403, "forbidden");
        let call = world
            .get(ADMIN, &format!("{path}?host=host@store"))
            .version(7);
        call.send().await.fault(404, "itemNotFound");
        for query in ["host=a@b", "cluster=c"] {
            world
                .get(ADMIN, &format!("{path}?{query}"))
                .send()
                .await
                .fault(404, "itemNotFound");
        }
        for query in [
            "cluster=c&host=host@store",
            "host=host@store&sort=name",
            "host=host@store&marker=x",
            "host=host@store&marker=%7B%7D",
            "host=host@store&limit=-1",
        ] {
            world
                .get(ADMIN, &format!("{path}?{query}"))
                .send()
                .await
                .fault(400, "badRequest");
        }
        world
            .get(ADMIN, &format!("{path}?host=host@store"))
            .send()
            .await
            .expect(200);
    }
    let disable = json!({"host": "host@store", "binary": "cinder-volume"});
    world
        .put(ADMIN, "/os-services/disable", disable)
        .send()
        .await
        .expect(200);
    let path = "/manageable_volumes?host=host@store";
    let text = world.get(ADMIN, path).send().await.fault(400, "badRequest");
    assert_eq!(text, "Service is unavailable at this time.");
    let body = json!({"volume": {"host": "host@store", "ref": {"source-name": "a"}}});
    world
        .post(ADMIN, "/os-volume-manage", body)
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn an_image_becomes_a_volume() {
    let world = World::new().await;
    for host in ["host@store", POOL] {
        let body = json!({"volume": {
            "host": host, "ref": {"source-name": "legacy"}, "name": " v ", "description": "d",
            "metadata": {"a": "b"}, "bootable": true, "volume_type": "__DEFAULT__", "availability_zone": null,
        }});
        let body = world
            .post(ADMIN, "/manageable_volumes", body)
            .send()
            .await
            .expect(202);
        let volume = &body["volume"];
        assert_eq!(
            (&volume["status"], &volume["size"]),
            (&json!("creating"), &json!(0))
        );
        assert_eq!(
            (&volume["name"], &volume["bootable"]),
            (&json!("v"), &json!("true"))
        );
        assert_eq!(
            (&volume["metadata"], &volume["availability_zone"]),
            (&json!({"a": "b"}), &json!("nova"))
        );
        let flows = world.flows().await;
        assert_eq!(
            flows,
            [("volume:manage".to_owned(), format!("volume:{POOL}"))]
        );
        let path = format!("/volumes/{}", volume["id"].as_str().unwrap());
        let shown = world.get(ADMIN, &path).send().await.expect(200);
        assert_eq!(shown["volume"]["os-vol-host-attr:host"], POOL);
        world.end_flows().await;
    }
    let used = world.get(MEMBER, "/limits").send().await.expect(200);
    assert_eq!(used["limits"]["absolute"]["totalVolumesUsed"], 2);
}

#[tokio::test]
async fn what_cannot_be_managed_is_refused() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let post = |volume: Value| world.post(ADMIN, "/os-volume-manage", json!({"volume": volume}));
    let named = json!({"source-name": "a"});
    for bad in [
        json!({}),
        json!({"host": POOL}),
        json!({"ref": named}),
        json!({"host": POOL, "ref": "a"}),
        json!({"host": POOL, "ref": {}}),
        json!({"host": POOL, "ref": {"source-id": "x"}}),
        json!({"host": POOL, "ref": {"source-name": ""}}),
        json!({"host": POOL, "ref": named, "what": 1}),
        json!({"host": POOL, "cluster": "c", "ref": named}),
        json!({"host": "a@b", "ref": named}),
        json!({"cluster": "c@store", "ref": named}),
        json!({"host": "host@store#other", "ref": named}),
        json!({"host": POOL, "ref": named, "volume_type": "none"}),
        json!({"host": POOL, "ref": {"source-name": format!("volume-{volume}")}}),
        json!({"host": POOL, "ref": {"source-id": volume}}),
    ] {
        post(bad.clone()).send().await.fault(400, "badRequest");
    }
    let mut tx = world.service.database.begin().await.unwrap();
    clusters::ensure(&mut tx, "c@store", services::VOLUME)
        .await
        .unwrap();
    services::set_cluster(&mut tx, services::VOLUME, "host@store", Some("c@store"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    for path in ["/manageable_volumes", "/manageable_snapshots/detail"] {
        let path = format!("{path}?cluster=c@store");
        world.get(ADMIN, &path).send().await.expect(200);
    }
    let good = json!({"volume": {"host": POOL, "ref": named}});
    world
        .post(MEMBER, "/os-volume-manage", good.clone())
        .send()
        .await
        .fault(403, "forbidden");
    let call = world.post(ADMIN, "/manageable_volumes", good).version(7);
    call.send().await.fault(404, "itemNotFound");
    assert!(world.flows().await.is_empty());
}

#[tokio::test]
async fn a_snapshot_is_managed_and_let_go() {
    let world = World::new().await;
    let volume = world.volume(2).await;
    let snapshot = world.snapshot(&volume).await;
    world.end_flows().await;
    let path = format!("/snapshots/{snapshot}/action");
    let unmanage = json!({"os-unmanage": null});
    world
        .post(MEMBER, &path, unmanage.clone())
        .send()
        .await
        .fault(403, "forbidden");
    world
        .post(ADMIN, &path, unmanage.clone())
        .send()
        .await
        .expect(202);
    assert_eq!(world.flows().await[0].0, "snapshot:unmanage");
    world
        .post(ADMIN, &path, unmanage)
        .send()
        .await
        .fault(400, "badRequest");
    world.end_flows().await;
    // In use or not.
    world.set("volumes", &volume, "in-use").await;
    for reference in [
        json!({"source-id": snapshot}),
        json!({"source-name": "nightly"}),
    ] {
        let body = json!({"snapshot": {
            "volume_id": volume, "ref": reference, "name": "s", "description": "d", "metadata": {"a": "b"},
        }});
        let call = world
            .post(ADMIN, "/os-snapshot-manage", body.clone())
            .version(0);
        let made = call.send().await.expect(202);
        let mut keys: Vec<_> = made["snapshot"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        keys.sort_unstable();
        let expected = [
            "created_at",
            "description",
            "id",
            "metadata",
            "name",
            "size",
            "status",
            "updated_at",
            "volume_id",
        ];
        assert_eq!(keys, expected);
        assert_eq!(world.flows().await[0].0, "snapshot:manage");
        world.end_flows().await;
        world
            .post(MEMBER, "/manageable_snapshots", body)
            .send()
            .await
            .fault(403, "forbidden");
    }
    let gone = json!({"snapshot": {"volume_id": Uuid::new_v4(), "ref": {"source-name": "s"}}});
    world
        .post(ADMIN, "/manageable_snapshots", gone)
        .send()
        .await
        .fault(404, "itemNotFound");
    let bad = json!({"snapshot": {"volume_id": volume, "ref": null}});
    world
        .post(ADMIN, "/manageable_snapshots", bad)
        .send()
        .await
        .fault(400, "badRequest");
}

#[tokio::test]
async fn a_volume_is_let_go_unless_something_hangs_on_it() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let path = format!("/volumes/{volume}/action");
    let unmanage = json!({"os-unmanage": null});
    world
        .post(MEMBER, &path, unmanage.clone())
        .send()
        .await
        .fault(403, "forbidden");
    world.set("volumes", &volume, "in-use").await;
    world
        .post(ADMIN, &path, unmanage.clone())
        .send()
        .await
        .fault(400, "badRequest");
    world.set("volumes", &volume, "available").await;
    let snapshot = world.snapshot(&volume).await;
    world
        .post(ADMIN, &path, unmanage.clone())
        .send()
        .await
        .fault(400, "badRequest");
    world.set("snapshots", &snapshot, "deleted").await;
    let sql = "UPDATE snapshots SET deleted_at = 1 WHERE id = ?";
    let values = database::params![&snapshot];
    world.service.database.execute(sql, values).await.unwrap();
    world.end_flows().await;
    world.post(ADMIN, &path, unmanage).send().await.expect(202);
    assert_eq!(world.flows().await[0].0, "volume:unmanage");
    let shown = world
        .get(MEMBER, &format!("/volumes/{volume}"))
        .send()
        .await
        .expect(200);
    assert_eq!(shown["volume"]["status"], "unmanaging");
}
