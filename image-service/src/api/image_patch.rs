//! PATCH of an image.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use database::Tx;
use rest::RequestContext;
use rest::body::AnyJsonBody;
use serde_json::Value;
use uuid::Uuid;

use super::json_patch::{self, Operation, Version};
use super::location_patch::Changes;
use super::{Service, access, attributes, images as image_api, stores};
use crate::ImageService;
use crate::db::{images, imports, locations};
use crate::error::{Error, Result};
use crate::image::{Image, Visibility};
use crate::views::ImageView;

pub async fn update(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    headers: HeaderMap,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<Json<ImageView>> {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let version = media_type
        .and_then(Version::of_media_type)
        .ok_or(Error::UnsupportedPatch)?;
    let operations = json_patch::parse(version, &body.unwrap_or(Value::Null))?;
    let visible = access::find_for(&service, &context, &id, "modify_image").await?;
    let locations = Changes::prepare(&service, &context, &visible, &operations).await?;
    let document = Document {
        version,
        operations,
        locations,
    };
    let image = save(&service, &context, visible.image.id, &document).await?;
    Ok(Json(image_api::view(&service, &context, image).await?))
}

/// A PATCH document, read.
struct Document {
    version: Version,
    operations: Vec<Operation>,
    locations: Changes,
}

/// All operations on the image as it is now, saved once.
async fn save(
    service: &ImageService,
    context: &RequestContext,
    id: Uuid,
    document: &Document,
) -> Result<Image> {
    let Document {
        version,
        operations,
        locations,
    } = document;
    let mut tx = service.database.begin().await?;
    let before = images::find_locked(&mut tx, id)
        .await?
        .ok_or_else(|| Error::no_image(id))?;
    let mut image = before.clone();
    json_patch::apply(*version, operations, &mut image, &service.options)?;
    enforce(service, context, &before, &image)?;
    attributes::check_quotas(Some(&before), &image, &service.options)?;
    if !operations.is_empty() {
        images::update(&mut tx, &mut image).await?;
    }
    let mut rings = false;
    if !locations.is_empty() {
        rings = save_locations(service, &mut tx, context, &mut image, locations).await?;
    }
    let notices = &service.notices;
    notices.image(&mut tx, id, "image.update", context).await?;
    tx.commit().await?;
    if rings {
        service.doorbell.wake();
    }
    if !locations.is_empty() {
        service.forget_copy(id).await;
    }
    Ok(image)
}

/// Whether there is a flow now that removes data.
async fn save_locations(
    service: &ImageService,
    tx: &mut Tx,
    context: &RequestContext,
    image: &mut Image,
    changes: &Changes,
) -> Result<bool> {
    let held = locations::of_image_in(tx, image.id).await?;
    let outcome = changes.apply(service, image, held)?;
    locations::replace_all(tx, image.id, &outcome.locations).await?;
    stores::remove_data(service, tx, context, image, &outcome.removed).await?;
    if let Some(data) = &outcome.data {
        imports::activate_patched(tx, image.id, data).await?;
        let now = images::find_locked(tx, image.id).await?;
        *image = now.ok_or_else(|| Error::no_image(image.id))?;
    }
    Ok(!outcome.removed.is_empty())
}

/// What the change itself needs, beyond `modify_image`.
fn enforce(
    service: &ImageService,
    context: &RequestContext,
    before: &Image,
    image: &Image,
) -> Result<()> {
    if before.owner != image.owner && !context.is_admin {
        return Err(Error::Forbidden(
            "Owner can't be updated by non admin.".to_owned(),
        ));
    }
    let rule = match image.visibility {
        _ if before.visibility == image.visibility => return Ok(()),
        Visibility::Public => "publicize_image",
        Visibility::Community => "communitize_image",
        Visibility::Private | Visibility::Shared => return Ok(()),
    };
    let target = access::target_of(before);
    service
        .policy
        .enforce(context, rule, target)
        .map_err(|denied| access::not_authorized(&denied.rule))
}
