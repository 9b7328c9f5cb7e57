//! `image:upload`: data of one request becomes the data of one image.
//!
//! | Task | Does | Undone by |
//! |---|---|---|
//! | `receive_data` | the bytes into `<pool>/<id>`, hashed and inspected | removing the image; saving → queued |
//! | `protect_snapshot` | `<pool>/<id>@snap`, protected | unprotecting and removing it |
//! | `activate` | size, hashes, location, saving → active | – |
//!
//! The bytes are in a request of this process and nowhere else: a flow that is taken up by
//! another process finds none, fails in `receive_data` and so cleans up.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::receive::{Sink, receive_upload};
use super::watch::UploadWatch;
use super::{class, data, gone_is_done, image_gone, unknown_store};
use crate::ImageService;
use crate::db::images::{self, Data};
use crate::db::locations;
use crate::format_check;
use crate::stores::{Pool, Store};

/// The hash besides MD5: Glance's `hashing_algorithm`.
pub const HASH_ALGORITHM: &str = "sha512";

/// The flow.
pub struct UploadImage;

/// What the flow needs to know; the upload's id is the flow's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
    pub container_format: String,
    pub disk_format: String,
    /// The most bytes that may come: the size cap or what is left of the storage quota.
    pub limit_bytes: u64,
    /// The store; the default one where none is named.
    #[serde(default)]
    pub store: Option<String>,
}

impl Flow for UploadImage {
    const KIND: &'static str = "image:upload";
    type Context = ImageService;
    type Params = Params;

    fn tasks(_: &Params) -> Vec<BoxTask<Self>> {
        vec![boxed(ReceiveData), boxed(ProtectSnapshot), boxed(Activate)]
    }
}

fn target(run: &Run<UploadImage>) -> Result<(&Store, &Pool), TaskError> {
    let stores = &run.ctx.stores;
    let chosen = stores.choose_pool(run.params.store.as_deref());
    chosen.map_err(unknown_store)
}

/// What the data turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFacts {
    pub size_bytes: u64,
    pub virtual_size_bytes: Option<u64>,
    pub checksum: String,
    pub os_hash_value: String,
}

struct ReceiveData;

#[async_trait]
impl Task<UploadImage> for ReceiveData {
    const NAME: &'static str = "receive_data";
    type Output = DataFacts;

    async fn execute(&self, run: &Run<UploadImage>) -> Result<DataFacts, TaskError> {
        let (_, pool) = target(run)?;
        let image_id = run.params.image_id;
        let sink = Sink::new(
            pool,
            image_id,
            run.params.limit_bytes,
            &run.ctx.transfer_memory,
        );
        let watch = UploadWatch::new(run, image_id);
        let uploads = &run.ctx.uploads;
        let received = receive_upload(&sink, uploads, run.flow.id, &watch).await?;
        let size_bytes = received.inspection.size_bytes;
        let virtual_size_bytes = if run.params.container_format == "bare" {
            format_check::check(
                &run.params.disk_format,
                &received.inspection,
                &run.ctx.options,
            )
            .map_err(|why| TaskError::new(class::FORMAT_MISMATCH, why))?
        } else {
            None
        };
        let (checksum, os_hash_value) = (received.md5_hex, received.hash_hex);
        Ok(DataFacts {
            size_bytes,
            virtual_size_bytes,
            checksum,
            os_hash_value,
        })
    }

    async fn revert(&self, run: &Run<UploadImage>, _: Option<&DataFacts>) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        gone_is_done(pool.engine.remove(&pool.image(run.params.image_id)).await)
    }

    async fn record_revert(
        &self,
        run: &Run<UploadImage>,
        _: Option<&DataFacts>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        Ok(images::abandon_upload(tx, run.params.image_id, run.flow.id).await?)
    }
}

struct ProtectSnapshot;

#[async_trait]
impl Task<UploadImage> for ProtectSnapshot {
    const NAME: &'static str = "protect_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::times(3, 500)
    }

    async fn execute(&self, run: &Run<UploadImage>) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        data::protect(pool, run.params.image_id).await
    }

    async fn revert(&self, run: &Run<UploadImage>, _: Option<&()>) -> Result<(), TaskError> {
        let (_, pool) = target(run)?;
        data::unprotect(pool, run.params.image_id).await
    }
}

struct Activate;

