//! `volume:create`: a volume from nothing, a snapshot, a volume, an image or a backup.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::ImageHandle;
use taskflow::{BoxTask, Flow, NewFlow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::create_from_backup::Restore;
use super::create_from_image::{CloneImage, CopyImage};
use super::create_from_snapshot::{CloneSnapshot, OTHER_STORE};
use super::create_from_volume::{CloneSource, LimitDepth, SnapshotSource};
use super::image_disk::{IMAGE_TOO_BIG, IMAGE_UNACCEPTABLE};
use super::image_setup::set_up_new;
use super::outcome::{end_download, tell, warn_if_reset};
use super::restore_backup::SOURCE_BACKUP;
use super::steps::{
    OUT_OF_SPACE, STORE_RETRY, ensure_image, gib_to_bytes, remove_image, store_failure,
};
use super::{
    Requester, addressed, chain_lock, encrypted, snapshot_lock, volume_lock, volume_queue,
};
use crate::SCHEDULER_QUEUE;
use crate::db::messages::{Action, Detail, Resource};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::{Change, placements, status, volumes};
use crate::images::Image;
use crate::manager::{Manager, Placement};

/// What a volume is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per request, and most come with an image"
)]
pub enum VolumeSource {
    Empty,
    /// `volume_id`: the volume that the snapshot belongs to.
    Snapshot {
        snapshot_id: Uuid,
        volume_id: Uuid,
    },
    Volume {
        volume_id: Uuid,
    },
    /// The image as the requester's own token showed it.
    Image {
        image: Image,
    },
    /// `volume_id`: the volume that was backed up.
    Backup {
        backup_id: Uuid,
        volume_id: Uuid,
    },
}

/// Parameters of [`CreateVolume`]. The row says the rest (size, host once it is scheduled).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateVolumeParams {
    pub volume_id: Uuid,
    pub size_gib: u32,
    pub source: VolumeSource,
    /// How the volume is to be encrypted, unless the bytes of its source are already.
    #[serde(default)]
    pub encryption: Option<Encryption>,
}

/// The key of a new encrypted volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The key manager's name of the key that opens the volume.
    pub key_id: Uuid,
    /// Of the cipher's key, which the volume's header keeps.
    pub key_bits: u32,
}

/// Volume `creating` (→ `downloading`) → `available`, or `error`.
/// A source backup goes `restoring` → `available`.
pub struct CreateVolume;

impl CreateVolume {
    /// To insert together with the volume's row (`creating`).
    pub fn new_flow(
        params: &CreateVolumeParams,
        queue: &str,
        by: &Requester,
    ) -> taskflow::Result<NewFlow> {
        let flow = NewFlow::of::<CreateVolume>(params)?;
        let flow = addressed(flow, queue, ("volume", params.volume_id), by);
        let flow = flow.lock_exclusive(volume_lock(params.volume_id));
        Ok(match &params.source {
            VolumeSource::Empty | VolumeSource::Image { .. } => flow,
            VolumeSource::Snapshot {
                snapshot_id,
                volume_id,
            } => flow
                .lock_shared(snapshot_lock(*snapshot_id))
                .lock_shared(volume_lock(*volume_id)),
            VolumeSource::Volume { volume_id } => flow.lock_shared(volume_lock(*volume_id)),
            VolumeSource::Backup { volume_id, .. } => flow.lock_shared(chain_lock(*volume_id)),
        })
    }
}

#[async_trait]
impl Flow for CreateVolume {
    const KIND: &'static str = "volume:create";
    type Context = Manager;
    type Params = CreateVolumeParams;

    fn tasks(params: &Self::Params) -> Vec<BoxTask<Self>> {
        let mut tasks = match &params.source {
            VolumeSource::Empty => vec![boxed(CreateImage)],
            VolumeSource::Snapshot { .. } => vec![boxed(CloneSnapshot)],
            VolumeSource::Volume { .. } => {
                vec![boxed(SnapshotSource), boxed(CloneSource), boxed(LimitDepth)]
            }
            VolumeSource::Image { .. } => vec![boxed(CloneImage), boxed(CopyImage)],
            VolumeSource::Backup { .. } => vec![boxed(CreateImage), boxed(Restore)],
        };
        tasks.push(boxed(Finish));
        tasks
    }

    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        give_up(run, tx).await
    }
}

