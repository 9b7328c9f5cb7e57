//! The trait's calls on the embedded engine.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::buffer::{UNIT_BYTES, pad};
use super::catalogue::Catalogue;
use super::handle::{Handle, read};
use super::open::EmbeddedStore;
use super::records::CatalogueChange;
use super::request::{Change, List, Plan, PlanCall, Request, parts};
use super::shard::Shard;
use super::walk::{Listing, Walk};
use crate::store::{check_length, check_limit, check_name, check_size};
use crate::{
    Capacity, Change as DiffChange, Error, Extent, ImageHandle, ImageInfo, ImageSpec, ImageStore,
    Lanes, MAX_METADATA_BYTES, MAX_OBJECT_BYTES, Result, SnapshotSpec,
};

const UNIT: u64 = UNIT_BYTES as u64;
/// How long a look at the capacity waits for what was removed.
const SETTLE_WAIT: Duration = Duration::from_secs(2);
/// Objects are written in pieces of this size.
const OBJECT_PIECE_BYTES: usize = 1 << 20;

impl EmbeddedStore {
    /// Runs a change of the catalogue; it is durable when this returns.
    async fn plan(
        &self,
        plan: impl FnOnce(&mut Catalogue) -> Result<Plan> + Send + 'static,
    ) -> Result<()> {
        let plan = Box::new(plan);
        let request = |reply| Request::Plan(PlanCall { plan, reply });
        self.shared.ask(request).await
    }

    async fn change(
        &self,
        plan: impl FnOnce(&mut Catalogue) -> Result<CatalogueChange> + Send + 'static,
    ) -> Result<()> {
        self.plan(move |catalogue| plan(catalogue).map(Plan::Change))
            .await
    }

    fn look<T>(&self, look: impl FnOnce(&Catalogue) -> Result<T>) -> Result<T> {
        self.shared.with(|shard| {
            shard.check_running()?;
            look(&shard.state.catalogue)
        })?
    }

    /// Writes the data of an object into a hidden image.
    async fn write_hidden(&self, id: u64, data: &Bytes) -> Result<()> {
        let size_bytes = data.len() as u64;
        self.change(move |_| Ok(CatalogueChange::CreateHidden { id, size_bytes }))
            .await?;
        for (index, piece) in data.chunks(OBJECT_PIECE_BYTES).enumerate() {
            let mut whole = BytesMut::from(piece);
            pad(&mut whole);
            let block = (index * OBJECT_PIECE_BYTES) as u64 / UNIT;
            let parts = parts(block, &whole.freeze());
            let request = |reply| Request::Change(Change::new(id, parts, reply));
            self.shared.ask(request).await?;
        }
        Ok(())
    }
}

impl Shard {
    fn capacity(&self, limit_bytes: Option<u64>) -> Result<Capacity> {
        self.check_running()?;
        let room = self.disk.room();
        let (room, file_system) =
            room.map_err(|error| Error::Unavailable(format!("capacity: {error}")))?;
        let used_bytes = self.state.trees.used * UNIT;
        let limit = limit_bytes.unwrap_or(u64::MAX);
        let free = self.free_units() * UNIT + room;
        Ok(Capacity {
            total_bytes: file_system.min(limit),
            free_bytes: limit.saturating_sub(used_bytes).min(free),
            used_bytes,
        })
    }
}

fn key_of(pool: &str, name: &str) -> (String, String) {
    (pool.to_owned(), name.to_owned())
}

fn missing_object(pool: &str, name: &str) -> Error {
    Error::NotFound(format!("object {pool}/{name}"))
}

#[async_trait]
impl ImageStore for EmbeddedStore {
    fn fsid(&self) -> &str {
        &self.fsid
    }

    fn flattens_instantly(&self) -> bool {
        true
    }

    fn lanes(&self) -> Option<&Lanes> {
        self.shared.lanes.as_deref()
    }

    async fn capacity(&self, _pool: &str) -> Result<Capacity> {
        // What is not taken apart by then is still counted.
        if let Ok(settled) = tokio::time::timeout(SETTLE_WAIT, self.settle()).await {
            settled?;
        }
        let limit = self.shared.limit_bytes;
        self.shared.with(|shard| shard.capacity(limit))?
    }

    async fn ensure_pool(&self, pool: &str) -> Result<()> {
        check_name("pool", pool)?;
        let pool = pool.to_owned();
        self.plan(move |catalogue| {
            Ok(match catalogue.pools.contains(&pool) {
                true => Plan::Nothing,
                false => Plan::Change(CatalogueChange::CreatePool { pool }),
            })
        })
        .await
    }

