//! The image cache of this node (Image API ref, "Cache Manage"). Without `image_cache_dir` there
//! is none, and everything is a 404.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use rest::RequestContext;
use serde_json::{Value, json};
use taskflow::NewFlow;
use uuid::Uuid;

use super::{Service, access};
use crate::ImageService;
use crate::cache::{CachedImage, ImageCache};
use crate::error::{Error, Result};
use crate::flows::cache_image::{CacheImage, Params};
use crate::image::Status;
use crate::views::CachedImageView;

/// The cache, if the rule admits the caller and there is one.
fn cache_for<'a>(
    service: &'a ImageService,
    context: &RequestContext,
    rule: &str,
) -> Result<&'a ImageCache> {
    service
        .policy
        .enforce(context, rule, context)
        .map_err(|denied| access::not_authorized(&denied.rule))?;
    service
        .cache
        .as_ref()
        .ok_or_else(|| Error::NotFound("Caching via API is not supported at this site.".to_owned()))
}

fn failed(error: std::io::Error) -> Error {
    Error::Internal(format!("image cache: {error}"))
}

/// Glance looks for the image first, and so a stranger's id is not found.
async fn image_id(service: &ImageService, id: &str) -> Result<(Uuid, Status)> {
    let image = access::find_any(service, id).await?;
    Ok((image.id, image.status))
}

pub async fn list(State(service): Service, context: RequestContext) -> Result<Json<Value>> {
    let cache = cache_for(&service, &context, "cache_list")?;
    // In this order: a copy that ends meanwhile is in both, never in neither.
    let mut queued = cache.queued().await.map_err(failed)?;
    let cached = cache.cached().await.map_err(failed)?;
    queued.retain(|id| cached.iter().all(|copy| copy.image_id != *id));
    let view = |copy: CachedImage| CachedImageView::from(copy);
    let cached: Vec<CachedImageView> = cached.into_iter().map(view).collect();
    Ok(Json(
        json!({"cached_images": cached, "queued_images": queued}),
    ))
}

pub async fn queue(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let cache = cache_for(&service, &context, "cache_image")?;
    let (id, status) = image_id(&service, &id).await?;
    if status != Status::Active {
        return Err(Error::BadRequest(
            "Only images with status active can be targeted for queueing".to_owned(),
        ));
    }
    copy_soon(&service, &context, cache, id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Has a flow copy the image, unless it is here or queued.
pub async fn copy_soon(
    service: &ImageService,
    context: &RequestContext,
    cache: &ImageCache,
    id: Uuid,
) -> Result<()> {
    if cache.queue(id).await.map_err(failed)? {
        let mut tx = service.database.begin().await?;
        NewFlow::of::<CacheImage>(&Params { image_id: id })?
            .queue(service.cache_queue())
            .resource("image", id)
            .request(&context.request_id, context.project(), &context.user_id)
            .insert(&mut tx)
            .await?;
        tx.commit().await?;
        service.doorbell.wake();
    }
    Ok(())
}

pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let cache = cache_for(&service, &context, "cache_delete")?;
    let known = match Uuid::parse_str(&id) {
        Ok(id) => cache.remove(id).await.map_err(failed)?,
        Err(_) => false,
    };
    if !known {
        image_id(&service, &id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Cache and queue, or the one that `x-image-cache-clear-target` names.
pub async fn clear(
    State(service): Service,
    context: RequestContext,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let cache = cache_for(&service, &context, "cache_delete")?;
    let target = headers.get("x-image-cache-clear-target");
    let target = target.map_or(Ok(""), |value| value.to_str());
    let target = target.unwrap_or("?").to_ascii_lowercase();
    let (copies, queue) = match target.as_str() {
        "" => (true, true),
        "cache" => (true, false),
        "queue" => (false, true),
        _ => {
            return Err(Error::BadRequest(
                "If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string."
                    .to_owned(),
            ));
        }
    };
    cache.clear(copies, queue).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The nodes that have a copy, as far as this one knows: each has a cache of its own.
pub async fn nodes(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<Json<Vec<String>>> {
    let cache = cache_for(&service, &context, "list_cached_nodes")?;
    let (id, _) = image_id(&service, &id).await?;
    let options = &service.options;
    let node = options.public_endpoint.as_ref().unwrap_or(&options.host);
    let is_here = cache.has(id).await.map_err(failed)?;
    Ok(Json(is_here.then(|| node.clone()).into_iter().collect()))
}

pub async fn clean(State(service): Service, context: RequestContext) -> Result<StatusCode> {
    let cache = cache_for(&service, &context, "cache_clean")?;
    cache.clean().await.map_err(failed)?;
    Ok(StatusCode::OK)
}

pub async fn prune(State(service): Service, context: RequestContext) -> Result<Json<Value>> {
    let cache = cache_for(&service, &context, "cache_prune")?;
    let (files, bytes) = cache.prune().await.map_err(failed)?;
    Ok(Json(
        json!({"total_files_pruned": files, "total_bytes_pruned": bytes}),
    ))
}
