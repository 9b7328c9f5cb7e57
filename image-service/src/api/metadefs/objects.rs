//! Objects: groups of properties that belong together.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::body::AnyJsonBody;
use rest::{QueryParams, RequestContext};

use super::super::Service;
use super::{find_for, items};
use crate::error::{Error, Result};
use crate::metadef::views::{ObjectView, ObjectsView};
use crate::metadef::{Kind, document};

pub async fn list(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
    params: QueryParams,
) -> Result<Json<ObjectsView>> {
    let namespace = find_for(&service, &context, &namespace, "get_metadef_objects").await?;
    if params.get("limit") == Some("0") {
        return Err(Error::BadRequest("limit param must be positive".to_owned()));
    }
    let found = items::list(&service, &namespace, Kind::Object, params).await?;
    let view = |object| ObjectView::new(&namespace.namespace, object);
    Ok(Json(ObjectsView {
        objects: found.into_iter().map(view).collect(),
        schema: "v2/schemas/metadefs/objects",
    }))
}

pub async fn create(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, Json<ObjectView>)> {
    let named = document::object(body.as_ref())?;
    let namespace = find_for(&service, &context, &namespace, "add_metadef_object").await?;
    let object = items::create(&service, &context, &namespace, Kind::Object, &named).await?;
    let view = ObjectView::new(&namespace.namespace, object);
    Ok((StatusCode::CREATED, Json(view)))
}

pub async fn show(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<ObjectView>> {
    let namespace = find_for(&service, &context, &namespace, "get_metadef_object").await?;
    let object = items::find(&service, &namespace, Kind::Object, &name).await?;
    Ok(Json(ObjectView::new(&namespace.namespace, object)))
}

pub async fn update(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<Json<ObjectView>> {
    let named = document::object(body.as_ref())?;
    let namespace = find_for(&service, &context, &namespace, "modify_metadef_object").await?;
    let object =
        items::update(&service, &context, (&namespace, &name), Kind::Object, named).await?;
    Ok(Json(ObjectView::new(&namespace.namespace, object)))
}

pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<StatusCode> {
    let rule = "delete_metadef_object";
    items::delete(&service, &context, (&namespace, &name), Kind::Object, rule).await
}

pub async fn delete_all(
    State(service): Service,
    context: RequestContext,
    Path(namespace): Path<String>,
) -> Result<StatusCode> {
    items::delete_all(&service, &context, &namespace, Kind::Object).await
}
