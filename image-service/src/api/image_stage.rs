//! PUT of an image's data into the staging pool.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use futures_util::StreamExt;
use rest::RequestContext;
use taskflow::NewFlow;

use super::image_data::{self, wait};
use super::{Service, access};
use crate::ImageService;
use crate::db::images;
use crate::error::{Error, Result};
use crate::flows::stage::{Params, StageImage};
use crate::image::{Image, Status, lock_key};
use crate::quota::{self, Demand};
use crate::uploads::{DataStream, drain};

/// Stages the request's body; answers when all of it is there.
pub async fn stage(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode> {
    let (parts, body) = request.into_parts();
    let mut data: DataStream = Box::pin(
        body.into_data_stream()
            .map(|piece| piece.map_err(std::io::Error::other)),
    );
    match prepare(&service, &context, &id, &parts.headers).await {
        Ok(staging) => {
            store(&service, &context, staging, data).await?;
            Ok(StatusCode::NO_CONTENT)
        }
        Err(error) => {
            drain(&mut data).await;
            Err(error)
        }
    }
}

/// Data that may be staged.
struct Staging {
    image: Image,
    declared_bytes: Option<u64>,
    limit_bytes: u64,
}

async fn prepare(
    service: &ImageService,
    context: &RequestContext,
    id: &str,
    headers: &axum::http::HeaderMap,
) -> Result<Staging> {
    let mut enabled = service.options.enabled_import_methods.iter();
    if !enabled.any(|method| method == "glance-direct") {
        let message = "'glance-direct' method is not available at this site.";
        return Err(Error::NotFound(message.to_owned()));
    }
    image_data::check_media_type(headers)?;
    let declared_bytes = image_data::declared_bytes(headers)?;
    let image = access::find_for(service, context, id, "modify_image")
        .await?
        .image;
    if image.status != Status::Queued {
        return Err(not_queued(image.status));
    }
    let limit_bytes = image_data::limit_bytes(service, &image).await?;
    image_data::check_declared(declared_bytes, limit_bytes)?;
    Ok(Staging {
        image,
        declared_bytes,
        limit_bytes,
    })
}

fn not_queued(status: Status) -> Error {
    Error::Conflict(format!(
        "Image status transition from {status} to uploading is not allowed"
    ))
}

/// queued → uploading and the flow, in one transaction; then the flow takes the data.
async fn store(
    service: &ImageService,
    context: &RequestContext,
    staging: Staging,
    data: DataStream,
) -> Result<()> {
    let image_id = staging.image.id;
    let params = Params {
        image_id,
        limit_bytes: staging.limit_bytes,
    };
    let flow = NewFlow::of::<StageImage>(&params)?
        .queue(service.upload_queue())
        .resource("image", image_id)
        .request(&context.request_id, context.project(), &context.user_id)
        .lock_exclusive(lock_key(image_id));
    let upload_id = flow.id();
    let uploads = &service.uploads;
    let mut ticket = uploads.register(upload_id, data, staging.declared_bytes);
    if let Err(refused) = begin(service, &staging, flow).await {
        if let Some(mut source) = uploads.take(upload_id) {
            drain(&mut source.data).await;
        }
        return Err(refused);
    }
    service.doorbell.wake();
    wait(service, &mut ticket, image_id, upload_id).await
}

async fn begin(service: &ImageService, staging: &Staging, flow: NewFlow) -> Result<()> {
    let image = &staging.image;
    let limits = quota::limits_of(service, image.owner.as_deref()).await?;
    let mut tx = service.database.begin().await?;
    if !images::begin_stage(&mut tx, image.id, flow.id()).await? {
        let now = images::find_locked(&mut tx, image.id).await?;
        let now = now.ok_or_else(|| Error::no_image(image.id))?;
        return Err(not_queued(now.status));
    }
    let bytes = staging.declared_bytes.unwrap_or(0);
    let demands = [Demand::Uploading, Demand::Staged { bytes }];
    quota::check(&mut tx, &limits, image.owner.as_deref(), &demands).await?;
    flow.insert(&mut tx).await?;
    Ok(tx.commit().await?)
}
