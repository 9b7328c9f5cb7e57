//! The task that gives the data to the stores.

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::SnapshotSpec;
use taskflow::{Retry, Run, Task, TaskError};

use super::plugins::staged_now;
use super::sources::StageData;
use super::{ImportImage, Method, Params, SourceData, target};
use crate::db::imports;
use crate::flows::{class, data, image_gone, unknown_store};
use crate::stores::Pool;

/// Which stores have the data now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub stores: Vec<String>,
    /// Only where not all stores must succeed.
    pub failed: Vec<String>,
}

pub struct PlaceInStores;

#[async_trait]
impl Task<ImportImage> for PlaceInStores {
    const NAME: &'static str = "place_in_stores";
    type Output = Placed;

    fn retry(&self) -> Retry {
        Retry::times(3, 500)
    }

    async fn execute(&self, run: &Run<ImportImage>) -> Result<Placed, TaskError> {
        let params = &run.params;
        let (pool, snapshot) = source(run)?;
        let mut placed = Placed {
            stores: Vec::new(),
            failed: Vec::new(),
        };
        for store in &params.stores {
            if run.is_lost() {
                return Err(TaskError::interrupted());
            }
            match place(run, (pool, &snapshot), store).await {
                Ok(()) => placed.stores.push(store.clone()),
                Err(mut error) if params.all_stores_must_succeed => {
                    if !store.is_empty() {
                        error.class = format!("{}{store}", class::IN_STORE);
                    }
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(image = %params.image_id, store, %error, "one store was left out");
                    remove(run, store).await?;
                    placed.failed.push(store.clone());
                }
            }
        }
        if placed.stores.is_empty() && params.method != Method::CopyImage {
            let message = "None of the uploads finished!";
            return Err(TaskError::new("NoStore", message));
        }
        Ok(placed)
    }

    async fn record(
        &self,
        run: &Run<ImportImage>,
        placed: &Placed,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let Params {
            image_id, stores, ..
        } = &run.params;
        if !imports::still_locked(tx, *image_id, run.flow.id).await? {
            return Err(image_gone(*image_id));
        }
        Ok(imports::end_stores(tx, *image_id, stores, &placed.failed).await?)
    }

    async fn revert(&self, run: &Run<ImportImage>, _: Option<&Placed>) -> Result<(), TaskError> {
        for store in &run.params.stores {
            remove(run, store).await?;
        }
        Ok(())
    }
}

/// The pool that holds the data, and what it is there.
fn source(run: &Run<ImportImage>) -> Result<(&Pool, SnapshotSpec), TaskError> {
    let (stores, image_id) = (&run.ctx.stores, run.params.image_id);
    if let Some(staged) = staged_now(run)? {
        return Ok((&stores.staging, stores.staging.snapshot(staged.name)));
    }
    let SourceData::Stored { url } = run.output::<StageData>()? else {
        return Err(TaskError::new(class::DATA_LOST, "there is no staged data"));
    };
    let held = stores.own_pool(url, image_id);
    let gone = || unknown_store(format!("the data at {url} is in no store"));
    held.map(|(_, pool)| (pool, pool.snapshot(image_id)))
        .ok_or_else(gone)
}

async fn place(
    run: &Run<ImportImage>,
    from: (&Pool, &SnapshotSpec),
    store: &str,
) -> Result<(), TaskError> {
    let (_, pool) = target(run, store)?;
    data::place(from, pool, run.params.image_id).await
}

/// A store that the configuration does not have got nothing of this import.
async fn remove(run: &Run<ImportImage>, store: &str) -> Result<(), TaskError> {
    match target(run, store) {
        Ok((_, pool)) => data::remove(pool, run.params.image_id, &run.lease()).await,
        Err(error) => {
            tracing::warn!(image = %run.params.image_id, %error, "nothing was removed");
            Ok(())
        }
    }
}
