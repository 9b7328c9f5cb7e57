//! The trait's calls on the embedded engine.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;

use super::blocks::BLOCK_BYTES;
use super::engine::Engine;
use super::handle::{Handle, Head};
use super::open::EmbeddedStore;
use super::records::{Disk, key};
use super::state::State;
use super::tree::Root;
use crate::store::{check_length, check_limit, check_name, check_size};
use crate::{
    Capacity, Change, Error, Extent, ImageHandle, ImageInfo, ImageSpec, ImageStore,
    MAX_METADATA_BYTES, MAX_OBJECT_BYTES, Result, SnapshotSpec,
};

/// Space of the file system that is not offered to images: for the catalogue.
const RESERVED_BYTES: u64 = 64 << 20;

impl State {
    /// What handles of an image share.
    fn shared_head(&mut self, id: u64) -> Result<Arc<Head>> {
        let size_bytes = self.head(id)?.size_bytes;
        if self.heads.len() > 1024 {
            self.heads.retain(|_, head| Arc::strong_count(head) > 1);
        }
        let head = self
            .heads
            .entry(id)
            .or_insert_with(|| Arc::new(Head::new(size_bytes)));
        Ok(Arc::clone(head))
    }

    fn roots(
        &mut self,
        image: &ImageSpec,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<(Root, Disk)> {
        let id = self.image_id(image)?;
        let mut find = |name: &str| self.snapshot(&image.at(name)).map(|(_, found)| found);
        let from = from.map(&mut find).transpose()?;
        let to = to.map(&mut find).transpose()?;
        if let (Some(from), Some(to)) = (&from, &to)
            && from.id >= to.id
        {
            let text = format!("snapshot {} is not older than {}", from.name, to.name);
            return Err(Error::Invalid(text));
        }
        let newer = match to {
            Some(snapshot) => snapshot.disk,
            None => self.head(id)?,
        };
        Ok((
            from.map(|snapshot| snapshot.disk.root).unwrap_or_default(),
            newer,
        ))
    }
}

impl EmbeddedStore {
    /// Runs a look at the catalogue.
    async fn look<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let look = move |engine: &Engine| act(&mut *engine.state()?);
        self.engine.blocking(look).await
    }

    /// Runs a change that must not meet writers of the image.
    async fn change_alone<T: Send + 'static>(
        &self,
        image: &ImageSpec,
        act: impl FnOnce(&Engine, u64, &Head) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let image = image.clone();
        let change = move |engine: &Engine| {
            let mut state = engine.state_with_room()?;
            let id = state.image_id(&image)?;
            let head = state.shared_head(id)?;
            drop(state);
            let value = act(engine, id, &head)?;
            let generation = engine.state()?.last_generation();
            Ok((value, generation))
        };
        let (value, generation) = self.engine.blocking(change).await?;
        self.engine.durable(generation).await?;
        Ok(value)
    }
}

fn capacity(engine: &Engine) -> Result<Capacity> {
    let state = engine.wait_for_drops()?;
    let used_bytes = state.space.used_blocks * BLOCK_BYTES;
    drop(state);
    let file_system = rustix::fs::statvfs(&engine.folder)
        .map_err(|error| Error::Unavailable(format!("{}: {error}", engine.folder.display())))?;
    let bytes = |blocks: u64| blocks.saturating_mul(file_system.f_frsize);
    let available = bytes(file_system.f_bavail).saturating_sub(RESERVED_BYTES);
    let limit = engine.limit_bytes.unwrap_or(u64::MAX);
    Ok(Capacity {
        total_bytes: bytes(file_system.f_blocks).min(limit),
        free_bytes: limit.saturating_sub(used_bytes).min(available),
        used_bytes,
    })
}

#[async_trait]
impl ImageStore for EmbeddedStore {
    fn fsid(&self) -> &str {
        &self.fsid
    }

    fn flattens_instantly(&self) -> bool {
        true
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.engine.blocking(capacity).await
    }

