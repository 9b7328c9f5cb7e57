//! `volume:reimage`: the content of a volume is replaced by an image's disk.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::SnapshotSpec;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::create_from_image::local_copy;
use super::create_volume::Encryption;
use super::image_disk::{IMAGE_TOO_BIG, IMAGE_UNACCEPTABLE, ImageDisk, check_formats, is_raw};
use super::image_source::Spool;
use super::outcome::{end_download, tell, warn_if_reset};
use super::recrypt;
use super::steps::{IMAGE_RETRY, STORE_RETRY, ensure_snapshot, remove_snapshot, store_failure};
use super::tell_servers::TellServers;
use super::transfer::overwrite;
use super::{Requester, addressed, encrypted, snapshot_lock, volume_lock};
use crate::compute::Event;
use crate::db::messages::{Action, Detail, Resource};
use crate::db::metadata::{self, Kind};
use crate::db::{Change, status};
use crate::images::Image;
use crate::manager::{Manager, Placement, snapshot_name};

/// The snapshot that keeps what the volume held, until the new content is there.
const KEPT: &str = "reimage_kept";

/// Parameters of [`ReimageVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReimageVolumeParams {
    pub volume_id: Uuid,
    /// As the requester's own token showed it.
    pub image: Image,
    /// Where the image stands for a snapshot (Nova's image of a server that boots from a
    /// volume): that snapshot and its volume.
    #[serde(default)]
    pub snapshot: Option<(Uuid, Uuid)>,
    /// Of an encrypted volume, whose header is made anew.
    #[serde(default)]
    pub encryption: Option<Encryption>,
    /// The status to come back to: `available`, `error` or `reserved`.
    pub previous_status: String,
}

/// Volume `downloading` → its status before, or `error` with what it held before.
pub struct ReimageVolume;

impl ReimageVolume {
    /// To insert together with the status `downloading`.
    pub fn new_flow(
        params: &ReimageVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<ReimageVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        let flow = flow.lock_exclusive(volume_lock(params.volume_id));
        Ok(match params.snapshot {
            Some((snapshot_id, volume_id)) if volume_id == params.volume_id => {
                flow.lock_shared(snapshot_lock(snapshot_id))
            }
            Some((snapshot_id, volume_id)) => flow
                .lock_shared(snapshot_lock(snapshot_id))
                .lock_shared(volume_lock(volume_id)),
            None => flow,
        })
    }
}

#[async_trait]
impl Flow for ReimageVolume {
    const KIND: &'static str = "volume:reimage";
    type Context = Manager;
    type Params = ReimageVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![
            boxed(KeepContent),
            boxed(Overwrite),
            boxed(DropKept),
            boxed(Finish),
        ]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

async fn place(run: &Run<ReimageVolume>) -> Result<Placement<'_>, TaskError> {
    let volume = run.ctx.volume(run.params.volume_id).await?;
    run.ctx.place(&volume)
}

async fn kept(
    run: &Run<ReimageVolume>,
) -> Result<Option<(Placement<'_>, SnapshotSpec)>, TaskError> {
    let place = run.ctx.place_if_any(run.params.volume_id).await?;
    Ok(place.map(|place| {
        let snapshot = place.image.at(KEPT);
        (place, snapshot)
    }))
}

/// A snapshot of the old content. Undone last, when the content is back.
struct KeepContent;

