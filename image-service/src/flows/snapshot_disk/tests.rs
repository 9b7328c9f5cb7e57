//! Snapshots of disks: whatever fails or crashes, the image is active with the disk's data, or
//! queued, and nothing else is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use database::{Database, params};
use taskflow::testing::{Fixture, exhaust, run_to_end};

use super::*;
use crate::flows::testing::World;
use crate::image::Status;

/// A disk of 8 KiB, the image that is to become its copy, and the flow.
struct Wanted {
    world: World,
    flow_id: Uuid,
    disk: ImageSpec,
}

impl Wanted {
    async fn new() -> Self {
        Self::with(true, None).await
    }

    async fn with(has_disk: bool, rotation: Option<u32>) -> Self {
        let world = World::new().await;
        let store = &world.store;
        let disk = ImageSpec::new("vms", "server_disk");
        store.ensure_pool("vms").await.unwrap();
        if has_disk {
            store.create(&disk, 8192).await.unwrap();
            let handle = store.open(&disk, None).await.unwrap();
            handle.write(0, Bytes::from(vec![7; 8192])).await.unwrap();
        }
        let flow_id = begin(&world, world.image_id, &disk, rotation).await;
        Wanted {
            world,
            flow_id,
            disk,
        }
    }
}

async fn begin(world: &World, id: Uuid, disk: &ImageSpec, rotation: Option<u32>) -> Uuid {
    let params = Params {
        image_id: id,
        disk: disk.clone(),
        rotation,
    };
    let flow = NewFlow::of::<SnapshotDiskToImage>(&params).unwrap();
    let mut tx = world.database().begin().await.unwrap();
    assert!(images::begin_upload(&mut tx, id, flow.id()).await.unwrap());
    let flow_id = flow.insert(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    flow_id
}

#[async_trait]
impl Fixture<SnapshotDiskToImage> for Wanted {
    fn database(&self) -> &Database {
        self.world.database()
    }

    fn context(&self) -> Arc<ImageService> {
        self.world.service.clone()
    }

    fn flow_id(&self) -> Uuid {
        self.flow_id
    }

    async fn restart(&mut self) {
        self.world.store.crash().await;
    }

    async fn assert_done(&self) {
        let image = self.world.image().await.unwrap();
        assert_eq!(
            (image.status, image.size_bytes),
            (Status::Active, Some(8192))
        );
        assert_eq!(image.upload_id, None);
        let store = &self.world.store;
        assert_eq!(store.info(&self.disk).await.unwrap().snapshots, []);
        let pool = self.world.default_pool();
        self.world.assert_data(pool, &[7; 8192]).await;
        let held = locations::of_image(self.database(), image.id).await;
        let held = held.unwrap();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].url, pool.url(image.id));
    }

    async fn assert_reverted(&self) {
        let image = self.world.image().await.unwrap();
        assert_eq!((image.status, image.size_bytes), (Status::Queued, None));
        let store = &self.world.store;
        assert_eq!(store.images("images").await.unwrap(), [""; 0]);
        assert_eq!(store.info(&self.disk).await.unwrap().snapshots, []);
    }
}

#[tokio::test]
async fn the_disk_becomes_an_image_or_nothing_is_left() {
    exhaust::<SnapshotDiskToImage, _>(Wanted::new).await;
}

#[tokio::test]
async fn a_disk_that_is_not_there_leaves_the_image_queued() {
    let wanted = Wanted::with(false, None).await;
    let context = wanted.context();
    run_to_end::<SnapshotDiskToImage>(wanted.database(), context, wanted.flow_id).await;
    let image = wanted.world.image().await.unwrap();
    assert_eq!(image.status, Status::Queued);
    assert_eq!(wanted.world.store.images("images").await.unwrap(), [""; 0]);
}

/// Backups of a server, oldest first, then another server's and one of another type.
async fn add_backups(world: &World) -> Vec<Uuid> {
    let backup = |server: &str, kind: &str| {
        BTreeMap::from([
            ("image_type".to_owned(), Some("backup".to_owned())),
            ("instance_uuid".to_owned(), Some(server.to_owned())),
            ("backup_type".to_owned(), Some(kind.to_owned())),
        ])
    };
    let mut tx = world.database().begin().await.unwrap();
    let mut image = images::find_locked(&mut tx, world.image_id)
        .await
        .unwrap()
        .unwrap();
    image.properties = backup("s", "daily");
    images::update(&mut tx, &mut image).await.unwrap();
    let mut ids = Vec::new();
    for (age, (server, kind)) in [
        ("s", "daily"),
        ("s", "daily"),
        ("s", "daily"),
        ("t", "daily"),
        ("s", "weekly"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut old = image.clone();
        old.id = Uuid::new_v4();
        old.status = Status::Active;
        old.protected = age == 1;
        old.created_at_us -= 1_000_000 - i64::try_from(age).unwrap();
        old.properties = backup(server, kind);
        images::insert(&mut tx, &old).await.unwrap();
        ids.push(old.id);
    }
    tx.commit().await.unwrap();
    ids
}

#[tokio::test]
async fn rotation_deletes_the_oldest_backups_of_the_server() {
    let wanted = Wanted::with(true, Some(2)).await;
    let backups = add_backups(&wanted.world).await;
    let context = wanted.context();
    run_to_end::<SnapshotDiskToImage>(wanted.database(), context, wanted.flow_id).await;
    let mut left = Vec::new();
    for id in &backups {
        left.push(
            images::find(wanted.database(), *id)
                .await
                .unwrap()
                .is_some(),
        );
    }
    // The oldest goes; the next is protected; the newest two are this one and the third.
    assert_eq!(left, [false, true, true, true, true]);
    let sql = "SELECT COUNT(*) AS n FROM flows WHERE kind = ?";
    let kind = params![DeleteImage::KIND];
    let flows = wanted.database().fetch_one(sql, kind).await.unwrap();
    assert_eq!(flows.get::<i64>("n").unwrap(), 1);
}
