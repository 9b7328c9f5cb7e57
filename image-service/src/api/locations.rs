//! Where an image's data lies, for services that clone it instead of downloading it.

use axum::Json;
use axum::extract::{Path, State};
use rest::RequestContext;

use super::{Service, access};
use crate::db::locations;
use crate::error::Result;
use crate::image::Location;

pub async fn list(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<Json<Vec<Location>>> {
    let visible = access::find_for(&service, &context, &id, "fetch_image_location").await?;
    Ok(Json(
        locations::of_image(&service.database, visible.image.id).await?,
    ))
}
