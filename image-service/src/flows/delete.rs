//! `image:delete`: gives back the space of an image whose row is deleted already.
//!
//! | Task | Does |
//! |---|---|
//! | `DetachClones` | flattens the clones of `images/<id>@snap`, and unprotects it |
//! | `RemoveData` | removes the snapshot and the image |
//! | `Forget` | removes the image's locations |
//!
//! Nobody can see the image any more, so there is nothing to go back to: every task is tried
//! until it succeeds.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::SnapshotSpec;
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::{gone_is_done, store_error};
use crate::ImageService;
use crate::db::locations;

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
        let snapshot = run.ctx.store_snapshot(run.params.image_id);
        flatten_clones(run, &snapshot).await?;
        // A clone that was made in between makes this `Busy`, and the task runs again.
        gone_is_done(run.ctx.store.unprotect_snapshot(&snapshot).await)
    }
}

async fn flatten_clones(run: &Run<DeleteImage>, snapshot: &SnapshotSpec) -> Result<(), TaskError> {
    let clones = match run.ctx.store.children(snapshot).await {
        Ok(clones) => clones,
        Err(storage::Error::NotFound(_)) => return Ok(()),
        Err(error) => return Err(store_error(error)),
    };
    for clone in clones {
        if run.is_lost() {
            return Err(TaskError::interrupted());
        }
        gone_is_done(run.ctx.store.flatten(&clone).await)?;
    }
    Ok(())
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
        let snapshot = run.ctx.store_snapshot(run.params.image_id);
        gone_is_done(run.ctx.store.remove_snapshot(&snapshot).await)?;
        gone_is_done(run.ctx.store.remove(&snapshot.image).await)
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
        Ok(locations::delete_all(tx, run.params.image_id).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use database::Database;
    use storage::{ImageSpec, ImageStore};
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
            let snapshot = world.service.store_snapshot(id);
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
            locations::insert_first(&mut tx, id, &location)
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
