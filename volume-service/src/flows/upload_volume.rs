//! `volume:upload`: the bytes of a volume become an image of the image service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use database::Tx;
use futures_util::{Stream, StreamExt, stream};
use image_formats::{ByteSource, DataMap, Qcow2Writer};
use serde::{Deserialize, Serialize};
use storage::{Change as DiskChange, ImageStore, SnapshotSpec};
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use tokio::time::Instant;
use uuid::Uuid;

use super::image_source::{format_failure, image_failure};
use super::outcome::{resting_status, settle, tell};
use super::steps::{IMAGE_RETRY, STORE_RETRY, ensure_snapshot, remove_snapshot, store_failure};
use super::transfer::{HandleSource, PIECE_BYTES, Watch, check};
use super::{Requester, addressed, volume_lock};
use crate::db::messages::{Action, Detail, Resource};
use crate::db::{Change, status};
use crate::images::{self, Client};
use crate::manager::{Manager, Placement};

/// How long a cut upload may take to become `queued` again at the image service.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an upload may stand still; hashing and storing the last bytes counts, too.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const EXTENTS_PER_PAGE: usize = 1024;
/// The image is not there to be filled any more.
const IMAGE_GONE: &str = "ImageGone";

/// Parameters of [`UploadVolume`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadVolumeParams {
    pub volume_id: Uuid,
    /// The image record, `queued`, which the request made with the user's token.
    pub image_id: Uuid,
    /// `raw` or `qcow2`.
    pub disk_format: String,
}

/// Volume `uploading` → `available` or `in-use` in any case; image `queued` → `active`, or deleted.
pub struct UploadVolume;

impl UploadVolume {
    /// To insert together with the status `uploading`.
    pub fn new_flow(
        params: &UploadVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<UploadVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        Ok(flow.lock_shared(volume_lock(params.volume_id)))
    }
}

#[async_trait]
impl Flow for UploadVolume {
    const KIND: &'static str = "volume:upload";
    type Context = Manager;
    type Params = UploadVolumeParams;

    fn tasks(_: &Self::Params) -> Vec<BoxTask<Self>> {
        vec![
            boxed(TakeSnapshot),
            boxed(SendImage),
            boxed(RemoveSnapshot),
            boxed(Finish),
        ]
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// A temporary snapshot: the image is of one moment, also when the volume is in use.
struct TakeSnapshot;

#[async_trait]
impl Task<UploadVolume> for TakeSnapshot {
    const NAME: &'static str = "take_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<UploadVolume>) -> Result<(), TaskError> {
        let (place, snapshot) = source(run).await?;
        ensure_snapshot(place.store(), &snapshot).await
    }

    /// Also the image, which the request made for this flow.
    async fn revert(&self, run: &Run<UploadVolume>, _: Option<&()>) -> Result<(), TaskError> {
        drop_image(&run.ctx.images, run.params.image_id, run).await?;
        remove_temporary_snapshot(run).await
    }

    async fn record_revert(
        &self,
        run: &Run<UploadVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The image is `active` and has the snapshot's bytes.
struct SendImage;

#[async_trait]
impl Task<UploadVolume> for SendImage {
    const NAME: &'static str = "send_image";
    type Output = ();

    fn retry(&self) -> Retry {
        IMAGE_RETRY
    }

    async fn execute(&self, run: &Run<UploadVolume>) -> Result<(), TaskError> {
        let client = &run.ctx.images;
        let image_id = run.params.image_id;
        if wait_until_queued(client, image_id, run).await? == Readiness::Active {
            return Ok(());
        }
        let (place, snapshot) = source(run).await?;
        if run.params.disk_format == "raw"
            && is_made_in_store(client, image_id, &place, run).await?
        {
            return Ok(());
        }
        let opened = place
            .store()
            .open(&snapshot.image, Some(&snapshot.snapshot))
            .await;
        let handle = opened.map_err(store_failure)?;
        let length_bytes = handle.size_bytes();
        let disk = HandleSource {
            handle,
            length_bytes,
        };
        if run.params.disk_format == "qcow2" {
            let writer =
                Qcow2Writer::new(data_map(place.store(), &snapshot, length_bytes, run).await?);
            let length_bytes = writer.file_length_bytes();
            send(
                client,
                image_id,
                length_bytes,
                writer.into_stream(disk),
                run,
            )
            .await
        } else {
            send(client, image_id, length_bytes, raw_pieces(disk), run).await
        }
    }
}

/// The temporary snapshot is gone.
struct RemoveSnapshot;

#[async_trait]
impl Task<UploadVolume> for RemoveSnapshot {
    const NAME: &'static str = "remove_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<UploadVolume>) -> Result<(), TaskError> {
        remove_temporary_snapshot(run).await
    }
}

/// The volume has its resting status.
struct Finish;

#[async_trait]
impl Task<UploadVolume> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<UploadVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<UploadVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let resting = resting_status(tx, run.params.volume_id).await?;
        let change = Change::volume(run.params.volume_id).when(&[status::UPLOADING]);
        settle(tx, change.status(resting)).await
    }
}