    async fn pools(&self) -> Result<Vec<String>> {
        self.look(|catalogue| Ok(catalogue.pools.iter().cloned().collect()))
    }

    async fn create(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_size(size_bytes)?;
        let image = image.clone();
        self.change(move |catalogue| catalogue.plan_create(&image, size_bytes))
            .await
    }

    async fn images(&self, pool: &str) -> Result<Vec<String>> {
        self.look(|catalogue| {
            catalogue.require_pool(pool)?;
            Ok(Catalogue::names_in(&catalogue.names, pool))
        })
    }

    async fn info(&self, image: &ImageSpec) -> Result<ImageInfo> {
        self.look(|catalogue| catalogue.info(image))
    }

    async fn used_bytes(&self, image: &ImageSpec) -> Result<u64> {
        self.look(|catalogue| catalogue.used_bytes(image))
    }

    async fn remove(&self, image: &ImageSpec) -> Result<()> {
        let image = image.clone();
        self.change(move |catalogue| catalogue.plan_remove(&image))
            .await
    }

    async fn rename(&self, image: &ImageSpec, name: &str) -> Result<()> {
        let (image, name) = (image.clone(), name.to_owned());
        self.change(move |catalogue| catalogue.plan_rename(&image, &name))
            .await
    }

    async fn resize(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_size(size_bytes)?;
        let image = image.clone();
        self.plan(move |catalogue| catalogue.plan_resize(&image, size_bytes))
            .await
    }

    async fn open(
        &self,
        image: &ImageSpec,
        snapshot: Option<&str>,
    ) -> Result<Arc<dyn ImageHandle>> {
        let opened = self.shared.with(|shard| {
            shard.check_running()?;
            let catalogue = &mut shard.state.catalogue;
            let id = catalogue.id(image)?;
            let number = match snapshot {
                None => None,
                Some(name) => Some(catalogue.snapshot(&image.at(name))?.1),
            };
            let missing = || Error::NotFound(format!("image {image}"));
            let found = catalogue.images.get_mut(&id).ok_or_else(missing)?;
            let mut size_bytes = Arc::clone(&found.shown_bytes);
            let mut open = &mut found.open;
            if let Some(number) = number {
                let found = found.snapshots.get_mut(&number).ok_or_else(missing)?;
                size_bytes = Arc::new(AtomicU64::new(found.size_bytes));
                open = &mut found.open;
            }
            let token = open.upgrade().unwrap_or_default();
            *open = Arc::downgrade(&token);
            Ok((id, number, size_bytes, token))
        })?;
        let (id, number, size_bytes, token) = opened?;
        let name = snapshot.map_or_else(|| image.to_string(), |name| image.at(name).to_string());
        Ok(Arc::new(Handle {
            shared: Arc::clone(&self.shared),
            image: id,
            snapshot: number,
            name,
            size_bytes,
            _open: token,
        }))
    }

