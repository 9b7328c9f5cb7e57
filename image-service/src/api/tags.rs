//! Tags of an image, one at a time.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;

use super::{Service, access, attributes};
use crate::db::images;
use crate::error::{Error, Result};
use crate::image::{Image, NAME_CHARS_MAX};

pub async fn add(
    State(service): Service,
    context: RequestContext,
    Path((id, tag)): Path<(String, String)>,
) -> Result<StatusCode> {
    attributes::check_text("tag", &tag, NAME_CHARS_MAX)?;
    let id = access::find_for(&service, &context, &id, "modify_image")
        .await?
        .image
        .id;
    let mut tx = service.database.begin().await?;
    let before = images::find_locked(&mut tx, id)
        .await?
        .ok_or_else(|| Error::no_image(id))?;
    let mut image: Image = before.clone();
    if image.tags.insert(tag) {
        attributes::check_quotas(Some(&before), &image, &service.options)?;
        images::update(&mut tx, &mut image).await?;
        let notices = &service.notices;
        notices.image(&mut tx, id, "image.update", &context).await?;
        tx.commit().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub async fn remove(
    State(service): Service,
    context: RequestContext,
    Path((id, tag)): Path<(String, String)>,
) -> Result<StatusCode> {
    let id = access::find_for(&service, &context, &id, "modify_image")
        .await?
        .image
        .id;
    let mut tx = service.database.begin().await?;
    let mut image = images::find_locked(&mut tx, id)
        .await?
        .ok_or_else(|| Error::no_image(id))?;
    if !image.tags.remove(&tag) {
        return Err(Error::NotFound(format!("Image {id} has no tag {tag}")));
    }
    images::update(&mut tx, &mut image).await?;
    let notices = &service.notices;
    notices.image(&mut tx, id, "image.update", &context).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
