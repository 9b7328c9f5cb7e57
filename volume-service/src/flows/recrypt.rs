//! The bytes of a volume from one encryption to another, or to none: read as its clients read
//! them, and written as they will read them.

use std::sync::Arc;

use bytes::Bytes;
use storage::{Extent, ExtentKind, ImageHandle, SnapshotSpec};
use taskflow::TaskError;
use uuid::Uuid;

use super::create_volume::Encryption;
use super::encrypted;
use super::relocate::Recryption;
use super::steps::{ensure_image, store_failure};
use super::transfer::{PIECE_BYTES, Watch, check, write_sparse};
use crate::luks::Encrypted;
use crate::manager::{Manager, Placement};

/// Extents asked for at once.
const EXTENTS_PER_PAGE: usize = 256;

/// The disk in an image.
enum Disk {
    Plain(Arc<dyn ImageHandle>),
    Encrypted(Encrypted),
}

impl Disk {
    fn handle(&self) -> &dyn ImageHandle {
        match self {
            Disk::Plain(handle) => handle.as_ref(),
            Disk::Encrypted(disk) => disk,
        }
    }

    /// Where something is to be read. A zero extent of an encrypted disk was never written, or
    /// was discarded: it reads as anything.
    async fn extents(&self, offset: u64, length: u64) -> storage::Result<Vec<Extent>> {
        match self {
            Disk::Plain(handle) => handle.extents(offset, length, EXTENTS_PER_PAGE).await,
            Disk::Encrypted(disk) => disk.written(offset, length, EXTENTS_PER_PAGE).await,
        }
    }
}

/// A flow's run, with the manager it works for.
pub(super) trait Copier: Watch {
    fn manager(&self) -> &Manager;
}

impl<F: taskflow::Flow<Context = Manager>> Copier for taskflow::Run<F> {
    fn manager(&self) -> &Manager {
        &self.ctx
    }
}

