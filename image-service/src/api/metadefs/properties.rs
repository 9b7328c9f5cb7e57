//! Properties: what one key of a resource's metadata means.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::body::AnyJsonBody;
use rest::{QueryParams, RequestContext};

use super::super::Service;
use super::{find_for, items};
use crate::ImageService;
use crate::db::{metadef_items, metadefs};
use crate::error::{Error, Result};
use crate::metadef::views::{PropertiesView, PropertyView, property_map};
use crate::metadef::{Kind, Namespace, document};

/// All of a namespace: this list has no pages.
pub async fn list(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
) -> Result<Json<PropertiesView>> {
    let namespace = find_for(&service, &context, &namespace, "get_metadef_properties").await?;
    let found = metadef_items::all(&service.database, namespace.id, Kind::Property).await?;
    Ok(Json(PropertiesView {
        properties: property_map(found),
    }))
}

pub async fn create(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, Json<PropertyView>)> {
    let named = document::property(body.as_ref())?;
    let namespace = find_for(&service, &context, &namespace, "add_metadef_property").await?;
    let property = items::create(&service, &context, &namespace, Kind::Property, &named).await?;
    Ok((StatusCode::CREATED, Json(property.into())))
}

/// With `resource_type`, the name begins with the prefix that it has on such a resource.
pub async fn show(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
    mut params: QueryParams,
) -> Result<Json<PropertyView>> {
    let namespace = find_for(&service, &context, &namespace, "get_metadef_property").await?;
    let name = match params.take("resource_type") {
        None => name,
        Some(resource_type) => unprefixed(&service, &namespace, &resource_type, &name).await?,
    };
    let property = items::find(&service, &namespace, Kind::Property, &name).await?;
    Ok(Json(property.into()))
}

async fn unprefixed(
    service: &ImageService,
    namespace: &Namespace,
    resource_type: &str,
    name: &str,
) -> Result<String> {
    let associations = metadefs::associations(&service.database, &[namespace.id]).await?;
    let association = associations
        .into_iter()
        .map(|(_, association)| association)
        .find(|association| association.resource_type == resource_type)
        .ok_or_else(|| {
            Error::NotFound(format!(
                "The namespace {} is not for resource type {resource_type}.",
                namespace.namespace
            ))
        })?;
    let prefix = association.prefix.unwrap_or_default();
    let rest = name.strip_prefix(&prefix).filter(|_| !prefix.is_empty());
    rest.map(str::to_owned).ok_or_else(|| {
        Error::NotFound(format!(
            "Property {name} does not start with the expected resource type association prefix of '{prefix}'."
        ))
    })
}

pub async fn update(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<Json<PropertyView>> {
    let named = document::property(body.as_ref())?;
    let namespace = find_for(&service, &context, &namespace, "modify_metadef_property").await?;
    let property = items::update(
        &service,
        &context,
        (&namespace, &name),
        Kind::Property,
        named,
    )
    .await?;
    Ok(Json(property.into()))
}

pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<StatusCode> {
    let rule = "remove_metadef_property";
    items::delete(
        &service,
        &context,
        (&namespace, &name),
        Kind::Property,
        rule,
    )
    .await
}

pub async fn delete_all(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
) -> Result<StatusCode> {
    items::delete_all(&service, &context, &namespace, Kind::Property).await
}
