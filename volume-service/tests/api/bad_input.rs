//! Bad input: the answer is OpenStack's error with the field's name, and nothing is left behind.

use serde_json::{Value, json};

use crate::world::{ADMIN, MEMBER, OTHER_PROJECT, World};

#[tokio::test]
async fn broken_bodies() {
    let world = World::new().await;
    for body in [
        "{",
        "",
        "[]",
        "null",
        "3",
        "\"x\"",
        "{\"volume\": ",
        "\u{0}",
    ] {
        world
            .post_raw(MEMBER, "/volumes", body)
            .send()
            .await
            .fault(400, "badRequest");
    }
    let deep = format!("{{\"volume\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    world
        .post_raw(MEMBER, "/volumes", &deep)
        .send()
        .await
        .fault(400, "badRequest");
    let huge = format!("{{\"volume\": {{\"name\": \"{}\"}}}}", "x".repeat(200_000));
    world
        .post_raw(MEMBER, "/volumes", &huge)
        .send()
        .await
        .fault(413, "overLimit");
    let text = world
        .post_raw(MEMBER, "/volumes", "<x/>")
        .header("content-type", "application/xml")
        .send()
        .await;
    text.fault(415, "badMediaType");
    assert_eq!(world.flows().await, []);
}

#[tokio::test]
async fn fields_of_a_volume() {
    let world = World::new().await;
    let id = uuid_text();
    let cases = [
        (json!({}), "size", 400),
        (json!({"size": 0}), "size", 400),
        (json!({"size": -1}), "size", 400),
        (json!({"size": "-1"}), "size", 400),
        (json!({"size": 1.5}), "size", 400),
        (json!({"size": "1.5"}), "size", 400),
        (json!({"size": "ten"}), "size", 400),
        (json!({"size": true}), "size", 400),
        (json!({"size": [1]}), "size", 400),
        (json!({"size": 2_147_483_648i64}), "size", 400),
        (json!({"size": u64::MAX}), "size", 400),
        (json!({"size": 1e300}), "size", 400),
        (json!({"size": "9".repeat(400)}), "size", 400),
        (json!({"size": 2_147_483_647}), "gigabytes", 413),
        (json!({"size": 1, "name": 5}), "name", 400),
        (json!({"size": 1, "name": "x".repeat(256)}), "name", 400),
        (json!({"size": 1, "description": ["d"]}), "description", 400),
        (json!({"size": 1, "metadata": "m"}), "metadata", 400),
        (json!({"size": 1, "metadata": {"k": 5}}), "k", 400),
        (json!({"size": 1, "metadata": {"": "v"}}), "metadata", 400),
        (
            json!({"size": 1, "metadata": {"k": "v".repeat(256)}}),
            "k",
            400,
        ),
        (
            json!({"size": 1, "metadata": {"k".repeat(256): "v"}}),
            "metadata",
            400,
        ),
        (
            json!({"size": 1, "metadata": {"ключ": "v"}}),
            "metadata",
            400,
        ),
        (json!({"size": 1, "snapshot_id": "x"}), "snapshot_id", 400),
        (json!({"size": 1, "source_volid": 7}), "source_volid", 400),
        (json!({"size": 1, "backup_id": "x"}), "backup_id", 400),
        (json!({"size": 1, "imageRef": "nonsense"}), "image", 400),
        (
            json!({"size": 1, "availability_zone": ""}),
            "availability_zone",
            400,
        ),
        (
            json!({"size": 1, "availability_zone": "moon"}),
            "Availability zone 'moon' is invalid.",
            400,
        ),
        (json!({"size": 1, "volume_type": "nope"}), "nope", 404),
        (json!({"size": 1, "volume_type": id}), &id, 404),
        (json!({"size": 1, "snapshot_id": id}), &id, 404),
        (json!({"size": 1, "source_volid": id}), &id, 404),
        (json!({"size": 1, "backup_id": id}), &id, 404),
        (json!({"size": 1, "multiattach": true}), "multiattach", 400),
        (json!({"size": 1, "surprise": 1}), "surprise", 400),
    ];
    for (volume, named, status) in cases {
        let answer = world
            .post(MEMBER, "/volumes", json!({"volume": volume}))
            .send()
            .await;
        let key = match status {
            400 => "badRequest",
            404 => "itemNotFound",
            _ => "overLimit",
        };
        let text = answer.fault(status, key);
        assert!(text.contains(named), "{volume}: {text}");
    }
    for body in [
        json!({}),
        json!({"volume": 1}),
        json!({"volume": null}),
        json!({"volume": {"size": 1}, "more": 1}),
    ] {
        world
            .post(MEMBER, "/volumes", body)
            .send()
            .await
            .fault(400, "badRequest");
    }
    assert_eq!(world.flows().await, []);
    let body = world.get(MEMBER, "/volumes").send().await.expect(200);
    assert_eq!(body["volumes"], json!([]), "nothing is left behind");
}

fn uuid_text() -> String {
    "0e4c9c9c-55a5-4c2a-8d3b-1a6a7a1f0001".to_owned()
}

#[tokio::test]
async fn unknown_ids_and_routes() {
    let world = World::new().await;
    for id in [
        uuid_text(),
        "x".to_owned(),
        "%00".to_owned(),
        "x".repeat(2000),
    ] {
        for resource in ["volumes", "snapshots", "backups", "types", "messages"] {
            let path = format!("/{resource}/{id}");
            world
                .get(ADMIN, &path)
                .send()
                .await
                .fault(404, "itemNotFound");
            world
                .delete(ADMIN, &path)
                .send()
                .await
                .fault(404, "itemNotFound");
        }
    }
    for path in ["/nothing", "/volumes/a/b/c", "/volumes/a/action"] {
        world
            .get(MEMBER, path)
            .send()
            .await
            .fault(404, "itemNotFound");
    }
    let text = world
        .get(MEMBER, &format!("/volumes/{}", uuid_text()))
        .send()
        .await
        .fault(404, "itemNotFound");
    assert_eq!(text, format!("Volume {} could not be found.", uuid_text()));
}

#[tokio::test]
async fn actions_need_one_known_name() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let path = format!("/volumes/{id}/action");
    let text = world
        .post(MEMBER, &path, json!({"os-dance": {}}))
        .send()
        .await
        .fault(400, "badRequest");
    assert!(
        text.starts_with("There is no such action: os-dance."),
        "{text}"
    );
    for body in [
        json!({}),
        json!([]),
        json!({"os-extend": {"new_size": 5}, "revert": {}}),
        json!({"os-extend": 5}),
    ] {
        world
            .post(MEMBER, &path, body)
            .send()
            .await
            .fault(400, "badRequest");
    }
    world
        .post(MEMBER, &path, json!({"os-extend": {"new_size": 5, "x": 1}}))
        .send()
        .await
        .fault(400, "badRequest");
    let unknown = format!("/volumes/{}/action", uuid_text());
    world
        .post(MEMBER, &unknown, json!({"os-extend": {"new_size": 5}}))
        .send()
        .await
        .fault(404, "itemNotFound");
}