    async fn ensure_pool(&self, pool: &str) -> Result<()> {
        let pool = pool.to_owned();
        self.engine
            .change(move |state| state.ensure_pool(&pool))
            .await
    }

    async fn pools(&self) -> Result<Vec<String>> {
        self.look(|state| state.pool_names()).await
    }

    async fn create(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_size(size_bytes)?;
        let image = image.clone();
        self.engine
            .change(move |state| state.create(&image, size_bytes))
            .await
    }

    async fn images(&self, pool: &str) -> Result<Vec<String>> {
        let pool = pool.to_owned();
        self.look(move |state| state.image_names(&pool)).await
    }

    async fn info(&self, image: &ImageSpec) -> Result<ImageInfo> {
        let image = image.clone();
        self.look(move |state| state.info(&image)).await
    }

    async fn remove(&self, image: &ImageSpec) -> Result<()> {
        let image = image.clone();
        self.engine
            .change(move |state| state.remove_image(&image))
            .await
    }

    async fn rename(&self, image: &ImageSpec, name: &str) -> Result<()> {
        let (image, name) = (image.clone(), name.to_owned());
        self.engine
            .change(move |state| state.rename(&image, &name))
            .await
    }

    async fn resize(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_size(size_bytes)?;
        let resize = move |engine: &Engine, id, head: &Head| engine.resize(id, head, size_bytes);
        self.change_alone(image, resize).await
    }

    async fn open(
        &self,
        image: &ImageSpec,
        snapshot: Option<&str>,
    ) -> Result<Arc<dyn ImageHandle>> {
        let engine = Arc::clone(&self.engine);
        let (image, snapshot) = (image.clone(), snapshot.map(|name| image.at(name)));
        let open = move |state: &mut State| {
            let Some(spec) = snapshot else {
                let id = state.image_id(&image)?;
                let head = state.shared_head(id)?;
                return Ok(Handle::head(engine, image.to_string(), id, head));
            };
            let (id, found) = state.snapshot(&spec)?;
            if state.open_snapshots.len() > 1024 {
                state
                    .open_snapshots
                    .retain(|_, open| open.strong_count() > 0);
            }
            let slot = state.open_snapshots.entry((id, found.id)).or_default();
            let open = slot.upgrade().unwrap_or_default();
            *slot = Arc::downgrade(&open);
            Ok(Handle::snapshot(engine, spec.to_string(), found.disk, open))
        };
        let handle = self.look(open).await?;
        Ok(Arc::new(handle))
    }

