//! `clusters`: managers of several hosts with one back-end (3.7).

use axum::Json;
use axum::extract::Path;
use rest::validate::Object;
use rest::{BadInput, Fault, JsonBody, QueryParams, filter};
use serde::Serialize;

use super::call::Call;
use super::views::{time, time_or_null};
use super::{Answer, body};
use crate::db::services;
use crate::domain::clusters::{self as domain, ClusterDetails};

/// What lists can be narrowed by; `replication_status`, `frozen` and `active_backend_id` are the
/// same for all.
const FILTERS: &[&str] = &[
    "name",
    "binary",
    "is_up",
    "disabled",
    "num_hosts",
    "num_down_hosts",
    "replication_status",
    "frozen",
    "active_backend_id",
];

/// `{"clusters": […]}`
#[derive(Serialize)]
pub(super) struct List {
    clusters: Vec<ClusterView>,
}

/// `{"cluster": …}`
#[derive(Serialize)]
pub(super) struct One {
    cluster: ClusterView,
}

#[derive(Serialize)]
struct ClusterView {
    name: String,
    binary: String,
    state: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_backend_id: Option<Option<String>>,
    #[serde(flatten)]
    detail: Option<DetailView>,
}

#[derive(Serialize)]
struct DetailView {
    num_hosts: usize,
    num_down_hosts: usize,
    last_heartbeat: Option<String>,
    disabled_reason: Option<String>,
    created_at: String,
    updated_at: Option<String>,
}

/// What `PUT` answers beside the summary.
#[derive(Serialize)]
pub(super) struct Changed {
    cluster: ChangedView,
}

#[derive(Serialize)]
struct ChangedView {
    #[serde(flatten)]
    summary: ClusterView,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_reason: Option<String>,
}

fn view(call: &Call, details: ClusterDetails, full: bool) -> ClusterView {
    let down_time_s = call.service.options.service_down_time_s;
    let replicates = call.at_least(26);
    ClusterView {
        state: if details.is_up(down_time_s) {
            "up"
        } else {
            "down"
        },
        status: status_word(details.cluster.disabled),
        replication_status: replicates.then_some("not-capable"),
        frozen: replicates.then(|| details.is_frozen()),
        active_backend_id: replicates.then_some(None),
        detail: full.then(|| DetailView {
            num_hosts: details.members.len(),
            num_down_hosts: details.down(down_time_s),
            last_heartbeat: time_or_null(details.heartbeat_at()),
            disabled_reason: details.cluster.disabled_reason.clone(),
            created_at: time(details.cluster.created_at),
            updated_at: time_or_null(details.cluster.updated_at),
        }),
        name: details.cluster.name,
        binary: details.cluster.binary,
    }
}

fn status_word(disabled: bool) -> &'static str {
    if disabled { "disabled" } else { "enabled" }
}

/// `GET clusters`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, false).await
}

/// `GET clusters/detail`
pub(super) async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, true).await
}

async fn list(call: Call, query: QueryParams, full: bool) -> Answer<Json<List>> {
    call.version.require(3, 7)?;
    call.enforce_own("clusters:get_all")?;
    let unknown: Vec<_> = query
        .iter()
        .map(|(key, _)| key)
        .filter(|key| !FILTERS.contains(key))
        .collect();
    if !unknown.is_empty() {
        let text = format!("Invalid filter keys: {}", unknown.join(", "));
        return Err(BadInput::invalid_input(text).into());
    }
    let flag = |key: &str| {
        query
            .get(key)
            .map(|text| filter::require_bool(key, text))
            .transpose()
    };
    let (disabled, is_up) = (flag("disabled")?, flag("is_up")?);
    let number = |key: &str| {
        let text = query.get(key)?;
        // What is no number equals none.
        Some(text.parse::<usize>().ok())
    };
    let is = |key: &str, found: &str| query.get(key).is_none_or(|wanted| wanted == found);
    let down_time_s = call.service.options.service_down_time_s;
    let wanted = |one: &ClusterDetails| {
        is("name", &one.cluster.name)
            && is("binary", &one.cluster.binary)
            && disabled.is_none_or(|disabled| disabled == one.cluster.disabled)
            && is_up.is_none_or(|up| up == one.is_up(down_time_s))
            && number("num_hosts").is_none_or(|wanted| wanted == Some(one.members.len()))
            && number("num_down_hosts").is_none_or(|wanted| wanted == Some(one.down(down_time_s)))
    };
    let known = domain::list(&call.service).await?;
    let clusters = known
        .into_iter()
        .filter(wanted)
        .map(|one| view(&call, one, full))
        .collect();
    Ok(Json(List { clusters }))
}

/// `GET clusters/{name}?binary=`
pub(super) async fn show(
    call: Call,
    Path(name): Path<String>,
    query: QueryParams,
) -> Answer<Json<One>> {
    call.version.require(3, 7)?;
    call.enforce_own("clusters:get")?;
    let binary = query.get("binary").unwrap_or(services::VOLUME);
    let found = domain::get(&call.service, &name, Some(binary)).await?;
    let cluster = view(&call, found, true);
    Ok(Json(One { cluster }))
}

/// `PUT clusters/enable`, `PUT clusters/disable`
pub(super) async fn update(
    call: Call,
    Path(action): Path<String>,
    body: JsonBody,
) -> Answer<Json<Changed>> {
    call.version.require(3, 7)?;
    let disabled = match action.as_str() {
        "enable" => false,
        "disable" => true,
        _ => return Err(Fault::not_found("Unknown action")),
    };
    call.enforce_own("clusters:update")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&["name", "binary", "disabled_reason"])?;
    let name = object.required_string("name", 1..=255)?;
    let binary = object
        .string("binary", 1..=255)?
        .unwrap_or(services::VOLUME);
    let reason = object
        .string("disabled_reason", 0..=255)?
        .filter(|_| disabled);
    let changed = domain::set_disabled(&call.service, name, binary, disabled, reason).await?;
    let disabled_reason = changed.cluster.disabled_reason.clone();
    Ok(Json(Changed {
        cluster: ChangedView {
            summary: view(&call, changed, false),
            disabled_reason,
        },
    }))
}
