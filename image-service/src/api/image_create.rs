//! POST of an image: a record without data.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use database::{Tx, now_us};
use rest::body::AnyJsonBody;
use rest::{BaseUrl, RequestContext};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Service, access, attributes, images as image_api};
use crate::ImageService;
use crate::db::images;
use crate::error::{Error, Result};
use crate::image::{Image, Key, Status, Visibility};
use crate::quota::{self, Demand, Limits};
use crate::views::ImageView;

pub async fn create(
    State(service): Service,
    context: RequestContext,
    base: BaseUrl,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, HeaderMap, Json<ImageView>)> {
    let image = parse(&service, &context, body.as_ref())?;
    enforce(&service, &context, &image)?;
    attributes::check_quotas(None, &image, &service.options)?;
    let limits = quota::limits_of(&service, image.owner.as_deref()).await?;
    let mut tx = service.database.begin().await?;
    insert(&mut tx, &image, &limits).await?;
    let notices = &service.notices;
    notices
        .image(&mut tx, image.id, "image.create", &context)
        .await?;
    tx.commit().await?;
    let mut headers = import_headers(&service);
    if let Ok(location) = HeaderValue::try_from(base.join(&format!("/v2/images/{}", image.id))) {
        headers.insert(header::LOCATION, location);
    }
    Ok((
        StatusCode::CREATED,
        headers,
        Json(image_api::view(&service, &context, image).await?),
    ))
}

/// What a client can do to bring the image's data.
fn import_headers(service: &ImageService) -> HeaderMap {
    let methods = service.options.enabled_import_methods.join(",");
    let lists = [
        ("openstack-image-import-methods", methods),
        (
            "openstack-image-store-ids",
            service.stores.writable_ids().join(","),
        ),
    ];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let headers = given.filter_map(|(name, list)| {
        let value = HeaderValue::try_from(list).ok()?;
        Some((HeaderName::from_static(name), value))
    });
    headers.collect()
}

/// The image that the document describes, with the defaults of what it leaves out.
pub fn parse(
    service: &Arc<ImageService>,
    context: &RequestContext,
    body: Option<&Value>,
) -> Result<Image> {
    let missing =
        || Error::BadRequest("Expected a JSON object that describes the image.".to_owned());
    let document = body.and_then(Value::as_object).ok_or_else(missing)?;
    let now = now_us();
    let mut image = Image {
        id: image_id(document)?,
        name: None,
        status: Status::Queued,
        visibility: Visibility::Shared,
        owner: context.project_id.clone(),
        protected: false,
        os_hidden: false,
        container_format: None,
        disk_format: None,
        min_ram_mib: 0,
        min_disk_gib: 0,
        size_bytes: None,
        virtual_size_bytes: None,
        checksum: None,
        os_hash_algo: None,
        os_hash_value: None,
        upload_id: None,
        created_at_us: now,
        updated_at_us: now,
        properties: Default::default(),
        tags: Default::default(),
    };
    for (name, value) in document {
        attributes::check_writable(name)?;
        match (Key::of(name), name.as_str()) {
            (_, "id") => {}
            (_, "locations") => {
                let message = "Attribute 'locations' is set by PATCH of the image.";
                return Err(Error::Forbidden(message.to_owned()));
            }
            (Key::Base, _) => attributes::set(&mut image, name, value, &service.options)?,
            _ => attributes::set_property(&mut image, name, value)?,
        }
    }
    Ok(image)
}

/// The id that the client chose, or a new one.
fn image_id(document: &Map<String, Value>) -> Result<Uuid> {
    let Some(id) = document.get("id") else {
        return Ok(Uuid::new_v4());
    };
    let text = id.as_str().filter(|text| attributes::is_uuid(text));
    text.and_then(|text| Uuid::parse_str(text).ok())
        .ok_or_else(|| attributes::mismatch(format!("{id} is not a UUID (attribute 'id')")))
}

/// 403 unless the caller may make such an image.
pub fn enforce(service: &ImageService, context: &RequestContext, image: &Image) -> Result<()> {
    if image.owner != context.project_id && !context.is_admin {
        let owner = image.owner.as_deref().unwrap_or("None");
        return Err(Error::Forbidden(format!(
            "You are not permitted to create images owned by '{owner}'."
        )));
    }
    let target = access::target_of(image);
    let mut rules = vec!["add_image"];
    match image.visibility {
        Visibility::Public => rules.push("publicize_image"),
        Visibility::Community => rules.push("communitize_image"),
        Visibility::Private | Visibility::Shared => {}
    }
    for rule in rules {
        service
            .policy
            .enforce(context, rule, target)
            .map_err(|denied| access::not_authorized(&denied.rule))?;
    }
    Ok(())
}

/// 409 for an id that was given out before, 413 for one image too many.
pub async fn insert(tx: &mut Tx, image: &Image, limits: &Limits) -> Result<()> {
    match images::insert(tx, image).await {
        Err(database::Error::Constraint(_)) => Err(Error::Conflict(format!(
            "Image ID {} already exists!",
            image.id
        ))),
        inserted => {
            inserted?;
            quota::check(tx, limits, image.owner.as_deref(), &[Demand::Image]).await
        }
    }
}