/// An image of zeroes of the volume's size; of an encrypted volume, with its header.
struct CreateImage;

#[async_trait]
impl Task<CreateVolume> for CreateImage {
    const NAME: &'static str = "create_image";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<CreateVolume>) -> Result<(), TaskError> {
        let place = place(run).await?;
        ensure_image(
            place.store(),
            &place.image,
            gib_to_bytes(run.params.size_gib),
        )
        .await?;
        if let Some(encryption) = run.params.encryption {
            let disk = encrypted::format(run.ctx.as_ref(), &place, encryption).await?;
            disk.flush().await.map_err(store_failure)?;
        }
        set_up_new(run, &place).await
    }

    async fn revert(&self, run: &Run<CreateVolume>, _: Option<&()>) -> Result<(), TaskError> {
        remove_volume_image(run).await
    }

    async fn record_revert(
        &self,
        run: &Run<CreateVolume>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        failed(run, tx).await
    }
}

/// The volume is `available` and has what its source hands on.
struct Finish;

#[async_trait]
impl Task<CreateVolume> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<CreateVolume>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<CreateVolume>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let id = run.params.volume_id;
        let inherited = inherited(run, tx).await?;
        metadata::merge(tx, Kind::VolumeImage, id, &inherited.image_metadata).await?;
        metadata::merge(tx, Kind::Volume, id, &inherited.metadata).await?;
        let mut change = Change::volume(id).set("launched_at = ?", database::now_us());
        if inherited.bootable {
            change = change.set("bootable = ?", true);
        }
        change.apply(tx).await?;
        let ended = end_download(tx, id, CREATING, status::AVAILABLE).await?;
        warn_if_reset(&ended);
        placements::delete(tx, id).await?;
        release_backup(run, tx).await
    }
}

/// The statuses in which a volume is made.
pub(super) const CREATING: &[&str] = &[status::CREATING, status::DOWNLOADING];

/// What a volume gets from its source beside bytes.
#[derive(Default)]
struct Inherited {
    bootable: bool,
    image_metadata: Metadata,
    metadata: Metadata,
}

async fn inherited(run: &Run<CreateVolume>, tx: &mut Tx) -> Result<Inherited, TaskError> {
    Ok(match &run.params.source {
        VolumeSource::Empty => Inherited::default(),
        VolumeSource::Snapshot {
            snapshot_id,
            volume_id,
        } => {
            let image_metadata = metadata::get(&mut *tx, Kind::SnapshotImage, *snapshot_id).await?;
            let bootable = is_bootable(tx, *volume_id).await?;
            Inherited {
                bootable,
                image_metadata,
                ..Inherited::default()
            }
        }
        VolumeSource::Volume { volume_id } => {
            let image_metadata = metadata::get(&mut *tx, Kind::VolumeImage, *volume_id).await?;
            let bootable = is_bootable(tx, *volume_id).await?;
            Inherited {
                bootable,
                image_metadata,
                ..Inherited::default()
            }
        }
        VolumeSource::Image { image } => {
            let mut image_metadata = image.volume_image_metadata();
            if !run.output::<CloneImage>()?.cloned {
                image_metadata.insert("signature_verified".to_owned(), "False".to_owned());
            }
            Inherited {
                bootable: true,
                image_metadata,
                ..Inherited::default()
            }
        }
        VolumeSource::Backup { backup_id, .. } => {
            let backed_up = run.output::<Restore>()?;
            let mut metadata = backed_up.metadata.clone();
            metadata.insert(SOURCE_BACKUP.to_owned(), backup_id.to_string());
            Inherited {
                bootable: backed_up.is_bootable(),
                image_metadata: backed_up.image_metadata.clone(),
                metadata,
            }
        }
    })
}

async fn is_bootable(tx: &mut Tx, volume_id: Uuid) -> Result<bool, TaskError> {
    Ok(volumes::get(&mut *tx, volume_id)
        .await?
        .is_some_and(|volume| volume.bootable))
}

/// Where the new volume's image is to be.
pub(super) async fn place(run: &Run<CreateVolume>) -> Result<Placement<'_>, TaskError> {
    let volume = run.ctx.volume(run.params.volume_id).await?;
    run.ctx.place(&volume)
}