#[tokio::test]
async fn versions_are_negotiated() {
    let world = World::new().await;
    let versioned = async |value: &str| {
        world
            .get(MEMBER, "/volumes")
            .header("x", value)
            .send()
            .await
    };
    versioned("").await.expect(200);
    world
        .get(MEMBER, "/volumes")
        .version(72)
        .send()
        .await
        .fault(406, "computeFault");
    let answer = world.get(MEMBER, "/").send().await;
    let body = answer.expect(200);
    assert_eq!(body["versions"][0]["version"], "3.71");
    assert_eq!(
        body["versions"][0]["links"][1]["href"],
        "http://volume.example:8776/v3/"
    );
}

#[tokio::test]
async fn the_project_in_the_path_is_the_callers() {
    let world = World::new().await;
    let text = world
        .get(MEMBER, &format!("/{OTHER_PROJECT}/volumes"))
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(text, "Malformed request url");
    assert_eq!(
        world.get("", "/volumes").send().await.expect(401)["error"]["code"],
        401
    );
    assert_eq!(
        world.get("junk", "/volumes").send().await.expect(401)["error"]["title"],
        "Unauthorized"
    );
}

#[tokio::test]
async fn bodies_of_the_other_resources() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let cases: &[(&str, Value, &str)] = &[
        ("/snapshots", json!({"snapshot": {}}), "volume_id"),
        (
            "/snapshots",
            json!({"snapshot": {"volume_id": "x"}}),
            "volume_id",
        ),
        (
            "/snapshots",
            json!({"snapshot": {"volume_id": volume, "name": 1}}),
            "name",
        ),
        (
            "/snapshots",
            json!({"snapshot": {"volume_id": volume, "force": "perhaps"}}),
            "force",
        ),
        (
            "/snapshots",
            json!({"snapshot": {"volume_id": volume, "force": false}}),
            "force",
        ),
        (
            "/snapshots",
            json!({"snapshot": {"volume_id": volume, "metadata": [1]}}),
            "metadata",
        ),
        ("/backups", json!({"backup": {}}), "volume_id"),
        ("/backups", json!({"backup": {"volume_id": 1}}), "volume_id"),
        (
            "/backups",
            json!({"backup": {"volume_id": volume, "incremental": 3}}),
            "incremental",
        ),
        (
            "/backups",
            json!({"backup": {"volume_id": volume, "snapshot_id": "x"}}),
            "snapshot_id",
        ),
        (
            "/backups",
            json!({"backup": {"volume_id": volume, "surprise": "x"}}),
            "surprise",
        ),
        ("/types", json!({"volume_type": {}}), "name"),
        ("/types", json!({"volume_type": {"name": " "}}), "name"),
        (
            "/types",
            json!({"volume_type": {"name": "x".repeat(256)}}),
            "name",
        ),
        (
            "/types",
            json!({"volume_type": {"name": "a", "extra_specs": {"a b": "c"}}}),
            "extra_specs",
        ),
        (
            "/types",
            json!({"volume_type": {"name": "a", "os-volume-type-access:is_public": "so"}}),
            "is_public",
        ),
    ];
    for (path, body, named) in cases {
        let text = world
            .post(ADMIN, path, body.clone())
            .send()
            .await
            .fault(400, "badRequest");
        assert!(text.contains(named), "{path} {body}: {text}");
    }
    for limits in [
        json!({"volumes": -2}),
        json!({"volumes": "x"}),
        json!({"volumes": null}),
        json!({"bread": 5}),
        json!({"volumes": 1i64 << 40}),
    ] {
        let body = json!({"quota_set": limits});
        world
            .put(ADMIN, "/os-quota-sets/aaaa0000", body)
            .send()
            .await
            .fault(400, "badRequest");
    }
}

