//! All flows one after another on the embedded store, with every byte compared.

use std::sync::Arc;

use storage::embedded::{EmbeddedOptions, EmbeddedStore};
use storage::testing::TestStore;
use storage::{ImageSpec, ImageStore};
use uuid::Uuid;

use super::testbed::{HOST, World, pattern, requester, volume_image};
use super::*;
use crate::db::status;

async fn delete_volume(world: &World, volume_id: Uuid, cascade: bool) {
    world
        .set_status("volumes", volume_id, status::DELETING)
        .await;
    let params = DeleteVolumeParams { volume_id, cascade };
    let flow = DeleteVolume::new_flow(&params, &volume_queue(HOST), &requester());
    assert_eq!(world.run::<DeleteVolume>(flow).await, "SUCCESS");
}

async fn delete_backup(world: &World, backup_id: Uuid, volume_id: Uuid) {
    world
        .set_status("backups", backup_id, status::DELETING)
        .await;
    let params = DeleteBackupParams {
        backup_id,
        volume_id,
    };
    let flow = DeleteBackup::new_flow(&params, "backup:host", &requester());
    assert_eq!(world.run::<DeleteBackup>(flow).await, "SUCCESS");
}

async fn revert(world: &World, volume_id: Uuid, snapshot_id: Uuid) {
    world
        .set_status("volumes", volume_id, status::REVERTING)
        .await;
    world
        .set_status("snapshots", snapshot_id, status::RESTORING)
        .await;
    let params = RevertVolumeParams {
        volume_id,
        snapshot_id,
    };
    let flow = RevertVolume::new_flow(&params, &volume_queue(HOST), &requester());
    assert_eq!(world.run::<RevertVolume>(flow).await, "SUCCESS");
}

async fn restore(world: &World, backup_id: Uuid, source_volume_id: Uuid, volume_id: Uuid) {
    world
        .set_status("volumes", volume_id, status::RESTORING_BACKUP)
        .await;
    world
        .set_status("backups", backup_id, status::RESTORING)
        .await;
    let params = RestoreBackupParams {
        backup_id,
        source_volume_id,
        volume_id,
    };
    let flow = RestoreBackup::new_flow(&params, "backup:host", &requester());
    assert_eq!(world.run::<RestoreBackup>(flow).await, "SUCCESS");
}

async fn upload(world: &World, volume_id: Uuid) -> Uuid {
    let image_id = world.images.add("qcow2", None, None).id;
    world
        .set_status("volumes", volume_id, status::UPLOADING)
        .await;
    let params = UploadVolumeParams {
        volume_id,
        image_id,
        disk_format: "qcow2".into(),
    };
    let flow = UploadVolume::new_flow(&params, &volume_queue(HOST), &requester());
    assert_eq!(world.run::<UploadVolume>(flow).await, "SUCCESS");
    image_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_leaves_an_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ImageStore> =
        EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
    let world = World::on(TestStore::of(store), |_| {}).await;
    let first = world.filled_volume(1).await;
    let filled = world.head(first).await;

    let image_id = upload(&world, first).await;
    let image = world.manager.images.show("user", image_id).await.unwrap();
    let from_image = world.volume(1, VolumeSource::Image { image }).await;
    assert!(world.head(from_image).await == filled);

    let raw = ImageSpec::new("images", Uuid::new_v4().to_string());
    world.store.create(&raw, 1 << 29).await.unwrap();
    let handle = world.store.open(&raw, None).await.unwrap();
    handle.write(12_345, pattern(2, 3 << 20)).await.unwrap();
    drop(handle);
    world.store.create_snapshot(&raw.at("snap")).await.unwrap();
    world.store.protect_snapshot(&raw.at("snap")).await.unwrap();
    let raw_disk = world.disk(&raw, Some("snap")).await;
    let used_bytes = world.store.capacity("volumes").await.unwrap().used_bytes;
    let location = format!("rbd://{}/images/{}/snap", world.store.fsid(), raw.image);
    let image = world
        .images
        .add("raw", Some(vec![0; 10].into()), Some(location));
    let from_raw = world.volume(1, VolumeSource::Image { image }).await;
    assert_eq!(world.head(from_raw).await.blocks, raw_disk.blocks);
    assert_eq!(
        world.store.capacity("volumes").await.unwrap().used_bytes,
        used_bytes,
        "a clone copies nothing"
    );

    let full = world.backup(first, None).await;
    let snapshot_id = world.snapshot(first).await;
    world.write(first, 1 << 20, pattern(3, 5 << 20)).await;
    let incremental = world.backup(first, Some(full)).await;
    let changed = world.head(first).await;
    let clone = world
        .volume(2, VolumeSource::Volume { volume_id: first })
        .await;
    assert_eq!(world.head(clone).await.blocks, changed.blocks);
    let of_snapshot = world
        .volume(
            1,
            VolumeSource::Snapshot {
                snapshot_id,
                volume_id: first,
            },
        )
        .await;
    assert!(world.head(of_snapshot).await == filled);
    revert(&world, first, snapshot_id).await;
    assert!(world.head(first).await == filled);
    restore(&world, incremental, first, first).await;
    assert!(world.head(first).await == changed);
    restore(&world, full, first, clone).await;
    assert_eq!(world.head(clone).await.blocks, filled.blocks);
    let source = VolumeSource::Backup {
        backup_id: incremental,
        volume_id: first,
    };
    let from_backup = world.volume(1, source).await;
    assert!(world.head(from_backup).await == changed);

    // Sources first, while their clones live.
    let raw_clones = world.store.children(&raw.at("snap")).await.unwrap();
    assert_eq!(raw_clones, [volume_image(from_raw)]);
    delete_volume(&world, first, true).await;
    delete_backup(&world, incremental, first).await;
    delete_backup(&world, full, first).await;
    assert!(world.head(of_snapshot).await == filled);
    assert_eq!(world.head(clone).await.blocks, filled.blocks);
    for volume_id in [clone, of_snapshot, from_backup, from_image, from_raw] {
        delete_volume(&world, volume_id, false).await;
    }
    world
        .store
        .unprotect_snapshot(&raw.at("snap"))
        .await
        .unwrap();
    world.store.remove_snapshot(&raw.at("snap")).await.unwrap();
    world.store.remove(&raw).await.unwrap();
    assert_eq!(world.inventory().await, Default::default());
    assert_eq!(world.store.capacity("volumes").await.unwrap().used_bytes, 0);
}
