//! Volumes from images, and volumes uploaded as images.

use serde_json::json;

use crate::world::{ADMIN, MEMBER, World};

const GIB: u64 = 1 << 30;

#[tokio::test]
async fn an_image_must_be_active_and_fit() {
    let world = World::new().await;
    let cases = [
        (json!({"status": "queued"}), "is not active"),
        (
            json!({"size": GIB + 1}),
            "Size of specified image 2GB is larger than volume size 1GB.",
        ),
        (
            json!({"min_disk": 2}),
            "cannot be smaller than the image minDisk size 2GB.",
        ),
        (
            json!({"virtual_size": 3 * GIB}),
            "Image virtual size is 3GB and doesn't fit",
        ),
    ];
    for (fields, expected) in cases {
        let id = world.images.add(fields);
        let body = json!({"volume": {"size": 1, "imageRef": id}});
        let text = world
            .post(MEMBER, "/volumes", body)
            .send()
            .await
            .fault(400, "badRequest");
        assert!(text.contains(expected), "{text}");
    }
    let id = world.images.add(json!({}));
    let body = json!({"volume": {"imageRef": id}});
    let text = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .fault(400, "badRequest");
    assert!(text.contains("Volume size 'None'"), "{text}");
    assert_eq!(world.flows().await, []);
}

#[tokio::test]
async fn images_are_found_by_id_url_and_unique_name() {
    let world = World::new().await;
    let id = world.images.add(json!({"name": "debian"}));
    for reference in [
        id.clone(),
        format!("http://image.example/v2/images/{id}"),
        "debian".into(),
    ] {
        let body = json!({"volume": {"size": 1, "image_id": reference}});
        world
            .post(MEMBER, "/volumes", body)
            .send()
            .await
            .expect(202);
    }
    assert_eq!(world.flows().await.len(), 3);
    world.images.add(json!({"name": "debian"}));
    let body = json!({"volume": {"size": 1, "imageRef": "debian"}});
    world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .fault(409, "conflictingRequest");
    for unknown in ["0e4c9c9c-55a5-4c2a-8d3b-1a6a7a1f0001", "fedora", "", "a/b"] {
        let body = json!({"volume": {"size": 1, "imageRef": unknown}});
        let text = world
            .post(MEMBER, "/volumes", body)
            .send()
            .await
            .fault(400, "badRequest");
        let expected = "Invalid image identifier or unable to access requested image.";
        assert_eq!(text, expected, "{unknown}");
    }
}

#[tokio::test]
async fn an_image_may_name_the_type() {
    let world = World::new().await;
    let body = json!({"volume_type": {"name": "fast"}});
    world.post(ADMIN, "/types", body).send().await.expect(200);
    let id = world.images.add(json!({"cinder_img_volume_type": "fast"}));
    let body = json!({"volume": {"size": 1, "imageRef": id}});
    let body = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .expect(202);
    assert_eq!(body["volume"]["volume_type"], "fast");
    let body = json!({"volume": {"size": 1, "imageRef": id, "volume_type": "__DEFAULT__"}});
    let body = world
        .post(MEMBER, "/volumes", body)
        .send()
        .await
        .expect(202);
    assert_eq!(body["volume"]["volume_type"], "__DEFAULT__");
}

#[tokio::test]
async fn an_upload_makes_the_record_and_the_flow() {
    let world = World::new().await;
    let id = world.volume(1).await;
    let path = format!("/volumes/{id}/action");
    let upload = |fields: serde_json::Value| json!({"os-volume_upload_image": fields});
    for bad in [
        json!({}),
        json!({"image_name": ""}),
        json!({"image_name": "i", "disk_format": "floppy"}),
        json!({"image_name": "i", "disk_format": "vmdk"}),
        json!({"image_name": "i", "container_format": "compressed"}),
        json!({"image_name": "i", "visibility": "hidden"}),
        json!({"image_name": "i", "protected": "perhaps"}),
        json!({"image_name": "i", "surprise": 1}),
    ] {
        world
            .post(MEMBER, &path, upload(bad))
            .send()
            .await
            .fault(400, "badRequest");
    }
    let public = upload(json!({"image_name": "i", "visibility": "public"}));
    world
        .post(MEMBER, &path, public)
        .send()
        .await
        .fault(403, "forbidden");
    assert_eq!(world.images.count(), 0);
    let body = upload(json!({"image_name": "i", "disk_format": "qcow2"}));
    let body = world.post(MEMBER, &path, body).send().await.expect(202);
    let shown = &body["os-volume_upload_image"];
    assert_eq!(shown["status"], "uploading");
    assert_eq!(
        (&shown["disk_format"], &shown["image_name"]),
        (&json!("qcow2"), &json!("i"))
    );
    assert_eq!(shown["volume_type"]["name"], "__DEFAULT__");
    assert_eq!(world.flows().await[0].0, "volume:upload");
    let again = upload(json!({"image_name": "j"}));
    world
        .post(MEMBER, &path, again)
        .send()
        .await
        .fault(400, "badRequest");
    assert_eq!(world.images.count(), 1, "a refused upload leaves no record");
}