#[async_trait]
impl Task<ReimageVolume> for KeepContent {
    const NAME: &'static str = "keep_content";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<ReimageVolume>) -> Result<(), TaskError> {
        if run.params.snapshot.is_none() {
            check_formats(&run.params.image)?;
        }
        let place = place(run).await?;
        ensure_snapshot(place.store(), &place.image.at(KEPT)).await
    }

    async fn revert(&self, run: &Run<ReimageVolume>, _: Option<&()>) -> Result<(), TaskError> {
        match kept(run).await? {
            Some((place, snapshot)) => remove_snapshot(place.store(), &snapshot).await,
            None => Ok(()),
        }
    }

    async fn record_revert(
        &self,
        run: &Run<ReimageVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The volume holds the image's disk and zeroes behind it. Run again, it begins anew.
struct Overwrite;

#[async_trait]
impl Task<ReimageVolume> for Overwrite {
    const NAME: &'static str = "overwrite";
    type Output = ();

    fn retry(&self) -> Retry {
        IMAGE_RETRY
    }

    async fn execute(&self, run: &Run<ReimageVolume>) -> Result<(), TaskError> {
        let place = place(run).await?;
        let image = &run.params.image;
        let store = place.store();
        let target = store.open(&place.image, None).await;
        let target = target.map_err(store_failure)?;
        if let Some((snapshot_id, volume_id)) = run.params.snapshot {
            let volume = run.ctx.volume(volume_id).await?;
            let from = run.ctx.place(&volume)?;
            let name = snapshot_name(snapshot_id);
            let source = from.store().open(&from.image, Some(&name)).await;
            let source = source.map_err(store_failure)?;
            let (key_id, encryption) = (volume.encryption_key_id, run.params.encryption);
            if key_id.is_none() && encryption.is_none() {
                return overwrite(&source, &target, run).await;
            }
            return recrypt::rewrite(run, (source, key_id), &place, encryption).await;
        }
        let location = local_copy(&run.ctx.images, image, store).await?;
        if let Some(encryption) = run.params.encryption {
            let target = encrypted::format(run.ctx.as_ref(), &place, encryption).await?;
            let disk = ImageDisk {
                client: &run.ctx.images,
                image,
                is_zeroed: false,
                watch: run,
            };
            return disk.write_to(&target, location.as_ref(), &place).await;
        }
        if let Some(location) = location.as_ref().filter(|_| is_raw(image)) {
            let source = store.open(&location.image, Some(&location.snapshot)).await;
            let source = source.map_err(store_failure)?;
            if source.size_bytes() > target.size_bytes() {
                let text = format!(
                    "the image's disk of {} bytes does not fit",
                    source.size_bytes()
                );
                return Err(TaskError::new(IMAGE_TOO_BIG, text));
            }
            return overwrite(&source, &target, run).await;
        }
        let size_bytes = target.size_bytes();
        target.discard(0, size_bytes).await.map_err(store_failure)?;
        let disk = ImageDisk {
            client: &run.ctx.images,
            image,
            is_zeroed: true,
            watch: run,
        };
        disk.write_to(target.as_ref(), location.as_ref(), &place)
            .await
    }

    async fn revert(&self, run: &Run<ReimageVolume>, _: Option<&()>) -> Result<(), TaskError> {
        let Some((place, snapshot)) = kept(run).await? else {
            return Ok(());
        };
        Spool::of(&place).remove().await?;
        match place.store().roll_back(&snapshot).await {
            // Nothing was written before the snapshot was there.
            Err(storage::Error::NotFound(_)) => Ok(()),
            other => other.map_err(store_failure),
        }
    }
}

/// The old content is gone for good: from here on the flow does not go back by itself.
struct DropKept;

#[async_trait]
impl Task<ReimageVolume> for DropKept {
    const NAME: &'static str = "drop_kept";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<ReimageVolume>) -> Result<(), TaskError> {
        match kept(run).await? {
            Some((place, snapshot)) => remove_snapshot(place.store(), &snapshot).await,
            None => Ok(()),
        }
    }
}

/// The volume has the image's properties and its status from before.
struct Finish;

#[async_trait]
impl Task<ReimageVolume> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<ReimageVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<ReimageVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let id = run.params.volume_id;
        let mut properties = run.params.image.volume_image_metadata();
        properties.insert("signature_verified".to_owned(), "False".to_owned());
        metadata::replace(tx, Kind::VolumeImage, id, &properties).await?;
        Change::volume(id)
            .set("bootable = ?", true)
            .apply(tx)
            .await?;
        let to = run.params.previous_status.as_str();
        let ended = end_download(tx, id, &[status::DOWNLOADING], to).await?;
        warn_if_reset(&ended);
        if to != status::RESERVED {
            return Ok(());
        }
        TellServers::insert(&run.ctx, tx, &run.flow, id, Event::Reimaged).await
    }
}

