//! The Image API v2: images, their data, tags, members and locations.
//!
//! **Promises.** Documents, status codes and headers are Glance's (Image API ref, v2.17). Image
//! data lies in the store as Glance lays it out on Ceph: `images/<id>@snap`, protected, byte for
//! byte what was uploaded, so that a raw image can be cloned. An upload or a download of any size
//! holds a few chunks in memory.
//!
//! **Relies on.** [`database`] for rows, [`taskflow`] for everything that touches the store,
//! [`storage::ImageStore`] for data, [`rest`] for identity, policy and error bodies. It knows no
//! volumes.
//!
//! **On a crash.** An upload that was not acknowledged ends with its image `queued` again and
//! nothing in the store (or `active`, if all of the data was stored). A deleted image stays
//! deleted, and its space comes back. Both are done by the flows, taken up at the next start.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use database::Database;
use rest::identity::Identity;
use rest::policy::Policy;
use storage::ImageStore;
use taskflow::{Doorbell, Fence, Queue, Worker};
use uuid::Uuid;

mod api;
mod cache;
mod data_source;
mod db;
mod disk_snapshots;
mod disk_source;
mod encryption_keys;
mod error;
mod fetch;
mod flows;
mod format_check;
mod hashing;
mod image;
mod import_plugins;
mod imports;
mod location;
mod metadef;
mod notices;
mod options;
pub mod policy;
mod quota;
mod remote_image;
mod stores;
mod transfer_memory;
mod uploads;
mod views;

pub use disk_snapshots::{DiskSnapshotRpc, RPC_TOPIC};
pub use encryption_keys::KeyManager;
pub use error::{Error, Result};
pub use flows::add_location::AddLocation;
pub use flows::cache_image::CacheImage;
pub use flows::delete::DeleteImage;
pub use flows::hash_image::HashImage;
pub use flows::import::ImportImage;
pub use flows::remove_from_store::RemoveFromStore;
pub use flows::snapshot_disk::SnapshotDiskToImage;
pub use flows::stage::StageImage;
pub use flows::upload::UploadImage;
pub use image::is_property_name;
pub use import_plugins::{ConversionFormat, ImportPlugins, InjectMetadata};
pub use metadef::load::{Loaded, load_folder as load_metadefs};
pub use notices::Notices;
pub use options::{ImportFilter, Options, StoreKind, StoreOptions};
pub use quota::Limits;
pub use stores::Engines;

use cache::ImageCache;
use remote_image::Grants;
use stores::Stores;
use transfer_memory::TransferMemory;
use uploads::Uploads;

/// Imports that run at the same time; further ones wait.
const CONCURRENT_IMPORTS: usize = 8;

/// How often what is in the pools' trash is looked at.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// The service: what handlers and flows work with.
pub struct ImageService {
    pub(crate) database: Database,
    /// Of the default store.
    pub(crate) store: Arc<dyn ImageStore>,
    pub(crate) stores: Stores,
    pub(crate) options: Options,
    /// Who may do what.
    pub policy: Policy,
    pub(crate) doorbell: Doorbell,
    pub(crate) uploads: Uploads,
    pub(crate) transfer_memory: TransferMemory,
    /// Copies of images on this node, if there shall be some.
    pub(crate) cache: Option<ImageCache>,
    pub(crate) grants: Grants,
    /// Told of what happens.
    pub(crate) notices: Notices,
    /// Where tokens come from, once the API is served.
    pub(crate) identity_url: OnceLock<String>,
    /// Where keys of encrypted images are, if there is such a place.
    keys: OnceLock<Arc<dyn KeyManager>>,
}

impl ImageService {
    /// The service on a migrated database. Makes the pools of its stores unless they are there.
    /// Errors: options that contradict each other.
    pub async fn new(
        database: Database,
        engines: impl Into<Engines>,
        options: Options,
        notices: Notices,
    ) -> Result<Arc<Self>> {
        let engines = engines.into();
        metadef::load::standard_set(&database).await?;
        let cache = open_cache(&options)?;
        let stores = Stores::new(&engines, &options)?;
        for pool in stores.pools() {
            pool.engine.ensure_pool(&pool.name).await?;
        }
        Ok(Arc::new(ImageService {
            database,
            store: engines.default,
            stores,
            options,
            policy: policy::default_policy(),
            doorbell: Doorbell::new(),
            uploads: Uploads::default(),
            transfer_memory: TransferMemory::default(),
            cache,
            grants: Grants::default(),
            notices,
            identity_url: OnceLock::new(),
            keys: OnceLock::new(),
        }))
    }

