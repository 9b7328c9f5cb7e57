//! Images of servers' disks.

use bytes::Bytes;
use serde_json::{Value, json};
use storage::{ImageSpec, ImageStore};

use crate::support::{ALICE, SERVICE, World};

async fn settled(world: &World, id: &str) -> Value {
    loop {
        let image = world.show(id).await;
        if image["status"] != "saving" {
            return image;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Waits for the hashes, which come after the image; the MD5.
async fn hashed(world: &World, id: &str) -> String {
    loop {
        let image = world.show(id).await;
        if let Some(checksum) = image["checksum"].as_str() {
            assert_eq!(image["os_hash_algo"], "sha512");
            return checksum.to_owned();
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_disk_becomes_an_image_without_its_data_moving() {
    let world = World::new().await;
    let disk = ImageSpec::new("vms", "s_disk");
    world.store.ensure_pool("vms").await.unwrap();
    world.store.create(&disk, 1 << 20).await.unwrap();
    let handle = world.store.open(&disk, None).await.unwrap();
    handle.write(5, Bytes::from_static(b"hello")).await.unwrap();
    let id = world.create_raw(ALICE).await;
    let action = format!("/v2/images/{id}/actions/snapshot_disk");
    let body = json!({"pool": "vms", "disk": "s_disk"});
    world.post(ALICE, &action, body.clone()).await.expect(403);
    world
        .post(SERVICE, &action, json!({"pool": "vms"}))
        .await
        .expect(400);
    world
        .post(
            SERVICE,
            &action,
            json!({"pool": "vms", "disk": "s", "x": 1}),
        )
        .await
        .expect(400);
    world.post(SERVICE, &action, body.clone()).await.expect(202);
    let image = settled(&world, &id).await;
    assert_eq!(
        (&image["status"], &image["size"]),
        (&json!("active"), &json!(1 << 20))
    );
    let checksum = hashed(&world, &id).await;
    let data = world
        .get(ALICE, &format!("/v2/images/{id}/file"))
        .await
        .expect(200);
    assert_eq!(&data.bytes[5..10], b"hello");
    assert_eq!(data.header("content-md5"), checksum);
    world.post(SERVICE, &action, body).await.expect(409);
    assert_eq!(world.store.info(&disk).await.unwrap().snapshots, []);
}

#[tokio::test]
async fn what_cannot_become_a_snapshot() {
    let world = World::new().await;
    let body = json!({"pool": "vms", "disk": "gone_disk"});
    let id = world.create_raw(ALICE).await;
    let action = |id: &str| format!("/v2/images/{id}/actions/snapshot_disk");
    world
        .post(SERVICE, &action(&id), body.clone())
        .await
        .expect(202);
    assert_eq!(settled(&world, &id).await["status"], "queued");
    let qcow2 = json!({"disk_format": "qcow2", "container_format": "bare"});
    let id = world.create(ALICE, qcow2).await;
    world
        .post(SERVICE, &action(&id), body.clone())
        .await
        .expect(400);
    let elsewhere = json!({"pool": "vms", "disk": "d", "fsid": "another"});
    let raw = world.create_raw(ALICE).await;
    world
        .post(SERVICE, &action(&raw), elsewhere)
        .await
        .expect(409);
    world
        .post(SERVICE, &action("no-image"), body)
        .await
        .expect(404);
}
