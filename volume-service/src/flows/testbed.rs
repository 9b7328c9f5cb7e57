//! The world in which flows are tested: a database, a store in memory, an image service, and
//! what store and rows must be like when a flow has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use database::{Database, params};
use rest::Secret;
use rest::http_client::Tls;
use rest::identity::{IdentityError, TokenSource};
use storage::memory::MemoryStore;
use storage::testing::TestStore;
use storage::{Change as DiskChange, ImageSpec, ImageStore};
use taskflow::testing::Fixture;
use taskflow::{Flow, NewFlow};
use uuid::Uuid;

use super::fake_images::FakeImages;
use super::{
    CreateBackup, CreateBackupParams, CreateSnapshot, CreateSnapshotParams, CreateVolume,
    CreateVolumeParams, Requester, VolumeSource, volume_queue,
};
use crate::Options;
use crate::compute::Compute;
use crate::db::{backups, group_snapshots, groups, snapshots, status, volumes};
use crate::images;
use crate::keys::{Key, KeyManager};
use crate::manager::{Backend, BackupTarget, Duties, Manager, snapshot_name, volume_image_name};
use crate::notices::Notices;

pub(crate) const HOST: &str = "host@memory#volumes";
const BLOCK_BYTES: u64 = 4096;

/// What an image or snapshot holds: its size, and its blocks that are not zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub size_bytes: u64,
    pub blocks: BTreeMap<u64, Bytes>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageState {
    pub head: Disk,
    pub parent: Option<String>,
    /// By name; whether it is protected.
    pub snapshots: BTreeMap<String, (Disk, bool)>,
}

/// Everything in a store. Times in the names of backup snapshots are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    pub images: BTreeMap<String, ImageState>,
    /// Names.
    pub objects: BTreeSet<String>,
}

/// What must hold when a flow has ended.
#[derive(Clone)]
pub(crate) struct Expected {
    pub store: Inventory,
    /// Table, id, status; `None`: no live row.
    pub rows: Vec<(&'static str, Uuid, Option<&'static str>)>,
}

pub(crate) struct World {
    pub database: Database,
    pub store: TestStore,
    pub manager: Arc<Manager>,
    pub images: FakeImages,
    _folder: tempfile::TempDir,
}

/// A world with a flow in it that has not run yet, and the two ends it may come to.
pub(crate) struct Case {
    pub world: World,
    pub flow_id: Uuid,
    pub done: Expected,
    pub reverted: Expected,
}

#[async_trait]
impl<F: Flow<Context = Manager>> Fixture<F> for Case {
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
        self.world.assert_is(&self.done).await;
    }

    async fn assert_reverted(&self) {
        self.world.assert_is(&self.reverted).await;
    }
}

pub(crate) struct StaticToken;

#[async_trait]
impl TokenSource for StaticToken {
    async fn token(&self) -> Result<Secret, IdentityError> {
        Ok(Secret::new("service"))
    }
}

pub(crate) fn requester() -> Requester {
    Requester {
        request_id: "req-1".into(),
        project_id: "project".into(),
        user_id: "user".into(),
    }
}

pub(crate) fn volume_image(id: Uuid) -> ImageSpec {
    ImageSpec::new("volumes", volume_image_name(id))
}

