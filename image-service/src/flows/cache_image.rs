//! `image:cache`: an image that was queued for this node's cache is copied into it.
//!
//! One task, which begins anew after a crash: what it leaves half-made is overwritten. An image
//! that is gone, too large, or no longer queued is nothing to copy, and no failure.

use async_trait::async_trait;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::class;
use crate::ImageService;
use crate::cache::{ImageCache, NewCopy};
use crate::data_source;
use crate::db::images;
use crate::error::Error;
use crate::image::Status;
use crate::uploads::DataStream;

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
            Some((data, size)) => copy(run, cache, data, size).await,
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

/// The image's data and how many bytes it is; `None`: there is nothing to copy.
async fn source(
    service: &ImageService,
    cache: &ImageCache,
    id: Uuid,
) -> Result<Option<(DataStream, u64)>, TaskError> {
    let image = images::find(&service.database, id).await?;
    let Some(image) = image.filter(|image| image.status == Status::Active) else {
        return Ok(None);
    };
    let Some(size) = image.size_bytes.filter(|size| *size <= cache.max_bytes()) else {
        tracing::warn!(image = %id, "the image is larger than the cache");
        return Ok(None);
    };
    let opened = data_source::open_image(service, &image, &[]).await;
    let unavailable =
        |error: Error| TaskError::retryable(class::STORE_UNAVAILABLE, error.to_string());
    let found = opened.map_err(unavailable)?;
    Ok(found.map(|found| (found.into_stream(service), size)))
}

async fn copy(
    run: &Run<CacheImage>,
    cache: &ImageCache,
    data: DataStream,
    size: u64,
) -> Result<(), TaskError> {
    let copy = cache.begin(run.params.image_id).await.map_err(failed)?;
    match fill(run, data, size, &copy).await {
        Ok(()) => copy.finish().await.map_err(failed),
        Err(error) => {
            if let Err(kept) = copy.abandon().await {
                tracing::warn!(error = %kept, "an incomplete copy stays in the image cache");
            }
            Err(error)
        }
    }
}

/// Not a byte more or less than the image has, which may lie on a web server.
async fn fill(
    run: &Run<CacheImage>,
    mut data: DataStream,
    size: u64,
    copy: &NewCopy,
) -> Result<(), TaskError> {
    let mut offset: u64 = 0;
    while let Some(piece) = data.next().await {
        if run.is_lost() {
            return Err(TaskError::interrupted());
        }
        let piece = piece.map_err(|error| TaskError::retryable(class::FETCH, error.to_string()))?;
        let end = offset.saturating_add(piece.len() as u64);
        if end > size {
            return Err(wrong_size(size));
        }
        copy.write(offset, piece).await.map_err(failed)?;
        offset = end;
    }
    if offset < size {
        return Err(wrong_size(size));
    }
    Ok(())
}

fn wrong_size(size: u64) -> TaskError {
    let message = format!("the data is not the {size} bytes that the image has");
    TaskError::new(class::SIZE_MISMATCH, message)
}
