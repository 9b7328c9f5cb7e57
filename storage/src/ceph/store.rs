//! The store: pools, small objects, and the trait's calls, which the other files do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::CephOptions;
use super::connection::{Client, Connection};
use super::native::{Errno, Pool};
use crate::store::{check_length, check_limit, check_name, check_size};
use crate::{
    Capacity, Change, Error, Extent, ImageHandle, ImageInfo, ImageSpec, ImageStore,
    MAX_METADATA_BYTES, MAX_OBJECT_BYTES, Result, SnapshotSpec,
};

/// Cinder's `rbd_store_chunk_size`.
const DEFAULT_ORDER: u8 = 22;

/// Objects that belong to images (`rbd_data.…`, `rbd_directory`, journals) have these beginnings.
const OBJECTS_OF_RBD: [&str; 3] = ["rbd_", "journal", "image_"];

/// A Ceph cluster, seen by one of its users.
#[derive(Clone)]
pub struct CephStore {
    pub(super) client: Arc<Client>,
    /// New images have objects of `2^order` bytes.
    pub(super) order: u8,
    /// How long removed images stay in the trash; `None`: they do not go there.
    pub(super) deferral: Option<Duration>,
}

impl CephStore {
    /// Connects to the cluster. Needs a tokio runtime.
    ///
    /// Errors: `Unavailable` with what to do: the libraries are not installed, there is no
    /// configuration or keyring, the key is wrong, nobody answers.
    pub async fn connect(options: CephOptions) -> Result<Self> {
        Ok(CephStore {
            client: Client::connect(options).await?,
            order: DEFAULT_ORDER,
            deferral: None,
        })
    }

    /// The same connection, with another size of new images' objects: `rbd_store_chunk_size`.
    ///
    /// Errors: `Invalid` unless it is a power of two from 4 KiB to 32 MiB.
    pub fn with_object_bytes(&self, bytes: u64) -> Result<Self> {
        if !bytes.is_power_of_two() || !(4 << 10..=32 << 20).contains(&bytes) {
            return Err(Error::Invalid(format!(
                "objects of {bytes} bytes: not a power of two from 4 KiB to 32 MiB"
            )));
        }
        Ok(CephStore {
            order: bytes.trailing_zeros() as u8,
            ..self.clone()
        })
    }

    /// The same connection; removed images go to the trash for so long: `enable_deferred_deletion`.
    #[must_use]
    pub fn deferring_deletion(&self, delay: Duration) -> Self {
        CephStore {
            deferral: Some(delay),
            ..self.clone()
        }
    }

    pub(super) async fn pool(&self, name: &str) -> Result<(Arc<Connection>, Arc<Pool>)> {
        let connection = self.client.connection().await?;
        let pool = self.client.pool(&connection, name).await?;
        Ok((connection, pool))
    }

    /// A short call on a pool.
    pub(super) async fn on_pool<T: Send + 'static>(
        &self,
        pool: &str,
        what: String,
        call: impl FnOnce(&Arc<Pool>) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let (connection, pool) = self.pool(pool).await?;
        let call = move || call(&pool);
        self.client.call(&connection, what, call).await
    }
}

#[async_trait]
impl ImageStore for CephStore {
    fn fsid(&self) -> &str {
        &self.client.fsid
    }

    fn flattens_instantly(&self) -> bool {
        false
    }

    /// Name, header, parent and the parent's list of children are objects of their own, and so is
    /// a snapshot's object map, without which it cannot be cloned.
    fn makes_images_atomically(&self) -> bool {
        false
    }

    /// librbd reads the limits from the image's metadata when it opens it.
    fn limits_rates(&self) -> bool {
        true
    }

    async fn share_writes(&self, image: &ImageSpec, shared: bool) -> Result<()> {
        self.share_image(image, shared).await
    }

    async fn capacity(&self, pool: &str) -> Result<Capacity> {
        self.room_in(pool).await
    }

    async fn ensure_pool(&self, pool: &str) -> Result<()> {
        check_name("pool", pool)?;
        match self.pool(pool).await {
            Ok(_) => Ok(()),
            Err(Error::NotFound(_)) => Err(Error::NotFound(format!(
                "pool {pool} (make it with: ceph osd pool create {pool} && rbd pool init {pool})"
            ))),
            Err(error) => Err(error),
        }
    }

    async fn pools(&self) -> Result<Vec<String>> {
        let connection = self.client.connection().await?;
        let cluster = Arc::clone(&connection.cluster);
        let list = move || {
            let mut pools = Vec::new();
            for name in cluster.pool_names()? {
                // A pool that goes meanwhile, or that this user may not see, is none of its.
                let applications = cluster.pool(&name).and_then(|pool| pool.applications());
                if applications.is_ok_and(|list| list.iter().any(|one| one == "rbd")) {
                    pools.push(name);
                }
            }
            pools.sort();
            Ok(pools)
        };
        self.client.call(&connection, "the pools", list).await
    }

    async fn create(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_name("image", &image.image)?;
        check_size(size_bytes)?;
        self.create_image(image, size_bytes).await
    }

    async fn images(&self, pool: &str) -> Result<Vec<String>> {
        let list = |pool: &Arc<Pool>| {
            let mut names = pool.images()?;
            names.sort();
            Ok(names)
        };
        self.on_pool(pool, format!("pool {pool}"), list).await
    }

