//! `image:hash`: an active image that no hash is known of gets its hashes.
//!
//! One task, which begins anew after a crash. An image that is gone has nothing to hash, and that
//! is no failure; nor does a failure take anything from the image.

use async_trait::async_trait;
use database::Tx;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::digests::Digests;
use super::receive::Watch;
use super::upload::HASH_ALGORITHM;
use super::watch::ImageWatch;
use super::{class, fetch_error};
use crate::ImageService;
use crate::data_source;
use crate::db::images;
use crate::hashing::Algorithm;
use crate::image::Status;
use crate::uploads::DataStream;

/// The flow.
pub struct HashImage;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
    /// The location to read.
    pub url: String,
}

impl Flow for HashImage {
    const KIND: &'static str = "image:hash";
    type Context = ImageService;
    type Params = Params;

    fn tasks(_: &Params) -> Vec<BoxTask<Self>> {
        vec![boxed(HashData)]
    }
}

/// What data hashes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    pub checksum: String,
    pub os_hash_value: String,
}

/// MD5 and one more hash of all of the data.
pub async fn hash_stream(
    mut data: DataStream,
    algorithm: Algorithm,
    watch: &impl Watch,
) -> Result<Hashes, TaskError> {
    let digests = Digests::start(algorithm);
    while let Some(piece) = data.next().await {
        watch.check().await?;
        let piece = piece.map_err(|error| TaskError::retryable(class::FETCH, error.to_string()))?;
        digests.feed(piece).await?;
    }
    let digested = digests.finish().await?;
    Ok(Hashes {
        checksum: digested.md5_hex,
        os_hash_value: digested.hash_hex,
    })
}

struct HashData;

#[async_trait]
impl Task<HashImage> for HashData {
    const NAME: &'static str = "hash_data";
    /// `None`: there is nothing to hash any more.
    type Output = Option<Hashes>;

    fn retry(&self) -> Retry {
        Retry::times(5, 1_000)
    }

    async fn execute(&self, run: &Run<HashImage>) -> Result<Option<Hashes>, TaskError> {
        let Params { image_id, url } = &run.params;
        let image = images::find(&run.ctx.database, *image_id).await?;
        if image.is_none_or(|image| image.status != Status::Active) {
            return Ok(None);
        }
        let opened = data_source::open(&run.ctx, url)
            .await
            .map_err(fetch_error)?;
        let watch = ImageWatch::new(run, *image_id);
        match hash_stream(opened.data, Algorithm::Sha512, &watch).await {
            Err(error) if error.class == class::IMAGE_GONE => Ok(None),
            hashed => hashed.map(Some),
        }
    }

    async fn record(
        &self,
        run: &Run<HashImage>,
        hashes: &Option<Hashes>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let Some(hashes) = hashes else {
            return Ok(());
        };
        let Hashes {
            checksum,
            os_hash_value,
        } = hashes;
        let id = run.params.image_id;
        Ok(images::set_hashes(tx, id, checksum, HASH_ALGORITHM, os_hash_value).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use database::Database;
    use taskflow::NewFlow;
    use taskflow::testing::{Fixture, exhaust, run_to_end};

    use super::*;
    use crate::flows::testing::World;

    const DATA: &[u8] = &[3; 10_000];
    const MD5: &str = "967b89a643fe13179c8a045800e7f08d";

    /// An active image with data and without hashes.
    struct Unhashed {
        world: World,
        flow_id: Uuid,
    }

    impl Unhashed {
        async fn new() -> Self {
            let world = World::new().await;
            let pool = world.default_pool();
            world.put_data_into(pool, DATA).await;
            world.set_status("active").await;
            let params = Params {
                image_id: world.image_id,
                url: pool.url(world.image_id),
            };
            let flow = NewFlow::of::<HashImage>(&params).unwrap();
            let mut tx = world.database().begin().await.unwrap();
            let flow_id = flow.insert(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            Unhashed { world, flow_id }
        }
    }

    #[async_trait]
    impl Fixture<HashImage> for Unhashed {
        fn database(&self) -> &Database {
            self.world.database()
        }

        fn context(&self) -> Arc<ImageService> {
            self.world.service.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.flow_id
        }

        async fn restart(&mut self) {
            self.world.store.crash().await;
        }

        async fn assert_done(&self) {
            let image = self.world.image().await.unwrap();
            assert_eq!(image.status, Status::Active);
            assert_eq!(image.checksum.as_deref(), Some(MD5));
            assert_eq!(image.os_hash_algo.as_deref(), Some("sha512"));
            assert_eq!(image.os_hash_value.map(|hash| hash.len()), Some(128));
            self.world
                .assert_data(self.world.default_pool(), DATA)
                .await;
        }

        async fn assert_reverted(&self) {
            let image = self.world.image().await.unwrap();
            assert_eq!((image.status, image.checksum), (Status::Active, None));
            self.world
                .assert_data(self.world.default_pool(), DATA)
                .await;
        }
    }

    #[tokio::test]
    async fn the_image_has_its_hashes_or_none() {
        exhaust::<HashImage, _>(Unhashed::new).await;
    }

    #[tokio::test]
    async fn an_image_that_is_gone_needs_none() {
        let unhashed = Unhashed::new().await;
        let mut tx = unhashed.database().begin().await.unwrap();
        let id = unhashed.world.image_id;
        assert!(images::mark_deleted(&mut tx, id).await.unwrap());
        tx.commit().await.unwrap();
        let (database, context) = (unhashed.database(), unhashed.context());
        let end = run_to_end::<HashImage>(database, context, unhashed.flow_id).await;
        assert_eq!(end, taskflow::state::SUCCESS);
    }
}
