//! Deactivating and reactivating an image.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;

use super::{Service, access};
use crate::ImageService;
use crate::db::images;
use crate::error::{Error, Result};
use crate::image::Status;

pub async fn deactivate(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    switch(
        &service,
        &context,
        &id,
        "deactivate",
        Status::Active,
        Status::Deactivated,
    )
    .await
}

pub async fn reactivate(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    switch(
        &service,
        &context,
        &id,
        "reactivate",
        Status::Deactivated,
        Status::Active,
    )
    .await
}

/// Moves the image between the two states; that it is there already is fine, any other is a 403.
async fn switch(
    service: &ImageService,
    context: &RequestContext,
    id: &str,
    rule: &str,
    from: Status,
    to: Status,
) -> Result<StatusCode> {
    let id = access::find_for(service, context, id, rule).await?.image.id;
    let mut tx = service.database.begin().await?;
    if images::move_status(&mut tx, id, from, to).await? {
        let notices = &service.notices;
        notices.image(&mut tx, id, "image.update", context).await?;
        tx.commit().await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let image = images::find_locked(&mut tx, id)
        .await?
        .ok_or_else(|| Error::no_image(id))?;
    if image.status == to {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Error::Forbidden(format!(
        "Not allowed to {rule} image in status '{}'",
        image.status
    )))
}