#[async_trait]
impl Task<UploadImage> for Activate {
    const NAME: &'static str = "activate";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<UploadImage>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<UploadImage>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let facts = run.output::<ReceiveData>()?;
        let data = Data {
            size_bytes: facts.size_bytes,
            virtual_size_bytes: facts.virtual_size_bytes,
            checksum: &facts.checksum,
            os_hash_algo: HASH_ALGORITHM,
            os_hash_value: &facts.os_hash_value,
        };
        let image_id = run.params.image_id;
        if !images::finish_upload(tx, image_id, run.flow.id, &data).await? {
            return Err(image_gone(image_id));
        }
        let (store, pool) = target(run)?;
        let location = store.location(pool.url(image_id));
        Ok(locations::replace_all(tx, image_id, &[location]).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use database::Database;
    use futures_util::stream;
    use taskflow::NewFlow;
    use taskflow::testing::{Fixture, exhaust, run_to_end};

    use super::*;
    use crate::db::images::begin_upload;
    use crate::flows::testing::World;
    use crate::image::Status;
    use crate::uploads::Ticket;

    const DATA: &[u8] = &[3; 10_000];
    const MD5: &str = "967b89a643fe13179c8a045800e7f08d";

    /// An image in `saving`, and the flow of its upload.
    struct Uploading {
        world: World,
        flow_id: Uuid,
        ticket: Option<Ticket>,
    }

    impl Uploading {
        async fn new() -> Self {
            let world = World::new().await;
            let params = Params {
                image_id: world.image_id,
                container_format: "bare".to_owned(),
                disk_format: "raw".to_owned(),
                limit_bytes: 1 << 20,
                store: None,
            };
            let flow = NewFlow::of::<UploadImage>(&params).unwrap();
            let flow_id = flow.id();
            let mut tx = world.database().begin().await.unwrap();
            assert!(
                begin_upload(&mut tx, world.image_id, flow_id)
                    .await
                    .unwrap()
            );
            flow.insert(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            let mut uploading = Uploading {
                world,
                flow_id,
                ticket: None,
            };
            uploading.bring_data();
            uploading
        }

        fn bring_data(&mut self) {
            // The old ticket goes first: with it goes what it registered.
            self.ticket = None;
            let pieces = DATA.chunks(999).map(|piece| Ok(Bytes::from_static(piece)));
            let data = Box::pin(stream::iter(pieces));
            self.ticket = Some(
                self.world
                    .service
                    .uploads
                    .register(self.flow_id, data, None),
            );
        }

        async fn assert_nothing_left(&self) {
            assert_eq!(self.world.store.images("images").await.unwrap(), [""; 0]);
            let left = locations::of_image(self.database(), self.world.image_id)
                .await
                .unwrap();
            assert_eq!(left, []);
        }
    }

    #[async_trait]
    impl Fixture<UploadImage> for Uploading {
        fn database(&self) -> &Database {
            self.world.database()
        }

        fn context(&self) -> Arc<ImageService> {
            self.world.service.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.flow_id
        }

        /// As if the client had sent everything again: so that later tasks are reached.
        async fn restart(&mut self) {
            self.world.store.crash().await;
            self.bring_data();
        }

        async fn assert_done(&self) {
            let image = self.world.image().await.unwrap();
            assert_eq!((image.status, image.upload_id), (Status::Active, None));
            assert_eq!(
                (image.size_bytes, image.virtual_size_bytes),
                (Some(10_000), Some(10_000))
            );
            assert_eq!(image.checksum.as_deref(), Some(MD5));
            assert_eq!(image.os_hash_value.map(|hash| hash.len()), Some(128));
            let pool = self.world.default_pool();
            let snapshot = pool.snapshot(image.id);
            let found = locations::of_image(self.database(), image.id)
                .await
                .unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].url, pool.url(image.id));
            let info = self.world.store.info(&snapshot.image).await.unwrap();
            assert_eq!((info.size_bytes, info.snapshots.len()), (10_000, 1));
            assert!(info.snapshots[0].protected);
            let handle = self
                .world
                .store
                .open(&snapshot.image, Some("snap"))
                .await
                .unwrap();
            assert_eq!(handle.read(0, 10_000).await.unwrap(), DATA);
        }

        async fn assert_reverted(&self) {
            let image = self.world.image().await.unwrap();
            assert_eq!((image.status, image.upload_id), (Status::Queued, None));
            assert_eq!((image.size_bytes, image.checksum), (None, None));
            self.assert_nothing_left().await;
        }
    }

    #[tokio::test]
    async fn every_failure_and_crash_ends_active_or_queued() {
        exhaust::<UploadImage, _>(Uploading::new).await;
    }

    /// What a killed process leaves, at several points of its upload.
    #[tokio::test]
    async fn without_its_data_the_upload_is_reverted() {
        for created in [false, true] {
            let mut uploading = Uploading::new().await;
            uploading.ticket = None;
            let pool = uploading.world.default_pool();
            let spec = pool.snapshot(uploading.world.image_id);
            let store = &uploading.world.store;
            if created {
                // Half of the data, without its end.
                store.create(&spec.image, 8 << 20).await.unwrap();
            }
            let end = run_to_end::<UploadImage>(
                uploading.database(),
                uploading.context(),
                uploading.flow_id,
            )
            .await;
            assert_eq!(end, taskflow::state::REVERTED);
            uploading.assert_reverted().await;
        }
    }

    #[tokio::test]
    async fn an_image_deleted_meanwhile_leaves_nothing() {
        let uploading = Uploading::new().await;
        let mut tx = uploading.database().begin().await.unwrap();
        assert!(
            images::mark_deleted(&mut tx, uploading.world.image_id)
                .await
                .unwrap()
        );
        tx.commit().await.unwrap();
        let end =
            run_to_end::<UploadImage>(uploading.database(), uploading.context(), uploading.flow_id)
                .await;
        assert_eq!(end, taskflow::state::REVERTED);
        assert_eq!(uploading.world.image().await, None);
        uploading.assert_nothing_left().await;
    }
}