/// Volume `error` with a message.
async fn failed(run: &Run<ReimageVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.volume_id;
    let ended = end_download(tx, id, &[status::DOWNLOADING], status::ERROR).await?;
    if !ended.is_done() {
        return Ok(());
    }
    let detail = match run.failure().map(|failure| failure.class.as_str()) {
        Some(IMAGE_UNACCEPTABLE) => Detail::ImageFormatUnacceptable,
        Some(IMAGE_TOO_BIG) => Detail::NotEnoughSpaceForImage,
        _ => Detail::UnknownError,
    };
    let resource = (Resource::Volume, id);
    tell(tx, &run.flow, resource, Action::ReimageVolume, detail).await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use storage::ImageSpec;
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{Case, Disk, Expected, HOST, World, image_key, pattern, requester};
    use super::super::volume_queue;
    use super::*;

    /// Once the old content is dropped, a failure leaves the new one.
    struct Reimaging(Case);

    #[async_trait]
    impl Fixture<ReimageVolume> for Reimaging {
        fn database(&self) -> &database::Database {
            &self.0.world.database
        }

        fn context(&self) -> std::sync::Arc<Manager> {
            self.0.world.manager.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.0.flow_id
        }

        async fn restart(&mut self) {
            self.0.world.store.crash().await;
        }

        async fn assert_done(&self) {
            self.0.world.assert_is(&self.0.done).await;
        }

        async fn assert_reverted(&self) {
            let (done, reverted) = (&self.0.done, &self.0.reverted);
            let found = self.0.world.inventory().await;
            assert!(found == reverted.store || found == done.store);
            let rows = reverted.rows.clone();
            self.0
                .world
                .assert_is(&Expected { store: found, rows })
                .await;
        }
    }

    fn flow(volume_id: Uuid, image: Image, previous_status: &str) -> NewFlow {
        let params = ReimageVolumeParams {
            encryption: None,
            volume_id,
            image,
            snapshot: None,
            previous_status: previous_status.to_owned(),
        };
        ReimageVolume::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    async fn case(world: World, image: Image, blocks: Disk) -> Reimaging {
        let id = world.filled_volume(3).await;
        let snapshot = world.snapshot(id).await;
        world.set_status("volumes", id, status::DOWNLOADING).await;
        let before = world.inventory().await;
        let mut after = before.clone();
        after.images.get_mut(&image_key(id)).unwrap().head.blocks = blocks.blocks;
        let rows = |status| {
            vec![
                ("volumes", id, Some(status)),
                ("snapshots", snapshot, Some(status::AVAILABLE)),
            ]
        };
        let done = Expected {
            store: after,
            rows: rows(status::RESERVED),
        };
        let reverted = Expected {
            store: before,
            rows: rows(status::ERROR),
        };
        Reimaging(
            world
                .case(flow(id, image, status::RESERVED), done, reverted)
                .await,
        )
    }

    #[tokio::test]
    async fn by_an_image_from_elsewhere() {
        exhaust::<ReimageVolume, _>(async || {
            let world = World::new().await;
            let data = pattern(9, 8192);
            let halves = [data.slice(..4096), data.slice(4096..)];
            let blocks = (0u64..).zip(halves).collect();
            let image = world.images.add("raw", Some(data), None);
            let disk = Disk {
                size_bytes: 0,
                blocks,
            };
            case(world, image, disk).await
        })
        .await;
    }

    #[tokio::test]
    async fn by_an_image_in_the_store() {
        exhaust::<ReimageVolume, _>(async || {
            let world = World::new().await;
            let stored = ImageSpec::new("images", Uuid::new_v4().to_string());
            world.store.create(&stored, 1 << 20).await.unwrap();
            let handle = world.store.open(&stored, None).await.unwrap();
            handle.write(4096, pattern(8, 20_000)).await.unwrap();
            drop(handle);
            world
                .store
                .create_snapshot(&stored.at("snap"))
                .await
                .unwrap();
            world
                .store
                .protect_snapshot(&stored.at("snap"))
                .await
                .unwrap();
            let disk = world.disk(&stored, Some("snap")).await;
            let url = format!("rbd://{}/images/{}/snap", world.store.fsid(), stored.image);
            let never_read = Some(Bytes::from_static(b"never read"));
            let image = world.images.add("raw", never_read, Some(url));
            case(world, image, disk).await
        })
        .await;
    }

    #[tokio::test]
    async fn an_image_that_does_not_do_leaves_the_content() {
        let world = World::new().await;
        let id = world.filled_volume(3).await;
        let before = world.inventory().await;
        let vmdk = world.images.add("vmdk", Some(pattern(1, 10)), None);
        let garbage = world.images.add("qcow2", Some(pattern(1, 1000)), None);
        for image in [vmdk, garbage] {
            world.set_status("volumes", id, status::DOWNLOADING).await;
            let flow = flow(id, image, status::AVAILABLE);
            assert_eq!(world.run::<ReimageVolume>(Ok(flow)).await, "REVERTED");
            let rows = vec![("volumes", id, Some(status::ERROR))];
            world
                .assert_is(&Expected {
                    store: before.clone(),
                    rows,
                })
                .await;
        }
        let sql = "SELECT COUNT(*) AS n FROM volume_messages WHERE action_id = '016' AND detail_id = '029'";
        let row = world
            .database
            .fetch_one(sql, database::params![])
            .await
            .unwrap();
        assert_eq!(row.get::<i64>("n").unwrap(), 2);
    }

    #[tokio::test]
    async fn by_a_snapshot_that_an_image_stands_for() {
        for own in [false, true] {
            exhaust::<ReimageVolume, _>(async || {
                let world = World::new().await;
                let other = world.filled_volume(4).await;
                let id = world.filled_volume(3).await;
                let source = if own { id } else { other };
                let snapshot_id = world.snapshot(source).await;
                let disk = world.head(source).await;
                world.write(id, 0, pattern(5, 9000)).await;
                world.set_status("volumes", id, status::DOWNLOADING).await;
                let before = world.inventory().await;
                let mut after = before.clone();
                after.images.get_mut(&image_key(id)).unwrap().head = disk;
                let params = ReimageVolumeParams {
                    encryption: None,
                    volume_id: id,
                    image: world.images.add("raw", Some(Bytes::new()), None),
                    snapshot: Some((snapshot_id, source)),
                    previous_status: status::AVAILABLE.to_owned(),
                };
                let flow = ReimageVolume::new_flow(&params, &volume_queue(HOST), &requester());
                let rows = |status| vec![("volumes", id, Some(status))];
                let done = Expected {
                    store: after,
                    rows: rows(status::AVAILABLE),
                };
                let reverted = Expected {
                    store: before,
                    rows: rows(status::ERROR),
                };
                Reimaging(world.case(flow.unwrap(), done, reverted).await)
            })
            .await;
        }
    }

    #[tokio::test]
    async fn the_volume_gets_the_images_properties() {
        let world = World::new().await;
        let id = world.filled_volume(3).await;
        world.set_status("volumes", id, status::DOWNLOADING).await;
        let image = world.images.add("raw", Some(pattern(1, 10)), None);
        let image_id = image.id.to_string();
        let flow = flow(id, image, status::ERROR);
        assert_eq!(world.run::<ReimageVolume>(Ok(flow)).await, "SUCCESS");
        let volume = world.manager.volume(id).await.unwrap();
        assert_eq!(
            (volume.status.as_str(), volume.bootable),
            (status::ERROR, true)
        );
        let kept = metadata::get(&world.database, Kind::VolumeImage, id)
            .await
            .unwrap();
        assert_eq!(kept.get("image_id"), Some(&image_id));
    }
}
