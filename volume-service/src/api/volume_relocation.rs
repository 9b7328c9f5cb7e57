//! The actions that take a volume to another type or to another pool.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rest::BadInput;
use rest::validate::Object;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::call::Call;
use super::{Answer, actions};
use crate::Error;
use crate::domain::relocation::{self as domain, Destination};
use crate::domain::{clusters, volumes};
use crate::flows::MigrationPolicy;

/// What `os-migrate_volume_completion` answers.
#[derive(Serialize)]
struct Completed {
    save_volume_id: Uuid,
}

/// The actions of this file, by name; `None` for a name that is none of them.
pub(super) async fn act(
    call: &Call,
    id: &str,
    name: &str,
    body: &Value,
) -> Option<Answer<Response>> {
    Some(match name {
        "os-retype" => retype(call, id, body)
            .await
            .map(IntoResponse::into_response),
        "os-migrate_volume" => migrate(call, id, body)
            .await
            .map(IntoResponse::into_response),
        "os-migrate_volume_completion" => complete(call, id, body)
            .await
            .map(IntoResponse::into_response),
        _ => return None,
    })
}

async fn retype(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-retype")?;
    arguments.only(&["new_type", "migration_policy"])?;
    let new_type = arguments.required_string("new_type", 1..=255)?;
    let policy = arguments.one_of("migration_policy", &["never", "on-demand"])?;
    let policy = match policy {
        Some("on-demand") => MigrationPolicy::OnDemand,
        _ => MigrationPolicy::Never,
    };
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce("volume:retype", &volume.project_id)?;
    domain::retype(&call.service, &call.context, &volume, new_type, policy).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn migrate(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-migrate_volume")?;
    let keys = ["host", "force_host_copy", "lock_volume", "cluster"];
    let known = if call.at_least(16) { 4 } else { 3 };
    arguments.only(keys.get(..known).unwrap_or(&keys))?;
    let force_host_copy = arguments.lenient_boolean("force_host_copy")?;
    let lock_volume = arguments.lenient_boolean("lock_volume")?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_admin_actions:migrate_volume",
        &volume.project_id,
    )?;
    let host = match target(call, &arguments)? {
        Target::Host(host) => host.to_owned(),
        Target::Cluster(name) => {
            let host = clusters::host_of(&call.service, name).await?;
            host.ok_or_else(|| {
                Error::Invalid(format!("Invalid host: No available service named '{name}'"))
            })?
        }
    };
    let to = Destination {
        host,
        force_host_copy: force_host_copy.unwrap_or(false),
        lock_volume: lock_volume.unwrap_or(false),
    };
    domain::migrate(&call.service, &call.context, &volume, to).await?;
    Ok(StatusCode::ACCEPTED)
}

enum Target<'a> {
    Host(&'a str),
    Cluster(&'a str),
}

/// Exactly one of host and (since 3.16) cluster.
fn target<'a>(call: &Call, arguments: &Object<'a>) -> Result<Target<'a>, BadInput> {
    if !call.at_least(16) {
        return Ok(Target::Host(arguments.required_string("host", 1..=255)?));
    }
    let host = arguments.string("host", 1..=255)?;
    match (host, arguments.string("cluster", 1..=255)?) {
        (Some(host), None) => Ok(Target::Host(host)),
        (None, Some(cluster)) => Ok(Target::Cluster(cluster)),
        _ => Err(BadInput::invalid_input(
            "One and only one of cluster and host must be set.",
        )),
    }
}

async fn complete(call: &Call, id: &str, body: &Value) -> Answer<Json<Completed>> {
    let arguments = actions::arguments(body, "os-migrate_volume_completion")?;
    arguments.only(&["new_volume", "error"])?;
    let new_volume = arguments.required_uuid("new_volume")?;
    let has_failed = arguments.lenient_boolean("error")?.unwrap_or(false);
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_admin_actions:migrate_volume_completion",
        &volume.project_id,
    )?;
    let save_volume_id = domain::complete(
        &call.service,
        &call.context,
        &volume,
        new_volume,
        has_failed,
    )
    .await?;
    Ok(Json(Completed { save_volume_id }))
}