/// Undoes whatever made the volume's image.
pub(super) async fn remove_volume_image(run: &Run<CreateVolume>) -> Result<(), TaskError> {
    match run.ctx.place_if_any(run.params.volume_id).await? {
        Some(place) => remove_image(place.store(), &place.image).await,
        None => Ok(()),
    }
}

/// The volume is tried elsewhere, or ends in `error`; belongs into `record_revert` of whichever task
/// is first.
pub(super) async fn failed(run: &Run<CreateVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    if follow_source(run, tx).await? || reschedule(run, tx).await? {
        return Ok(());
    }
    give_up(run, tx).await
}

/// Makes a clone where its source is, which has moved between the request and this flow.
async fn follow_source(run: &Run<CreateVolume>, tx: &mut Tx) -> Result<bool, TaskError> {
    let (VolumeSource::Volume { volume_id } | VolumeSource::Snapshot { volume_id, .. }) =
        run.params.source
    else {
        return Ok(false);
    };
    let failure = run.failure();
    if failure.is_none_or(|failure| failure.class != OTHER_STORE) {
        return Ok(false);
    }
    let source = volumes::get(&mut *tx, volume_id).await?;
    let (host, service_uuid) = match source {
        Some(source) => (source.host, source.service_uuid),
        None => (None, None),
    };
    let Some(host) = host else {
        return Ok(false);
    };
    let change = Change::volume(run.params.volume_id)
        .when(CREATING)
        // A group stays on one back-end.
        .and("host <> ? AND group_id IS NULL", &[host.as_str().into()])
        .status(status::CREATING)
        .set("host = ?", host.as_str())
        .set("service_uuid = ?", service_uuid);
    if !change.apply(tx).await?.is_done() {
        return Ok(false);
    }
    begin_anew(run, tx, &volume_queue(&host)).await?;
    Ok(true)
}

/// Inserts the flow once more, for the workers of another queue.
async fn begin_anew(run: &Run<CreateVolume>, tx: &mut Tx, queue: &str) -> Result<(), TaskError> {
    let by = Requester {
        request_id: run.flow.request_id.clone(),
        project_id: run.flow.project_id.clone(),
        user_id: run.flow.user_id.clone(),
    };
    let flow = CreateVolume::new_flow(&run.params, queue, &by)?;
    flow.insert(tx).await?;
    Ok(())
}

/// Failures of a back-end that another one may not have.
const BACKEND_FAILURES: &[&str] = &[
    OUT_OF_SPACE,
    "StoreUnavailable",
    "ReadOnly",
    "Corrupt",
    "NotFound",
];

/// Hands the volume back to the scheduler, where it chose the pool and attempts are left.
async fn reschedule(run: &Run<CreateVolume>, tx: &mut Tx) -> Result<bool, TaskError> {
    let id = run.params.volume_id;
    let is_backends = run
        .failure()
        .is_some_and(|failure| BACKEND_FAILURES.contains(&failure.class.as_str()));
    let placement = placements::get(&mut *tx, id).await?;
    if !is_backends || placement.is_none_or(|placement| placement.attempts_left == 0) {
        return Ok(false);
    }
    let change = Change::volume(id)
        .when(CREATING)
        .status(status::CREATING)
        .set("host = ?", Option::<&str>::None)
        .set("service_uuid = ?", Option::<Uuid>::None);
    if !change.apply(tx).await?.is_done() {
        return Ok(false);
    }
    begin_anew(run, tx, SCHEDULER_QUEUE).await?;
    Ok(true)
}

/// Volume `error` with a message.
async fn give_up(run: &Run<CreateVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    let id = run.params.volume_id;
    placements::delete(tx, id).await?;
    if end_download(tx, id, CREATING, status::ERROR)
        .await?
        .is_done()
    {
        let action = match run.params.source {
            VolumeSource::Image { .. } => Action::CopyImageToVolume,
            VolumeSource::Backup { .. } => Action::BackupRestore,
            _ => Action::CreateVolumeFromBackend,
        };
        let detail = match run.failure().map(|failure| failure.class.as_str()) {
            Some(IMAGE_UNACCEPTABLE) => Detail::ImageFormatUnacceptable,
            Some(IMAGE_TOO_BIG | OUT_OF_SPACE) => Detail::NotEnoughSpaceForImage,
            _ if action == Action::BackupRestore => Detail::BackupRestoreError,
            _ => Detail::DriverFailedCreate,
        };
        tell(tx, &run.flow, (Resource::Volume, id), action, detail).await?;
    }
    release_backup(run, tx).await
}

