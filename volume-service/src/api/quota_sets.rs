//! `os-quota-sets/{project}`.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, JsonBody, QueryParams, filter};

use super::call::Call;
use super::views::quotas::OneSet;
use super::{Answer, body};
use crate::db::quotas::Limits;
use crate::domain::limits as domain;

/// `GET os-quota-sets/{project}?usage=`
pub(super) async fn show(
    call: Call,
    Path(project): Path<String>,
    query: QueryParams,
) -> Answer<Json<OneSet>> {
    call.enforce("volume_extension:quotas:show", &project)?;
    let usage = query
        .get("usage")
        .map(|text| filter::require_bool("usage", text))
        .transpose()?;
    let set = domain::of_project(&call.service, &project).await?;
    if usage.unwrap_or(false) {
        return Ok(Json(OneSet::usage(&project, set)));
    }
    let limits = set
        .into_iter()
        .map(|(resource, quota)| (resource, quota.limit))
        .collect();
    Ok(Json(OneSet::limits(Some(&project), limits)))
}

/// `GET os-quota-sets/{project}/defaults`
pub(super) async fn defaults(call: Call, Path(project): Path<String>) -> Answer<Json<OneSet>> {
    call.enforce("volume_extension:quotas:show", &project)?;
    let limits = domain::defaults(&call.service).await?;
    Ok(Json(OneSet::limits(Some(&project), limits)))
}

/// `PUT os-quota-sets/{project}`
pub(super) async fn update(
    call: Call,
    Path(project): Path<String>,
    body: JsonBody,
) -> Answer<Json<OneSet>> {
    call.enforce("volume_extension:quotas:update", &project)?;
    let limits = limits(&body::required(body)?, "quota_set", &["tenant_id"])?;
    domain::set_of_project(&call.service, &project, &limits).await?;
    let set = domain::of_project(&call.service, &project).await?;
    let limits = set
        .into_iter()
        .map(|(resource, quota)| (resource, quota.limit))
        .collect();
    Ok(Json(OneSet::limits(None, limits)))
}

/// The limits in a body; the keys of `no_resources` are passed over.
pub(super) fn limits(
    body: &serde_json::Value,
    key: &str,
    no_resources: &[&str],
) -> Result<Limits, BadInput> {
    let object = Object::only_member(body, key)?;
    object.not_empty()?;
    let mut limits = Limits::new();
    let resources = object
        .map()
        .keys()
        .filter(|key| !no_resources.contains(&key.as_str()));
    for resource in resources {
        limits.insert(
            resource.clone(),
            object.required_integer(resource, -1..=body::MAX_INT)?,
        );
    }
    Ok(limits)
}

/// `DELETE os-quota-sets/{project}`
pub(super) async fn delete(call: Call, Path(project): Path<String>) -> Answer<StatusCode> {
    call.enforce("volume_extension:quotas:delete", &project)?;
    domain::reset_project(&call.service, &project).await?;
    Ok(StatusCode::OK)
}
