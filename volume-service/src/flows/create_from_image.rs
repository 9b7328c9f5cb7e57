//! The tasks of [`CreateVolume`] that make a volume of an image: a clone where the image lies
//! raw in the same store, else its disk streamed into a new image.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::{ImageStore, SnapshotSpec};
use taskflow::{Retry, Run, Task, TaskError};

use super::create_from_snapshot::wrong_source;
use super::create_volume::{CreateVolume, VolumeSource, failed, place, remove_volume_image};
use super::encrypted;
use super::image_disk::{ImageDisk, check_formats, check_room, is_raw};
use super::image_setup::set_up_new;
use super::image_source::{Spool, image_failure, parse_location};
use super::outcome::settle;
use super::steps::{
    IMAGE_RETRY, ensure_clone, ensure_image, ensure_size, gib_to_bytes, store_failure,
};
use crate::db::{Change, status};
use crate::images::{Client, Image};

/// How the image can be read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cloned {
    /// The volume is a clone of the image: nothing is left to copy.
    pub cloned: bool,
    /// Where the image's file lies in this store.
    location: Option<SnapshotSpec>,
}

/// A clone of the image, where that is possible; else the volume becomes `downloading`.
pub(super) struct CloneImage;

#[async_trait]
impl Task<CreateVolume> for CloneImage {
    const NAME: &'static str = "clone_image";
    type Output = Cloned;

