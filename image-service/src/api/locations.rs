//! Where an image's data lies, for services that clone it instead of downloading it, and data
//! that lies somewhere already.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;
use rest::body::AnyJsonBody;
use serde_json::{Value, json};
use taskflow::NewFlow;

use super::location_patch::check_place;
use super::{Service, access};
use crate::ImageService;
use crate::db::{images, imports as marks, locations, tasks};
use crate::error::{Error, Result};
use crate::fetch;
use crate::flows::add_location::{AddLocation, Params, Validation, parse_validation};
use crate::image::{Image, Location, Status, lock_key};
use crate::imports;

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
    let mut held = locations::of_image(&service.database, image.id).await?;
    service.stores.sort(&mut held);
    Ok(Json(held))
}

/// Admits services, whoever's image it is.
const RULE: &str = "fetch_image_location";

/// Gives a queued image data that lies somewhere already.
pub async fn add(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<StatusCode> {
    let asked = Asked::parse(body.as_ref())?;
    let image = find_image(&service, &context, &id).await?;
    check_status(&image)?;
    if !is_service(&context) && !asked.url.starts_with("http") {
        let message = "http store must be enabled to use location API by normal user.";
        return Err(Error::Forbidden(message.to_owned()));
    }
    check_place(&service, &context, &image, &asked.url)?;
    if asked.url.starts_with("http") {
        let checked = fetch::check(&service.options.import_filter, &asked.url).await;
        checked.map_err(|error| {
            let url = &asked.url;
            let message = format!("URI for add location does not pass filtering: {url}: {error}");
            Error::BadRequest(message)
        })?;
    }
    begin(&service, &context, &image, asked).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The image, for its owner and for services whoever's it is.
async fn find_image(service: &ImageService, context: &RequestContext, id: &str) -> Result<Image> {
    if is_service(context) {
        return access::find_any(service, id).await;
    }
    let visible = access::find_for(service, context, id, "add_image_location").await?;
    Ok(visible.image)
}

pub fn is_service(context: &RequestContext) -> bool {
    let mut service_roles = context.service_roles.iter();
    context.has_role("service") || service_roles.any(|role| role.eq_ignore_ascii_case("service"))
}

fn check_status(image: &Image) -> Result<()> {
    if image.status != Status::Queued {
        return Err(Error::Conflict(format!(
            "It's not allowed to add locations if image status is {}.",
            image.status
        )));
    }
    if image.container_format.is_none() || image.disk_format.is_none() {
        let message = "Properties disk_format, container_format must be set prior to saving data.";
        return Err(Error::BadRequest(message.to_owned()));
    }
    imports::refuse_second(image)
}

/// The marks, the task and the flow in one transaction.
async fn begin(
    service: &ImageService,
    context: &RequestContext,
    image: &Image,
    asked: Asked,
) -> Result<()> {
    let options = &service.options;
    let params = Params {
        image_id: image.id,
        url: asked.url.clone(),
        validation: asked.validation,
        secure: options.do_secure_hash,
        retries: options.http_retries,
    };
    let flow = NewFlow::of::<AddLocation>(&params)?
        .queue(service.import_queue())
        .resource("image", image.id)
        .request(&context.request_id, context.project(), &context.user_id)
        .lock_exclusive(lock_key(image.id));
    let input = json!({
        "image_id": image.id, "loc_url": asked.url, "validation_data": asked.validation_data,
    });
    let task = imports::new_task(context, flow.id(), image.id, "location_import", input);
    let mut tx = service.database.begin().await?;
    let found = images::find_locked(&mut tx, image.id).await?;
    let image = found.ok_or_else(|| Error::no_image(image.id))?;
    check_status(&image)?;
    marks::lock(&mut tx, &image, flow.id(), None, &[]).await?;
    tasks::insert(&mut tx, &task).await?;
    let notices = &service.notices;
    notices.task(&mut tx, task.id, "create", context).await?;
    flow.insert(&mut tx).await?;
    tx.commit().await?;
    service.doorbell.wake();
    Ok(())
}

/// The body of a request.
struct Asked {
    url: String,
    validation: Option<Validation>,
    validation_data: Value,
}

impl Asked {
    fn parse(body: Option<&Value>) -> Result<Self> {
        let bad = |message: &str| Error::BadRequest(message.to_owned());
        let body = body.ok_or_else(|| bad("Body expected in request."))?;
        let url = body.get("url").and_then(Value::as_str);
        let url = url.filter(|url| !url.is_empty() && url.chars().count() <= 255);
        let url = url.ok_or_else(|| bad("'url' must be a text of 1 to 255 characters"))?;
        let given = body.get("validation_data").cloned();
        let validation_data = given.unwrap_or_else(|| json!({}));
        let validation = match &validation_data {
            Value::Null => None,
            Value::Object(members) => {
                let mut texts = BTreeMap::new();
                for (name, value) in members {
                    let text = value.as_str().ok_or_else(|| {
                        bad(&format!("'{name}' of 'validation_data' must be a text"))
                    })?;
                    if !matches!(name.as_str(), "os_hash_algo" | "os_hash_value") {
                        return Err(bad(&format!("'validation_data' has an unknown '{name}'")));
                    }
                    texts.insert(name.clone(), text.to_owned());
                }
                parse_validation(&texts).map_err(Error::BadRequest)?
            }
            _ => return Err(bad("'validation_data' must be an object")),
        };
        Ok(Asked {
            url: url.to_owned(),
            validation,
            validation_data,
        })
    }
}