    /// Lets deleted images take their keys along. To be called once, before requests come.
    pub fn set_key_manager(&self, keys: Arc<dyn KeyManager>) {
        // A second one would be the same.
        let _ = self.keys.set(keys);
    }

    /// The whole API: version documents for everybody, the rest for callers with a token.
    pub fn router(self: &Arc<Self>, identity: Arc<dyn Identity>) -> Router {
        // A second router is in front of the same identity service.
        let _ = self.identity_url.set(identity.auth_uri().to_owned());
        api::router(self, identity)
    }

    /// The routes of one API version, without what stands around them in [`Self::router`].
    pub fn resources(self: &Arc<Self>) -> Router {
        api::v2_routes().with_state(self.clone())
    }

    /// The workers that run this service's flows. Uploads and imports have one of their own each,
    /// so that who sends slowly keeps no delete waiting. All of them must run for requests to end.
    /// They keep flows for `lease` when the process is silent; `fence` shuts out processes whose
    /// flows they take over.
    pub fn workers(
        self: &Arc<Self>,
        lease: Duration,
        fence: Option<Arc<dyn Fence>>,
    ) -> Vec<Worker<ImageService>> {
        let [upload, store, cache, import] = worker_owners(&self.options.host);
        let worker = |owner: String, queue: Queue| {
            let builder = Worker::builder(self.database.clone(), self.clone(), owner, [queue])
                .flow::<UploadImage>()
                .flow::<DeleteImage>()
                .flow::<SnapshotDiskToImage>()
                .flow::<CacheImage>()
                .flow::<HashImage>()
                .flow::<StageImage>()
                .flow::<ImportImage>()
                .flow::<AddLocation>()
                .flow::<RemoveFromStore>()
                .doorbell(self.doorbell.clone())
                .lease(lease);
            let builder = match &fence {
                Some(fence) => builder.fence(Arc::clone(fence)),
                None => builder,
            };
            match self.notices.is_wanted() {
                true => builder.witness(Arc::new(self.notices.clone())),
                false => builder,
            }
        };
        // What a node has begun itself is ended by the others of its store when it is gone.
        let of_node = |queue: String, kind: &str| {
            Queue::of_group(queue, format!("image-{kind}@{}", self.store.fsid()))
        };
        let uploads = worker(upload, of_node(self.upload_queue(), "upload"))
            .concurrency(self.options.max_concurrent_uploads)
            .listener(Arc::new(self.uploads.clone()));
        let store = worker(store, self.store_queue().into()).concurrency(8);
        let cache = worker(cache, of_node(self.cache_queue(), "cache")).concurrency(1);
        let imports = worker(import, self.import_queue().into()).concurrency(CONCURRENT_IMPORTS);
        vec![
            uploads.build(),
            store.build(),
            imports.build(),
            cache.build(),
        ]
    }

    /// Gives back what clones kept in the pools' trash when they lived, once a minute, until
    /// `shutdown` resolves.
    pub async fn purge_until(&self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(PURGE_INTERVAL) => {}
            }
            for pool in self.stores.pools() {
                if let Err(error) = pool.engine.purge(&pool.name).await {
                    tracing::warn!(pool = pool.name, %error, "the pool is purged later");
                }
            }
        }
    }

    /// This node's copy of the image is not its data any more.
    pub(crate) async fn forget_copy(&self, image_id: Uuid) {
        if let Some(cache) = &self.cache
            && let Err(error) = cache.remove(image_id).await
        {
            tracing::warn!(%error, image = %image_id, "a copy of old data stays in the cache");
        }
    }

    /// Only the process that has the request can store its data.
    pub(crate) fn upload_queue(&self) -> String {
        format!("image-upload:{}", self.options.host)
    }

    /// Any process that serves the store.
    pub(crate) fn store_queue(&self) -> String {
        format!("image-store:{}", self.store.fsid())
    }

    /// Only the process whose cache it is about.
    pub(crate) fn cache_queue(&self) -> String {
        format!("image-cache:{}", self.options.host)
    }

    /// Any process that serves the store, for flows that wait for other servers.
    pub(crate) fn import_queue(&self) -> String {
        format!("image-import:{}", self.store.fsid())
    }
}

/// The names by which the workers of a node own flows.
pub fn worker_owners(host: &str) -> [String; 4] {
    ["upload", "store", "cache", "import"].map(|kind| format!("image-{kind}:{host}"))
}

fn open_cache(options: &Options) -> Result<Option<ImageCache>> {
    let Some(folder) = &options.image_cache_dir else {
        return Ok(None);
    };
    let cache = ImageCache::open(folder, options.image_cache_max_size);
    let failed =
        |error| Error::BadRequest(format!("image_cache_dir {}: {error}", folder.display()));
    cache.map(Some).map_err(failed)
}