/// Bytes that tell where they were written: never all zero.
pub(crate) fn pattern(seed: u8, length: usize) -> Bytes {
    (0..length)
        .map(|index| seed ^ (index % 251) as u8 | 1)
        .collect::<Vec<u8>>()
        .into()
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// On a store that takes images and snapshots at once, or in steps of which a crash may leave
    /// a part.
    pub async fn making(in_steps: bool) -> Self {
        let store = MemoryStore::new();
        let store = if in_steps {
            store.making_in_steps()
        } else {
            store
        };
        Self::on(TestStore::new(store).await, |_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Manager)) -> Self {
        Self::on(TestStore::new(MemoryStore::new()).await, configure).await
    }

    pub async fn on(store: TestStore, configure: impl FnOnce(&mut Manager)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let database = database.await.unwrap();
        store.ensure_pool("images").await.unwrap();
        let images = FakeImages::start().await;
        let mut manager = Manager {
            duties: Duties::ALL,
            database: database.clone(),
            host: "host".into(),
            cluster: None,
            availability_zone: "nova".into(),
            options: Options::default(),
            backends: [(
                "memory".to_owned(),
                Backend::new("memory", store.clone(), "volumes"),
            )]
            .into(),
            backups: BackupTarget {
                store: store.clone(),
                pool: "backups".into(),
                max_snapshots: 0,
            },
            images: images::Client::new(&images.endpoint, &Tls::default(), Arc::new(StaticToken))
                .unwrap(),
            compute: Compute::Absent,
            notices: Notices::default(),
            keys: KeyManager::Fixed(Key::new(vec![0x5a; 32])),
        };
        configure(&mut manager);
        manager.prepare().await.unwrap();
        World {
            database,
            store,
            manager: Arc::new(manager),
            images,
            _folder: folder,
        }
    }

    /// The row of a volume that is not made yet.
    pub async fn volume_row(&self, size_gib: u32, source_volid: Option<Uuid>) -> Uuid {
        let new = volumes::NewVolume {
            id: Uuid::new_v4(),
            user_id: "user".into(),
            project_id: "project".into(),
            name: Some("a volume".into()),
            description: None,
            size_gib,
            availability_zone: "nova".into(),
            host: Some(HOST.into()),
            volume_type_id: Uuid::new_v4(),
            snapshot_id: None,
            source_volid,
            multiattach: false,
            encryption_key_id: None,
            consumes_quota: true,
        };
        let mut tx = self.database.begin().await.unwrap();
        let volume = volumes::insert(&mut tx, new).await.unwrap();
        tx.commit().await.unwrap();
        volume.id
    }

    pub async fn snapshot_row(&self, volume_id: Uuid) -> Uuid {
        let new = snapshots::NewSnapshot {
            id: Uuid::new_v4(),
            user_id: "user".into(),
            project_id: "project".into(),
            volume_id,
            name: None,
            description: None,
            size_gib: 1,
            volume_type_id: Uuid::new_v4(),
            consumes_quota: true,
        };
        let mut tx = self.database.begin().await.unwrap();
        let snapshot = snapshots::insert(&mut tx, new).await.unwrap();
        tx.commit().await.unwrap();
        snapshot.id
    }

    /// The row of an `available` group with these volumes.
    pub async fn group_row(&self, volumes: &[Uuid]) -> Uuid {
        let group = groups::Group {
            id: Uuid::new_v4(),
            user_id: "user".into(),
            project_id: "project".into(),
            name: None,
            description: None,
            status: status::AVAILABLE.into(),
            availability_zone: "nova".into(),
            host: Some(HOST.into()),
            group_type_id: Uuid::new_v4(),
            group_snapshot_id: None,
            source_group_id: None,
            replication_status: groups::REPLICATION_DISABLED.into(),
            created_at: 1,
        };
        let mut tx = self.database.begin().await.unwrap();
        groups::insert(&mut tx, &group, &[]).await.unwrap();
        tx.commit().await.unwrap();
        for volume_id in volumes {
            let text = group.id.to_string();
            self.set("volumes", *volume_id, "group_id", &text).await;
        }
        group.id
    }

    /// The row of a group snapshot that is not taken yet.
    pub async fn group_snapshot_row(&self, group_id: Uuid) -> Uuid {
        let new = group_snapshots::GroupSnapshot {
            id: Uuid::new_v4(),
            user_id: "user".into(),
            project_id: "project".into(),
            group_id,
            group_type_id: Uuid::new_v4(),
            name: None,
            description: None,
            status: status::CREATING.into(),
            created_at: 1,
        };
        let mut tx = self.database.begin().await.unwrap();
        group_snapshots::insert(&mut tx, &new).await.unwrap();
        tx.commit().await.unwrap();
        new.id
    }

    pub async fn backup_row(
        &self,
        volume_id: Uuid,
        parent_id: Option<Uuid>,
        snapshot_id: Option<Uuid>,
    ) -> Uuid {
        let new = backups::NewBackup {
            id: Uuid::new_v4(),
            user_id: "user".into(),
            project_id: "project".into(),
            volume_id,
            snapshot_id,
            parent_id,
            name: None,
            description: None,
            size_gib: 1,
            container: None,
            availability_zone: None,
            host: Some("host".into()),
            encryption_key_id: None,
            data_timestamp: None,
        };
        let mut tx = self.database.begin().await.unwrap();
        let backup = backups::insert(&mut tx, new).await.unwrap();
        tx.commit().await.unwrap();
        backup.id
    }

    pub async fn set(&self, table: &str, id: Uuid, column: &str, value: &str) {
        let sql = format!("UPDATE {table} SET {column} = ? WHERE id = ?");
        assert_eq!(
            self.database
                .execute(&sql, params![value, id])
                .await
                .unwrap(),
            1
        );
    }

    pub async fn set_status(&self, table: &str, id: Uuid, status: &str) {
        self.set(table, id, "status", status).await;
    }

    pub async fn column(&self, table: &str, id: Uuid, column: &str) -> Option<String> {
        let sql = format!("SELECT {column} FROM {table} WHERE id = ? AND deleted_at IS NULL");
        let row = self
            .database
            .fetch_optional(&sql, params![id])
            .await
            .unwrap();
        row.and_then(|row| row.get::<Option<String>>(column).unwrap())
    }

    pub async fn insert(&self, flow: NewFlow) -> Uuid {
        let mut tx = self.database.begin().await.unwrap();
        let id = flow.insert(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// Whether an older flow holds a lock that this one needs.
    pub async fn is_blocked(&self, flow_id: Uuid) -> bool {
        let sql = "SELECT COUNT(*) AS n FROM flow_locks mine JOIN flow_locks older \
                   ON older.resource_key = mine.resource_key AND older.seq < mine.seq \
                   AND older.exclusive IN (1, 1 - mine.exclusive) WHERE mine.flow_id = ?";
        let row = self
            .database
            .fetch_one(sql, params![flow_id])
            .await
            .unwrap();
        row.get::<i64>("n").unwrap() > 0
    }

    /// Runs an inserted flow to its end; returns its state.
    pub async fn finish<F: Flow<Context = Manager>>(&self, flow_id: Uuid) -> &'static str {
        taskflow::testing::run_to_end::<F>(&self.database, self.manager.clone(), flow_id).await
    }

    /// Runs a flow to its end; returns its state.
    pub async fn run<F: Flow<Context = Manager>>(
        &self,
        flow: taskflow::Result<NewFlow>,
    ) -> &'static str {
        let id = self.insert(flow.unwrap()).await;
        taskflow::testing::run_to_end::<F>(&self.database, self.manager.clone(), id).await
    }

    pub fn create_flow(&self, volume_id: Uuid, size_gib: u32, source: VolumeSource) -> NewFlow {
        let params = CreateVolumeParams {
            volume_id,
            size_gib,
            source,
            encryption: None,
        };
        CreateVolume::new_flow(&params, &volume_queue(HOST), &requester()).unwrap()
    }

    /// A volume made by its flow.
    pub async fn volume(&self, size_gib: u32, source: VolumeSource) -> Uuid {
        let source_volid = match &source {
            VolumeSource::Volume { volume_id } => Some(*volume_id),
            _ => None,
        };
        let id = self.volume_row(size_gib, source_volid).await;
        let flow = Ok(self.create_flow(id, size_gib, source));
        assert_eq!(self.run::<CreateVolume>(flow).await, "SUCCESS");
        id
    }

    /// A volume of 1 GiB with some bytes in it.
    pub async fn filled_volume(&self, seed: u8) -> Uuid {
        let id = self.volume(1, VolumeSource::Empty).await;
        self.write(id, 8192, pattern(seed, 10_000)).await;
        self.write(id, (1 << 30) - 4096, pattern(seed ^ 0xff, 4096))
            .await;
        id
    }

    pub async fn write(&self, volume_id: Uuid, offset: u64, data: Bytes) {
        let handle = self
            .store
            .open(&volume_image(volume_id), None)
            .await
            .unwrap();
        handle.write(offset, data).await.unwrap();
    }

    /// A snapshot made by its flow.
    pub async fn snapshot(&self, volume_id: Uuid) -> Uuid {
        let snapshot_id = self.snapshot_row(volume_id).await;
        let params = CreateSnapshotParams {
            snapshot_id,
            volume_id,
        };
        let flow = CreateSnapshot::new_flow(&params, &volume_queue(HOST), &requester());
        assert_eq!(self.run::<CreateSnapshot>(flow).await, "SUCCESS");
        snapshot_id
    }

    pub fn backup_flow(
        &self,
        backup_id: Uuid,
        volume_id: Uuid,
        parent_id: Option<Uuid>,
    ) -> NewFlow {
        let params = CreateBackupParams {
            backup_id,
            volume_id,
            snapshot_id: None,
            parent_id,
        };
        CreateBackup::new_flow(&params, "backup:host", &requester()).unwrap()
    }

    /// A backup made by its flow.
    pub async fn backup(&self, volume_id: Uuid, parent_id: Option<Uuid>) -> Uuid {
        let id = self.backup_row(volume_id, parent_id, None).await;
        self.begin_backup(volume_id).await;
        let flow = Ok(self.backup_flow(id, volume_id, parent_id));
        assert_eq!(self.run::<CreateBackup>(flow).await, "SUCCESS");
        id
    }

    pub async fn begin_backup(&self, volume_id: Uuid) {
        self.set("volumes", volume_id, "previous_status", status::AVAILABLE)
            .await;
        self.set_status("volumes", volume_id, status::BACKING_UP)
            .await;
    }

    pub async fn disk(&self, image: &ImageSpec, snapshot: Option<&str>) -> Disk {
        disk_of(&self.store, image, snapshot).await
    }

    pub async fn head(&self, volume_id: Uuid) -> Disk {
        self.disk(&volume_image(volume_id), None).await
    }

    pub async fn inventory(&self) -> Inventory {
        inventory_of(&self.store).await
    }

    pub async fn assert_is(&self, expected: &Expected) {
        self.store.audit().await;
        let found = self.inventory().await;
        let names = |inventory: &Inventory| inventory.images.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected.store));
        for (name, image) in &found.images {
            let wanted = &expected.store.images[name];
            let shape = |image: &ImageState| -> Vec<(String, bool, u64)> {
                let snapshots = image.snapshots.iter();
                snapshots
                    .map(|(name, (disk, protected))| (name.clone(), *protected, disk.size_bytes))
                    .collect()
            };
            assert_eq!(shape(image), shape(wanted), "snapshots of {name}");
            assert_eq!(image.parent, wanted.parent, "parent of {name}");
            assert!(image == wanted, "{name} holds other bytes than expected");
        }
        assert_eq!(found.objects, expected.store.objects);
        for (table, id, status) in &expected.rows {
            assert_eq!(
                self.column(table, *id, "status").await.as_deref(),
                *status,
                "{table} {id}"
            );
        }
    }

    /// The case of `flow`, which ends with `done` or leaves `reverted`.
    pub async fn case(self, flow: NewFlow, done: Expected, reverted: Expected) -> Case {
        let flow_id = self.insert(flow).await;
        Case {
            world: self,
            flow_id,
            done,
            reverted,
        }
    }
}

