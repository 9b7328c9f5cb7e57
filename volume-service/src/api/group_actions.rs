//! `POST groups/{id}/action`.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, JsonBody, python};
use serde_json::{Value, json};

use super::call::Call;
use super::groups::find;
use super::{Answer, actions};
use crate::domain::group_replication::{self, Action};
use crate::domain::{group_delete, groups};

/// What an admin may set: Cinder checks groups against the states of group snapshots.
pub(super) const STATES: &[&str] = &[
    "error",
    "available",
    "creating",
    "deleting",
    "deleted",
    "updating",
    "error_deleting",
];

/// Dispatches by the action's name.
pub(super) async fn act(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<Response> {
    let (name, body) = actions::parse(body)?;
    match name.as_str() {
        "delete" => delete(&call, &id, &body).await,
        "reset_status" => reset_status(&call, &id, &body).await,
        "enable_replication" => replicate(&call, &id, &body, &name, Action::Enable).await,
        "disable_replication" => replicate(&call, &id, &body, &name, Action::Disable).await,
        "failover_replication" => replicate(&call, &id, &body, &name, Action::FailOver).await,
        "list_replication_targets" => targets(&call, &id, &body).await,
        other => Err(actions::unknown(other).into()),
    }
}

fn accepted() -> Answer<Response> {
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn delete(call: &Call, id: &str, body: &Value) -> Answer<Response> {
    call.version.require(3, 13)?;
    let arguments = actions::arguments(body, "delete")?;
    arguments.only(&["delete-volumes"])?;
    let delete_volumes = arguments.boolean("delete-volumes")?.unwrap_or(false);
    let group = find(call, id).await?;
    call.enforce("group:delete", &group.project_id)?;
    group_delete::delete(&call.service, &call.context, &group, delete_volumes).await?;
    accepted()
}

/// The status of a reset, in lower case.
pub(super) fn status(arguments: &Object<'_>, what: &str) -> Result<String, BadInput> {
    arguments.only(&["status"])?;
    let text = arguments.required_string("status", 0..=255)?;
    let lower = text.to_lowercase();
    if STATES.contains(&lower.as_str()) {
        return Ok(lower);
    }
    let reason = match text.trim().is_empty() {
        true => "The 'status' can not be empty.".to_owned(),
        false => format!(
            "{what} status: {text} is invalid, valid statuses are: ({}).",
            python::join_reprs(STATES.iter().copied())
        ),
    };
    Err(BadInput::new(reason))
}

async fn reset_status(call: &Call, id: &str, body: &Value) -> Answer<Response> {
    call.version.require(3, 20)?;
    let arguments = actions::arguments(body, "reset_status")?;
    let status = status(&arguments, "Group")?;
    let group = groups::get(&call.service, &call.context, id).await?;
    call.enforce("group:reset_status", &group.project_id)?;
    groups::set_status(&call.service, group.id, &status).await?;
    accepted()
}

async fn replicate(
    call: &Call,
    id: &str,
    body: &Value,
    name: &str,
    action: Action,
) -> Answer<Response> {
    call.version.require(3, 38)?;
    let arguments = actions::arguments(body, name)?;
    if action == Action::FailOver {
        arguments.only(&["allow_attached_volume", "secondary_backend_id"])?;
        arguments.boolean("allow_attached_volume")?;
        arguments.string("secondary_backend_id", 0..=255)?;
    }
    let group = groups::get(&call.service, &call.context, id).await?;
    call.enforce(&format!("group:{name}"), &group.project_id)?;
    group_replication::act(&call.service, &group, action).await?;
    accepted()
}

async fn targets(call: &Call, id: &str, body: &Value) -> Answer<Response> {
    call.version.require(3, 38)?;
    actions::arguments(body, "list_replication_targets")?;
    let group = groups::get(&call.service, &call.context, id).await?;
    call.enforce("group:list_replication_targets", &group.project_id)?;
    group_replication::check_types(&call.service, &group).await?;
    Ok(Json(json!({ "replication_targets": [] })).into_response())
}
