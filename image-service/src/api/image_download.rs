//! GET of an image's data, or of one range of it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, TryStreamExt, stream};
use rest::{QueryParams, RequestContext};
use storage::ImageHandle;

use super::byte_range::{self, ByteRange};
use super::{Service, access, cache as cache_api, image_send};
use crate::ImageService;
use crate::data_source::{self, Found};
use crate::error::{Error, Result};
use crate::fetch::Fetched;
use crate::image::{Image, Status};
use crate::transfer_memory::Transfer;

/// The image's data, or one range of it.
pub async fn download(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    mut params: QueryParams,
    headers: HeaderMap,
) -> Result<Response> {
    let visible = access::find_for(&service, &context, &id, "download_image").await?;
    let image = &visible.image;
    let preferred = preferred_stores(&service, &mut params)?;
    if !preferred.is_empty() {
        visible.enforce(&service, &context, "download_from_store")?;
    }
    if image.status == Status::Deactivated && !context.is_admin {
        let message = "The requested image has been deactivated. Image data download is forbidden.";
        return Err(Error::Forbidden(message.to_owned()));
    }
    let found = match image.status {
        Status::Active | Status::Deactivated => {
            data_source::open_image(&service, image, &preferred).await?
        }
        _ => None,
    };
    if image.status == Status::Active && !headers.contains_key(header::RANGE) {
        remember(&service, &context, image).await;
    }
    let mut response = match found {
        None => return Ok(StatusCode::NO_CONTENT.into_response()),
        Some(Found::Pool(handle, chunk_bytes)) => {
            let transfer = service.transfer_memory.transfer();
            send((handle, chunk_bytes), transfer, &headers).await?
        }
        Some(Found::Web(fetched)) => {
            if headers.contains_key(header::RANGE) {
                let message = "The store of this image cannot read parts of it.";
                return Err(Error::BadRequest(message.to_owned()));
            }
            relay(fetched)
        }
    };
    let out = response.headers_mut();
    out.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    if let Some(md5) = image
        .checksum
        .as_deref()
        .and_then(|md5| HeaderValue::try_from(md5).ok())
    {
        out.insert("content-md5", md5);
    }
    Ok(image_send::watched(&service, &context, image, response))
}

/// What is downloaded once is downloaded again: the next one reads this node's copy. The download
/// itself goes on without.
async fn remember(service: &ImageService, context: &RequestContext, image: &Image) {
    let Some(cache) = &service.cache else {
        return;
    };
    if image.size_bytes.is_none_or(|size| size > cache.max_bytes()) {
        return;
    }
    let id = image.id;
    if let Err(error) = cache_api::copy_soon(service, context, cache, id).await {
        tracing::warn!(image = %id, %error, "a downloaded image is not copied into the cache");
    }
}

/// The stores that the client would rather read from, as it names them.
fn preferred_stores(service: &ImageService, params: &mut QueryParams) -> Result<Vec<String>> {
    let text = params.take("prefer").unwrap_or_default();
    let names = text.split(',').map(str::trim);
    let names: Vec<String> = names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    for name in &names {
        let chosen = service.stores.choose(Some(name));
        chosen.map_err(Error::BadRequest)?;
    }
    Ok(names)
}

/// Data of the web, passed on as it comes.
fn relay(fetched: Fetched) -> Response {
    let mut response = Response::new(Body::from_stream(fetched.data));
    if let Some(size) = fetched.size_bytes {
        let size = HeaderValue::from(size);
        response.headers_mut().insert(header::CONTENT_LENGTH, size);
    }
    response
}

/// Data of a pool, or the range that the request asks for.
async fn send(
    (handle, chunk_bytes): (Arc<dyn ImageHandle>, usize),
    transfer: Transfer,
    headers: &HeaderMap,
) -> Result<Response> {
    let size = handle.size_bytes();
    let range = byte_range::of_request(headers, size)?;
    let part = range.unwrap_or(ByteRange {
        start: 0,
        end: size,
    });
    let mut response = Response::new(body((handle, chunk_bytes), part, transfer).await?);
    let out = response.headers_mut();
    out.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(part.end.saturating_sub(part.start)),
    );
    out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if range.is_some() {
        let text = format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1));
        if let Ok(value) = HeaderValue::try_from(text) {
            out.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The bytes of the range. The first of them are read before the answer begins, so that data that
/// cannot be read is an error and not a cut answer.
async fn body(
    (handle, chunk_bytes): (Arc<dyn ImageHandle>, usize),
    range: ByteRange,
    transfer: Transfer,
) -> Result<Body> {
    let range = range.start..range.end;
    let mut pieces = data_source::pieces(handle, range, chunk_bytes, transfer);
    let first = match pieces.next().await {
        None => return Ok(Body::empty()),
        Some(Ok(first)) => first,
        Some(Err(error)) => return Err(unreadable(error)),
    };
    let later = pieces.inspect_err(
        |error| tracing::error!(%error, "image data cannot be read; the download is cut"),
    );
    Ok(Body::from_stream(stream::iter([Ok(first)]).chain(later)))
}

/// The store's own error, which says what can be done.
fn unreadable(error: std::io::Error) -> Error {
    match error.downcast::<storage::Error>() {
        Ok(error) => error.into(),
        Err(error) => Error::Internal(error.to_string()),
    }
}
