//! Tags of namespaces.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use rest::body::AnyJsonBody;
use rest::{QueryParams, RequestContext};

use super::super::Service;
use super::{enforce, find_for, items, no_namespace};
use crate::db::{metadef_items, metadefs};
use crate::error::Result;
use crate::metadef::views::{TagNameView, TagView, TagsView};
use crate::metadef::{Kind, document, load};
use crate::notices::metadefs::Event;

pub async fn list(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
    params: QueryParams,
) -> Result<Json<TagsView>> {
    let namespace = find_for(&service, &context, &namespace, "get_metadef_tags").await?;
    let found = items::list(&service, &namespace, Kind::Tag, params).await?;
    Ok(Json(TagsView {
        tags: found.into_iter().map(TagNameView::from).collect(),
    }))
}

/// Replaces the namespace's tags; with `X-Openstack-Append: true` adds to them.
pub async fn create_all(
    State(service): Service,
    context: RequestContext,
    Path(name): Path<String>,
    headers: HeaderMap,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, Json<TagsView>)> {
    let named = document::tags(body.as_ref())?;
    let namespace = find_for(&service, &context, &name, "add_metadef_tags").await?;
    let append = headers
        .get("x-openstack-append")
        .and_then(|value| value.to_str().ok())
        .is_some_and(is_true);
    let mut tx = service.database.begin().await?;
    if metadefs::lock(&mut tx, namespace.id).await?.is_none() {
        return Err(no_namespace(&name));
    }
    if !append {
        metadef_items::delete_all(&mut tx, namespace.id, Kind::Tag).await?;
    }
    let mut tags = Vec::with_capacity(named.len());
    for tag in &named {
        let tag = load::insert_item(&mut tx, &namespace, Kind::Tag, tag).await?;
        let told = (&namespace, Kind::Tag, &tag);
        let notices = &service.notices;
        notices
            .metadef_item(&mut tx, Event::Create, told, &context)
            .await?;
        tags.push(tag);
    }
    tx.commit().await?;
    let tags = tags.into_iter().map(TagNameView::from).collect();
    Ok((StatusCode::CREATED, Json(TagsView { tags })))
}

/// What oslo's `bool_from_string` takes for true.
fn is_true(word: &str) -> bool {
    let word = word.trim().to_ascii_lowercase();
    matches!(word.as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

pub async fn create(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<(StatusCode, Json<TagView>)> {
    let named = document::tag_named(&name)?;
    let namespace = find_for(&service, &context, &namespace, "add_metadef_tag").await?;
    let tag = items::create(&service, &context, &namespace, Kind::Tag, &named).await?;
    Ok((StatusCode::CREATED, Json(tag.into())))
}

pub async fn show(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<TagView>> {
    let namespace = find_for(&service, &context, &namespace, "get_metadef_tag").await?;
    let tag = items::find(&service, &namespace, Kind::Tag, &name).await?;
    Ok(Json(tag.into()))
}

pub async fn update(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<Json<TagView>> {
    let named = document::tag(body.as_ref())?;
    let namespace = find_for(&service, &context, &namespace, "modify_metadef_tag").await?;
    let tag = items::update(&service, &context, (&namespace, &name), Kind::Tag, named).await?;
    Ok(Json(tag.into()))
}

pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<StatusCode> {
    let rule = "delete_metadef_tag";
    items::delete(&service, &context, (&namespace, &name), Kind::Tag, rule).await
}

pub async fn delete_all(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
) -> Result<StatusCode> {
    // Whether the namespace is there comes first.
    find_for(&service, &context, &namespace, "get_metadef_tags").await?;
    enforce(&service, &context, "delete_metadef_tags")?;
    items::delete_all(&service, &context, &namespace, Kind::Tag).await
}
