//! GET and DELETE of one image.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;
use taskflow::NewFlow;

use super::{Service, access};
use crate::ImageService;
use crate::db::{images, locations};
use crate::encryption_keys;
use crate::error::{Error, Result};
use crate::flows::delete::{DeleteImage, Params};
use crate::image::{Image, Status, lock_key};
use crate::stores::Pool;
use crate::views::{ImageView, LocationVisibility};

pub async fn show(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<Json<ImageView>> {
    let visible = access::find(&service, &context, &id).await?;
    Ok(Json(view(&service, &context, visible.image).await?))
}

/// Which locations documents show.
pub fn shown_locations(service: &ImageService) -> LocationVisibility {
    LocationVisibility {
        direct_url: service.options.show_image_direct_url,
        locations: service.options.show_multiple_locations,
        stores: service.stores.have_ids(),
    }
}

/// Whether this caller is not to know where the image's data lies: whoever must not download it
/// shall not read it from the store either.
pub fn hides_locations(context: &RequestContext, image: &Image) -> bool {
    image.status == Status::Deactivated && !context.is_admin
}

/// The document of one image.
pub async fn view(
    service: &ImageService,
    context: &RequestContext,
    image: Image,
) -> Result<ImageView> {
    let show = shown_locations(service);
    let mut found = Vec::new();
    if show.any() && !hides_locations(context, &image) {
        found = locations::of_image(&service.database, image.id).await?;
        service.stores.sort(&mut found);
    }
    Ok(ImageView::new(image, found, show))
}

/// The row is deleted at once; its space comes back with the flow right after.
pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let image = access::find_for(&service, &context, &id, "delete_image")
        .await?
        .image;
    if image.protected {
        return Err(protected(&image));
    }
    refuse_if_cloned(&service, &image).await?;
    let mut tx = service.database.begin().await?;
    let image = images::find_locked(&mut tx, image.id)
        .await?
        .ok_or_else(|| Error::no_image(&id))?;
    if !images::mark_deleted(&mut tx, image.id).await? {
        return Err(protected(&image));
    }
    service.notices.deleted(&mut tx, &image, &context).await?;
    // A queued image has no data: an upload that failed has cleaned up before it became queued.
    if image.status == Status::Queued {
        locations::delete_all(&mut tx, image.id).await?;
    } else {
        NewFlow::of::<DeleteImage>(&Params { image_id: image.id })?
            .queue(service.store_queue())
            .resource("image", image.id)
            .request(&context.request_id, context.project(), &context.user_id)
            .lock_exclusive(lock_key(image.id))
            .insert(&mut tx)
            .await?;
    }
    tx.commit().await?;
    service.doorbell.wake();
    service.forget_copy(image.id).await;
    encryption_keys::delete_with(service.keys.get(), &context.token, &image).await;
    Ok(StatusCode::NO_CONTENT)
}

fn protected(image: &Image) -> Error {
    Error::Forbidden(format!(
        "Image {} is protected and cannot be deleted.",
        image.id
    ))
}

/// Where flattening copies data, an image with clones stays, as with Glance.
async fn refuse_if_cloned(service: &ImageService, image: &Image) -> Result<()> {
    for pool in service.stores.pools() {
        refuse_if_cloned_in(pool, image).await?;
    }
    Ok(())
}

/// As [`refuse_if_cloned`], for the data in one pool.
pub async fn refuse_if_cloned_in(pool: &Pool, image: &Image) -> Result<()> {
    if pool.engine.flattens_instantly() || image.size_bytes.is_none() {
        return Ok(());
    }
    match pool.engine.children(&pool.snapshot(image.id)).await {
        Ok(clones) if clones.is_empty() => Ok(()),
        Err(storage::Error::NotFound(_)) => Ok(()),
        Ok(_) => Err(Error::Conflict(format!(
            "Image {} could not be deleted because it is in use: The image cannot be deleted \
             because it is in use through the backend store outside of the image service.",
            image.id
        ))),
        Err(error) => Err(error.into()),
    }
}
