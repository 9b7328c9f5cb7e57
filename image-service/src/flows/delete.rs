//! `image:delete`: gives back the space of an image whose row is deleted already.
//!
//! | Task | Does |
//! |---|---|
//! | `detach_clones` | flattens the clones of `<id>@snap` in every pool, and unprotects it |
//! | `remove_data` | removes the snapshots and the images, staged ones too |
//! | `forget` | removes the image's locations |
//!
//! Nobody can see the image any more, so there is nothing to go back to: every task is tried
//! until it succeeds.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::data;
use crate::ImageService;
use crate::db::{locations, staging};

/// Pause before the second attempt; it doubles up to a minute.
const RETRY_DELAY_MS: u64 = 200;

/// The flow.
pub struct DeleteImage;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
}

impl Flow for DeleteImage {
    const KIND: &'static str = "image:delete";
    type Context = ImageService;
    type Params = Params;

    fn tasks(_: &Params) -> Vec<BoxTask<Self>> {
        vec![boxed(DetachClones), boxed(RemoveData), boxed(Forget)]
    }
}

struct DetachClones;

#[async_trait]
impl Task<DeleteImage> for DetachClones {
    const NAME: &'static str = "detach_clones";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::forever(RETRY_DELAY_MS)
    }

    async fn execute(&self, run: &Run<DeleteImage>) -> Result<(), TaskError> {
        let (id, lease) = (run.params.image_id, run.lease());
        for pool in run.ctx.stores.pools() {
            data::detach_clones(pool, id, &lease).await?;
        }
        Ok(())
    }
}

struct RemoveData;

#[async_trait]
impl Task<DeleteImage> for RemoveData {
    const NAME: &'static str = "remove_data";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::forever(RETRY_DELAY_MS)
    }

    async fn execute(&self, run: &Run<DeleteImage>) -> Result<(), TaskError> {
        for pool in run.ctx.stores.pools() {
            data::remove_detached(pool, run.params.image_id).await?;
        }
        Ok(())
    }
}

struct Forget;

#[async_trait]
impl Task<DeleteImage> for Forget {
    const NAME: &'static str = "forget";
    const RECORD_ONLY: bool = true;
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::forever(RETRY_DELAY_MS)
    }

    async fn execute(&self, _: &Run<DeleteImage>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<DeleteImage>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        staging::forget(tx, run.params.image_id).await?;
        Ok(locations::delete_all(tx, run.params.image_id).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use database::Database;
    use storage::ImageSpec;
    use taskflow::testing::{Fixture, exhaust};

    use super::*;
    use crate::db::images;
    use crate::flows::testing::World;

    /// A deleted image with data, a clone of it, and the flow.
    struct Deleted {
        world: World,
        flow_id: Uuid,
        clone: ImageSpec,
    }

    impl Deleted {
        async fn new() -> Self {
            let world = World::new().await;
            let id = world.image_id;
            let store = &world.store;
            let snapshot = world.default_pool().snapshot(id);
            store.create(&snapshot.image, 8192).await.unwrap();
            let handle = store.open(&snapshot.image, None).await.unwrap();
            handle.write(0, Bytes::from(vec![5; 8192])).await.unwrap();
            store.create_snapshot(&snapshot).await.unwrap();
            store.protect_snapshot(&snapshot).await.unwrap();
            store.ensure_pool("volumes").await.unwrap();
            let clone = ImageSpec::new("volumes", "volume-1");
            store.clone_image(&snapshot, &clone).await.unwrap();
            let mut tx = world.database().begin().await.unwrap();
            let location = crate::image::Location {
                url: "rbd://a/b/c/d".into(),
                metadata: Default::default(),
            };
            locations::replace_all(&mut tx, id, &[location])
                .await
                .unwrap();
            assert!(images::mark_deleted(&mut tx, id).await.unwrap());
            let flow = taskflow::NewFlow::of::<DeleteImage>(&Params { image_id: id }).unwrap();
            let flow_id = flow.insert(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            Deleted {
                world,
                flow_id,
                clone,
            }
        }
    }

    #[async_trait]
    impl Fixture<DeleteImage> for Deleted {
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
            let store = &self.world.store;
            assert_eq!(store.images("images").await.unwrap(), [""; 0]);
            assert_eq!(store.info(&self.clone).await.unwrap().parent, None);
            let clone = store.open(&self.clone, None).await.unwrap();
            assert_eq!(clone.read(0, 8192).await.unwrap(), vec![5; 8192]);
            let left = locations::of_image(self.database(), self.world.image_id)
                .await
                .unwrap();
            assert_eq!(left, []);
        }

        async fn assert_reverted(&self) {
            panic!("a delete only goes forward");
        }
    }

    #[tokio::test]
    async fn the_data_goes_whatever_fails_and_the_clone_lives() {
        exhaust::<DeleteImage, _>(Deleted::new).await;
    }
}
