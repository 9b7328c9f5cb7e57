//! `POST /v2/images/{id}/actions/snapshot_disk`: an image of a server's disk in the same store.
//! Ours, beside Glance's API; a compute service without it adds a location instead.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;
use rest::body::AnyJsonBody;
use serde_json::{Value, json};

use super::{Service, access};
use crate::disk_snapshots::{self, DiskSnapshot, Requester};
use crate::error::{Error, Result};

const RULE: &str = "snapshot_disk";

pub async fn create(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, Json<Value>)> {
    let image = if service.policy.allows(&context, RULE, &context) {
        access::find_any(&service, &id).await?
    } else {
        access::find_for(&service, &context, &id, RULE).await?.image
    };
    let wanted: DiskSnapshot = serde_json::from_value(body.unwrap_or(Value::Null))
        .map_err(|error| Error::BadRequest(format!("Invalid body: {error}")))?;
    let by = Requester {
        request_id: &context.request_id,
        project_id: context.project(),
        user_id: &context.user_id,
    };
    let flow_id = disk_snapshots::begin(&service, image.id, &wanted, &by).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"flow_id": flow_id}))))
}