/// Makes the image `new`, and its disk the same as that of `old` at a snapshot. Run again, it
/// begins anew.
///
/// Errors: `TooSmall` when the header takes room where the old disk holds data.
pub(super) async fn copy(
    run: &dyn Copier,
    (old, snapshot): (&Placement<'_>, &SnapshotSpec),
    new: &Placement<'_>,
    recryption: &Recryption,
) -> Result<(), TaskError> {
    let raw = old
        .store()
        .open(&old.image, Some(&snapshot.snapshot))
        .await
        .map_err(store_failure)?;
    ensure_image(new.store(), &new.image, raw.size_bytes()).await?;
    let key_id = recryption.from.map(|from| from.key_id);
    rewrite(run, (raw, key_id), new, recryption.to).await
}

/// Makes the disk in an image that is there the same as that in `source`, which its key opens.
/// Run again, it begins anew.
pub(super) async fn rewrite(
    run: &dyn Copier,
    (source, key_id): (Arc<dyn ImageHandle>, Option<Uuid>),
    target: &Placement<'_>,
    encryption: Option<Encryption>,
) -> Result<(), TaskError> {
    let source = match key_id {
        Some(id) => Disk::Encrypted(encrypted::open(run.manager(), source, id).await?),
        None => Disk::Plain(source),
    };
    let target = emptied(run.manager(), target, encryption).await?;
    copy_disk(run, &source, &target).await?;
    let (size_bytes, room_bytes) = (source.handle().size_bytes(), target.handle().size_bytes());
    if let Disk::Encrypted(disk) = &target
        && room_bytes > size_bytes
    {
        let zeroed = disk.discard(size_bytes, room_bytes - size_bytes).await;
        zeroed.map_err(store_failure)?;
    }
    target.handle().flush().await.map_err(store_failure)
}

/// The disk of an image without what it held; an encrypted one gets a new header.
async fn emptied(
    manager: &Manager,
    place: &Placement<'_>,
    encryption: Option<Encryption>,
) -> Result<Disk, TaskError> {
    let handle = place.store().open(&place.image, None).await;
    let handle = handle.map_err(store_failure)?;
    let size_bytes = handle.size_bytes();
    handle.discard(0, size_bytes).await.map_err(store_failure)?;
    Ok(match encryption {
        Some(encryption) => Disk::Encrypted(encrypted::format(manager, place, encryption).await?),
        None => Disk::Plain(handle),
    })
}

async fn copy_disk(run: &dyn Copier, source: &Disk, target: &Disk) -> Result<(), TaskError> {
    let size_bytes = source.handle().size_bytes();
    let room_bytes = target.handle().size_bytes();
    let mut position = 0;
    while position < size_bytes {
        let page = source.extents(position, size_bytes - position).await;
        let extents = page.map_err(store_failure)?;
        let Some(last) = extents.last() else { break };
        position = last.offset.saturating_add(last.length);
        for extent in extents {
            run.progress(extent.offset as f64 / size_bytes as f64).await;
            copy_extent(run, source, target, extent, room_bytes).await?;
        }
    }
    Ok(())
}

async fn copy_extent(
    run: &dyn Copier,
    source: &Disk,
    target: &Disk,
    extent: Extent,
    room_bytes: u64,
) -> Result<(), TaskError> {
    let end = extent.offset.saturating_add(extent.length);
    let mut at = extent.offset;
    while at < end {
        check(run)?;
        // A piece ends where the target ends, so that what is behind stands for itself.
        let stop = if at < room_bytes {
            end.min(room_bytes)
        } else {
            end
        };
        let length = (stop - at).min(PIECE_BYTES as u64);
        match extent.kind {
            ExtentKind::Data => {
                let data = source.handle().read(at, length as usize).await;
                let data = data.map_err(store_failure)?;
                if at < room_bytes {
                    write(target, at, data).await?;
                } else if data.iter().any(|byte| *byte != 0) {
                    let text = format!(
                        "the encrypted disk has room for {room_bytes} bytes, and there is data \
                         behind them: extend the volume first"
                    );
                    return Err(TaskError::new("TooSmall", text));
                }
            }
            // Nothing was ever there, so nothing need be there; a plain disk reads as zero.
            ExtentKind::Zero if matches!(source, Disk::Encrypted(_)) => {}
            ExtentKind::Zero if at < room_bytes && matches!(target, Disk::Encrypted(_)) => {
                let zeroed = target.handle().discard(at, length).await;
                zeroed.map_err(store_failure)?;
            }
            ExtentKind::Zero => {}
        }
        at += length;
    }
    Ok(())
}

async fn write(target: &Disk, at: u64, data: Bytes) -> Result<(), TaskError> {
    match target {
        Disk::Plain(handle) => write_sparse(handle.as_ref(), at, &data).await,
        Disk::Encrypted(disk) => disk.write(at, data).await.map_err(store_failure),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use database::Database;
    use taskflow::testing::{Fixture, exhaust};

    use super::super::encrypted::tests::qemu_reads;
    use super::super::reimage_volume::{ReimageVolume, ReimageVolumeParams};
    use super::super::retype_volume::{MigrationPolicy, RetypeVolume, RetypeVolumeParams};
    use super::super::testbed::{
        HOST, Inventory, World, image_key, pattern, requester, volume_image,
    };
    use super::super::volume_queue;
    use super::*;
    use crate::db::status;

    const MIB: u64 = 1 << 20;
    /// Less than the row says, so that there is less to encrypt.
    const IMAGE_BYTES: u64 = 16 * MIB;

    fn encryption(key_bits: u32) -> Option<Encryption> {
        Some(Encryption {
            key_id: Uuid::nil(),
            key_bits,
        })
    }

    fn params(
        volume_id: Uuid,
        from: Option<Encryption>,
        to: Option<Encryption>,
    ) -> RetypeVolumeParams {
        RetypeVolumeParams {
            volume_id,
            new_type_id: Uuid::from_u128(7),
            multiattach: false,
            policy: MigrationPolicy::OnDemand,
            recryption: Recryption {
                from,
                to,
                changes: true,
            },
        }
    }

    async fn retype(world: &World, params: &RetypeVolumeParams) -> &'static str {
        let id = params.volume_id;
        world
            .set("volumes", id, "previous_status", "available")
            .await;
        world.set_status("volumes", id, status::RETYPING).await;
        let flow = RetypeVolume::new_flow(params, &requester()).unwrap();
        let flow = Ok(flow.queue(volume_queue(HOST)));
        world.run::<RetypeVolume>(flow).await
    }

    /// The first bytes of the volume's image.
    async fn start(world: &World, volume_id: Uuid) -> Bytes {
        let name_id = world.column("volumes", volume_id, "name_id").await;
        let id = name_id.map_or(volume_id, |id| id.parse().unwrap());
        let handle = world.store.open(&volume_image(id), None).await.unwrap();
        assert_eq!(handle.size_bytes(), IMAGE_BYTES);
        handle.read(0, IMAGE_BYTES as usize).await.unwrap()
    }

    async fn empty_volume(world: &World) -> Uuid {
        let id = world.volume_row(1, None).await;
        let made = world.store.create(&volume_image(id), IMAGE_BYTES).await;
        made.unwrap();
        id
    }

    /// A volume with something at its beginning.
    async fn volume(world: &World) -> (Uuid, Vec<u8>) {
        let id = empty_volume(world).await;
        let mut disk = vec![0; 5 << 20];
        disk[8192..18_192].copy_from_slice(&pattern(5, 10_000));
        disk[4 << 20..].copy_from_slice(&pattern(6, 1 << 20));
        world.write(id, 0, disk.clone().into()).await;
        (id, disk)
    }

    #[tokio::test]
    async fn from_none_to_one_to_another_and_back() {
        let world = World::new().await;
        let (id, disk) = volume(&world).await;
        let steps = [
            (None, encryption(256)),
            (encryption(256), encryption(512)),
            (encryption(512), None),
        ];
        for (from, to) in steps {
            assert_eq!(retype(&world, &params(id, from, to)).await, "SUCCESS");
            let bytes = start(&world, id).await;
            match to {
                Some(_) => qemu_reads(&bytes, &disk),
                None => assert!(bytes.starts_with(&disk)),
            }
            assert_eq!(world.inventory().await.images.len(), 1);
            let column = async |name| world.column("volumes", id, name).await;
            assert_eq!(column("status").await.as_deref(), Some("available"));
            let key = to.map(|to| to.key_id.to_string());
            assert_eq!(column("encryption_key_id").await, key);
        }
        // What was never written is zero again.
        let last = world.column("volumes", id, "name_id").await.unwrap();
        let image = volume_image(last.parse().unwrap());
        let handle = world.store.open(&image, None).await.unwrap();
        let rest = handle.read(6 * MIB, (9 * MIB) as usize).await.unwrap();
        assert!(rest.iter().all(|byte| *byte == 0));
    }

    /// Nova's image of a server that boots from an encrypted volume stands for its snapshot.
    #[tokio::test]
    async fn a_snapshot_replaces_a_disk_of_another_encryption() {
        let world = World::new().await;
        let (source, disk) = volume(&world).await;
        let to_secret = params(source, None, encryption(256));
        assert_eq!(retype(&world, &to_secret).await, "SUCCESS");
        let snapshot_id = world.snapshot(source).await;
        for encryption in [None, encryption(512)] {
            let (id, _) = volume(&world).await;
            world.write(id, 9 << 20, pattern(1, 5000)).await;
            world.set_status("volumes", id, status::DOWNLOADING).await;
            let params = ReimageVolumeParams {
                volume_id: id,
                image: world.images.add("raw", None, None),
                snapshot: Some((snapshot_id, source)),
                encryption,
                previous_status: status::AVAILABLE.to_owned(),
            };
            let flow = ReimageVolume::new_flow(&params, &volume_queue(HOST), &requester());
            assert_eq!(world.run::<ReimageVolume>(flow).await, "SUCCESS");
            let bytes = start(&world, id).await;
            match encryption {
                Some(_) => qemu_reads(&bytes, &disk),
                None => {
                    assert!(bytes.starts_with(&disk));
                    assert!(bytes[disk.len()..14 << 20].iter().all(|byte| *byte == 0));
                }
            }
        }
    }

    #[tokio::test]
    async fn data_where_the_header_takes_room_is_not_lost() {
        let world = World::new().await;
        let (id, _) = volume(&world).await;
        world.write(id, IMAGE_BYTES - 512, pattern(1, 512)).await;
        let before = world.inventory().await;
        let end = retype(&world, &params(id, None, encryption(256))).await;
        assert_eq!(end, "REVERTED");
        assert!(world.inventory().await == before);
        let status = world.column("volumes", id, "status").await;
        assert_eq!(status.as_deref(), Some("available"));
    }

    #[tokio::test]
    async fn an_image_without_a_header_stays_as_it_is() {
        let world = World::new().await;
        let (id, _) = volume(&world).await;
        let before = world.inventory().await;
        let end = retype(&world, &params(id, encryption(256), None)).await;
        assert_eq!(end, "REVERTED");
        assert!(world.inventory().await == before);
    }

    /// A volume that is to be encrypted.
    struct Encrypting {
        world: World,
        flow_id: Uuid,
        volume_id: Uuid,
        disk: Vec<u8>,
        before: Inventory,
    }

    #[async_trait]
    impl Fixture<RetypeVolume> for Encrypting {
        fn database(&self) -> &Database {
            &self.world.database
        }

        fn context(&self) -> Arc<Manager> {
            self.world.manager.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.flow_id
        }

        async fn restart(&mut self) {
            self.world.store.crash().await;
        }

        async fn assert_done(&self) {
            qemu_reads(&start(&self.world, self.volume_id).await, &self.disk);
            let images = self.world.inventory().await.images;
            assert_eq!(images.len(), 1);
            assert!(!images.contains_key(&image_key(self.volume_id)));
        }

        async fn assert_reverted(&self) {
            assert!(self.world.inventory().await == self.before);
            let column = async |name| self.world.column("volumes", self.volume_id, name).await;
            assert_eq!(column("status").await.as_deref(), Some("available"));
            assert_eq!(column("name_id").await, None);
            let key = column("encryption_key_id").await;
            assert_eq!(key, Some(Uuid::nil().to_string()));
        }
    }

    #[tokio::test]
    async fn with_failures_and_crashes_at_every_task() {
        exhaust::<RetypeVolume, _>(async || {
            let world = World::new().await;
            let volume_id = empty_volume(&world).await;
            let place = world.manager.place_on(HOST, volume_id).unwrap();
            let opened = encrypted::format(&world.manager, &place, encryption(256).unwrap());
            let disk = pattern(5, 10_000).to_vec();
            let opened = opened.await.unwrap();
            opened.write(0, disk.clone().into()).await.unwrap();
            world
                .set(
                    "volumes",
                    volume_id,
                    "encryption_key_id",
                    &Uuid::nil().to_string(),
                )
                .await;
            world
                .set("volumes", volume_id, "previous_status", "available")
                .await;
            world
                .set_status("volumes", volume_id, status::RETYPING)
                .await;
            let before = world.inventory().await;
            let flow = params(volume_id, encryption(256), encryption(512));
            let flow = RetypeVolume::new_flow(&flow, &requester()).unwrap();
            let flow_id = world.insert(flow.queue(volume_queue(HOST))).await;
            Encrypting {
                world,
                flow_id,
                volume_id,
                disk,
                before,
            }
        })
        .await;
    }
}
