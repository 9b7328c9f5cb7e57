//! Interoperable import: no method is enabled, so staging is not found and importing refused.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;
use rest::body::AnyJsonBody;
use serde::Serialize;
use serde_json::Value;

use super::{Service, access};
use crate::error::{Error, Result};

pub async fn stage(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    access::find_for(&service, &context, &id, "upload_image").await?;
    Err(Error::NotFound(
        "The import method 'glance-direct' is not enabled at this site.".to_owned(),
    ))
}

pub async fn import(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<StatusCode> {
    access::find_for(&service, &context, &id, "upload_image").await?;
    let name = body
        .as_ref()
        .and_then(|body| body.pointer("/method/name"))
        .and_then(Value::as_str);
    let name = name.ok_or_else(|| {
        Error::BadRequest("Import request requires a 'method' field with a 'name'.".to_owned())
    })?;
    Err(Error::BadRequest(format!(
        "Unknown import method name '{name}'."
    )))
}

/// The import tasks of an image.
#[derive(Debug, Serialize)]
pub struct TasksView {
    tasks: [Value; 0],
}

pub async fn tasks(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<Json<TasksView>> {
    access::find(&service, &context, &id).await?;
    Ok(Json(TasksView { tasks: [] }))
}