    async fn create_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.engine
            .change(move |state| state.create_snapshot(&snapshot))
            .await
    }

    async fn rename_snapshot(&self, snapshot: &SnapshotSpec, name: &str) -> Result<()> {
        let (snapshot, name) = (snapshot.clone(), name.to_owned());
        self.engine
            .change(move |state| state.rename_snapshot(&snapshot, &name))
            .await
    }

    async fn protect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.engine
            .change(move |state| state.set_protected(&snapshot, true))
            .await
    }

    async fn unprotect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.engine
            .change(move |state| state.set_protected(&snapshot, false))
            .await
    }

    async fn remove_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.engine
            .change(move |state| state.remove_snapshot(&snapshot))
            .await
    }

    async fn roll_back(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let spec = snapshot.clone();
        let roll_back = move |engine: &Engine, _, head: &Head| {
            head.locked(false, || {
                let mut state = engine.state()?;
                let size_bytes = state.transact(|state| state.roll_back(&spec))?;
                head.size_bytes.store(size_bytes, Ordering::Release);
                engine.after_change(state);
                Ok(())
            })
        };
        self.change_alone(&snapshot.image, roll_back).await
    }

    async fn clone_image(&self, parent: &SnapshotSpec, child: &ImageSpec) -> Result<()> {
        let (parent, child) = (parent.clone(), child.clone());
        self.engine
            .change(move |state| state.clone_image(&parent, &child))
            .await
    }

    async fn children(&self, snapshot: &SnapshotSpec) -> Result<Vec<ImageSpec>> {
        let snapshot = snapshot.clone();
        self.look(move |state| state.children(&snapshot)).await
    }

    async fn flatten(&self, image: &ImageSpec) -> Result<()> {
        let image = image.clone();
        self.engine.change(move |state| state.flatten(&image)).await
    }

    async fn diff(
        &self,
        image: &ImageSpec,
        change: Change<'_>,
        start_bytes: u64,
        limit: usize,
    ) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        let image = image.clone();
        let (from, to) = (change.from.map(str::to_owned), change.to.map(str::to_owned));
        let diff = move |engine: &Engine| {
            let roots = |state: &mut State| state.roots(&image, from.as_deref(), to.as_deref());
            engine.compare(roots, start_bytes, u64::MAX, limit)
        };
        self.engine.blocking(diff).await
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<()> {
        check_name("metadata key", key)?;
        check_length("a metadata value", value.len(), MAX_METADATA_BYTES)?;
        let (image, name, value) = (image.clone(), key.to_owned(), value.as_bytes().to_vec());
        let set = move |state: &mut State| {
            state.require_space()?;
            let key = state.metadata_key(&image, &name)?;
            state.catalogue.set(key, value);
            Ok(())
        };
        self.engine.change(set).await
    }

    async fn metadata(&self, image: &ImageSpec) -> Result<Vec<(String, String)>> {
        let image = image.clone();
        let read = move |state: &mut State| {
            let prefix = key(b'M', &[state.image_id(&image)?]);
            let names = state.names(&prefix)?;
            let values = state.scan(&prefix)?.into_iter();
            let values = values.map(|(_, value)| String::from_utf8_lossy(&value).into_owned());
            Ok(names.into_iter().zip(values).collect())
        };
        self.look(read).await
    }

    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<()> {
        let (image, name) = (image.clone(), key.to_owned());
        let remove = move |state: &mut State| {
            let key = state.metadata_key(&image, &name)?;
            let missing = || Error::NotFound(format!("metadata {name} of image {image}"));
            state.catalogue.get(&key)?.ok_or_else(missing)?;
            state.catalogue.put(key, None);
            Ok(())
        };
        self.engine.change(remove).await
    }

    async fn put_object(&self, pool: &str, name: &str, data: Bytes) -> Result<()> {
        check_name("object", name)?;
        check_length("an object", data.len(), MAX_OBJECT_BYTES)?;
        let (pool, name) = (pool.to_owned(), name.to_owned());
        let put = move |state: &mut State| {
            state.require_space()?;
            let key = state.object_key(&pool, &name)?;
            state.catalogue.set(key, data.to_vec());
            Ok(())
        };
        self.engine.change(put).await
    }

    async fn object(&self, pool: &str, name: &str) -> Result<Bytes> {
        let (pool, name) = (pool.to_owned(), name.to_owned());
        let get = move |state: &mut State| {
            let key = state.object_key(&pool, &name)?;
            let missing = || Error::NotFound(format!("object {pool}/{name}"));
            let data = state.catalogue.get(&key)?.ok_or_else(missing)?;
            Ok(Bytes::copy_from_slice(&data))
        };
        self.look(get).await
    }

    async fn remove_object(&self, pool: &str, name: &str) -> Result<()> {
        let (pool, name) = (pool.to_owned(), name.to_owned());
        let remove = move |state: &mut State| {
            let key = state.object_key(&pool, &name)?;
            let missing = || Error::NotFound(format!("object {pool}/{name}"));
            state.catalogue.get(&key)?.ok_or_else(missing)?;
            state.catalogue.put(key, None);
            Ok(())
        };
        self.engine.change(remove).await
    }

    async fn objects(&self, pool: &str) -> Result<Vec<String>> {
        let pool = pool.to_owned();
        let list = move |state: &mut State| {
            let prefix = state.object_key(&pool, "")?;
            state.names(&prefix)
        };
        self.look(list).await
    }

    async fn close(&self) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        let close = tokio::task::spawn_blocking(move || engine.close_now());
        let result = close.await;
        result.unwrap_or_else(|error| Err(Error::Unavailable(format!("closing: {error}"))))
    }
}
