//! The tasks that bring an import's data and, for glance-download, its metadata.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use taskflow::{Retry, Run, Task, TaskError};

use super::{ImportImage, Method, SourceData};
use crate::db::staging::StagedData;
use crate::db::{locations, staging};
use crate::fetch::{self, Fetched};
use crate::flows::receive::{Sink, receive_fetched};
use crate::flows::watch::TaskWatch;
use crate::flows::{class, data, fetch_error};
use crate::image::{Image, Key, NAME_CHARS_MAX, PROPERTY_VALUE_BYTES_MAX, Status};
use crate::remote_image::Grant;

/// Attempts to fetch what does not come.
const FETCH_ATTEMPTS: Retry = Retry::times(3, 1_000);

/// What is taken over of the other image's document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub container_format: String,
    pub disk_format: String,
    pub size_bytes: u64,
    properties: BTreeMap<String, String>,
}

impl Metadata {
    /// Only properties that begin with one of `prefixes` are taken. Errors: the image has no data,
    /// or the document is none of an image.
    fn of_document(document: &Value, prefixes: &[String]) -> Result<Self, String> {
        let status = document["status"].as_str().unwrap_or_default();
        if status != Status::Active.as_str() {
            return Err(format!(
                "Source image status should be active instead of {status}"
            ));
        }
        let text = |name: &str| {
            let value = document[name].as_str().filter(|text| text.len() <= 32);
            let missing = || format!("The source image has no {name}.");
            value.map(str::to_owned).ok_or_else(missing)
        };
        let size_bytes = document["size"].as_u64();
        let members = document.as_object().into_iter().flatten();
        let properties = members.filter_map(|(name, value)| {
            let value = value.as_str()?;
            let wanted = prefixes.iter().any(|prefix| name.starts_with(prefix))
                && Key::of(name) == Key::Property
                && name.chars().count() <= NAME_CHARS_MAX
                && value.len() <= PROPERTY_VALUE_BYTES_MAX;
            wanted.then(|| (name.clone(), value.to_owned()))
        });
        Ok(Metadata {
            container_format: text("container_format")?,
            disk_format: text("disk_format")?,
            size_bytes: size_bytes.ok_or("The size of the source image is not known.")?,
            properties: properties.collect(),
        })
    }

    /// Makes the image's formats and properties those of the source.
    pub fn apply(&self, image: &mut Image) {
        image.container_format = Some(self.container_format.clone());
        image.disk_format = Some(self.disk_format.clone());
        for (name, value) in &self.properties {
            let value = Some(value.clone());
            image.properties.insert(name.clone(), value);
        }
    }
}

/// The right of the user to read the other image, which only this process knows.
fn grant(run: &Run<ImportImage>) -> Result<Grant, TaskError> {
    let message = "the process that was given the user's token has ended";
    let lost = || TaskError::new(class::DATA_LOST, message);
    run.ctx.grants.get(run.flow.id).ok_or_else(lost)
}

pub struct FetchMetadata;

#[async_trait]
impl Task<ImportImage> for FetchMetadata {
    const NAME: &'static str = "fetch_metadata";
    type Output = Metadata;

    fn retry(&self) -> Retry {
        FETCH_ATTEMPTS
    }

    async fn execute(&self, run: &Run<ImportImage>) -> Result<Metadata, TaskError> {
        let Method::GlanceDownload(remote) = &run.params.method else {
            return Err(TaskError::new(class::FETCH, "there is no other image"));
        };
        let document = remote.document(&grant(run)?).await.map_err(fetch_error)?;
        let prefixes = &run.ctx.options.glance_download_properties;
        Metadata::of_document(&document, prefixes)
            .map_err(|message| TaskError::new(class::FETCH, message))
    }
}

pub struct StageData;

#[async_trait]
impl Task<ImportImage> for StageData {
    const NAME: &'static str = "stage_data";
    type Output = SourceData;

    fn retry(&self) -> Retry {
        FETCH_ATTEMPTS
    }

