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

use std::sync::Arc;

use axum::Router;
use database::Database;
use rest::identity::Identity;
use rest::policy::Policy;
use storage::{ImageSpec, ImageStore, SnapshotSpec};
use taskflow::{Doorbell, Worker};
use uuid::Uuid;

mod api;
mod cache;
mod db;
mod disk_snapshots;
mod error;
mod flows;
mod format_check;
mod image;
mod location;
mod metadef;
mod options;
pub mod policy;
mod quota;
mod uploads;
mod views;

pub use disk_snapshots::{DiskSnapshotRpc, RPC_TOPIC};
pub use error::{Error, Result};
pub use flows::cache_image::CacheImage;
pub use flows::delete::DeleteImage;
pub use flows::snapshot_disk::SnapshotDiskToImage;
pub use flows::upload::UploadImage;
pub use metadef::load::{Loaded, load_folder as load_metadefs};
pub use options::Options;
pub use quota::Limits;

use cache::ImageCache;
use uploads::Uploads;

/// Bounds of `rbd_store_chunk_size`: a transfer holds up to three chunks.
const CHUNK_BYTES_MIN: usize = 64 << 10;
const CHUNK_BYTES_MAX: usize = 16 << 20;

/// The service: what handlers and flows work with.
pub struct ImageService {
    pub(crate) database: Database,
    pub(crate) store: Arc<dyn ImageStore>,
    pub(crate) options: Options,
    /// Who may do what.
    pub policy: Policy,
    pub(crate) doorbell: Doorbell,
    pub(crate) uploads: Uploads,
    /// Copies of images on this node, if there shall be some.
    pub(crate) cache: Option<ImageCache>,
}

impl ImageService {
    /// The service on a migrated database. Makes the store's image pool unless it is there.
    pub async fn new(
        database: Database,
        store: Arc<dyn ImageStore>,
        mut options: Options,
    ) -> Result<Arc<Self>> {
        store.ensure_pool(&options.rbd_store_pool).await?;
        metadef::load::standard_set(&database).await?;
        options.rbd_store_chunk_size = options
            .rbd_store_chunk_size
            .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let cache = open_cache(&options)?;
        Ok(Arc::new(ImageService {
            database,
            store,
            options,
            policy: policy::default_policy(),
            doorbell: Doorbell::new(),
            uploads: Uploads::default(),
            cache,
        }))
    }

    /// The whole API: version documents for everybody, the rest for callers with a token.
    pub fn router(self: &Arc<Self>, identity: Arc<dyn Identity>) -> Router {
        api::router(self, identity)
    }

    /// The workers that run this service's flows. Uploads have one of their own, so that clients
    /// that send slowly keep no delete waiting. All of them must run for requests to end.
    pub fn workers(self: &Arc<Self>) -> Vec<Worker<ImageService>> {
        let host = &self.options.host;
        let worker = |owner: String, queue: String| {
            Worker::builder(self.database.clone(), self.clone(), owner, [queue])
                .flow::<UploadImage>()
                .flow::<DeleteImage>()
                .flow::<SnapshotDiskToImage>()
                .flow::<CacheImage>()
                .doorbell(self.doorbell.clone())
        };
        let uploads = worker(format!("image-upload:{host}"), self.upload_queue())
            .concurrency(self.options.max_concurrent_uploads)
            .listener(Arc::new(self.uploads.clone()));
        let store = worker(format!("image-store:{host}"), self.store_queue()).concurrency(8);
        let cache = worker(format!("image-cache:{host}"), self.cache_queue()).concurrency(1);
        vec![uploads.build(), store.build(), cache.build()]
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

    pub(crate) fn store_image(&self, id: Uuid) -> ImageSpec {
        ImageSpec::new(&self.options.rbd_store_pool, id.to_string())
    }

    pub(crate) fn store_snapshot(&self, id: Uuid) -> SnapshotSpec {
        self.store_image(id).at(image::STORE_SNAPSHOT)
    }
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
