//! `image:import`: data that is staged, fetched or in another store becomes the image's data in
//! the stores that were asked for.
//!
//! | Task | Does | Undone by |
//! |---|---|---|
//! | `begin` | the task is processing | removing staged data; importing → queued; the task has failed |
//! | `fetch_metadata` | glance-download: the other image's document | – |
//! | `stage_data` | finds staged data, or fetches it into `<staging pool>/<id>` | (by `begin`) |
//! | `verify_data` | the data is what the image's formats say; not for copy-image | – |
//! | `place_in_stores` | `<pool>/<id>@snap` in every store, without moving data | removing it |
//! | `remove_staged` | `<staging pool>/<id>` goes | – |
//! | `finish` | locations, size, hashes, importing → active, the task has succeeded | – |
//!
//! The id of the clients' task is the flow's id. The request that inserts the flow marks the image
//! (see [`crate::imports`]): whatever happens here, `begin` or `finish` takes the marks away.

mod sources;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use serde_json::json;
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::upload::HASH_ALGORITHM;
use super::{class, data, image_gone, unknown_store};
use crate::ImageService;
use crate::db::images::{self, Data};
use crate::db::staging::StagedData;
use crate::db::{imports, locations, staging, tasks};
use crate::format_check;
use crate::image::{Location, TaskStatus};
use crate::remote_image::RemoteImage;
use crate::stores::{Pool, Store};
use sources::{FetchMetadata, Metadata, StageData};

/// Pause before the second attempt of what only goes forward; it doubles up to a minute.
const RETRY_DELAY_MS: u64 = 200;

/// The flow.
pub struct ImportImage;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
    pub method: Method,
    /// Ids of stores; `""` is the only one where stores have no ids.
    pub stores: Vec<String>,
    pub all_stores_must_succeed: bool,
    /// The most bytes that may be fetched.
    pub limit_bytes: u64,
}

/// Where the data comes from: the import methods of the Image API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    GlanceDirect,
    WebDownload { uri: String },
    CopyImage,
    GlanceDownload(RemoteImage),
}

#[async_trait]
impl Flow for ImportImage {
    const KIND: &'static str = "image:import";
    type Context = ImageService;
    type Params = Params;

    fn tasks(params: &Params) -> Vec<BoxTask<Self>> {
        let mut tasks = vec![boxed(Begin)];
        if matches!(params.method, Method::GlanceDownload(_)) {
            tasks.push(boxed(FetchMetadata));
        }
        tasks.push(boxed(StageData));
        if params.method != Method::CopyImage {
            tasks.push(boxed(VerifyData));
        }
        tasks.extend([boxed(PlaceInStores), boxed(RemoveStaged), boxed(Finish)]);
        tasks
    }

    /// What is half-made stays, and so do the image's marks; the clients' task has ended.
    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        let message = "The import could not be undone; an operator has to look at it.";
        end_task(run, tx, TaskStatus::Failure, message).await
    }
}

async fn end_task(
    run: &Run<ImportImage>,
    tx: &mut Tx,
    status: TaskStatus,
    message: &str,
) -> Result<(), TaskError> {
    let keep_h = run.ctx.options.task_time_to_live_h;
    let result = json!({"image_id": run.params.image_id});
    let result = (status == TaskStatus::Success).then_some(&result);
    tasks::end(tx, run.flow.id, status, message, result, keep_h).await?;
    let notices = &run.ctx.notices;
    Ok(notices
        .task(tx, run.flow.id, status.as_str(), &run.flow)
        .await?)
}

fn target<'a>(run: &'a Run<ImportImage>, id: &str) -> Result<(&'a Store, &'a Pool), TaskError> {
    let chosen = run.ctx.stores.choose_pool(Some(id));
    chosen.map_err(unknown_store)
}

/// Where the data is, once it is anywhere in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceData {
    /// In the staging pool.
    Staged(StagedData),
    /// In one of the image's own stores already.
    Stored { url: String },
}

struct Begin;

#[async_trait]
impl Task<ImportImage> for Begin {
    const NAME: &'static str = "begin";
    type Output = ();

    async fn execute(&self, _: &Run<ImportImage>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<ImportImage>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        tasks::start(tx, run.flow.id).await?;
        let notices = &run.ctx.notices;
        Ok(notices
            .task(tx, run.flow.id, "processing", &run.flow)
            .await?)
    }

    async fn revert(&self, run: &Run<ImportImage>, _: Option<&()>) -> Result<(), TaskError> {
        run.ctx.grants.forget(run.flow.id);
        let staging = &run.ctx.stores.staging;
        data::remove(staging, run.params.image_id, &run.lease()).await
    }

    async fn record_revert(
        &self,
        run: &Run<ImportImage>,
        _: Option<&()>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let Params {
            image_id,
            method,
            stores,
            ..
        } = &run.params;
        staging::forget(tx, *image_id).await?;
        if imports::unlock(tx, *image_id, run.flow.id).await? {
            let failed = failed_stores(run.failure(), stores);
            imports::end_stores(tx, *image_id, stores, &failed).await?;
            if *method != Method::CopyImage {
                imports::back_to_queued(tx, *image_id).await?;
            }
        }
        let message = run.failure().map_or("", |error| &error.message);
        end_task(run, tx, TaskStatus::Failure, message).await
    }
}