async fn disk_of(store: &Arc<dyn ImageStore>, image: &ImageSpec, snapshot: Option<&str>) -> Disk {
    let handle = store.open(image, snapshot).await.unwrap();
    let size_bytes = handle.size_bytes();
    let mut disk = Disk {
        size_bytes,
        ..Disk::default()
    };
    let change = DiskChange {
        from: None,
        to: snapshot,
    };
    for extent in store.diff(image, change, 0, 100_000).await.unwrap() {
        let first = extent.offset / BLOCK_BYTES;
        for block in first..(extent.offset + extent.length).div_ceil(BLOCK_BYTES) {
            let length = BLOCK_BYTES.min(size_bytes - block * BLOCK_BYTES) as usize;
            let data = handle.read(block * BLOCK_BYTES, length).await.unwrap();
            if data.iter().any(|byte| *byte != 0) {
                disk.blocks.insert(block, data);
            }
        }
    }
    disk
}

/// Everything in `store`.
pub(crate) async fn inventory_of(store: &Arc<dyn ImageStore>) -> Inventory {
    let mut inventory = Inventory::default();
    for pool in store.pools().await.unwrap() {
        for name in store.images(&pool).await.unwrap() {
            let spec = ImageSpec::new(&pool, &name);
            let info = store.info(&spec).await.unwrap();
            let head = disk_of(store, &spec, None).await;
            let parent = info.parent.map(|parent| timeless(&parent.to_string()));
            let mut image = ImageState {
                head,
                parent,
                ..ImageState::default()
            };
            for snapshot in info.snapshots {
                let disk = disk_of(store, &spec, Some(&snapshot.name)).await;
                image
                    .snapshots
                    .insert(timeless(&snapshot.name), (disk, snapshot.protected));
            }
            inventory.images.insert(spec.to_string(), image);
        }
        for name in store.objects(&pool).await.unwrap() {
            inventory.objects.insert(format!("{pool}/{name}"));
        }
    }
    inventory
}

/// A name without the time in it: `backup.<id>.snap.<time>`.
fn timeless(name: &str) -> String {
    match name.split_once(".snap.") {
        Some((backup, _)) => format!("{backup}.snap"),
        None => name.to_owned(),
    }
}

/// An image of zeroes.
pub(crate) fn empty(size_gib: u64) -> ImageState {
    ImageState {
        head: Disk {
            size_bytes: size_gib << 30,
            ..Disk::default()
        },
        ..ImageState::default()
    }
}

pub(crate) fn snapshot_key(id: Uuid) -> String {
    snapshot_name(id)
}

pub(crate) fn image_key(id: Uuid) -> String {
    volume_image(id).to_string()
}
