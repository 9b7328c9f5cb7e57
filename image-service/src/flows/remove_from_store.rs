//! `image:remove-from-store`: gives back the space of locations that an image has lost already.
//!
//! | Task | Does |
//! |---|---|
//! | `detach_clones` | flattens the clones of `<pool>/<id>@snap`, and unprotects it |
//! | `remove_data` | removes the snapshot and the image |
//!
//! No document shows these locations any more, so there is nothing to go back to: both tasks are
//! tried until they succeed.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::{data, unknown_store};
use crate::ImageService;
use crate::stores::Pool;

/// Pause before the second attempt; it doubles up to a minute.
const RETRY_DELAY_MS: u64 = 200;

/// The flow.
pub struct RemoveFromStore;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
    /// Ids of the stores; `""` is the only one where stores have no ids.
    pub stores: Vec<String>,
}

impl Flow for RemoveFromStore {
    const KIND: &'static str = "image:remove-from-store";
    type Context = ImageService;
    type Params = Params;

    fn tasks(_: &Params) -> Vec<BoxTask<Self>> {
        vec![boxed(DetachClones), boxed(RemoveData)]
    }
}

fn pools(run: &Run<RemoveFromStore>) -> Result<Vec<&Pool>, TaskError> {
    let chosen = run.params.stores.iter().map(|id| {
        let chosen = run.ctx.stores.choose_pool(Some(id));
        chosen.map(|(_, pool)| pool).map_err(unknown_store)
    });
    chosen.collect()
}

struct DetachClones;

#[async_trait]
impl Task<RemoveFromStore> for DetachClones {
    const NAME: &'static str = "detach_clones";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::forever(RETRY_DELAY_MS)
    }

    async fn execute(&self, run: &Run<RemoveFromStore>) -> Result<(), TaskError> {
        for pool in pools(run)? {
            data::detach_clones(pool, run.params.image_id, &run.lease()).await?;
        }
        Ok(())
    }
}

struct RemoveData;

#[async_trait]
impl Task<RemoveFromStore> for RemoveData {
    const NAME: &'static str = "remove_data";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::forever(RETRY_DELAY_MS)
    }

    async fn execute(&self, run: &Run<RemoveFromStore>) -> Result<(), TaskError> {
        for pool in pools(run)? {
            data::remove_detached(pool, run.params.image_id).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use database::Database;
    use storage::ImageSpec;
    use taskflow::testing::{Fixture, exhaust};

    use super::*;
    use crate::flows::testing::{World, two_stores};

    /// An image in two stores, a clone of it in the second, and the flow for the second.
    struct Removed {
        world: World,
        flow_id: Uuid,
        clone: ImageSpec,
    }

    impl Removed {
        async fn new() -> Self {
            let world = World::with(two_stores()).await;
            let image_id = world.image_id;
            for store in ["a", "b"] {
                world.put_data(store, &[5; 8192]).await;
            }
            let (_, second) = world.service.stores.choose_pool(Some("b")).unwrap();
            let clone = ImageSpec::new(&second.name, "volume-1");
            let parent = second.snapshot(image_id);
            world.store.clone_image(&parent, &clone).await.unwrap();
            let stores = vec!["b".to_owned()];
            let params = Params { image_id, stores };
            let flow = taskflow::NewFlow::of::<RemoveFromStore>(&params).unwrap();
            let mut tx = world.database().begin().await.unwrap();
            let flow_id = flow.insert(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            Removed {
                world,
                flow_id,
                clone,
            }
        }
    }

    #[async_trait]
    impl Fixture<RemoveFromStore> for Removed {
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
            let id = self.world.image_id.to_string();
            assert_eq!(store.images("pool-a").await.unwrap(), [id.as_str()]);
            assert_eq!(store.images("pool-b").await.unwrap(), ["volume-1"]);
            let clone = store.open(&self.clone, None).await.unwrap();
            assert_eq!(clone.read(0, 8192).await.unwrap(), vec![5; 8192]);
        }

        async fn assert_reverted(&self) {
            panic!("a removal only goes forward");
        }
    }

    #[tokio::test]
    async fn the_copy_goes_whatever_fails_and_the_clone_lives() {
        exhaust::<RemoveFromStore, _>(Removed::new).await;
    }
}
