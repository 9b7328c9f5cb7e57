//! `types/{id}/extra_specs` and `…/extra_specs/{key}`.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::validate::{MapRules, Object};
use rest::{BadInput, JsonBody};
use serde::Serialize;
use serde_json::json;

use super::call::Call;
use super::views::types::visible_specs;
use super::{Answer, body};
use crate::db::volume_types::{self, ExtraSpecs};
use crate::domain::types as domain;

/// `{"extra_specs": …}`
#[derive(Serialize)]
pub(super) struct SpecsBody {
    extra_specs: ExtraSpecs,
}

/// `GET types/{id}/extra_specs`
pub(super) async fn index(call: Call, Path(id): Path<String>) -> Answer<Json<SpecsBody>> {
    call.enforce_own("volume_extension:types_extra_specs:index")?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    let specs = volume_types::extra_specs(&call.service.database, found.id).await?;
    Ok(Json(SpecsBody {
        extra_specs: visible_specs(&call, specs),
    }))
}

/// `POST types/{id}/extra_specs`
pub(super) async fn create(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<SpecsBody>> {
    call.enforce_own("volume_extension:types_extra_specs:create")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&["extra_specs"])?;
    let extra_specs = object.required_string_map("extra_specs", MapRules::TYPE_EXTRA_SPECS)?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    domain::set_extra_specs(&call.service, &call.context, &found, &extra_specs, None).await?;
    Ok(Json(SpecsBody { extra_specs }))
}

/// `GET types/{id}/extra_specs/{key}`: `{key: value}`.
pub(super) async fn show(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<Json<ExtraSpecs>> {
    call.enforce_own("volume_extension:types_extra_specs:show")?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    let mut specs = visible_specs(
        &call,
        volume_types::extra_specs(&call.service.database, found.id).await?,
    );
    let value = specs
        .remove(&key)
        .ok_or_else(|| domain::no_extra_spec(found.id, &key))?;
    Ok(Json(ExtraSpecs::from([(key, value)])))
}

/// `PUT types/{id}/extra_specs/{key}`: `{key: value}`.
pub(super) async fn update(
    call: Call,
    Path((id, key)): Path<(String, String)>,
    body: JsonBody,
) -> Answer<Json<ExtraSpecs>> {
    call.enforce_own("volume_extension:types_extra_specs:update")?;
    let body = json!({ "extra_specs": body::required(body)? });
    let specs =
        Object::new(&body)?.required_string_map("extra_specs", MapRules::TYPE_EXTRA_SPECS)?;
    if !specs.contains_key(&key) {
        return Err(BadInput::new("Request body and URI mismatch").into());
    }
    if specs.len() > 1 {
        return Err(BadInput::new("Request body contains too many items").into());
    }
    let found = domain::get(&call.service, &call.context, &id).await?;
    domain::set_extra_specs(&call.service, &call.context, &found, &specs, Some(&key)).await?;
    Ok(Json(specs))
}

/// `DELETE types/{id}/extra_specs/{key}`
pub(super) async fn delete(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:types_extra_specs:delete")?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    domain::delete_extra_spec(&call.service, &call.context, &found, &key).await?;
    Ok(StatusCode::ACCEPTED)
}