#[tokio::test]
async fn volumes_are_reimaged() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let path = format!("/volumes/{volume}/action");
    let image = world.images.add(json!({}));
    let reimage = |reserved: bool| {
        let arguments = json!({"image_id": image, "reimage_reserved": reserved});
        world.post(MEMBER, &path, json!({"os-reimage": arguments}))
    };
    reimage(false)
        .version(67)
        .send()
        .await
        .fault(404, "itemNotFound");
    for bad in [
        json!({}),
        json!({"image_id": "x"}),
        json!({"image_id": image, "what": 1}),
    ] {
        let call = world.post(MEMBER, &path, json!({"os-reimage": bad}));
        call.send().await.fault(400, "badRequest");
    }
    let big = world.images.add(json!({"min_disk": 2}));
    let call = world.post(MEMBER, &path, json!({"os-reimage": {"image_id": big}}));
    call.send().await.fault(400, "badRequest");
    let none = uuid::Uuid::new_v4();
    let call = world.post(MEMBER, &path, json!({"os-reimage": {"image_id": none}}));
    call.send().await.fault(404, "itemNotFound");
    assert_eq!(world.flows().await, []);

    reimage(false).send().await.expect(202);
    assert_eq!(world.flows().await[0].0, "volume:reimage");
    let shown = world.get(MEMBER, &format!("/volumes/{volume}"));
    assert_eq!(
        shown.send().await.expect(200)["volume"]["status"],
        "downloading"
    );
    reimage(false).send().await.fault(400, "badRequest");
    world.end_flows().await;
    world.set("volumes", &volume, "reserved").await;
    reimage(false).send().await.fault(400, "badRequest");
    reimage(true).send().await.expect(202);
    world.set("volumes", &volume, "available").await;
    let attach =
        |mountpoint| json!({"os-attach": {"host_name": mountpoint, "mountpoint": mountpoint}});
    let sql = "UPDATE volumes SET multiattach = 1 WHERE id = ?";
    let values = database::params![&volume];
    world.service.database.execute(sql, values).await.unwrap();
    for host in ["a", "b"] {
        let call = world.post(MEMBER, &path, attach(host));
        call.send().await.expect(202);
    }
    world.set("volumes", &volume, "error").await;
    reimage(false).send().await.fault(409, "conflictingRequest");
}

#[tokio::test]
async fn an_image_may_stand_for_a_snapshot() {
    let world = World::new().await;
    let volume = world.volume(2).await;
    let snapshot = world.snapshot(&volume).await;
    world.end_flows().await;
    let small = world.volume(1).await;
    let image = |snapshot: &str, size: u32| {
        let device = json!({
            "source_type": "snapshot", "boot_index": 0, "snapshot_id": snapshot, "volume_size": size,
        });
        let mapping = json!([{"source_type": "blank", "boot_index": 1}, device]).to_string();
        world
            .images
            .add(json!({"size": 0, "block_device_mapping": mapping}))
    };
    let reimage = |volume: &str, image: String| {
        let path = format!("/volumes/{volume}/action");
        world.post(MEMBER, &path, json!({"os-reimage": {"image_id": image}}))
    };
    let unknown = uuid::Uuid::new_v4().to_string();
    let call = reimage(&volume, image(&unknown, 1));
    call.send().await.fault(404, "itemNotFound");
    for size in [1, 2] {
        let call = reimage(&small, image(&snapshot, size));
        call.send().await.fault(400, "badRequest");
    }
    let call = reimage(&volume, image(&snapshot, 2));
    call.send().await.expect(202);
    assert_eq!(world.flows().await[0].0, "volume:reimage");

    let create = |image: String| {
        let body = json!({"volume": {"imageRef": image, "size": 2}});
        world.post(MEMBER, "/volumes", body)
    };
    let made = create(image(&snapshot, 2)).send().await.expect(202);
    assert_eq!(made["volume"]["snapshot_id"], snapshot);
    let made = create(image(&snapshot, 2)).version(45).send().await;
    assert_eq!(made.expect(202)["volume"]["snapshot_id"], json!(null));
    let none = create(image(&unknown, 2)).send().await;
    none.fault(404, "itemNotFound");
}

#[tokio::test]
async fn no_extend_waits_for_its_completion() {
    let world = World::new().await;
    let volume = world.volume(1).await;
    let path = format!("/volumes/{volume}/action");
    let body = json!({"os-extend_volume_completion": {"error": false}});
    let complete = |token| world.post(token, &path, body.clone());
    complete(MEMBER).send().await.fault(403, "forbidden");
    complete(ADMIN)
        .version(70)
        .send()
        .await
        .fault(404, "itemNotFound");
    let text = complete(ADMIN).send().await.fault(400, "badRequest");
    assert_eq!(text, "Invalid volume: Volume is not being extended.");
    world.set("volumes", &volume, "extending").await;
    let text = complete(ADMIN).send().await.fault(400, "badRequest");
    assert!(text.contains("malformed or missing"), "{text}");
}

#[tokio::test]
async fn the_image_service_is_told_whose_request_it_is() {
    let world = World::new().await;
    let image = world.images.add(json!({"size": 1 << 20}));
    let body = json!({"volume": {"size": 1, "imageRef": image}});
    let answer = world.post(MEMBER, "/volumes", body.clone()).send().await;
    let own = answer.headers["x-openstack-request-id"].to_str().unwrap();
    assert_eq!(world.images.request_ids(), [own]);
    let global = "req-7c0cb0b0-3f7c-4e1c-9f4a-0d6f0f2f3a10";
    let call = world.post(MEMBER, "/volumes", body);
    let answer = call.header("x-openstack-request-id", global).send().await;
    assert_ne!(answer.headers["x-openstack-request-id"], global);
    assert_eq!(world.images.request_ids(), [global]);
}