    async fn create_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.change(move |catalogue| catalogue.plan_snapshot(&snapshot))
            .await
    }

    async fn protect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.plan(move |catalogue| {
            let change = catalogue.plan_protect(&snapshot, true)?;
            Ok(change.map_or(Plan::Nothing, Plan::Change))
        })
        .await
    }

    async fn unprotect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.plan(move |catalogue| {
            let change = catalogue.plan_protect(&snapshot, false)?;
            Ok(change.map_or(Plan::Nothing, Plan::Change))
        })
        .await
    }

    async fn remove_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.change(move |catalogue| catalogue.plan_remove_snapshot(&snapshot))
            .await
    }

    async fn rename_snapshot(&self, snapshot: &SnapshotSpec, name: &str) -> Result<()> {
        let (snapshot, name) = (snapshot.clone(), name.to_owned());
        self.change(move |catalogue| catalogue.plan_rename_snapshot(&snapshot, &name))
            .await
    }

    async fn roll_back(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let snapshot = snapshot.clone();
        self.change(move |catalogue| {
            let (id, snapshot, _) = catalogue.snapshot(&snapshot)?;
            Ok(CatalogueChange::RollBack { id, snapshot })
        })
        .await
    }

    async fn clone_image(&self, parent: &SnapshotSpec, child: &ImageSpec) -> Result<()> {
        let (parent, child) = (parent.clone(), child.clone());
        self.change(move |catalogue| catalogue.plan_clone(&parent, &child))
            .await
    }

    async fn children(&self, snapshot: &SnapshotSpec) -> Result<Vec<ImageSpec>> {
        self.look(|catalogue| {
            let (id, number, _) = catalogue.snapshot(snapshot)?;
            Ok(catalogue.clones(id, number))
        })
    }

    async fn flatten(&self, image: &ImageSpec) -> Result<()> {
        let image = image.clone();
        self.plan(move |catalogue| {
            let id = catalogue.id(&image)?;
            Ok(match catalogue.image(id)?.parent {
                None => Plan::Nothing,
                Some(_) => Plan::Change(CatalogueChange::Flatten { id }),
            })
        })
        .await
    }

    async fn diff(
        &self,
        image: &ImageSpec,
        change: DiffChange<'_>,
        start_bytes: u64,
        limit: usize,
    ) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        let (id, older, newer, size_bytes) = self.look(|catalogue| {
            let (id, older, newer) = catalogue.change(image, change.from, change.to)?;
            let (_, size_bytes) = catalogue.tree(id, newer)?;
            Ok((id, older, newer, size_bytes))
        })?;
        let listing = match older {
            None => Listing::Data,
            Some(_) => Listing::Changes,
        };
        let request = |reply| {
            Request::List(List {
                image: id,
                older,
                newer,
                walk: Walk::new(listing, start_bytes, size_bytes, limit),
                reply,
            })
        };
        self.shared.ask(request).await
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<()> {
        check_name("metadata key", key)?;
        check_length("a metadata value", value.len(), MAX_METADATA_BYTES)?;
        let (image, key, value) = (image.clone(), key.to_owned(), value.to_owned());
        self.change(move |catalogue| {
            let id = catalogue.id(&image)?;
            Ok(CatalogueChange::SetMetadata { id, key, value })
        })
        .await
    }

    async fn metadata(&self, image: &ImageSpec) -> Result<Vec<(String, String)>> {
        self.look(|catalogue| {
            let pairs = catalogue.named(image)?.metadata.iter();
            Ok(pairs.map(|(key, value)| key_of(key, value)).collect())
        })
    }

    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<()> {
        let (image, key) = (image.clone(), key.to_owned());
        self.change(move |catalogue| {
            let id = catalogue.id(&image)?;
            if !catalogue.image(id)?.metadata.contains_key(&key) {
                return Err(Error::NotFound(format!("metadata {key} of image {image}")));
            }
            Ok(CatalogueChange::RemoveMetadata { id, key })
        })
        .await
    }

    async fn put_object(&self, pool: &str, name: &str, data: Bytes) -> Result<()> {
        check_name("object", name)?;
        check_length("an object", data.len(), MAX_OBJECT_BYTES)?;
        let id = self.shared.with(|shard| {
            shard.state.catalogue.require_pool(pool)?;
            Ok(shard.state.catalogue.new_id())
        })??;
        let (pool, name) = key_of(pool, name);
        let put = async {
            self.write_hidden(id, &data).await?;
            self.change(move |_| Ok(CatalogueChange::PutObject { id, pool, name }))
                .await
        };
        let done = put.await;
        if done.is_err() {
            // If this fails too, the next start does it.
            let _ = self
                .change(move |_| Ok(CatalogueChange::RemoveImage { id }))
                .await;
        }
        done
    }

    async fn object(&self, pool: &str, name: &str) -> Result<Bytes> {
        loop {
            let find = |catalogue: &Catalogue| {
                catalogue.require_pool(pool)?;
                let id = catalogue.objects.get(&key_of(pool, name));
                let id = *id.ok_or_else(|| missing_object(pool, name))?;
                Ok((id, catalogue.image(id)?.size_bytes))
            };
            let (id, size_bytes) = self.look(find)?;
            let shown = format!("object {pool}/{name}");
            let found = read(&self.shared, (id, None), &shown, 0, size_bytes as usize).await;
            match found {
                // Replaced a moment ago: look again.
                Err(Error::NotFound(_)) => {}
                found => return found,
            }
        }
    }

    async fn remove_object(&self, pool: &str, name: &str) -> Result<()> {
        let (pool, name) = key_of(pool, name);
        self.change(move |catalogue| {
            catalogue.require_pool(&pool)?;
            if !catalogue
                .objects
                .contains_key(&(pool.clone(), name.clone()))
            {
                return Err(missing_object(&pool, &name));
            }
            Ok(CatalogueChange::RemoveObject { pool, name })
        })
        .await
    }

    async fn objects(&self, pool: &str) -> Result<Vec<String>> {
        self.look(|catalogue| {
            catalogue.require_pool(pool)?;
            Ok(Catalogue::names_in(&catalogue.objects, pool))
        })
    }

    async fn close(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let closed = tokio::task::spawn_blocking(move || shared.close()).await;
        closed.unwrap_or_else(|error| Err(Error::Unavailable(format!("closing: {error}"))))
    }
}
