//! `types/{id}/os-volume-type-access`, and the actions that change who has access.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::{Fault, JsonBody};
use serde::Serialize;
use uuid::Uuid;

use super::call::Call;
use super::{Answer, actions};
use crate::db::volume_types;
use crate::domain::types as domain;

/// `{"volume_type_access": […]}`
#[derive(Serialize)]
pub(super) struct AccessList {
    volume_type_access: Vec<Access>,
}

#[derive(Serialize)]
struct Access {
    volume_type_id: Uuid,
    project_id: String,
}

/// `GET types/{id}/os-volume-type-access`
pub(super) async fn index(call: Call, Path(id): Path<String>) -> Answer<Json<AccessList>> {
    call.enforce_own("volume_extension:volume_type_access:get_all_for_type")?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    if found.is_public {
        return Err(Fault::not_found(
            "Access list not available for public volume types.",
        ));
    }
    let projects = volume_types::projects(&call.service.database, found.id).await?;
    let access = |project_id| Access {
        volume_type_id: found.id,
        project_id,
    };
    Ok(Json(AccessList {
        volume_type_access: projects.into_iter().map(access).collect(),
    }))
}

/// `POST types/{id}/action`
pub(super) async fn act(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<StatusCode> {
    let (name, body) = actions::parse(body)?;
    if !["addProjectAccess", "removeProjectAccess"].contains(&name.as_str()) {
        return Err(actions::unknown(&name).into());
    }
    call.enforce_own(&format!("volume_extension:volume_type_access:{name}"))?;
    let arguments = actions::arguments(&body, &name)?;
    arguments.only(&["project"])?;
    let project_id = arguments.required_string("project", 1..=255)?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    match name.as_str() {
        "addProjectAccess" => {
            domain::add_access(&call.service, &call.context, &found, project_id).await?
        }
        _ => domain::remove_access(&call.service, &call.context, &found, project_id).await?,
    }
    Ok(StatusCode::ACCEPTED)
}