async fn failed(run: &Run<UploadVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.volume_id;
    let resting = resting_status(tx, id).await?;
    let change = Change::volume(id)
        .when(&[status::UPLOADING])
        .status(resting);
    if change.apply(tx).await?.is_done() {
        let (action, detail) = (Action::CopyVolumeToImage, Detail::FailedToUploadVolume);
        tell(tx, &run.flow, (Resource::Volume, id), action, detail).await?;
    }
    Ok(())
}

async fn source(run: &Run<UploadVolume>) -> Result<(Placement<'_>, SnapshotSpec), TaskError> {
    let volume = run.ctx.volume(run.params.volume_id).await?;
    let place = run.ctx.place(&volume)?;
    let snapshot = temporary_snapshot(&place, run.flow.id);
    Ok((place, snapshot))
}

fn temporary_snapshot(place: &Placement<'_>, flow_id: Uuid) -> SnapshotSpec {
    place.image.at(format!("upload-{flow_id}"))
}

async fn remove_temporary_snapshot(run: &Run<UploadVolume>) -> Result<(), TaskError> {
    match run.ctx.place_if_any(run.params.volume_id).await? {
        Some(place) => {
            remove_snapshot(place.store(), &temporary_snapshot(&place, run.flow.id)).await
        }
        None => Ok(()),
    }
}

#[derive(PartialEq, Eq)]
enum Readiness {
    Queued,
    /// An attempt before a crash has filled it.
    Active,
}

/// Waits while the image service cleans up after an upload that was cut.
async fn wait_until_queued(
    client: &Client,
    image_id: Uuid,
    watch: &dyn Watch,
) -> Result<Readiness, TaskError> {
    let end = Instant::now() + REQUEUE_TIMEOUT;
    loop {
        check(watch)?;
        let image = client
            .show_as_service(image_id)
            .await
            .map_err(image_failure)?;
        match image.status.as_str() {
            "queued" => return Ok(Readiness::Queued),
            "active" => return Ok(Readiness::Active),
            "saving" if Instant::now() < end => tokio::time::sleep(POLL_INTERVAL).await,
            other => {
                return Err(TaskError::new(
                    IMAGE_GONE,
                    format!("image {image_id} is {other}"),
                ));
            }
        }
    }
}

/// Whether the image service has made the image of the volume within the store that both use, so
/// that no data has to be sent. The real Glance has no such call; neither does it help where the
/// stores are different ones.
async fn is_made_in_store(
    client: &Client,
    image_id: Uuid,
    place: &Placement<'_>,
    watch: &dyn Watch,
) -> Result<bool, TaskError> {
    let asked = client
        .snapshot_disk(image_id, place.store().fsid(), &place.image)
        .await;
    match asked {
        Ok(()) => Ok(wait_until_queued(client, image_id, watch).await? == Readiness::Active),
        Err(images::Error::Unavailable(reason)) => {
            Err(TaskError::retryable("ImageServiceUnavailable", reason))
        }
        Err(error) => {
            tracing::debug!(%image_id, %error, "the image service takes data only");
            Ok(false)
        }
    }
}

