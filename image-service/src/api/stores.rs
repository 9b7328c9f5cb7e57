//! DELETE of an image's data from one store.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use database::Tx;
use rest::RequestContext;
use taskflow::NewFlow;

use super::{Service, access, images as image_api};
use crate::ImageService;
use crate::db::{images, locations};
use crate::error::{Error, Result};
use crate::flows::remove_from_store::{Params, RemoveFromStore};
use crate::image::{Image, Location, Status, lock_key};
use crate::imports;
use crate::stores::store_of;

/// The location goes at once; the space comes back with the flow right after.
pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path((store_id, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    if !service.stores.have_ids() {
        let message = "Multi backend is not supported at this site.";
        return Err(Error::NotFound(message.to_owned()));
    }
    let chosen = service.stores.choose(Some(&store_id));
    let store = chosen.map_err(|_| {
        Error::Conflict(format!(
            "The selected store {store_id} is not available on this node."
        ))
    })?;
    let visible = access::find_for(&service, &context, &id, "get_image_location").await?;
    visible.enforce(&service, &context, "delete_image_location")?;
    let image_id = visible.image.id;
    if let Some(pool) = &store.pool {
        image_api::refuse_if_cloned_in(pool, &visible.image).await?;
    }
    let mut tx = service.database.begin().await?;
    let image = images::find_locked(&mut tx, image_id).await?;
    let image = image.ok_or_else(|| Error::no_image(&id))?;
    if image.status != Status::Active {
        let message = "It's not allowed to remove image data from store if image status is not \
            'active'";
        return Err(Error::Conflict(message.to_owned()));
    }
    imports::refuse_second(&image)?;
    let mut held = locations::of_image_in(&mut tx, image_id).await?;
    if held.len() == 1 {
        let message = "Cannot delete image data from the only store containing it. Consider \
            deleting the image instead.";
        return Err(Error::Forbidden(message.to_owned()));
    }
    let mut positions = held.iter();
    let position = positions.position(|one| store_of(one) == Some(&store_id));
    let position = position
        .ok_or_else(|| Error::NotFound(format!("Image {id} is not stored in store {store_id}.")))?;
    let removed = held.remove(position);
    locations::replace_all(&mut tx, image_id, &held).await?;
    remove_data(&service, &mut tx, &context, &image, &[removed]).await?;
    tx.commit().await?;
    service.doorbell.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Inserts the flow that removes the data of locations which the image has lost, as far as it is
/// the image's own.
pub async fn remove_data(
    service: &ImageService,
    tx: &mut Tx,
    context: &RequestContext,
    image: &Image,
    removed: &[Location],
) -> Result<()> {
    let own = removed.iter().filter_map(|location| {
        let (store, _) = service.stores.own_pool(&location.url, image.id)?;
        Some(store.name().to_owned())
    });
    let params = Params {
        image_id: image.id,
        stores: own.collect(),
    };
    if params.stores.is_empty() {
        return Ok(());
    }
    NewFlow::of::<RemoveFromStore>(&params)?
        .queue(service.store_queue())
        .resource("image", image.id)
        .request(&context.request_id, context.project(), &context.user_id)
        .lock_exclusive(lock_key(image.id))
        .insert(tx)
        .await?;
    Ok(())
}
