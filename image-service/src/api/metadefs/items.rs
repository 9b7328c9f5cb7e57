//! What objects, properties and tags have in common: they live in a namespace by name.

use axum::http::StatusCode;
use database::now_us;
use rest::paging::Page;
use rest::{QueryParams, RequestContext, sort};

use super::{find_for, lock_for_delete, no_namespace};
use crate::ImageService;
use crate::db::metadef_items::{self, SORT_COLUMNS};
use crate::db::metadefs;
use crate::error::{Error, Result};
use crate::metadef::document::NamedDocument;
use crate::metadef::load::{self, taken};
use crate::metadef::{Item, Kind, Namespace};
use crate::notices::metadefs::Event;

fn no_item(kind: Kind, namespace: &Namespace, name: &str) -> Error {
    Error::NotFound(format!(
        "The metadata definition {} with name={name} was not found in namespace={}.",
        kind.as_str(),
        namespace.namespace
    ))
}

/// One page of a namespace's items; all of them, up to the service's maximum, without a limit.
pub async fn list(
    service: &ImageService,
    namespace: &Namespace,
    kind: Kind,
    mut params: QueryParams,
) -> Result<Vec<Item>> {
    let most = service.options.api_limit_max;
    let page = Page::take(&mut params, most, most)?;
    let order = SORT_COLUMNS.order(&sort::take(&mut params)?)?;
    let marker = match &page.marker {
        None => None,
        Some(name) => Some(find(service, namespace, kind, name).await?),
    };
    let database = &service.database;
    Ok(metadef_items::page(database, namespace.id, kind, order, marker, page.limit).await?)
}

pub async fn find(
    service: &ImageService,
    namespace: &Namespace,
    kind: Kind,
    name: &str,
) -> Result<Item> {
    let found = metadef_items::find(&service.database, namespace.id, kind, name).await?;
    found.ok_or_else(|| no_item(kind, namespace, name))
}

pub async fn create(
    service: &ImageService,
    context: &RequestContext,
    namespace: &Namespace,
    kind: Kind,
    named: &NamedDocument,
) -> Result<Item> {
    let mut tx = service.database.begin().await?;
    if metadefs::lock(&mut tx, namespace.id).await?.is_none() {
        return Err(no_namespace(&namespace.namespace));
    }
    let item = load::insert_item(&mut tx, namespace, kind, named).await?;
    let told = (namespace, kind, &item);
    let notices = &service.notices;
    notices
        .metadef_item(&mut tx, Event::Create, told, context)
        .await?;
    tx.commit().await?;
    Ok(item)
}

/// Replaces the item, whose name may change.
pub async fn update(
    service: &ImageService,
    context: &RequestContext,
    (namespace, name): (&Namespace, &str),
    kind: Kind,
    named: NamedDocument,
) -> Result<Item> {
    let old = find(service, namespace, kind, name).await?;
    let item = Item {
        name: named.name,
        document: named.document,
        created_at_us: old.created_at_us,
        updated_at_us: now_us(),
    };
    let mut tx = service.database.begin().await?;
    let updated = metadef_items::update(&mut tx, namespace.id, kind, name, &item)
        .await
        .map_err(|error| taken(error, kind.as_str(), &item.name))?;
    if !updated {
        return Err(no_item(kind, namespace, name));
    }
    let told = (namespace, kind, &item);
    let notices = &service.notices;
    notices
        .metadef_item(&mut tx, Event::Update(name), told, context)
        .await?;
    tx.commit().await?;
    Ok(item)
}

pub async fn delete(
    service: &ImageService,
    context: &RequestContext,
    (namespace, name): (&str, &str),
    kind: Kind,
    rule: &str,
) -> Result<StatusCode> {
    let namespace = find_for(service, context, namespace, rule).await?;
    let mut tx = service.database.begin().await?;
    lock_for_delete(&mut tx, &namespace, kind.as_str(), name).await?;
    let item = find(service, &namespace, kind, name).await?;
    if !metadef_items::delete(&mut tx, namespace.id, kind, name).await? {
        return Err(no_item(kind, &namespace, name));
    }
    let told = (&namespace, kind, &item);
    let notices = &service.notices;
    notices
        .metadef_item(&mut tx, Event::Delete, told, context)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Empties the namespace of one kind; Glance asks the rule for deleting the namespace.
pub async fn delete_all(
    service: &ImageService,
    context: &RequestContext,
    name: &str,
    kind: Kind,
) -> Result<StatusCode> {
    let namespace = find_for(service, context, name, "delete_metadef_namespace").await?;
    let mut tx = service.database.begin().await?;
    lock_for_delete(&mut tx, &namespace, "namespace", name).await?;
    metadef_items::delete_all(&mut tx, namespace.id, kind).await?;
    let notices = &service.notices;
    notices
        .metadef_emptied(&mut tx, &namespace, kind, context)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
