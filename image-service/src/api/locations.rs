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
    let image = if service.policy.allows(&context, RULE, &context) {
        access::find_any(&service, &id).await?
    } else {
        access::find_for(&service, &context, &id, RULE).await?.image
    };
    Ok(Json(
        locations::of_image(&service.database, image.id).await?,
    ))
}

/// Admits services, whoever's image it is.
const RULE: &str = "fetch_image_location";