/// The store that failed, or all of them where the data came to none.
fn failed_stores(failure: Option<&TaskError>, stores: &[String]) -> Vec<String> {
    let failed = failure.and_then(|error| error.class.strip_prefix(class::IN_STORE));
    match failed {
        Some(store) => vec![store.to_owned()],
        None => stores.to_vec(),
    }
}

struct VerifyData;

#[async_trait]
impl Task<ImportImage> for VerifyData {
    const NAME: &'static str = "verify_data";
    /// The virtual size, where it is known.
    type Output = Option<u64>;

    async fn execute(&self, run: &Run<ImportImage>) -> Result<Option<u64>, TaskError> {
        let SourceData::Staged(staged) = run.output::<StageData>()? else {
            return Ok(None);
        };
        let image_id = run.params.image_id;
        let image = images::find(&run.ctx.database, image_id).await?;
        let image = image.ok_or_else(|| image_gone(image_id))?;
        let metadata = run.output::<FetchMetadata>().ok();
        let (container_format, disk_format) = match metadata {
            Some(Metadata {
                container_format,
                disk_format,
                ..
            }) => (container_format.clone(), disk_format.clone()),
            None => (
                image.container_format.unwrap_or_default(),
                image.disk_format.unwrap_or_default(),
            ),
        };
        if container_format != "bare" {
            return Ok(None);
        }
        format_check::check(&disk_format, &staged.inspection, &run.ctx.options)
            .map_err(|why| TaskError::new(class::FORMAT_MISMATCH, why))
    }
}

/// Which stores have the data now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub stores: Vec<String>,
    /// Only where not all stores must succeed.
    pub failed: Vec<String>,
}

struct PlaceInStores;

#[async_trait]
impl Task<ImportImage> for PlaceInStores {
    const NAME: &'static str = "place_in_stores";
    type Output = Placed;

    fn retry(&self) -> Retry {
        Retry::times(3, 500)
    }

    async fn execute(&self, run: &Run<ImportImage>) -> Result<Placed, TaskError> {
        let params = &run.params;
        let from = source_pool(run)?;
        let mut placed = Placed {
            stores: Vec::new(),
            failed: Vec::new(),
        };
        for store in &params.stores {
            if run.is_lost() {
                return Err(TaskError::interrupted());
            }
            match place(run, from, store).await {
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

/// The pool that holds the data.
fn source_pool(run: &Run<ImportImage>) -> Result<&Pool, TaskError> {
    let image_id = run.params.image_id;
    match run.output::<StageData>()? {
        SourceData::Staged(_) => Ok(&run.ctx.stores.staging),
        SourceData::Stored { url } => {
            let held = run.ctx.stores.own_pool(url, image_id);
            let gone = || unknown_store(format!("the data at {url} is in no store"));
            held.map(|(_, pool)| pool).ok_or_else(gone)
        }
    }
}

async fn place(run: &Run<ImportImage>, from: &Pool, store: &str) -> Result<(), TaskError> {
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

struct RemoveStaged;

#[async_trait]
impl Task<ImportImage> for RemoveStaged {
    const NAME: &'static str = "remove_staged";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::forever(RETRY_DELAY_MS)
    }

    async fn execute(&self, run: &Run<ImportImage>) -> Result<(), TaskError> {
        let staging = &run.ctx.stores.staging;
        data::remove(staging, run.params.image_id, &run.lease()).await
    }
}

struct Finish;

#[async_trait]
impl Task<ImportImage> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<ImportImage>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<ImportImage>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let image_id = run.params.image_id;
        staging::forget(tx, image_id).await?;
        if !imports::unlock(tx, image_id, run.flow.id).await? {
            return Err(image_gone(image_id));
        }
        let mut held: Vec<Location> = Vec::new();
        if run.params.method == Method::CopyImage {
            held = locations::of_image_in(tx, image_id).await?;
        } else {
            activate(run, tx).await?;
        }
        for store in &run.output::<PlaceInStores>()?.stores {
            let (store, pool) = target(run, store)?;
            held.push(store.location(pool.url(image_id)));
        }
        locations::replace_all(tx, image_id, &held).await?;
        if run.params.method != Method::CopyImage {
            run.ctx.notices.uploaded(tx, image_id, &run.flow).await?;
        }
        run.ctx.grants.forget(run.flow.id);
        end_task(run, tx, TaskStatus::Success, "").await
    }
}

/// importing → active, with what the data turned out to be and what comes with it.
async fn activate(run: &Run<ImportImage>, tx: &mut Tx) -> Result<(), TaskError> {
    let image_id = run.params.image_id;
    if let Ok(metadata) = run.output::<FetchMetadata>() {
        metadata.write(tx, image_id).await?;
    }
    let SourceData::Staged(staged) = run.output::<StageData>()? else {
        return Err(TaskError::new(class::DATA_LOST, "there is no staged data"));
    };
    let data = Data {
        size_bytes: staged.size_bytes(),
        virtual_size_bytes: *run.output::<VerifyData>()?,
        checksum: &staged.checksum,
        os_hash_algo: HASH_ALGORITHM,
        os_hash_value: &staged.os_hash_value,
    };
    match imports::activate(tx, image_id, &data).await? {
        true => Ok(()),
        false => Err(image_gone(image_id)),
    }
}