    fn retry(&self) -> Retry {
        IMAGE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<Cloned, TaskError> {
        let image = image(run)?;
        check_formats(image)?;
        let target = place(run).await?;
        let location = local_copy(&run.ctx.images, image, target.store()).await?;
        let may_clone = is_raw(image) && run.params.encryption.is_none();
        let Some(parent) = location.as_ref().filter(|_| may_clone) else {
            return Ok(Cloned {
                cloned: false,
                location,
            });
        };
        let size_bytes = snapshot_size(target.store(), parent).await?;
        check_room(size_bytes, gib_to_bytes(run.params.size_gib))?;
        ensure_clone(target.store(), parent, &target.image).await?;
        ensure_size(
            target.store(),
            &target.image,
            gib_to_bytes(run.params.size_gib),
        )
        .await?;
        set_up_new(run, &target).await?;
        Ok(Cloned {
            cloned: true,
            location,
        })
    }

    async fn record(
        &self,
        run: &Run<CreateVolume>,
        output: &Cloned,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        if output.cloned {
            return Ok(());
        }
        let change = Change::volume(run.params.volume_id).when(&[status::CREATING]);
        settle(tx, change.status(status::DOWNLOADING)).await
    }

    async fn revert(&self, run: &Run<CreateVolume>, _: Option<&Cloned>) -> Result<(), TaskError> {
        remove_volume_image(run).await
    }

    async fn record_revert(
        &self,
        run: &Run<CreateVolume>,
        _: Option<&Cloned>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The image's disk in a new image, unless the volume is a clone already. Run again, it writes
/// the same bytes again.
pub(super) struct CopyImage;

#[async_trait]
impl Task<CreateVolume> for CopyImage {
    const NAME: &'static str = "copy_image";
    type Output = ();

    fn retry(&self) -> Retry {
        IMAGE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<(), TaskError> {
        let how = run.output::<CloneImage>()?;
        if how.cloned {
            return Ok(());
        }
        let image = image(run)?;
        let target = place(run).await?;
        ensure_image(
            target.store(),
            &target.image,
            gib_to_bytes(run.params.size_gib),
        )
        .await?;
        set_up_new(run, &target).await?;
        let disk = ImageDisk {
            client: &run.ctx.images,
            image,
            is_zeroed: run.params.encryption.is_none(),
            watch: run,
        };
        let location = how.location.as_ref();
        if let Some(encryption) = run.params.encryption {
            let handle = encrypted::format(run.ctx.as_ref(), &target, encryption).await?;
            return disk.write_to(&handle, location, &target).await;
        }
        let opened = target.store().open(&target.image, None).await;
        let handle = opened.map_err(store_failure)?;
        disk.write_to(handle.as_ref(), location, &target).await
    }

    async fn revert(&self, run: &Run<CreateVolume>, _: Option<&()>) -> Result<(), TaskError> {
        if let Some(target) = run.ctx.place_if_any(run.params.volume_id).await? {
            Spool::of(&target).remove().await?;
        }
        remove_volume_image(run).await
    }
}

/// The first of the image's locations that is a snapshot in this store.
pub(super) async fn local_copy(
    client: &Client,
    image: &Image,
    store: &dyn ImageStore,
) -> Result<Option<SnapshotSpec>, TaskError> {
    for url in client.locations(image.id).await.map_err(image_failure)? {
        let Some((fsid, snapshot)) = parse_location(&url) else {
            continue;
        };
        if fsid == store.fsid()
            && store
                .open(&snapshot.image, Some(&snapshot.snapshot))
                .await
                .is_ok()
        {
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

async fn snapshot_size(store: &dyn ImageStore, snapshot: &SnapshotSpec) -> Result<u64, TaskError> {
    let handle = store
        .open(&snapshot.image, Some(&snapshot.snapshot))
        .await
        .map_err(store_failure)?;
    Ok(handle.size_bytes())
}

fn image(run: &Run<CreateVolume>) -> Result<&Image, TaskError> {
    match &run.params.source {
        VolumeSource::Image { image } => Ok(image),
        _ => Err(wrong_source()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use image_formats::{DataMap, Qcow2Writer};
    use taskflow::testing::exhaust;
    use uuid::Uuid;

    use super::super::create_volume::tests::case;
    use super::super::create_volume::{CreateVolumeParams, Encryption};
    use super::super::testbed::{Disk, HOST, World, pattern, requester, volume_image};
    use super::super::volume_queue;
    use super::*;
    use crate::db::metadata::{self, Kind};
    use crate::db::volumes;

    /// A raw image in the store; its bytes, and where they are.
    async fn stored_image(world: &World) -> (Disk, String) {
        let image = storage::ImageSpec::new("images", Uuid::new_v4().to_string());
        world.store.create(&image, 1 << 20).await.unwrap();
        let handle = world.store.open(&image, None).await.unwrap();
        handle.write(4096, pattern(8, 20_000)).await.unwrap();
        world
            .store
            .create_snapshot(&image.at("snap"))
            .await
            .unwrap();
        world
            .store
            .protect_snapshot(&image.at("snap"))
            .await
            .unwrap();
        let disk = world.disk(&image, Some("snap")).await;
        (
            disk,
            format!("rbd://{}/images/{}/snap", world.store.fsid(), image.image),
        )
    }

    #[tokio::test]
    async fn from_a_raw_image_in_the_store() {
        exhaust::<CreateVolume, _>(async || {
            let world = World::new().await;
            let (disk, location) = stored_image(&world).await;
            let parent = location
                .splitn(4, '/')
                .nth(3)
                .unwrap()
                .replace("/snap", "@snap");
            let image = world.images.add(
                "raw",
                Some(Bytes::from_static(b"never read")),
                Some(location),
            );
            case(world, VolumeSource::Image { image }, disk, Some(parent)).await
        })
        .await;
    }

    #[tokio::test]
    async fn from_a_raw_image_elsewhere() {
        exhaust::<CreateVolume, _>(async || {
            let world = World::new().await;
            let mut data = vec![0; 3 << 20];
            data[1 << 20..(1 << 20) + 9000].copy_from_slice(&pattern(4, 9000));
            let blocks = data
                .chunks(4096)
                .enumerate()
                .filter(|(_, block)| block.iter().any(|byte| *byte != 0));
            let blocks = blocks
                .map(|(index, block)| (index as u64, Bytes::copy_from_slice(block)))
                .collect();
            let location = Some("rbd://another-store/images/x/snap".to_owned());
            let image = world.images.add("raw", Some(data.into()), location);
            case(
                world,
                VolumeSource::Image { image },
                Disk {
                    size_bytes: 0,
                    blocks,
                },
                None,
            )
            .await
        })
        .await;
    }

    /// A qcow2 file of a disk of 1 GiB, and the disk's blocks.
    async fn qcow2() -> (Bytes, Disk) {
        let disk = World::new().await;
        let volume_id = disk.filled_volume(6).await;
        let handle = disk
            .store
            .open(&volume_image(volume_id), None)
            .await
            .unwrap();
        let source = super::super::transfer::HandleSource {
            length_bytes: handle.size_bytes(),
            handle,
        };
        let mut map = DataMap::new(1 << 30).unwrap();
        map.add(8192, 10_000).unwrap();
        map.add((1 << 30) - 4096, 4096).unwrap();
        let mut writer = Qcow2Writer::new(map);
        let mut file = Vec::new();
        while let Some(piece) = writer.next_piece(&source).await.unwrap() {
            file.extend_from_slice(&piece);
        }
        (file.into(), disk.head(volume_id).await)
    }

    #[tokio::test]
    async fn a_disk_of_the_volumes_size_does_not_fit_behind_a_header() {
        let (file, _) = qcow2().await;
        let world = World::new().await;
        let image = world.images.add("qcow2", Some(file), None);
        let volume_id = world.volume_row(1, None).await;
        let params = CreateVolumeParams {
            volume_id,
            size_gib: 1,
            source: VolumeSource::Image { image },
            encryption: Some(Encryption {
                key_id: Uuid::nil(),
                key_bits: 256,
            }),
        };
        let flow = CreateVolume::new_flow(&params, &volume_queue(HOST), &requester());
        assert_eq!(world.run::<CreateVolume>(flow).await, "REVERTED");
        assert!(world.store.images("volumes").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn from_a_qcow2_image_in_ranges() {
        let (file, disk) = qcow2().await;
        exhaust::<CreateVolume, _>(async || {
            let world = World::new().await;
            let image = world.images.add("qcow2", Some(file.clone()), None);
            case(world, VolumeSource::Image { image }, disk.clone(), None).await
        })
        .await;
    }

    #[tokio::test]
    async fn from_a_qcow2_image_that_cannot_be_read_in_ranges() {
        let (file, disk) = qcow2().await;
        let world = World::new().await;
        world.images.refuse_ranges();
        let image = world.images.add("qcow2", Some(file), None);
        let id = world.volume(1, VolumeSource::Image { image }).await;
        assert_eq!(world.head(id).await.blocks, disk.blocks);
        assert_eq!(world.images.whole_downloads(), 1);
        assert_eq!(
            world.store.images("volumes").await.unwrap().len(),
            1,
            "the temporary copy is gone"
        );
        assert_eq!(world.column("volumes", id, "previous_status").await, None);
        let metadata = metadata::get(&world.database, Kind::VolumeImage, id)
            .await
            .unwrap();
        assert_eq!(
            metadata.get("hw_disk_bus").map(String::as_str),
            Some("virtio")
        );
        assert_eq!(
            metadata.get("signature_verified").map(String::as_str),
            Some("False")
        );
        assert!(
            volumes::get(&world.database, id)
                .await
                .unwrap()
                .unwrap()
                .bootable
        );
    }

    async fn refused(world: &World, image: Image) -> String {
        let id = world.volume_row(1, None).await;
        let flow = world.create_flow(id, 1, VolumeSource::Image { image });
        assert_eq!(world.run::<CreateVolume>(Ok(flow)).await, "REVERTED");
        assert_eq!(
            world.column("volumes", id, "status").await.as_deref(),
            Some(status::ERROR)
        );
        assert!(world.store.images("volumes").await.unwrap().is_empty());
        let sql = "SELECT detail_id FROM volume_messages WHERE resource_id = ?";
        let row = world
            .database
            .fetch_one(sql, database::params![id])
            .await
            .unwrap();
        row.get("detail_id").unwrap()
    }

    #[tokio::test]
    async fn images_that_cannot_become_a_volume_leave_nothing() {
        let world = World::new().await;
        let vmdk = world
            .images
            .add("vmdk", Some(Bytes::from_static(b"KDMV")), None);
        assert_eq!(refused(&world, vmdk).await, "029");
        let garbage = world.images.add("qcow2", Some(pattern(1, 1000)), None);
        assert_eq!(refused(&world, garbage).await, "029");
        let (mut file, _) = qcow2().await;
        file.truncate(file.len() / 2);
        let cut = world.images.add("qcow2", Some(file), None);
        assert_eq!(refused(&world, cut).await, "029");
        let head = Qcow2Writer::new(DataMap::new(2 << 30).unwrap());
        let disk = world.volume(2, VolumeSource::Empty).await;
        let handle = world.store.open(&volume_image(disk), None).await.unwrap();
        let source = super::super::transfer::HandleSource {
            length_bytes: handle.size_bytes(),
            handle,
        };
        let pieces: Vec<Bytes> = futures_util::TryStreamExt::try_collect(head.into_stream(source))
            .await
            .unwrap();
        world.store.remove(&volume_image(disk)).await.unwrap();
        let huge = world
            .images
            .add("qcow2", Some(pieces.concat().into()), None);
        assert_eq!(refused(&world, huge).await, "007");
        let mut gone = world.images.add("raw", Some(pattern(1, 10)), None);
        gone.id = Uuid::new_v4();
        assert_eq!(refused(&world, gone).await, "012");
    }
}
