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
mod db;
mod error;
mod flows;
mod format_check;
mod image;
mod location;
mod options;
pub mod policy;
mod uploads;
mod views;

pub use error::{Error, Result};
pub use flows::delete::DeleteImage;
pub use flows::upload::UploadImage;
pub use options::Options;

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
}

impl ImageService {
    /// The service on a migrated database. Makes the store's image pool unless it is there.
    pub async fn new(
        database: Database,
        store: Arc<dyn ImageStore>,
        mut options: Options,
    ) -> Result<Arc<Self>> {
        store.ensure_pool(&options.rbd_store_pool).await?;
        options.rbd_store_chunk_size = options
            .rbd_store_chunk_size
            .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        Ok(Arc::new(ImageService {
            database,
            store,
            options,
            policy: policy::default_policy(),
            doorbell: Doorbell::new(),
            uploads: Uploads::default(),
        }))
    }

    /// The whole API: version documents for everybody, the rest for callers with a token.
    pub fn router(self: &Arc<Self>, identity: Arc<dyn Identity>) -> Router {
        api::router(self, identity)
    }

    /// The routes of one API version, without what stands around them in [`Self::router`].
    pub fn resources(self: &Arc<Self>) -> Router {
        api::v2_routes().with_state(self.clone())
    }

    /// The workers that run this service's flows. Uploads have one of their own, so that clients
    /// that send slowly keep no delete waiting. All of them must run for requests to end.
    pub fn workers(self: &Arc<Self>) -> Vec<Worker<ImageService>> {
        let host = &self.options.host;
        let worker = |owner: String, queue: String| {
            Worker::builder(self.database.clone(), self.clone(), owner, [queue])
                .flow::<UploadImage>()
                .flow::<DeleteImage>()
                .doorbell(self.doorbell.clone())
        };
        let uploads = worker(format!("image-upload:{host}"), self.upload_queue())
            .concurrency(self.options.max_concurrent_uploads)
            .listener(Arc::new(self.uploads.clone()));
        let store = worker(format!("image-store:{host}"), self.store_queue()).concurrency(8);
        vec![uploads.build(), store.build()]
    }

    /// Only the process that has the request can store its data.
    pub(crate) fn upload_queue(&self) -> String {
        format!("image-upload:{}", self.options.host)
    }

    /// Any process that serves the store.
    pub(crate) fn store_queue(&self) -> String {
        format!("image-store:{}", self.store.fsid())
    }

    pub(crate) fn store_image(&self, id: Uuid) -> ImageSpec {
        ImageSpec::new(&self.options.rbd_store_pool, id.to_string())
    }

    pub(crate) fn store_snapshot(&self, id: Uuid) -> SnapshotSpec {
        self.store_image(id).at(image::STORE_SNAPSHOT)
    }
}
