//! `image:cache`: an image that was queued for this node's cache is copied into it.
//!
//! One task, which begins anew after a crash: what it leaves half-made is overwritten. An image
//! that is gone, too large, or no longer queued is nothing to copy, and no failure.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use storage::ImageHandle;
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::store_error;
use crate::ImageService;
use crate::api;
use crate::cache::{ImageCache, NewCopy};
use crate::db::images;
use crate::image::Status;

/// The flow.
pub struct CacheImage;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
}

impl Flow for CacheImage {
    const KIND: &'static str = "image:cache";
    type Context = ImageService;
    type Params = Params;

    fn tasks(_: &Params) -> Vec<BoxTask<Self>> {
        vec![boxed(CopyData)]
    }
}

struct CopyData;

#[async_trait]
impl Task<CacheImage> for CopyData {
    const NAME: &'static str = "copy_data";
    type Output = ();

    fn retry(&self) -> Retry {
        Retry::times(3, 1000)
    }

    async fn execute(&self, run: &Run<CacheImage>) -> Result<(), TaskError> {
        let id = run.params.image_id;
        let Some(cache) = &run.ctx.cache else {
            return Ok(());
        };
        if !cache.is_queued(id).await.map_err(failed)? {
            return Ok(());
        }
        match source(&run.ctx, cache, id).await? {
            Some(handle) => copy(run, cache, handle).await,
            None => cache.unqueue(id).await.map(|_| ()).map_err(failed),
        }
    }

    async fn revert(&self, run: &Run<CacheImage>, _: Option<&()>) -> Result<(), TaskError> {
        match &run.ctx.cache {
            Some(cache) => {
                let unqueued = cache.unqueue(run.params.image_id).await;
                unqueued.map(|_| ()).map_err(failed)
            }
            None => Ok(()),
        }
    }
}

fn failed(error: std::io::Error) -> TaskError {
    TaskError::retryable("ImageCache", error.to_string())
}

/// The image's data; `None`: there is nothing to copy.
async fn source(
    service: &ImageService,
    cache: &ImageCache,
    id: Uuid,
) -> Result<Option<Arc<dyn ImageHandle>>, TaskError> {
    let image = images::find(&service.database, id).await?;
    let Some(image) = image.filter(|image| image.status == Status::Active) else {
        return Ok(None);
    };
    if image.size_bytes.is_none_or(|size| size > cache.max_bytes()) {
        tracing::warn!(image = %id, "the image is larger than the cache");
        return Ok(None);
    }
    let opened = api::open_data(service, &image).await;
    opened.map_err(|error| TaskError::retryable(super::class::STORE_UNAVAILABLE, error.to_string()))
}

async fn copy(
    run: &Run<CacheImage>,
    cache: &ImageCache,
    handle: Arc<dyn ImageHandle>,
) -> Result<(), TaskError> {
    let copy = cache.begin(run.params.image_id).await.map_err(failed)?;
    match fill(run, handle.as_ref(), &copy).await {
        Ok(()) => copy.finish().await.map_err(failed),
        Err(error) => {
            if let Err(kept) = copy.abandon().await {
                tracing::warn!(error = %kept, "an incomplete copy stays in the image cache");
            }
            Err(error)
        }
    }
}

async fn fill(
    run: &Run<CacheImage>,
    handle: &dyn ImageHandle,
    copy: &NewCopy,
) -> Result<(), TaskError> {
    let size = handle.size_bytes();
    let mut offset = 0;
    while offset < size {
        if run.is_lost() {
            return Err(TaskError::interrupted());
        }
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let length = left.min(run.ctx.options.rbd_store_chunk_size);
        let data = handle.read(offset, length).await.map_err(store_error)?;
        copy.write(offset, data).await.map_err(failed)?;
        offset = offset.saturating_add(length as u64);
    }
    Ok(())
}