    async fn execute(&self, run: &Run<ImportImage>) -> Result<SourceData, TaskError> {
        let staged = match &run.params.method {
            Method::GlanceDirect => find_staged(run).await?,
            Method::WebDownload { uri } => fetch_uri(run, uri).await?,
            Method::GlanceDownload(remote) => {
                let fetched = remote.data(&grant(run)?).await.map_err(fetch_error)?;
                let staged = stage(run, fetched).await?;
                check_size(run, &staged)?;
                staged
            }
            Method::CopyImage => return copy_source(run).await,
        };
        Ok(SourceData::Staged(staged))
    }
}

async fn find_staged(run: &Run<ImportImage>) -> Result<StagedData, TaskError> {
    let found = staging::find(&run.ctx.database, run.params.image_id).await?;
    found.ok_or_else(|| TaskError::new(class::DATA_LOST, "there is no staged data"))
}

async fn fetch_uri(run: &Run<ImportImage>, uri: &str) -> Result<StagedData, TaskError> {
    let fetched = fetch::get(&run.ctx.options.import_filter, uri).await;
    stage(run, fetched.map_err(fetch_error)?).await
}

/// The image's data in a pool, or else at its address on the web.
async fn copy_source(run: &Run<ImportImage>) -> Result<SourceData, TaskError> {
    let (service, image_id) = (&run.ctx, run.params.image_id);
    let mut held = locations::of_image(&service.database, image_id).await?;
    service.stores.sort(&mut held);
    let own = |url: &str| service.stores.own_pool(url, image_id).is_some();
    if let Some(held) = held.iter().find(|held| own(&held.url)) {
        let url = held.url.clone();
        return Ok(SourceData::Stored { url });
    }
    match held.first() {
        Some(held) if held.url.starts_with("http") => {
            Ok(SourceData::Staged(fetch_uri(run, &held.url).await?))
        }
        _ => {
            let message = "the image has no data that can be copied";
            Err(TaskError::new(class::DATA_LOST, message))
        }
    }
}

/// Data that comes in becomes the staged data of the image.
async fn stage(run: &Run<ImportImage>, fetched: Fetched) -> Result<StagedData, TaskError> {
    stage_as(run, run.params.image_id.to_string(), fetched).await
}

/// Stores data under this name in the staging pool, in place of what an earlier run left.
pub async fn stage_as(
    run: &Run<ImportImage>,
    name: String,
    fetched: Fetched,
) -> Result<StagedData, TaskError> {
    let limit_bytes = run.params.limit_bytes;
    if let Some(size) = fetched.size_bytes.filter(|size| *size > limit_bytes) {
        let message = format!("The data has {size} bytes, {limit_bytes} are allowed");
        return Err(TaskError::new(class::TOO_LARGE, message));
    }
    let pool = &run.ctx.stores.staging;
    data::remove(pool, &name, &run.lease()).await?;
    let sink = Sink::new(pool, &name, limit_bytes, &run.ctx.transfer_memory);
    let watch = TaskWatch::new(run, run.params.image_id);
    let fetched = Fetched {
        data: watch.counted(fetched.data),
        ..fetched
    };
    let received = receive_fetched(&sink, fetched, &watch).await?;
    data::protect(pool, &name).await?;
    Ok(received.into())
}

fn check_size(run: &Run<ImportImage>, staged: &StagedData) -> Result<(), TaskError> {
    let expected = run.output::<FetchMetadata>()?.size_bytes;
    let size = staged.size_bytes();
    if size == expected {
        return Ok(());
    }
    let message = format!("{size} bytes came of an image that has {expected}");
    Err(TaskError::new(class::SIZE_MISMATCH, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_named_properties_are_taken_over() {
        let prefixes = ["hw_", "os_"].map(str::to_owned);
        let document = json!({
            "status": "active", "size": 5, "container_format": "bare", "disk_format": "raw",
            "hw_a": "1", "os_distro": "x", "os_hidden": false, "os_hash_value": "no",
            "os_glance_import_task": "no", "hw_null": null, "speed": "no",
        });
        let metadata = Metadata::of_document(&document, &prefixes).unwrap();
        let names: Vec<_> = metadata.properties.keys().collect();
        assert_eq!(names, ["hw_a", "os_distro"]);
        assert_eq!(metadata.size_bytes, 5);
        for (name, value) in [("status", json!("queued")), ("size", Value::Null)] {
            let mut broken = document.clone();
            broken[name] = value;
            assert!(Metadata::of_document(&broken, &prefixes).is_err(), "{name}");
        }
    }
}