/// Removes an image that is not filled; one that became `active` before the flow failed stays.
/// An image service that stays away keeps an empty record, but not the volume's locks.
async fn drop_image(client: &Client, image_id: Uuid, watch: &dyn Watch) -> Result<(), TaskError> {
    let end = Instant::now() + REQUEUE_TIMEOUT;
    loop {
        check(watch)?;
        let dropped = match client.show_as_service(image_id).await {
            Ok(image) if image.status == "active" => Ok(()),
            Ok(_) => client.delete(image_id).await,
            Err(error) => Err(error),
        };
        match dropped {
            Ok(()) | Err(images::Error::NotFound(_)) => return Ok(()),
            Err(images::Error::Unavailable(_)) if Instant::now() < end => {
                tokio::time::sleep(POLL_INTERVAL).await
            }
            Err(error) => {
                tracing::warn!(%image_id, %error, "the image of a failed upload stays");
                return Ok(());
            }
        }
    }
}

/// Which parts of the snapshot hold data.
async fn data_map(
    store: &dyn ImageStore,
    snapshot: &SnapshotSpec,
    length_bytes: u64,
    watch: &dyn Watch,
) -> Result<DataMap, TaskError> {
    let mut map = DataMap::new(length_bytes).map_err(format_failure)?;
    let change = DiskChange {
        from: None,
        to: Some(&snapshot.snapshot),
    };
    let mut position = 0;
    while position < length_bytes {
        check(watch)?;
        let page = store
            .diff(&snapshot.image, change, position, EXTENTS_PER_PAGE)
            .await;
        let extents = page.map_err(store_failure)?;
        let Some(last) = extents.last() else { break };
        position = last.offset.saturating_add(last.length);
        for extent in &extents {
            map.add(extent.offset, extent.length)
                .map_err(format_failure)?;
        }
    }
    Ok(map)
}

/// The disk in pieces, from its start to its end.
fn raw_pieces(
    disk: HandleSource,
) -> impl Stream<Item = image_formats::Result<Bytes>> + Send + 'static {
    let pieces = (0..disk.length_bytes).step_by(PIECE_BYTES);
    stream::iter(pieces).then(move |offset| {
        let disk = disk.clone();
        async move {
            let length = (disk.length_bytes - offset).min(PIECE_BYTES as u64) as usize;
            Ok(disk.read_at(offset, length).await?)
        }
    })
}

