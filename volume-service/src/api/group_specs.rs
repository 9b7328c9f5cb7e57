//! `group_types/{id}/group_specs` and `…/group_specs/{key}` (3.11).

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::validate::{MapRules, Object};
use rest::{BadInput, Fault, JsonBody};
use serde::Serialize;
use serde_json::{Value, json};

use super::call::Call;
use super::{Answer, body};
use crate::db::metadata::Metadata;
use crate::domain::group_types::{self as domain, GroupTypeDetails};

/// `{"group_specs": …}`
#[derive(Serialize)]
pub(super) struct SpecsBody {
    group_specs: Metadata,
}

async fn find(call: &Call, id: &str, rule: &str) -> Answer<GroupTypeDetails> {
    call.version.require(3, 11)?;
    call.enforce_own(rule)?;
    let found = domain::get(&call.service, &call.context, id).await?;
    Ok(domain::details(&call.service, found).await?)
}

/// `GET group_types/{id}/group_specs`
pub(super) async fn index(call: Call, Path(id): Path<String>) -> Answer<Json<SpecsBody>> {
    let found = find(&call, &id, "group:group_types_specs:get_all").await?;
    Ok(Json(SpecsBody {
        group_specs: found.specs,
    }))
}

/// `POST group_types/{id}/group_specs`: answers what it was given.
pub(super) async fn create(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<(StatusCode, Json<Value>)> {
    let found = find(&call, &id, "group:group_types_specs:create").await?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&["group_specs"])?;
    let specs = object.required_string_map("group_specs", MapRules::GROUP_SPECS)?;
    domain::set_specs(
        &call.service,
        &call.context,
        found.group_type.id,
        &specs,
        None,
    )
    .await?;
    Ok((StatusCode::ACCEPTED, Json(body)))
}

/// `GET group_types/{id}/group_specs/{key}`: `{key: value}`
pub(super) async fn show(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<Json<Metadata>> {
    let mut found = find(&call, &id, "group:group_types_specs:get").await?;
    let value = found.specs.remove(&key).ok_or_else(|| {
        Fault::not_found(format!("Group Type {id} has no extra spec with key {key}."))
    })?;
    Ok(Json(Metadata::from([(key, value)])))
}

/// `PUT group_types/{id}/group_specs/{key}`: `{key: value}`
pub(super) async fn update(
    call: Call,
    Path((id, key)): Path<(String, String)>,
    body: JsonBody,
) -> Answer<Json<Value>> {
    let found = find(&call, &id, "group:group_types_specs:update").await?;
    let body = body::required(body)?;
    let wrapped = json!({ "group_specs": body });
    let specs = Object::new(&wrapped)?.required_string_map("group_specs", MapRules::GROUP_SPECS)?;
    if !specs.contains_key(&key) {
        return Err(BadInput::new("Request body and URI mismatch").into());
    }
    if specs.len() > 1 {
        return Err(BadInput::new("Request body contains too many items").into());
    }
    domain::set_specs(
        &call.service,
        &call.context,
        found.group_type.id,
        &specs,
        Some(&key),
    )
    .await?;
    Ok(Json(body))
}

/// `DELETE group_types/{id}/group_specs/{key}`
pub(super) async fn delete(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let found = find(&call, &id, "group:group_types_specs:delete").await?;
    domain::delete_spec(&call.service, &call.context, found.group_type.id, &key).await?;
    Ok(StatusCode::ACCEPTED)
}
