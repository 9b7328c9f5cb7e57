//! A naive store in memory: the oracle of the conformance suite, and a store for unit tests of
//! whatever uses the trait. Complete and byte-exact; everything is gone when it is dropped.

mod disk;
mod handle;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use async_trait::async_trait;
use bytes::Bytes;

use self::disk::{BLOCK, Disk, difference};
use self::handle::MemoryHandle;
use crate::store::{check_length, check_limit, check_name, check_size};
use crate::{
    Capacity, Change, Error, Extent, ImageHandle, ImageInfo, ImageSpec, ImageStore,
    MAX_METADATA_BYTES, MAX_OBJECT_BYTES, Result, SnapshotInfo, SnapshotSpec,
};

/// A capacity that is not looked after.
const UNLIMITED: u64 = 1 << 50;

/// A [`ImageStore`] in memory.
pub struct MemoryStore {
    fsid: String,
    flattens_instantly: bool,
    limits_rates: bool,
    makes_in_steps: bool,
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::with_capacity_bytes(UNLIMITED)
    }

    /// A store that is full when its images keep this much.
    pub fn with_capacity_bytes(total_bytes: u64) -> Self {
        let state = State {
            total_bytes,
            ..State::default()
        };
        MemoryStore {
            fsid: uuid::Uuid::new_v4().to_string(),
            flattens_instantly: true,
            limits_rates: false,
            makes_in_steps: false,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// A store that says, as Ceph does, that flattening takes as long as copying.
    #[must_use]
    pub fn flattening_slowly(mut self) -> Self {
        self.flattens_instantly = false;
        self
    }

    /// A store that says, as Ceph does, that a crash may leave a part of an image or a snapshot.
    #[must_use]
    pub fn making_in_steps(mut self) -> Self {
        self.makes_in_steps = true;
        self
    }

    /// A store that says, as Ceph does, that limits of rate in metadata are kept.
    #[must_use]
    pub fn limiting_rates(mut self) -> Self {
        self.limits_rates = true;
        self
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        lock(&self.state)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

fn lock(state: &Mutex<State>) -> Result<MutexGuard<'_, State>> {
    let state = state
        .lock()
        .map_err(|_| Error::Unavailable("a call panicked".into()))?;
    if state.closed {
        return Err(Error::Unavailable("it is closed".into()));
    }
    Ok(state)
}

#[derive(Default)]
struct State {
    closed: bool,
    total_bytes: u64,
    next_id: u64,
    pools: BTreeMap<String, Pool>,
    images: BTreeMap<u64, Image>,
}

#[derive(Default)]
struct Pool {
    images: BTreeMap<String, u64>,
    objects: BTreeMap<String, Bytes>,
}

struct Image {
    spec: ImageSpec,
    head: Disk,
    snapshots: Vec<Snapshot>,
    /// Image and snapshot ids.
    parent: Option<(u64, u64)>,
    metadata: BTreeMap<String, String>,
    open: Weak<()>,
}

struct Snapshot {
    id: u64,
    name: String,
    disk: Disk,
    protected: bool,
    open: Weak<()>,
}

fn missing_image(image: &ImageSpec) -> Error {
    Error::NotFound(format!("image {image}"))
}

fn missing_snapshot(snapshot: &SnapshotSpec) -> Error {
    Error::NotFound(format!("snapshot {snapshot}"))
}

impl State {
    fn pool(&mut self, name: &str) -> Result<&mut Pool> {
        self.pools
            .get_mut(name)
            .ok_or_else(|| Error::NotFound(format!("pool {name}")))
    }

    fn id(&mut self, spec: &ImageSpec) -> Result<u64> {
        let id = self.pool(&spec.pool)?.images.get(&spec.image).copied();
        id.ok_or_else(|| missing_image(spec))
    }

    fn image(&mut self, spec: &ImageSpec) -> Result<&mut Image> {
        let id = self.id(spec)?;
        self.images.get_mut(&id).ok_or_else(|| missing_image(spec))
    }

    fn snapshot(&mut self, spec: &SnapshotSpec) -> Result<&mut Snapshot> {
        let snapshots = &mut self.image(&spec.image)?.snapshots;
        let found = snapshots
            .iter_mut()
            .find(|snapshot| snapshot.name == spec.snapshot);
        found.ok_or_else(|| missing_snapshot(spec))
    }

    fn children(&mut self, spec: &SnapshotSpec) -> Result<Vec<ImageSpec>> {
        let parent = Some((self.id(&spec.image)?, self.snapshot(spec)?.id));
        let clones = self.images.values().filter(|image| image.parent == parent);
        let mut children: Vec<ImageSpec> = clones.map(|image| image.spec.clone()).collect();
        children.sort();
        Ok(children)
    }

    fn add_image(
        &mut self,
        spec: &ImageSpec,
        head: Disk,
        parent: Option<(u64, u64)>,
    ) -> Result<()> {
        check_name("image", &spec.image)?;
        let id = self.next_id;
        let pool = self.pool(&spec.pool)?;
        if pool.images.contains_key(&spec.image) {
            return Err(Error::Exists(format!("image {spec}")));
        }
        pool.images.insert(spec.image.clone(), id);
        self.next_id += 1;
        let image = Image {
            spec: spec.clone(),
            head,
            snapshots: Vec::new(),
            parent,
            metadata: BTreeMap::new(),
            open: Weak::new(),
        };
        self.images.insert(id, image);
        Ok(())
    }

    /// Bytes of all blocks, a shared one once.
    fn used_bytes(&self) -> u64 {
        let disks = self.images.values().flat_map(|image| {
            let snapshots = image.snapshots.iter().map(|snapshot| &snapshot.disk);
            snapshots.chain([&image.head])
        });
        let blocks: HashSet<*const Vec<u8>> = disks
            .flat_map(|disk| disk.blocks.values().map(Arc::as_ptr))
            .collect();
        blocks.len() as u64 * BLOCK
    }

    /// The disks that a diff compares.
    fn change(&mut self, spec: &ImageSpec, change: Change<'_>) -> Result<(Option<Disk>, Disk)> {
        let image = self.image(spec)?;
        let find = |name: &str| {
            let found = image
                .snapshots
                .iter()
                .find(|snapshot| snapshot.name == name);
            found.ok_or_else(|| missing_snapshot(&spec.at(name)))
        };
        let from = change.from.map(find).transpose()?;
        let to = change.to.map(find).transpose()?;
        if let (Some(from), Some(to)) = (from, to)
            && from.id >= to.id
        {
            return Err(Error::Invalid(format!(
                "snapshot {} is not older than {}",
                from.name, to.name
            )));
        }
        let newer = to.map_or(&image.head, |snapshot| &snapshot.disk);
        Ok((from.map(|snapshot| snapshot.disk.clone()), newer.clone()))
    }
}

#[async_trait]
impl ImageStore for MemoryStore {
    fn fsid(&self) -> &str {
        &self.fsid
    }

    fn flattens_instantly(&self) -> bool {
        self.flattens_instantly
    }

    fn makes_images_atomically(&self) -> bool {
        !self.makes_in_steps
    }

    fn limits_rates(&self) -> bool {
        self.limits_rates
    }

    async fn capacity(&self, _pool: &str) -> Result<Capacity> {
        let state = self.state()?;
        let used_bytes = state.used_bytes();
        Ok(Capacity {
            total_bytes: state.total_bytes,
            free_bytes: state.total_bytes.saturating_sub(used_bytes),
            used_bytes,
        })
    }

    async fn ensure_pool(&self, pool: &str) -> Result<()> {
        check_name("pool", pool)?;
        self.state()?.pools.entry(pool.to_owned()).or_default();
        Ok(())
    }

    async fn pools(&self) -> Result<Vec<String>> {
        Ok(self.state()?.pools.keys().cloned().collect())
    }

    async fn create(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_size(size_bytes)?;
        let head = Disk {
            size_bytes,
            blocks: BTreeMap::new(),
        };
        self.state()?.add_image(image, head, None)
    }

    async fn images(&self, pool: &str) -> Result<Vec<String>> {
        Ok(self.state()?.pool(pool)?.images.keys().cloned().collect())
    }

    async fn info(&self, image: &ImageSpec) -> Result<ImageInfo> {
        let mut state = self.state()?;
        let found = state.image(image)?;
        let snapshots = found.snapshots.iter().map(|snapshot| SnapshotInfo {
            name: snapshot.name.clone(),
            size_bytes: snapshot.disk.size_bytes,
            protected: snapshot.protected,
        });
        let size_bytes = found.head.size_bytes;
        let (snapshots, parent) = (snapshots.collect(), found.parent);
        let parent = parent.and_then(|(id, snapshot_id)| {
            let image = state.images.get(&id)?;
            let snapshot = image
                .snapshots
                .iter()
                .find(|snapshot| snapshot.id == snapshot_id)?;
            Some(image.spec.at(&snapshot.name))
        });
        Ok(ImageInfo {
            size_bytes,
            parent,
            snapshots,
        })
    }

    async fn used_bytes(&self, image: &ImageSpec) -> Result<u64> {
        Ok(self.state()?.image(image)?.head.used_bytes())
    }

    async fn remove(&self, image: &ImageSpec) -> Result<()> {
        let mut state = self.state()?;
        let found = state.image(image)?;
        if !found.snapshots.is_empty() {
            let snapshots = found
                .snapshots
                .iter()
                .map(|snapshot| snapshot.name.clone())
                .collect();
            return Err(Error::HasSnapshots {
                image: image.clone(),
                snapshots,
            });
        }
        if found.open.strong_count() > 0 {
            return Err(Error::Busy {
                what: format!("image {image}"),
                children: Vec::new(),
            });
        }
        let id = state.id(image)?;
        state.images.remove(&id);
        state.pool(&image.pool)?.images.remove(&image.image);
        Ok(())
    }

    async fn rename(&self, image: &ImageSpec, name: &str) -> Result<()> {
        check_name("image", name)?;
        let mut state = self.state()?;
        let id = state.id(image)?;
        let pool = state.pool(&image.pool)?;
        let new = ImageSpec::new(&image.pool, name);
        if pool.images.contains_key(name) {
            return Err(Error::Exists(format!("image {new}")));
        }
        pool.images.remove(&image.image);
        pool.images.insert(name.to_owned(), id);
        if let Some(image) = state.images.get_mut(&id) {
            image.spec = new;
        }
        Ok(())
    }

    async fn resize(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_size(size_bytes)?;
        self.state()?.image(image)?.head.resize(size_bytes);
        Ok(())
    }

    async fn open(
        &self,
        image: &ImageSpec,
        snapshot: Option<&str>,
    ) -> Result<Arc<dyn ImageHandle>> {
        let mut state = self.state()?;
        let id = state.id(image)?;
        let (snapshot_id, open) = match snapshot {
            None => (None, &mut state.image(image)?.open),
            Some(name) => {
                let found = state.snapshot(&image.at(name))?;
                (Some(found.id), &mut found.open)
            }
        };
        let token = open.upgrade().unwrap_or_default();
        *open = Arc::downgrade(&token);
        let name = snapshot.map_or_else(|| image.to_string(), |name| image.at(name).to_string());
        Ok(Arc::new(MemoryHandle {
            state: Arc::clone(&self.state),
            id,
            snapshot_id,
            name,
            _token: token,
        }))
    }

    async fn create_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        check_name("snapshot", &snapshot.snapshot)?;
        let mut state = self.state()?;
        if state.snapshot(snapshot).is_ok() {
            return Err(Error::Exists(format!("snapshot {snapshot}")));
        }
        let id = state.next_id;
        let image = state.image(&snapshot.image)?;
        image.snapshots.push(Snapshot {
            id,
            name: snapshot.snapshot.clone(),
            disk: image.head.clone(),
            protected: false,
            open: Weak::new(),
        });
        state.next_id += 1;
        Ok(())
    }

    async fn rename_snapshot(&self, snapshot: &SnapshotSpec, name: &str) -> Result<()> {
        check_name("snapshot", name)?;
        let mut state = self.state()?;
        state.snapshot(snapshot)?;
        let new = snapshot.image.at(name);
        if state.snapshot(&new).is_ok() {
            return Err(Error::Exists(format!("snapshot {new}")));
        }
        state.snapshot(snapshot)?.name = name.to_owned();
        Ok(())
    }

    async fn protect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        self.state()?.snapshot(snapshot)?.protected = true;
        Ok(())
    }

    async fn unprotect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let mut state = self.state()?;
        let children = state.children(snapshot)?;
        if !children.is_empty() {
            return Err(Error::Busy {
                what: format!("snapshot {snapshot}"),
                children,
            });
        }
        state.snapshot(snapshot)?.protected = false;
        Ok(())
    }

    async fn remove_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let mut state = self.state()?;
        let children = state.children(snapshot)?;
        let found = state.snapshot(snapshot)?;
        if found.protected || found.open.strong_count() > 0 {
            return Err(Error::Busy {
                what: format!("snapshot {snapshot}"),
                children,
            });
        }
        let id = found.id;
        let image = state.image(&snapshot.image)?;
        image.snapshots.retain(|snapshot| snapshot.id != id);
        Ok(())
    }

    async fn roll_back(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let mut state = self.state()?;
        let disk = state.snapshot(snapshot)?.disk.clone();
        state.image(&snapshot.image)?.head = disk;
        Ok(())
    }

    async fn clone_image(&self, parent: &SnapshotSpec, child: &ImageSpec) -> Result<()> {
        let mut state = self.state()?;
        let id = state.id(&parent.image)?;
        let found = state.snapshot(parent)?;
        if !found.protected {
            return Err(Error::Invalid(format!(
                "snapshot {parent} is not protected"
            )));
        }
        let (disk, parent) = (found.disk.clone(), Some((id, found.id)));
        state.add_image(child, disk, parent)
    }

    async fn children(&self, snapshot: &SnapshotSpec) -> Result<Vec<ImageSpec>> {
        self.state()?.children(snapshot)
    }

    async fn flatten(&self, image: &ImageSpec) -> Result<()> {
        self.state()?.image(image)?.parent = None;
        Ok(())
    }

    async fn diff(
        &self,
        image: &ImageSpec,
        change: Change<'_>,
        start_bytes: u64,
        limit: usize,
    ) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        let (older, newer) = self.state()?.change(image, change)?;
        Ok(difference(older.as_ref(), &newer, start_bytes, limit))
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<()> {
        check_name("metadata key", key)?;
        check_length("a metadata value", value.len(), MAX_METADATA_BYTES)?;
        let mut state = self.state()?;
        let metadata = &mut state.image(image)?.metadata;
        metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    async fn metadata(&self, image: &ImageSpec) -> Result<Vec<(String, String)>> {
        let mut state = self.state()?;
        let pairs = state.image(image)?.metadata.iter();
        Ok(pairs
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<()> {
        let removed = self.state()?.image(image)?.metadata.remove(key);
        removed
            .map(|_| ())
            .ok_or_else(|| Error::NotFound(format!("metadata {key} of image {image}")))
    }

    async fn put_object(&self, pool: &str, name: &str, data: Bytes) -> Result<()> {
        check_name("object", name)?;
        check_length("an object", data.len(), MAX_OBJECT_BYTES)?;
        self.state()?
            .pool(pool)?
            .objects
            .insert(name.to_owned(), data);
        Ok(())
    }

    async fn object(&self, pool: &str, name: &str) -> Result<Bytes> {
        let found = self.state()?.pool(pool)?.objects.get(name).cloned();
        found.ok_or_else(|| Error::NotFound(format!("object {pool}/{name}")))
    }

    async fn remove_object(&self, pool: &str, name: &str) -> Result<()> {
        let removed = self.state()?.pool(pool)?.objects.remove(name);
        removed
            .map(|_| ())
            .ok_or_else(|| Error::NotFound(format!("object {pool}/{name}")))
    }

    async fn objects(&self, pool: &str) -> Result<Vec<String>> {
        Ok(self.state()?.pool(pool)?.objects.keys().cloned().collect())
    }

    async fn close(&self) -> Result<()> {
        match self.state() {
            Ok(mut state) => state.closed = true,
            Err(_) => return Ok(()),
        }
        Ok(())
    }
}