/// Sends the pieces; gives up when the flow is lost or nothing moves any more.
async fn send(
    client: &Client,
    image_id: Uuid,
    length_bytes: u64,
    pieces: impl Stream<Item = image_formats::Result<Bytes>> + Send + 'static,
    watch: &dyn Watch,
) -> Result<(), TaskError> {
    let sent_bytes = Arc::new(AtomicU64::new(0));
    let counter = sent_bytes.clone();
    let pieces = pieces.inspect(move |piece| {
        if let Ok(piece) = piece {
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    });
    let body = reqwest::Body::wrap_stream(pieces);
    let mut upload = std::pin::pin!(client.upload(image_id, Some(length_bytes), body));
    let (mut seen_bytes, mut moved_at) = (0, Instant::now());
    loop {
        tokio::select! {
            done = &mut upload => return done.map_err(image_failure),
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        check(watch)?;
        let now_bytes = sent_bytes.load(Ordering::Relaxed);
        if now_bytes > seen_bytes {
            (seen_bytes, moved_at) = (now_bytes, Instant::now());
            watch
                .progress(now_bytes as f64 / length_bytes.max(1) as f64)
                .await;
        } else if moved_at.elapsed() > STALL_TIMEOUT {
            let text = format!("the upload to image {image_id} stands still");
            return Err(TaskError::retryable("ImageServiceUnavailable", text));
        }
    }
}

#[cfg(test)]
mod tests {
    use image_formats::{DiskExtent, Qcow2Reader};
    use taskflow::testing::{Fixture, exhaust};

    use super::super::testbed::{Case, Expected, HOST, World, pattern, requester, volume_image};
    use super::super::volume_queue;
    use super::*;

    const SIZE_BYTES: usize = 9 << 20;

    struct Uploading {
        case: Case,
        image_id: Uuid,
        bytes: Vec<u8>,
    }

    #[async_trait]
    impl Fixture<UploadVolume> for Uploading {
        fn database(&self) -> &database::Database {
            &self.case.world.database
        }

        fn context(&self) -> Arc<Manager> {
            self.case.world.manager.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.case.flow_id
        }

        async fn restart(&mut self) {
            self.case.world.store.crash().await;
        }

        async fn assert_done(&self) {
            self.case.world.assert_is(&self.case.done).await;
            let (status, data) = self.case.world.images.image(self.image_id).unwrap();
            assert_eq!(status, "active");
            assert!(data == self.bytes);
        }

        /// The image is gone, or whole where the failure came after it became active.
        async fn assert_reverted(&self) {
            self.case.world.assert_is(&self.case.reverted).await;
            let image = self.case.world.images.image(self.image_id);
            assert!(image.is_none_or(|(status, data)| status == "active" && data == self.bytes));
        }
    }

    /// A small image behind a volume's row, and its bytes.
    async fn volume(world: &World) -> (Uuid, Vec<u8>) {
        let volume_id = world.volume_row(1, None).await;
        world
            .store
            .create(&volume_image(volume_id), SIZE_BYTES as u64)
            .await
            .unwrap();
        let mut bytes = vec![0; SIZE_BYTES];
        bytes[70_000..90_000].copy_from_slice(&pattern(5, 20_000));
        bytes[SIZE_BYTES - 10..].copy_from_slice(&pattern(6, 10));
        world.write(volume_id, 70_000, pattern(5, 20_000)).await;
        world
            .write(volume_id, SIZE_BYTES as u64 - 10, pattern(6, 10))
            .await;
        world
            .set_status("volumes", volume_id, status::UPLOADING)
            .await;
        (volume_id, bytes)
    }

    fn flow(volume_id: Uuid, image_id: Uuid, disk_format: &str) -> NewFlow {
        let params = UploadVolumeParams {
            volume_id,
            image_id,
            disk_format: disk_format.into(),
        };
        UploadVolume::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    #[tokio::test]
    async fn raw_images_have_the_volumes_bytes() {
        exhaust::<UploadVolume, _>(async || {
            let world = World::new().await;
            let (volume_id, bytes) = volume(&world).await;
            let image_id = world.images.add("raw", None, None).id;
            let store = world.inventory().await;
            let end = Expected {
                store,
                rows: vec![("volumes", volume_id, Some(status::AVAILABLE))],
            };
            let case = world
                .case(flow(volume_id, image_id, "raw"), end.clone(), end)
                .await;
            Uploading {
                case,
                image_id,
                bytes,
            }
        })
        .await;
    }

    #[tokio::test]
    async fn qcow2_images_read_back_as_the_volume() {
        let world = World::new().await;
        let (volume_id, bytes) = volume(&world).await;
        let image_id = world.images.add("qcow2", None, None).id;
        assert_eq!(
            world
                .run::<UploadVolume>(Ok(flow(volume_id, image_id, "qcow2")))
                .await,
            "SUCCESS"
        );
        let (_, file) = world.images.image(image_id).unwrap();
        assert!(file.len() < 1 << 20, "zeroes take no space");
        let mut reader = Qcow2Reader::open(file).await.unwrap();
        let mut read = vec![0; reader.virtual_size_bytes() as usize];
        while let Some(extent) = reader.next_extent().await.unwrap() {
            if let DiskExtent::Data { offset, data } = extent {
                read[offset as usize..][..data.len()].copy_from_slice(&data);
            }
        }
        assert!(read == bytes);
    }

    #[tokio::test]
    async fn an_image_that_is_gone_fails_the_upload_and_not_the_volume() {
        let world = World::new().await;
        let (volume_id, _) = volume(&world).await;
        assert_eq!(
            world
                .run::<UploadVolume>(Ok(flow(volume_id, Uuid::new_v4(), "raw")))
                .await,
            "REVERTED"
        );
        assert_eq!(
            world
                .column("volumes", volume_id, "status")
                .await
                .as_deref(),
            Some(status::AVAILABLE)
        );
        assert!(
            world
                .inventory()
                .await
                .images
                .values()
                .all(|image| image.snapshots.is_empty())
        );
    }
}
