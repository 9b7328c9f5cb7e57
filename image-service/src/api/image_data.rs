//! PUT of an image's data.

use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use rest::RequestContext;
use storage::MAX_IMAGE_BYTES;
use taskflow::{NewFlow, TaskError};
use uuid::Uuid;

use super::{Service, access};
use crate::ImageService;
use crate::db::{images, usage};
use crate::error::{Error, Result};
use crate::flows::class;
use crate::flows::upload::{Params, UploadImage};
use crate::image::{Image, Status, lock_key};
use crate::quota::{self, Demand};
use crate::uploads::{DataStream, Ticket, drain};

/// How often a request looks for the end of its upload in the database, should it miss the news.
const LOOK_FOR_END: Duration = Duration::from_secs(2);

/// Stores the request's body as the image's data; answers when it is stored.
pub async fn upload(
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
    let prepared = match prepare(&service, &context, &id, &parts.headers).await {
        Ok(prepared) => prepared,
        Err(error) => {
            drain(&mut data).await;
            return Err(error);
        }
    };
    store(&service, &context, prepared, data).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An upload that may begin.
struct Prepared {
    image: Image,
    declared_bytes: Option<u64>,
    params: Params,
}

async fn prepare(
    service: &ImageService,
    context: &RequestContext,
    id: &str,
    headers: &HeaderMap,
) -> Result<Prepared> {
    check_media_type(headers)?;
    let store = store_header(headers)?.filter(|_| service.stores.have_ids());
    let chosen = service.stores.choose_pool(store.as_deref());
    chosen.map_err(Error::BadRequest)?;
    let declared_bytes = declared_bytes(headers)?;
    let image = access::find_for(service, context, id, "upload_image")
        .await?
        .image;
    if image.status != Status::Queued {
        return Err(not_queued(image.status));
    }
    let (Some(container_format), Some(disk_format)) =
        (image.container_format.clone(), image.disk_format.clone())
    else {
        let message = "Properties disk_format, container_format must be set prior to saving data.";
        return Err(Error::BadRequest(message.to_owned()));
    };
    let limit_bytes = limit_bytes(service, &image).await?;
    check_declared(declared_bytes, limit_bytes)?;
    let params = Params {
        image_id: image.id,
        container_format,
        disk_format,
        limit_bytes,
        store,
    };
    Ok(Prepared {
        image,
        declared_bytes,
        params,
    })
}

/// 415 for anything but bytes.
pub fn check_media_type(headers: &HeaderMap) -> Result<()> {
    if rest::body::media_type(headers).as_deref() == Some("application/octet-stream") {
        return Ok(());
    }
    let message = "Unsupported Content-Type: use application/octet-stream";
    Err(Error::UnsupportedMediaType(message.to_owned()))
}

/// The store that the client names in a header.
pub fn store_header(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get("x-image-meta-store") else {
        return Ok(None);
    };
    let malformed = |_| Error::BadRequest("The header x-image-meta-store is malformed".to_owned());
    let text = value.to_str().map_err(malformed)?.trim();
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// 413 for more than may come.
pub fn check_declared(declared_bytes: Option<u64>, limit_bytes: u64) -> Result<()> {
    match declared_bytes.filter(|declared| *declared > limit_bytes) {
        None => Ok(()),
        Some(declared) => Err(Error::TooLarge(format!(
            "Denying attempt to upload image larger than {limit_bytes} bytes: {declared} bytes were announced."
        ))),
    }
}

fn not_queued(status: Status) -> Error {
    Error::Conflict(format!(
        "Image status transition from {status} to saving is not allowed"
    ))
}

/// Content-Length, or what the client says about a chunked body.
pub fn declared_bytes(headers: &HeaderMap) -> Result<Option<u64>> {
    let number = |name: &str| -> Result<Option<u64>> {
        let Some(value) = headers.get(name) else {
            return Ok(None);
        };
        let text = value.to_str().unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let bad = || Error::BadRequest(format!("The header {name} must be a number of bytes"));
        digits
            .then(|| text.parse().ok())
            .flatten()
            .map(Some)
            .ok_or_else(bad)
    };
    let length = number("content-length")?;
    let announced = number("x-openstack-image-size")?;
    match (length, announced) {
        (Some(length), Some(announced)) if length != announced => Err(Error::BadRequest(format!(
            "Content-Length is {length} and x-openstack-image-size is {announced}"
        ))),
        _ => Ok(length.or(announced)),
    }
}

/// The most bytes that the image may get.
pub async fn limit_bytes(service: &ImageService, image: &Image) -> Result<u64> {
    let cap = service.options.image_size_cap.min(MAX_IMAGE_BYTES);
    let quota = service.options.user_storage_quota;
    if quota == 0 {
        return Ok(cap);
    }
    let used = usage::of_project(
        &service.database,
        image.owner.as_deref().unwrap_or_default(),
    )
    .await?;
    let left = quota.saturating_sub(used.size_bytes);
    if left == 0 {
        return Err(Error::TooLarge(
            "Image exceeds the storage quota: 0 bytes remaining.".to_owned(),
        ));
    }
    Ok(cap.min(left))
}

/// queued → saving and the flow, in one transaction; then the flow takes the data.
async fn store(
    service: &ImageService,
    context: &RequestContext,
    prepared: Prepared,
    data: DataStream,
) -> Result<()> {
    let Prepared {
        image,
        declared_bytes,
        params,
    } = prepared;
    let flow = NewFlow::of::<UploadImage>(&params)?
        .queue(service.upload_queue())
        .resource("image", image.id)
        .request(&context.request_id, context.project(), &context.user_id)
        .lock_exclusive(lock_key(image.id));
    let upload_id = flow.id();
    let mut ticket = service.uploads.register(upload_id, data, declared_bytes);
    if let Err(refused) = begin(service, &image, declared_bytes, flow).await {
        if let Some(mut source) = service.uploads.take(upload_id) {
            drain(&mut source.data).await;
        }
        return Err(refused);
    }
    service.doorbell.wake();
    wait(service, &mut ticket, image.id, upload_id).await
}

async fn begin(
    service: &ImageService,
    image: &Image,
    declared_bytes: Option<u64>,
    flow: NewFlow,
) -> Result<()> {
    let limits = quota::limits_of(service, image.owner.as_deref()).await?;
    let mut tx = service.database.begin().await?;
    if !images::begin_upload(&mut tx, image.id, flow.id()).await? {
        let now = images::find_locked(&mut tx, image.id)
            .await?
            .ok_or_else(|| Error::no_image(image.id))?;
        return Err(not_queued(now.status));
    }
    let bytes = declared_bytes.unwrap_or(0);
    let demands = [Demand::Uploading, Demand::Data { bytes }];
    quota::check(&mut tx, &limits, image.owner.as_deref(), &demands).await?;
    flow.insert(&mut tx).await?;
    Ok(tx.commit().await?)
}

/// Waits until the upload has ended, told by its flow or by the row.
pub async fn wait(
    service: &ImageService,
    ticket: &mut Ticket,
    id: Uuid,
    upload_id: Uuid,
) -> Result<()> {
    loop {
        tokio::select! {
            outcome = ticket.outcome() => return outcome.map_err(|error| refusal(id, error)),
            () = tokio::time::sleep(LOOK_FOR_END) => {
                if !images::is_uploading(&service.database, id, upload_id).await? {
                    return ended(service, ticket, id).await;
                }
            }
        }
    }
}

/// The row says that the upload has ended; the flow's word comes first if it comes.
async fn ended(service: &ImageService, ticket: &mut Ticket, id: Uuid) -> Result<()> {
    if let Ok(outcome) = tokio::time::timeout(LOOK_FOR_END, ticket.outcome()).await {
        return outcome.map_err(|error| refusal(id, error));
    }
    let image = images::find(&service.database, id).await?;
    match image {
        Some(image) if image.status == Status::Active => Ok(()),
        // Data that was staged.
        Some(image) if image.status == Status::Uploading => Ok(()),
        Some(_) => Err(Error::Unavailable("the upload was reverted".to_owned())),
        None => Err(refusal(
            id,
            TaskError::new(class::IMAGE_GONE, "Image was deleted"),
        )),
    }
}

/// The answer for an upload that was reverted.
fn refusal(id: Uuid, error: TaskError) -> Error {
    let message = error.message;
    match error.class.as_str() {
        class::OUT_OF_SPACE => Error::TooLarge(format!("Image storage media is full: {message}")),
        class::TOO_LARGE => Error::TooLarge(message),
        class::FORMAT_MISMATCH => Error::UnsupportedMediaType(message),
        class::SIZE_MISMATCH | class::REQUEST_GONE => Error::BadRequest(message),
        class::IMAGE_GONE => Error::Gone(format!(
            "Image {id} could not be found after upload. The image may have been deleted during the upload."
        )),
        class::STORE_UNAVAILABLE
        | class::DATA_LOST
        | "Busy"
        | "Lost"
        | TaskError::INTERRUPTED
        | TaskError::DATABASE_UNAVAILABLE => Error::Unavailable(message),
        class => Error::Internal(format!("upload of image {id}: {class}: {message}")),
    }
}
