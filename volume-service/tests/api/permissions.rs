//! Who may do what: readers change nothing, strangers see nothing, users administer nothing.

use serde_json::json;

use crate::groups::{group, types};
use crate::world::{MEMBER, READER, STRANGER, World};

#[tokio::test]
async fn readers_read_and_strangers_do_not_even_that() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let snapshot = world.snapshot(&volume).await;
    let v = format!("/volumes/{volume}");
    let s = format!("/snapshots/{snapshot}");
    for path in [&v, &s, &format!("{v}/metadata"), &format!("{s}/metadata")] {
        world.get(READER, path).send().await.expect(200);
        world
            .get(STRANGER, path)
            .send()
            .await
            .fault(404, "itemNotFound");
    }
    let writes = [
        ("/volumes", json!({"volume": {"size": 1}})),
        ("/snapshots", json!({"snapshot": {"volume_id": volume}})),
        ("/backups", json!({"backup": {"volume_id": volume}})),
        (&format!("{v}/metadata"), json!({"metadata": {"a": "b"}})),
        (&format!("{s}/metadata"), json!({"metadata": {"a": "b"}})),
        (
            &format!("{v}/action"),
            json!({"os-extend": {"new_size": 2}}),
        ),
        (
            &format!("{v}/action"),
            json!({"revert": {"snapshot_id": snapshot}}),
        ),
        (
            &format!("{v}/action"),
            json!({"os-set_bootable": {"bootable": true}}),
        ),
        (
            &format!("{v}/action"),
            json!({"os-update_readonly_flag": {"readonly": true}}),
        ),
        (
            &format!("{v}/action"),
            json!({"os-set_image_metadata": {"metadata": {"a": "b"}}}),
        ),
        (
            &format!("{v}/action"),
            json!({"os-volume_upload_image": {"image_name": "i"}}),
        ),
    ];
    for (path, body) in writes {
        let text = world
            .post(READER, path, body.clone())
            .send()
            .await
            .fault(403, "forbidden");
        assert!(text.starts_with("Policy doesn't allow "), "{text}");
        if path != "/volumes" {
            world
                .post(STRANGER, path, body)
                .send()
                .await
                .fault(404, "itemNotFound");
        }
    }
    for path in [&v, &s] {
        world
            .delete(READER, path)
            .send()
            .await
            .fault(403, "forbidden");
        world
            .delete(STRANGER, path)
            .send()
            .await
            .fault(404, "itemNotFound");
    }
    world
        .put(READER, &v, json!({"volume": {"name": "x"}}))
        .send()
        .await
        .fault(403, "forbidden");
    world
        .put(READER, &s, json!({"snapshot": {"name": "x"}}))
        .send()
        .await
        .fault(403, "forbidden");
}

#[tokio::test]
async fn groups_and_transfers_are_the_members() {
    let world = World::new().await;
    let (volume_type, group_type) = types(&world).await;
    let id = group(&world, &volume_type, &group_type).await;
    let volume = world.volume(1).await;
    let new_group = json!({"group_type": group_type, "volume_types": [volume_type]});
    let action = format!("/groups/{id}/action");
    let writes = [
        ("/groups", json!({ "group": new_group })),
        (
            "/groups/action",
            json!({"create-from-src": {"source_group_id": id}}),
        ),
        (&action, json!({"delete": {}})),
        (&action, json!({"enable_replication": {}})),
        (
            "/group_snapshots",
            json!({"group_snapshot": {"group_id": id}}),
        ),
        (
            "/cgsnapshots",
            json!({"cgsnapshot": {"consistencygroup_id": id}}),
        ),
        (
            "/consistencygroups",
            json!({"consistencygroup": {"volume_types": "vt"}}),
        ),
        (
            "/volume-transfers",
            json!({"transfer": {"volume_id": volume}}),
        ),
        (
            "/os-volume-transfer",
            json!({"transfer": {"volume_id": volume}}),
        ),
        (
            "/volume-transfers/x/accept",
            json!({"accept": {"auth_key": "x"}}),
        ),
    ];
    for (path, body) in writes {
        let answer = world.post(READER, path, body.clone()).send().await;
        let text = answer.fault(403, "forbidden");
        assert!(text.starts_with("Policy doesn't allow "), "{path}: {text}");
        if body.to_string().contains(&id) || body.to_string().contains(&volume) || path == action {
            world
                .post(STRANGER, path, body)
                .send()
                .await
                .fault(404, "itemNotFound");
        }
    }
    let change = json!({"group": {"name": "x"}});
    let path = format!("/groups/{id}");
    let answer = world.put(READER, &path, change.clone()).send().await;
    answer.fault(403, "forbidden");
    let answer = world.put(STRANGER, &path, change).send().await;
    answer.fault(404, "itemNotFound");
    for path in [
        "/groups",
        "/group_snapshots",
        "/volume-transfers",
        "/group_types",
    ] {
        world.get(READER, path).send().await.expect(200);
    }
}

#[tokio::test]
async fn administration_is_the_admins() {
    let world = World::new().await;
    for path in [
        "/os-services",
        "/scheduler-stats/get_pools",
        "/os-quota-class-sets/default",
        "/os-quota-sets/bbbb0000",
        "/qos-specs",
        "/default-types",
        "/default-types/aaaa0000",
    ] {
        world.get(MEMBER, path).send().await.fault(403, "forbidden");
    }
    world
        .post(MEMBER, "/types", json!({"volume_type": {"name": "t"}}))
        .send()
        .await
        .fault(403, "forbidden");
    world
        .put(
            MEMBER,
            "/os-quota-sets/aaaa0000",
            json!({"quota_set": {"volumes": 9}}),
        )
        .send()
        .await
        .fault(403, "forbidden");
    world
        .delete(MEMBER, "/os-quota-sets/aaaa0000")
        .send()
        .await
        .fault(403, "forbidden");
}
