//! Types of resource, and which of them a namespace is for.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;
use rest::body::AnyJsonBody;

use super::super::Service;
use super::{enforce, find_for, lock_for_delete, no_namespace};
use crate::db::metadefs;
use crate::error::{Error, Result};
use crate::metadef::views::{
    AssociationView, AssociationsView, ResourceTypeView, ResourceTypesView,
};
use crate::metadef::{Association, document, load};
use crate::notices::metadefs::Event;

pub async fn list(
    State(service): Service,
    context: RequestContext,
) -> Result<Json<ResourceTypesView>> {
    enforce(&service, &context, "list_metadef_resource_types")?;
    let found = metadefs::resource_types(&service.database).await?;
    Ok(Json(ResourceTypesView {
        resource_types: found.into_iter().map(ResourceTypeView::from).collect(),
    }))
}

pub async fn list_of_namespace(
    State(service): Service,
    context: RequestContext,
    Path(name): Path<String>,
) -> Result<Json<AssociationsView>> {
    let namespace = find_for(&service, &context, &name, "list_metadef_resource_types").await?;
    let found = metadefs::associations(&service.database, &[namespace.id]).await?;
    Ok(Json(AssociationsView {
        resource_type_associations: found
            .into_iter()
            .map(|(_, association)| association.into())
            .collect(),
    }))
}

/// A type that nobody has named before becomes known.
pub async fn create(
    State(service): Service,
    context: RequestContext,
    Path(name): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, Json<AssociationView>)> {
    let document = document::association(body.as_ref())?;
    let rule = "add_metadef_resource_type_association";
    let namespace = find_for(&service, &context, &name, rule).await?;
    let mut tx = service.database.begin().await?;
    if metadefs::lock(&mut tx, namespace.id).await?.is_none() {
        return Err(no_namespace(&name));
    }
    let association = load::insert_association(&mut tx, &namespace, &document).await?;
    let notices = &service.notices;
    notices
        .metadef_association(&mut tx, Event::Create, &namespace, &association, &context)
        .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(association.into())))
}

pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path((name, resource_type)): Path<(String, String)>,
) -> Result<StatusCode> {
    let rule = "remove_metadef_resource_type_association";
    let namespace = find_for(&service, &context, &name, rule).await?;
    let mut tx = service.database.begin().await?;
    lock_for_delete(&mut tx, &namespace, "resource type", &resource_type).await?;
    let associations = metadefs::associations(&service.database, &[namespace.id]).await?;
    let is_it = |(_, one): &(_, Association)| one.resource_type == resource_type;
    let association = associations.into_iter().find(is_it);
    if !metadefs::delete_association(&mut tx, namespace.id, &resource_type).await? {
        return Err(Error::NotFound(format!(
            "Failed to find resource type {resource_type} to delete"
        )));
    }
    if let Some((_, association)) = association {
        let notices = &service.notices;
        notices
            .metadef_association(&mut tx, Event::Delete, &namespace, &association, &context)
            .await?;
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
