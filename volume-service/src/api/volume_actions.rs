//! `POST volumes/{id}/action`: dispatch, and the actions that change states and flags.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, JsonBody};
use serde_json::Value;

use super::call::Call;
use super::{
    Answer, actions, body, volume_attach_actions, volume_image_actions, volume_relocation,
};
use crate::Error;
use crate::db::status;
use crate::domain::volume_actions::{self as domain, Reset};
use crate::domain::volume_delete::{self, Manner};
use crate::domain::volumes;

/// States that an admin may set (Cinder's `VolumeStatus`).
const STATES: &[&str] = &[
    "creating",
    "available",
    "deleting",
    "error",
    "error_deleting",
    "error_managing",
    "managing",
    "attaching",
    "in-use",
    "detaching",
    "maintenance",
    "restoring-backup",
    "error_restoring",
    "reserved",
    "awaiting-transfer",
    "backing-up",
    "error_backing-up",
    "error_extending",
    "downloading",
    "uploading",
    "retyping",
    "extending",
    "reverting",
];
const MIGRATION_STATES: &[&str] = &[
    "migrating",
    "error",
    "success",
    "completing",
    "none",
    "starting",
];

/// Dispatches by the action's name.
pub(super) async fn act(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<Response> {
    let (name, body) = actions::parse(body)?;
    if let Some(answer) = volume_relocation::act(&call, &id, &name, &body).await {
        return answer;
    }
    match name.as_str() {
        "os-extend" => extend(&call, &id, &body)
            .await
            .map(IntoResponse::into_response),
        "os-extend_volume_completion" => complete_extend(&call, &id, &body)
            .await
            .map(IntoResponse::into_response),
        "revert" => revert(&call, &id, &body)
            .await
            .map(IntoResponse::into_response),
        "os-reset_status" => reset_status(&call, &id, &body)
            .await
            .map(IntoResponse::into_response),
        "os-force_delete" => force_delete(&call, &id)
            .await
            .map(IntoResponse::into_response),
        "os-unmanage" => unmanage(&call, &id).await.map(IntoResponse::into_response),
        "os-set_bootable" => set_bootable(&call, &id, &body)
            .await
            .map(IntoResponse::into_response),
        "os-update_readonly_flag" => set_readonly(&call, &id, &body)
            .await
            .map(IntoResponse::into_response),
        _ => match volume_attach_actions::act(&call, &id, &name, &body).await {
            Some(answer) => answer,
            None => volume_image_actions::act(&call, &id, &name, &body).await,
        },
    }
}

async fn extend(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-extend")?;
    arguments.only(&["new_size"])?;
    let new_size = arguments.required_integer("new_size", 1..=body::MAX_INT)?;
    let new_size =
        u32::try_from(new_size).map_err(|_| BadInput::invalid_input("new_size is out of range"))?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    let attached = call.at_least(42) && volume.status == status::IN_USE;
    let rule = if attached {
        "volume:extend_attached_volume"
    } else {
        "volume:extend"
    };
    call.enforce(rule, &volume.project_id)?;
    domain::extend(&call.service, &call.context, &volume, new_size, attached).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Since 3.71: what a back-end waits for that cannot extend attached volumes by itself. There is
/// none, so no volume ever waits.
async fn complete_extend(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    call.version.require(3, 71)?;
    let arguments = actions::arguments(body, "os-extend_volume_completion")?;
    arguments.only(&["error"])?;
    arguments.boolean("error")?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    let rule = "volume_extension:volume_admin_actions:extend_volume_completion";
    call.enforce(rule, &volume.project_id)?;
    let reason = match volume.status.as_str() {
        status::EXTENDING => "Required volume admin metadata is malformed or missing.",
        _ => "Volume is not being extended.",
    };
    Err(Error::invalid_volume(reason).into())
}

async fn revert(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    call.version.require(3, 40)?;
    let arguments = actions::arguments(body, "revert")?;
    let snapshot_id = arguments.string("snapshot_id", 0..=255)?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce("volume:revert_to_snapshot", &volume.project_id)?;
    domain::revert(&call.service, &call.context, &volume, snapshot_id).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn reset_status(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-reset_status")?;
    arguments.only(&["status", "attach_status", "migration_status"])?;
    let reset = Reset {
        status: state(&arguments, "status", "Volume status", STATES)?,
        attach_status: state(
            &arguments,
            "attach_status",
            "Volume attach status",
            &[status::ATTACHED, status::DETACHED],
        )?,
        migration_status: state(
            &arguments,
            "migration_status",
            "Volume migration status",
            MIGRATION_STATES,
        )?,
    };
    if reset.status.is_none() && reset.attach_status.is_none() && reset.migration_status.is_none() {
        let text = "Must specify 'status', 'attach_status' or 'migration_status' for update.";
        return Err(BadInput::new(text).into());
    }
    let refused = [status::DELETING, status::ERROR_DELETING, status::DETACHING];
    if let Some(refused) = reset
        .status
        .as_deref()
        .filter(|state| refused.contains(state))
    {
        return Err(BadInput::new(format!("Cannot reset-state to {refused}")).into());
    }
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_admin_actions:reset_status",
        &volume.project_id,
    )?;
    domain::reset_status(&call.service, &call.context, &volume, &reset).await?;
    Ok(StatusCode::ACCEPTED)
}

/// One of the states, in any case; empty is absent.
fn state(
    arguments: &Object<'_>,
    key: &str,
    what: &str,
    allowed: &[&str],
) -> Result<Option<String>, BadInput> {
    let Some(text) = arguments
        .string(key, 0..=255)?
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let lower = text.to_ascii_lowercase();
    if allowed.contains(&lower.as_str()) {
        return Ok(Some(lower));
    }
    let valid = allowed.join(", ");
    Err(BadInput::new(format!(
        "{what}: {text} is invalid, valid statuses are: {valid}."
    )))
}

async fn force_delete(call: &Call, id: &str) -> Answer<StatusCode> {
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_admin_actions:force_delete",
        &volume.project_id,
    )?;
    let manner = Manner {
        cascade: false,
        force: true,
        unmanage: false,
    };
    volume_delete::delete(&call.service, &call.context, &volume, manner).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn unmanage(call: &Call, id: &str) -> Answer<StatusCode> {
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce("volume_extension:volume_unmanage", &volume.project_id)?;
    let manner = Manner {
        unmanage: true,
        ..Manner::default()
    };
    volume_delete::delete(&call.service, &call.context, &volume, manner).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn set_bootable(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-set_bootable")?;
    arguments.only(&["bootable"])?;
    let bootable = arguments.required_boolean("bootable")?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce("volume:update", &volume.project_id)?;
    domain::set_bootable(&call.service, &volume, bootable).await?;
    Ok(StatusCode::OK)
}

async fn set_readonly(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-update_readonly_flag")?;
    arguments.only(&["readonly"])?;
    let readonly = arguments.required_boolean("readonly")?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce("volume:update_readonly_flag", &volume.project_id)?;
    domain::set_readonly(&call.service, &volume, readonly).await?;
    Ok(StatusCode::ACCEPTED)
}
