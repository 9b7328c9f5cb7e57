//! `POST snapshots/{id}/action`.

use axum::extract::Path;
use http::StatusCode;
use rest::{BadInput, JsonBody};
use serde_json::Value;

use super::call::Call;
use super::{Answer, actions};
use crate::domain::snapshots::{self as domain, Manner};

/// States that an admin may set (Cinder's `SnapshotStatus`).
const STATES: &[&str] = &[
    "error",
    "available",
    "creating",
    "deleting",
    "deleted",
    "updating",
    "error_deleting",
    "unmanaging",
    "backing-up",
    "restoring",
];

/// Dispatches by the action's name.
pub(super) async fn act(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<StatusCode> {
    let (name, body) = actions::parse(body)?;
    match name.as_str() {
        "os-reset_status" => reset_status(&call, &id, &body).await,
        "os-force_delete" => force_delete(&call, &id).await,
        "os-unmanage" => unmanage(&call, &id).await,
        "os-update_snapshot_status" => report_status(&call, &id, &body).await,
        other => Err(actions::unknown(other).into()),
    }
}

fn checked_state(text: &str) -> Result<String, BadInput> {
    let lower = text.to_ascii_lowercase();
    if STATES.contains(&lower.as_str()) {
        return Ok(lower);
    }
    let valid = STATES.join(", ");
    Err(BadInput::new(format!(
        "Snapshot status: {text} is invalid, valid statuses are: {valid}."
    )))
}

async fn reset_status(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-reset_status")?;
    arguments.only(&["status"])?;
    let state = checked_state(arguments.required_string("status", 0..=255)?)?;
    let snapshot = domain::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:snapshot_admin_actions:reset_status",
        &snapshot.project_id,
    )?;
    domain::set_status(&call.service, &call.context, snapshot.id, &state).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn force_delete(call: &Call, id: &str) -> Answer<StatusCode> {
    let snapshot = domain::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:snapshot_admin_actions:force_delete",
        &snapshot.project_id,
    )?;
    domain::delete(&call.service, &call.context, &snapshot, Manner::ForceDelete).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn unmanage(call: &Call, id: &str) -> Answer<StatusCode> {
    let snapshot = domain::get(&call.service, &call.context, id).await?;
    call.enforce("snapshot_extension:snapshot_unmanage", &snapshot.project_id)?;
    domain::delete(&call.service, &call.context, &snapshot, Manner::Unmanage).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn report_status(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-update_snapshot_status")?;
    let state = checked_state(arguments.required_string("status", 0..=255)?)?;
    let progress = arguments
        .string("progress", 0..=255)?
        .filter(|text| !text.is_empty());
    if let Some(progress) = progress {
        let percent = progress
            .strip_suffix('%')
            .and_then(|digits| digits.parse::<u8>().ok());
        if percent.is_none_or(|percent| percent > 100) {
            let text = "progress must be an integer percentage between 0 and 100";
            return Err(BadInput::invalid_input(text).into());
        }
    }
    let snapshot = domain::get(&call.service, &call.context, id).await?;
    call.enforce(
        "snapshot_extension:snapshot_actions:update_snapshot_status",
        &snapshot.project_id,
    )?;
    domain::report_status(&call.service, &snapshot, &state, progress).await?;
    Ok(StatusCode::ACCEPTED)
}
