//! `image:stage`: data of one request waits in the staging pool until it is imported.
//!
//! | Task | Does | Undone by |
//! |---|---|---|
//! | `receive_data` | the bytes into `<staging pool>/<id>`, hashed and inspected | removing the image; uploading → queued |
//! | `protect_snapshot` | `<id>@snap`, protected, for the stores to clone | unprotecting and removing it |
//! | `finish` | what the data is; the image stays `uploading` | – |
//!
//! The staged data is an image of the store like any other, so any process that serves the store
//! can import it, and a crash leaves no file behind.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::receive::{Sink, receive_upload};
use super::watch::UploadWatch;
use super::{data, gone_is_done, image_gone};
use crate::ImageService;
use crate::db::images;
use crate::db::staging::{self, StagedData};

/// The flow.
pub struct StageImage;

/// What the flow needs to know; the upload's id is the flow's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
    /// The most bytes that may come.
    pub limit_bytes: u64,
}

impl Flow for StageImage {
    const KIND: &'static str = "image:stage";
    type Context = ImageService;
    type Params = Params;

    fn tasks(_: &Params) -> Vec<BoxTask<Self>> {
        vec![boxed(ReceiveData), boxed(ProtectSnapshot), boxed(Finish)]
    }
}

struct ReceiveData;

#[async_trait]
impl Task<StageImage> for ReceiveData {
    const NAME: &'static str = "receive_data";
    type Output = StagedData;

    async fn execute(&self, run: &Run<StageImage>) -> Result<StagedData, TaskError> {
        let image_id = run.params.image_id;
        let sink = Sink::new(
            &run.ctx.stores.staging,
            image_id,
            run.params.limit_bytes,
            &run.ctx.transfer_memory,
        );
        let watch = UploadWatch::new(run, image_id);
        let received = receive_upload(&sink, &run.ctx.uploads, run.flow.id, &watch).await?;
        Ok(received.into())
    }

    async fn revert(&self, run: &Run<StageImage>, _: Option<&StagedData>) -> Result<(), TaskError> {
        let pool = &run.ctx.stores.staging;
        gone_is_done(pool.engine.remove(&pool.image(run.params.image_id)).await)
    }

    async fn record_revert(
        &self,
        run: &Run<StageImage>,
        _: Option<&StagedData>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        Ok(images::abandon_upload(tx, run.params.image_id, run.flow.id).await?)
    }
}

struct ProtectSnapshot;

#[async_trait]
impl Task<StageImage> for ProtectSnapshot {
    const NAME: &'static str = "protect_snapshot";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::times(3, 500)
    }

    async fn execute(&self, run: &Run<StageImage>) -> Result<(), TaskError> {
        data::protect(&run.ctx.stores.staging, run.params.image_id).await
    }

    async fn revert(&self, run: &Run<StageImage>, _: Option<&()>) -> Result<(), TaskError> {
        data::unprotect(&run.ctx.stores.staging, run.params.image_id).await
    }
}

struct Finish;

#[async_trait]
impl Task<StageImage> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<StageImage>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<StageImage>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let image_id = run.params.image_id;
        let data = run.output::<ReceiveData>()?;
        if !images::finish_stage(tx, image_id, run.flow.id, data.size_bytes()).await? {
            return Err(image_gone(image_id));
        }
        Ok(staging::insert(tx, image_id, data).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use database::Database;
    use futures_util::stream;
    use taskflow::NewFlow;
    use taskflow::testing::{Fixture, exhaust};

    use super::*;
    use crate::flows::testing::World;
    use crate::image::Status;
    use crate::uploads::Ticket;

    const DATA: &[u8] = &[3; 10_000];

    /// An image in `uploading`, and the flow that stages its data.
    struct Staging {
        world: World,
        flow_id: Uuid,
        ticket: Option<Ticket>,
    }

    impl Staging {
        async fn new() -> Self {
            let world = World::new().await;
            let image_id = world.image_id;
            let params = Params {
                image_id,
                limit_bytes: 1 << 20,
            };
            let flow = NewFlow::of::<StageImage>(&params).unwrap();
            let flow_id = flow.id();
            let mut tx = world.database().begin().await.unwrap();
            let begun = images::begin_stage(&mut tx, image_id, flow_id).await;
            assert!(begun.unwrap());
            flow.insert(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            let mut staging = Staging {
                world,
                flow_id,
                ticket: None,
            };
            staging.restart().await;
            staging
        }
    }

    #[async_trait]
    impl Fixture<StageImage> for Staging {
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
            // The old ticket goes first: with it goes what it registered.
            self.ticket = None;
            let pieces = DATA.chunks(999).map(|piece| Ok(Bytes::from_static(piece)));
            let data = Box::pin(stream::iter(pieces));
            let uploads = &self.world.service.uploads;
            self.ticket = Some(uploads.register(self.flow_id, data, None));
        }

        async fn assert_done(&self) {
            let image = self.world.image().await.unwrap();
            let state = (image.status, image.upload_id, image.size_bytes);
            assert_eq!(state, (Status::Uploading, None, Some(10_000)));
            let found = staging::find(self.database(), image.id).await.unwrap();
            let data = found.unwrap();
            assert_eq!(data.checksum, "967b89a643fe13179c8a045800e7f08d");
            assert_eq!(data.inspection.virtual_size_bytes, Some(10_000));
            let snapshot = self.world.service.stores.staging.snapshot(image.id);
            let info = self.world.store.info(&snapshot.image).await.unwrap();
            assert!(info.snapshots[0].protected);
            assert_eq!(self.world.store.images("images").await.unwrap(), [""; 0]);
        }

        async fn assert_reverted(&self) {
            let image = self.world.image().await.unwrap();
            let state = (image.status, image.upload_id, image.size_bytes);
            assert_eq!(state, (Status::Queued, None, None));
            self.world.assert_store_is_empty().await;
            let found = staging::find(self.database(), image.id).await.unwrap();
            assert_eq!(found, None);
        }
    }

    #[tokio::test]
    async fn every_failure_and_crash_ends_staged_or_queued() {
        exhaust::<StageImage, _>(Staging::new).await;
    }
}