/// A source backup is `available` again.
async fn release_backup(run: &Run<CreateVolume>, tx: &mut Tx) -> Result<(), TaskError> {
    if let VolumeSource::Backup { backup_id, .. } = run.params.source {
        let change = Change::backup(backup_id)
            .when(&[status::RESTORING])
            .status(status::AVAILABLE);
        change.apply(tx).await?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use storage::ImageStore;
    use taskflow::testing::exhaust;

    use super::super::testbed::{
        Case, Disk, Expected, World, empty, image_key, pattern, snapshot_key, volume_image,
    };
    use super::*;

    /// The case of a volume of 2 GiB from `source`; `head` and `parent` are what it has when done.
    pub(crate) async fn case(
        world: World,
        source: VolumeSource,
        head: Disk,
        parent: Option<String>,
    ) -> Case {
        let source_volid = match &source {
            VolumeSource::Volume { volume_id } => Some(*volume_id),
            _ => None,
        };
        let id = world.volume_row(2, source_volid).await;
        let before = world.inventory().await;
        let mut after = before.clone();
        let mut made = empty(2);
        made.head.blocks = head.blocks;
        made.parent = parent;
        after.images.insert(image_key(id), made);
        let flow = world.create_flow(id, 2, source);
        let done = Expected {
            store: after,
            rows: vec![("volumes", id, Some(status::AVAILABLE))],
        };
        let reverted = Expected {
            store: before,
            rows: vec![("volumes", id, Some(status::ERROR))],
        };
        world.case(flow, done, reverted).await
    }

    #[tokio::test]
    async fn empty_volumes() {
        let make = async || {
            case(
                World::new().await,
                VolumeSource::Empty,
                Disk::default(),
                None,
            )
            .await
        };
        exhaust::<CreateVolume, _>(make).await;
    }

    #[tokio::test]
    async fn a_back_end_that_fails_hands_the_volume_back_to_the_scheduler() {
        for (attempts_left, state, queues) in [(1, "creating", 1), (0, "error", 0)] {
            let world = World::new().await;
            let id = world.volume_row(1, None).await;
            let placement = placements::Placement {
                tried: vec!["host@memory#missing".into()],
                attempts_left,
                ..Default::default()
            };
            let mut tx = world.database.begin().await.unwrap();
            placements::put(&mut tx, id, &placement).await.unwrap();
            tx.commit().await.unwrap();
            world
                .set("volumes", id, "host", "host@memory#missing")
                .await;
            let flow = Ok(world.create_flow(id, 1, VolumeSource::Empty));
            assert_eq!(world.run::<CreateVolume>(flow).await, "REVERTED");
            let status = world.column("volumes", id, "status").await;
            assert_eq!(status.as_deref(), Some(state));
            let waiting = taskflow::waiting(&world.database, SCHEDULER_QUEUE, 9).await;
            assert_eq!(waiting.unwrap().len(), queues);
            let left = placements::get(&world.database, id).await.unwrap();
            assert_eq!(left.is_some(), queues > 0);
        }
    }

    #[tokio::test]
    async fn a_clone_follows_a_source_that_has_moved() {
        const MOVED: &str = "host@second#volumes";
        let other = Arc::new(storage::memory::MemoryStore::new());
        let store = other.clone();
        let world = World::with(|manager| {
            let backend = crate::manager::Backend::new("second", store, "volumes");
            manager.backends.insert("second".into(), backend);
        })
        .await;
        let source = world.filled_volume(5).await;
        let id = world.volume_row(1, Some(source)).await;
        let flow = world.create_flow(id, 1, VolumeSource::Volume { volume_id: source });
        world.set("volumes", source, "host", MOVED).await;
        let moved = volume_image(source);
        other.create(&moved, 1 << 30).await.unwrap();
        assert_eq!(world.run::<CreateVolume>(Ok(flow)).await, "REVERTED");
        let host = world.column("volumes", id, "host").await;
        assert_eq!(host.as_deref(), Some(MOVED));
        let queue = volume_queue(MOVED);
        let waiting = taskflow::waiting(&world.database, &queue, 9).await.unwrap();
        assert_eq!(waiting.len(), 1);
        let state = world.finish::<CreateVolume>(waiting[0].info.id).await;
        assert_eq!(state, "SUCCESS");
        let status = world.column("volumes", id, "status").await;
        assert_eq!(status.as_deref(), Some("available"));
        assert!(other.info(&volume_image(id)).await.is_ok());
    }

    #[tokio::test]
    async fn from_a_snapshot() {
        for in_steps in [false, true] {
            exhaust::<CreateVolume, _>(async || {
                let world = World::making(in_steps).await;
                let volume_id = world.filled_volume(3).await;
                let snapshot_id = world.snapshot(volume_id).await;
                let head = world.head(volume_id).await;
                world.write(volume_id, 0, pattern(9, 4096)).await;
                let parent = format!("{}@{}", image_key(volume_id), snapshot_key(snapshot_id));
                case(
                    world,
                    VolumeSource::Snapshot {
                        snapshot_id,
                        volume_id,
                    },
                    head,
                    Some(parent),
                )
                .await
            })
            .await;
        }
    }

    #[tokio::test]
    async fn from_a_volume() {
        for in_steps in [false, true] {
            exhaust::<CreateVolume, _>(async || {
                let world = World::making(in_steps).await;
                let volume_id = world.filled_volume(5).await;
                let head = world.head(volume_id).await;
                let mut case = case(
                    world,
                    VolumeSource::Volume { volume_id },
                    head.clone(),
                    None,
                )
                .await;
                let (_, id, _) = case.done.rows[0];
                let snapshot = format!("{}.clone_snap", volume_image(id).image);
                let source = case
                    .done
                    .store
                    .images
                    .get_mut(&image_key(volume_id))
                    .unwrap();
                source.snapshots.insert(snapshot.clone(), (head, true));
                let made = case.done.store.images.get_mut(&image_key(id)).unwrap();
                made.parent = Some(format!("{}@{snapshot}", image_key(volume_id)));
                case
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_clone_at_the_end_of_a_long_chain_is_flattened() {
        exhaust::<CreateVolume, _>(async || {
            let world = World::with(|manager| {
                manager.backends.get_mut("memory").unwrap().max_clone_depth = 1;
            })
            .await;
            let first = world.filled_volume(7).await;
            let volume_id = world
                .volume(1, VolumeSource::Volume { volume_id: first })
                .await;
            let head = world.head(volume_id).await;
            case(world, VolumeSource::Volume { volume_id }, head, None).await
        })
        .await;
    }

    #[tokio::test]
    async fn chains_of_clones_keep_their_bytes() {
        let world = World::new().await;
        let mut ids = vec![world.filled_volume(1).await];
        for depth in 1..9u8 {
            let source = *ids.last().unwrap();
            let id = world
                .volume(1, VolumeSource::Volume { volume_id: source })
                .await;
            assert_eq!(world.head(id).await, world.head(source).await);
            world
                .write(id, u64::from(depth) << 20, pattern(depth, 5000))
                .await;
            ids.push(id);
        }
        let parents: Vec<bool> = {
            let inventory = world.inventory().await;
            ids.iter()
                .map(|id| inventory.images[&image_key(*id)].parent.is_some())
                .collect()
        };
        // The first has none, the next five hang on each other, the seventh stands on its own.
        assert_eq!(
            parents,
            [false, true, true, true, true, true, false, true, true]
        );
        let last = world.head(*ids.last().unwrap()).await;
        let first = world.head(ids[0]).await;
        assert!(
            first
                .blocks
                .iter()
                .all(|(block, data)| last.blocks.get(block) == Some(data))
        );
        assert_eq!(last.blocks.len(), first.blocks.len() + 8 * 2);
    }

    #[tokio::test]
    async fn from_a_backup() {
        exhaust::<CreateVolume, _>(async || {
            let world = World::new().await;
            let volume_id = world.filled_volume(5).await;
            let backup_id = world.backup(volume_id, None).await;
            let head = world.head(volume_id).await;
            world
                .set_status("backups", backup_id, status::RESTORING)
                .await;
            let source = VolumeSource::Backup {
                backup_id,
                volume_id,
            };
            let mut case = case(world, source, head, None).await;
            for expected in [&mut case.done, &mut case.reverted] {
                expected
                    .rows
                    .push(("backups", backup_id, Some(status::AVAILABLE)));
            }
            case
        })
        .await;
    }
}
