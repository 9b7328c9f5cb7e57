//! `POST backups/{id}/action`.

use axum::extract::Path;
use http::StatusCode;
use rest::{BadInput, JsonBody};
use serde_json::Value;

use super::call::Call;
use super::{Answer, actions};
use crate::db::status;
use crate::domain::backups as domain;

/// Dispatches by the action's name.
pub(super) async fn act(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<StatusCode> {
    let (name, body) = actions::parse(body)?;
    match name.as_str() {
        "os-reset_status" => reset_status(&call, &id, &body).await,
        "os-force_delete" => force_delete(&call, &id).await,
        other => Err(actions::unknown(other).into()),
    }
}

async fn reset_status(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-reset_status")?;
    arguments.only(&["status"])?;
    let text = arguments.required_string("status", 0..=255)?;
    let state = text.to_ascii_lowercase();
    if ![status::AVAILABLE, status::ERROR].contains(&state.as_str()) {
        let text = format!(
            "Backup status: {text} is invalid, valid statuses are: ['available', 'error']."
        );
        return Err(BadInput::new(text).into());
    }
    let backup = domain::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:backup_admin_actions:reset_status",
        &backup.project_id,
    )?;
    domain::set_status(&call.service, &call.context, backup.id, &state).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn force_delete(call: &Call, id: &str) -> Answer<StatusCode> {
    let backup = domain::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:backup_admin_actions:force_delete",
        &backup.project_id,
    )?;
    domain::delete(&call.service, &call.context, &backup, true).await?;
    Ok(StatusCode::ACCEPTED)
}
