//! `image:import`: data that is staged, fetched or in another store becomes the image's data in
//! the stores that were asked for.
//!
//! | Task | Does | Undone by |
//! |---|---|---|
//! | `begin` | the task is processing | removing staged data; importing → queued; the task has failed |
//! | `fetch_metadata` | glance-download: the other image's document | – |
//! | `stage_data` | finds staged data, or fetches it into `<staging pool>/<id>` | (by `begin`) |
//! | `decompress_data` | a packed file's content into `<staging pool>/<id>.unpacked` | (by `begin`) |
//! | `verify_data` | the data is what the image's formats say; not for copy-image | – |
//! | `convert_data` | the disk in another format into `<staging pool>/<id>.converted` | (by `begin`) |
//! | `place_in_stores` | `<pool>/<id>@snap` in every store, without moving data | removing it |
//! | `remove_staged` | `<staging pool>/<id>…` goes | – |
//! | `finish` | locations, size, hashes, formats, importing → active, the task has succeeded | – |
//!
//! `decompress_data` and `convert_data` are there where `image_import_plugins` says so. They read
//! and write images of the store, so that no file of any size lies anywhere else.
//!
//! The id of the clients' task is the flow's id. The request that inserts the flow marks the image
//! (see [`crate::imports`]): whatever happens here, `begin` or `finish` takes the marks away.

mod place;
#[cfg(test)]
mod plugin_tests;
mod plugins;
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
use super::{class, image_gone, unknown_store};
use crate::ImageService;
use crate::db::images::{self, Data};
use crate::db::staging::StagedData;
use crate::db::{imports, locations, staging, tasks};
use crate::format_check;
use crate::image::{Location, TaskStatus};
use crate::import_plugins::Plugins;
use crate::remote_image::RemoteImage;
use crate::stores::{Pool, Store};
use place::PlaceInStores;
use plugins::{ConvertData, DecompressData, remove_staged, staged_now};
use sources::{FetchMetadata, StageData};

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
    /// The most bytes that may be fetched, unpacked or converted.
    pub limit_bytes: u64,
    #[serde(default)]
    pub plugins: Plugins,
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
        if params.plugins.decompress {
            tasks.push(boxed(DecompressData));
        }
        if params.method != Method::CopyImage {
            tasks.push(boxed(VerifyData));
        }
        if params.plugins.convert_to.is_some() {
            tasks.push(boxed(ConvertData));
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
        remove_staged(run).await
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

/// After the plugins that unpack, before those that convert.
struct VerifyData;

#[async_trait]
impl Task<ImportImage> for VerifyData {
    const NAME: &'static str = "verify_data";
    /// The virtual size, where it is known.
    type Output = Option<u64>;

    async fn execute(&self, run: &Run<ImportImage>) -> Result<Option<u64>, TaskError> {
        let Some(staged) = staged_now(run)? else {
            return Ok(None);
        };
        let declared = Formats::declared(run).await?;
        if declared.container_format != "bare" {
            return Ok(None);
        }
        let (disk_format, options) = (&declared.disk_format, &run.ctx.options);
        format_check::check(disk_format, &staged.data.inspection, options)
            .map_err(|why| TaskError::new(class::FORMAT_MISMATCH, why))
    }
}

/// What the image says of its data.
struct Formats {
    container_format: String,
    disk_format: String,
}

impl Formats {
    async fn declared(run: &Run<ImportImage>) -> Result<Self, TaskError> {
        if let Ok(metadata) = run.output::<FetchMetadata>() {
            return Ok(Formats {
                container_format: metadata.container_format.clone(),
                disk_format: metadata.disk_format.clone(),
            });
        }
        let image_id = run.params.image_id;
        let image = images::find(&run.ctx.database, image_id).await?;
        let image = image.ok_or_else(|| image_gone(image_id))?;
        Ok(Formats {
            container_format: image.container_format.unwrap_or_default(),
            disk_format: image.disk_format.unwrap_or_default(),
        })
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
        remove_staged(run).await
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
        let image = images::find_locked(tx, image_id).await?;
        let bytes = image.and_then(|image| image.size_bytes).unwrap_or(0);
        let message = format!("Copied {} MiB", bytes >> 20);
        end_task(run, tx, TaskStatus::Success, &message).await
    }
}

/// importing → active, with what the data turned out to be and what comes with it.
async fn activate(run: &Run<ImportImage>, tx: &mut Tx) -> Result<(), TaskError> {
    let image_id = run.params.image_id;
    write_attributes(run, tx).await?;
    let missing = || TaskError::new(class::DATA_LOST, "there is no staged data");
    let staged = staged_now(run)?.ok_or_else(missing)?;
    let data = Data {
        size_bytes: staged.data.size_bytes(),
        virtual_size_bytes: match plugins::converted(run) {
            Some(converted) => Some(converted.virtual_size_bytes),
            None => *run.output::<VerifyData>()?,
        },
        checksum: &staged.data.checksum,
        os_hash_algo: HASH_ALGORITHM,
        os_hash_value: &staged.data.os_hash_value,
    };
    match imports::activate(tx, image_id, &data).await? {
        true => Ok(()),
        false => Err(image_gone(image_id)),
    }
}

/// Formats and properties that the image's source or a plugin gives it.
async fn write_attributes(run: &Run<ImportImage>, tx: &mut Tx) -> Result<(), TaskError> {
    let Params {
        image_id, plugins, ..
    } = &run.params;
    let metadata = run.output::<FetchMetadata>().ok();
    let format = plugins::converted(run).and(plugins.convert_to);
    if metadata.is_none() && format.is_none() && plugins.inject.is_empty() {
        return Ok(());
    }
    let image = images::find_locked(tx, *image_id).await?;
    let mut image = image.ok_or_else(|| image_gone(*image_id))?;
    if let Some(metadata) = metadata {
        metadata.apply(&mut image);
    }
    if let Some(format) = format {
        image.disk_format = Some(format.disk_format().to_owned());
        image.container_format = Some("bare".to_owned());
    }
    for (name, value) in &plugins.inject {
        let value = Some(value.clone());
        image.properties.insert(name.clone(), value);
    }
    Ok(images::update(tx, &mut image).await?)
}
