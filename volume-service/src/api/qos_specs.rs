//! `qos-specs`: list, show, create, change and delete keys, and which volume types have them.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::validate::{MapRules, Object};
use rest::{BadInput, JsonBody, QueryParams, filter};
use serde_json::Value;

use super::call::Call;
use super::list_params::{ListParams, nothing, text};
use super::views::qos_specs::{Associations, List, One, QosView};
use super::{Answer, body};
use crate::db::metadata::Metadata;
use crate::db::qos_specs;
use crate::domain::qos_specs as domain;

/// More keys than any request has reason to name.
const MOST_KEYS: usize = 1000;

/// `GET qos-specs`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    call.enforce_own("volume_extension:qos_specs_manage:get_all")?;
    let allowed = (&["id", "name", "consumer"][..], false);
    let params = ListParams::with_filters(&call, query, allowed, &[])?;
    let clause = |(key, value): &(String, String)| match key.as_str() {
        "id" => text(key, "id", value),
        "name" => text(key, "name", value),
        "consumer" => text(key, "consumer", value),
        _ => nothing(),
    };
    let filters = params.filters.iter().map(clause).collect();
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page.rows.iter().map(|row| row.qos.id.to_string()).collect();
    Ok(Json(List {
        qos_specs_links: next.of(&call, "qos-specs", ids.into_iter()),
        qos_specs: page.rows.into_iter().map(QosView::new).collect(),
    }))
}

/// `GET qos-specs/{id}`
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One>> {
    call.enforce_own("volume_extension:qos_specs_manage:get")?;
    let found = domain::get(&call.service, &id).await?;
    Ok(Json(One::new(&call, found)))
}

/// `POST qos-specs`: beside `name` and `consumer` every key is a spec.
pub(super) async fn create(call: Call, body: JsonBody) -> Answer<Json<One>> {
    call.enforce_own("volume_extension:qos_specs_manage:create")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "qos_specs")?;
    let name = body::stripped_name(object.required_string("name", 0..=usize::MAX)?)?;
    let consumer = object.string("consumer", 0..=255)?;
    let mut specs = Metadata::new();
    let keys = object.map().keys();
    for key in keys.filter(|key| !["name", "consumer"].contains(&key.as_str())) {
        if !(1..=255).contains(&key.chars().count()) {
            let text = "Keys of QoS specs have 1 to 255 characters.";
            return Err(BadInput::invalid_input(text).into());
        }
        let value = object.string(key, 0..=255)?.unwrap_or_default();
        specs.insert(key.clone(), value.to_owned());
    }
    let made = domain::create(&call.service, &call.context, &name, consumer, specs).await?;
    Ok(Json(One::new(&call, made)))
}

/// `PUT qos-specs/{id}`: answers what it was given.
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<Value>> {
    call.enforce_own("volume_extension:qos_specs_manage:update")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&["qos_specs"])?;
    let specs = object.required_string_map("qos_specs", MapRules::QOS_SPECS)?;
    let found = domain::get(&call.service, &id).await?;
    domain::update(&call.service, &call.context, found.qos.id, specs).await?;
    Ok(Json(body))
}

/// `DELETE qos-specs/{id}?force=`
pub(super) async fn delete(
    call: Call,
    Path(id): Path<String>,
    query: QueryParams,
) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:qos_specs_manage:delete")?;
    let force = query
        .get("force")
        .map(|text| filter::require_bool("force", text))
        .transpose()?;
    let found = domain::get(&call.service, &id).await?;
    domain::delete(
        &call.service,
        &call.context,
        found.qos.id,
        force.unwrap_or(false),
    )
    .await?;
    Ok(StatusCode::ACCEPTED)
}

/// `PUT qos-specs/{id}/delete_keys`: `{"keys": […]}`
pub(super) async fn delete_keys(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:qos_specs_manage:delete")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&["keys"])?;
    let keys = body::texts(&object, "keys", MOST_KEYS)?;
    let keys = keys.ok_or_else(|| object.lacks("keys"))?;
    let found = domain::get(&call.service, &id).await?;
    domain::delete_keys(&call.service, &call.context, found.qos.id, &keys).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `GET qos-specs/{id}/associations`
pub(super) async fn associations(call: Call, Path(id): Path<String>) -> Answer<Json<Associations>> {
    call.enforce_own("volume_extension:qos_specs_manage:get_all")?;
    let found = domain::get(&call.service, &id).await?;
    let types = qos_specs::volume_types(&call.service.database, found.qos.id).await?;
    Ok(Json(Associations::new(types)))
}

fn type_id(query: &QueryParams) -> Result<&str, BadInput> {
    query
        .get("vol_type_id")
        .filter(|id| !id.is_empty())
        .ok_or_else(|| BadInput::new("Volume Type id must not be None."))
}

/// `GET qos-specs/{id}/associate?vol_type_id=`
pub(super) async fn associate(
    call: Call,
    Path(id): Path<String>,
    query: QueryParams,
) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:qos_specs_manage:update")?;
    let type_id = type_id(&query)?;
    let found = domain::get(&call.service, &id).await?;
    domain::associate(&call.service, &call.context, found.qos.id, type_id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `GET qos-specs/{id}/disassociate?vol_type_id=`
pub(super) async fn disassociate(
    call: Call,
    Path(id): Path<String>,
    query: QueryParams,
) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:qos_specs_manage:update")?;
    let type_id = Some(type_id(&query)?);
    let found = domain::get(&call.service, &id).await?;
    domain::disassociate(&call.service, &call.context, found.qos.id, type_id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `GET qos-specs/{id}/disassociate_all`
pub(super) async fn disassociate_all(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:qos_specs_manage:update")?;
    let found = domain::get(&call.service, &id).await?;
    domain::disassociate(&call.service, &call.context, found.qos.id, None).await?;
    Ok(StatusCode::ACCEPTED)
}