#[tokio::test]
async fn what_came_later_is_not_there_before() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let action = format!("/volumes/{volume}/action");
    for (minor, body) in [
        (39, json!({"revert": {"snapshot_id": uuid_text()}})),
        (67, json!({"os-reimage": {"image_id": uuid_text()}})),
        (70, json!({"os-extend_volume_completion": {"error": false}})),
    ] {
        let call = world.post(MEMBER, &action, body).version(minor);
        call.send().await.fault(404, "itemNotFound");
    }
    for (minor, path) in [(29, "/snapshots?sort=name"), (36, "/backups?sort=name:asc")] {
        let text = world.get(MEMBER, path).version(minor).send().await;
        let text = text.fault(400, "badRequest");
        assert_eq!(text, "Invalid input received: Invalid sort key");
        let later = world.get(MEMBER, path).version(minor + 1);
        later.send().await.expect(200);
    }
}

#[tokio::test]
async fn what_is_named_counts_at_every_version() {
    let world = World::new().await;
    for key in ["group_id", "backup_id"] {
        let body = json!({"volume": {"size": 1, key: uuid_text()}});
        let answer = world.post(MEMBER, "/volumes", body).version(0).send().await;
        answer.fault(404, "itemNotFound");
    }
    assert_eq!(world.flows().await, []);
}

#[tokio::test]
async fn errors_inside_a_field_name_it() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let extra = json!({"snapshot": {"volume_id": volume, "zeal": 1}});
    let text = world.post(MEMBER, "/snapshots", extra).send().await;
    assert_eq!(
        text.fault(400, "badRequest"),
        format!(
            "Invalid input for field/attribute snapshot. Value: {{'volume_id': '{volume}', 'zeal': 1}}. \
             Additional properties are not allowed ('zeal' was unexpected)"
        )
    );
    let action = format!("/volumes/{volume}/action");
    let text = world.post(MEMBER, &action, json!({"os-extend": {}})).send();
    assert_eq!(
        text.await.fault(400, "badRequest"),
        "Invalid input for field/attribute os-extend. Value: {}. 'new_size' is a required property"
    );
    let text = world
        .post(MEMBER, "/volumes", json!({"x": {}}))
        .send()
        .await;
    assert_eq!(
        text.fault(400, "badRequest"),
        "'volume' is a required property"
    );
}

#[tokio::test]
async fn who_may_migrate_is_asked_before_where_to() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let action = format!("/volumes/{volume}/action");
    let body = json!({"os-migrate_volume": {}});
    let answer = world.post(MEMBER, &action, body.clone()).version(71);
    answer.send().await.fault(403, "forbidden");
    let answer = world.post(ADMIN, &action, body).version(71).send().await;
    answer.fault(400, "badRequest");
    let nowhere = json!({"os-migrate_volume": {"cluster": "nowhere"}});
    let answer = world.post(ADMIN, &action, nowhere).version(71).send().await;
    assert_eq!(
        answer.fault(400, "badRequest"),
        "Invalid host: No available service named 'nowhere'"
    );
}

#[tokio::test]
async fn lists_of_the_operators_know_their_filters() {
    let world = World::new().await;
    for path in [
        "/clusters?color=red",
        "/scheduler-stats/get_pools?color=red",
    ] {
        let text = world.get(ADMIN, path).version(71).send().await;
        assert!(text.fault(400, "badRequest").contains("color"));
    }
    let answer = world
        .get(MEMBER, "/volumes?all_tenants=perhaps")
        .send()
        .await;
    answer.expect(200);
}