    async fn info(&self, image: &ImageSpec) -> Result<ImageInfo> {
        self.image_info(image).await
    }

    async fn used_bytes(&self, image: &ImageSpec) -> Result<u64> {
        self.bytes_of_head(image).await
    }

    async fn remove(&self, image: &ImageSpec) -> Result<()> {
        self.remove_image(image).await
    }

    async fn purge(&self, pool: &str) -> Result<Vec<String>> {
        self.purge_trash(pool).await
    }

    async fn rename(&self, image: &ImageSpec, name: &str) -> Result<()> {
        check_name("image", name)?;
        self.rename_image(image, name).await
    }

    async fn resize(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        check_size(size_bytes)?;
        self.resize_image(image, size_bytes).await
    }

    async fn open(
        &self,
        image: &ImageSpec,
        snapshot: Option<&str>,
    ) -> Result<Arc<dyn ImageHandle>> {
        self.open_handle(image, snapshot).await
    }

    async fn create_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        check_name("snapshot", &snapshot.snapshot)?;
        let name = snapshot.snapshot.clone();
        let create = move |image: &super::native::Image| image.create_snapshot(&name);
        self.on_snapshot(snapshot, create).await
    }

    async fn rename_snapshot(&self, snapshot: &SnapshotSpec, name: &str) -> Result<()> {
        check_name("snapshot", name)?;
        self.give_snapshot_name(snapshot, name).await
    }

    async fn protect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let name = snapshot.snapshot.clone();
        let protect = move |image: &super::native::Image| match image.protect_snapshot(&name) {
            // It is protected.
            Err(Errno::BUSY) => Ok(()),
            other => other,
        };
        self.on_snapshot(snapshot, protect).await
    }

    async fn unprotect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        self.unprotect(snapshot).await
    }

    async fn remove_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        self.drop_snapshot(snapshot).await
    }

    async fn roll_back(&self, snapshot: &SnapshotSpec) -> Result<()> {
        self.return_to(snapshot).await
    }

    async fn clone_image(&self, parent: &SnapshotSpec, child: &ImageSpec) -> Result<()> {
        check_name("image", &child.image)?;
        self.make_clone(parent, child).await
    }

    async fn children(&self, snapshot: &SnapshotSpec) -> Result<Vec<ImageSpec>> {
        self.clones_of(snapshot).await
    }

    async fn flatten(&self, image: &ImageSpec) -> Result<()> {
        self.flatten_image(image).await
    }

    async fn diff(
        &self,
        image: &ImageSpec,
        change: Change<'_>,
        start_bytes: u64,
        limit: usize,
    ) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        self.changed_extents(image, change, start_bytes, limit)
            .await
    }

    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<()> {
        check_name("metadata key", key)?;
        check_length("a metadata value", value.len(), MAX_METADATA_BYTES)?;
        let (key, value) = (key.to_owned(), value.to_owned());
        let set = move |image: &super::native::Image| image.set_metadata(&key, &value);
        self.on_head(image, format!("image {image}"), set).await
    }

    async fn metadata(&self, image: &ImageSpec) -> Result<Vec<(String, String)>> {
        self.peek(image, |image| {
            let mut pairs = image.metadata()?;
            pairs.sort();
            Ok(pairs)
        })
        .await
    }

    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<()> {
        let what = format!("metadata {key} of image {image}");
        let key = key.to_owned();
        let remove = move |image: &super::native::Image| image.remove_metadata(&key);
        self.on_head(image, what, remove).await
    }

    async fn put_object(&self, pool: &str, name: &str, data: Bytes) -> Result<()> {
        check_name("object", name)?;
        check_length("an object", data.len(), MAX_OBJECT_BYTES)?;
        let (what, name) = (format!("object {pool}/{name}"), name.to_owned());
        self.on_pool(pool, what, move |pool| pool.put_object(&name, &data))
            .await
    }

    async fn object(&self, pool: &str, name: &str) -> Result<Bytes> {
        let (what, name) = (format!("object {pool}/{name}"), name.to_owned());
        let read = move |pool: &Arc<Pool>| pool.object(&name, MAX_OBJECT_BYTES).map(Bytes::from);
        self.on_pool(pool, what, read).await
    }

    async fn remove_object(&self, pool: &str, name: &str) -> Result<()> {
        let (what, name) = (format!("object {pool}/{name}"), name.to_owned());
        self.on_pool(pool, what, move |pool| pool.remove_object(&name))
            .await
    }

    async fn objects(&self, pool: &str) -> Result<Vec<String>> {
        let list = |pool: &Arc<Pool>| {
            let of_rbd = |name: &str| OBJECTS_OF_RBD.iter().any(|begin| name.starts_with(begin));
            let mut names = pool.objects(|name| !of_rbd(name))?;
            names.sort();
            Ok(names)
        };
        let (connection, opened) = self.pool(pool).await?;
        let what = format!("pool {pool}");
        self.client
            .long_call(&connection, what, move || list(&opened))
            .await
    }

    async fn close(&self) -> Result<()> {
        self.client.close().await;
        Ok(())
    }
}
