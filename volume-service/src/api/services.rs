//! `os-services`: who is up, and who takes work.

use axum::Json;
use axum::extract::Path;
use rest::validate::Object;
use rest::{Fault, JsonBody, QueryParams};
use serde::Serialize;

use super::call::Call;
use super::views::time;
use super::{Answer, body};
use crate::db::services::{self, Service};
use crate::domain::services as domain;

/// `{"services": […]}`
#[derive(Serialize)]
pub(super) struct List {
    services: Vec<ServiceView>,
}

#[derive(Serialize)]
struct ServiceView {
    binary: String,
    host: String,
    zone: String,
    status: &'static str,
    state: &'static str,
    updated_at: String,
    disabled_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_backend_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_state: Option<String>,
}

fn status_word(disabled: bool) -> &'static str {
    if disabled { "disabled" } else { "enabled" }
}

fn view(call: &Call, service: Service, pools: &[services::Pool]) -> ServiceView {
    let up = service.is_up(call.service.options.service_down_time_s);
    let manages = service.binary == services::VOLUME;
    let pool = pools.iter().find(|pool| pool.service_host == service.host);
    ServiceView {
        status: status_word(service.disabled),
        state: if up { "up" } else { "down" },
        updated_at: time(service.heartbeat_at),
        cluster: call.at_least(7).then_some(None),
        replication_status: manages.then_some("not-capable"),
        active_backend_id: manages.then_some(None),
        frozen: manages.then_some(false),
        backend_state: pool
            .filter(|_| manages && call.at_least(49))
            .map(|pool| pool.capabilities.backend_state.clone()),
        binary: service.binary,
        host: service.host,
        zone: service.availability_zone,
        disabled_reason: service.disabled_reason,
    }
}

/// `GET os-services?host=&binary=`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    call.enforce_own("volume_extension:services:index")?;
    let database = &call.service.database;
    let known = services::list(database).await?;
    let pools = services::pools(database).await?;
    let wanted = |service: &Service| {
        let host = query.get("host").is_none_or(|host| {
            service.host == host || service.host.split('@').next() == Some(host)
        });
        host && query
            .get("binary")
            .is_none_or(|binary| service.binary == binary)
    };
    let shown = known
        .into_iter()
        .filter(wanted)
        .map(|service| view(&call, service, &pools))
        .collect();
    Ok(Json(List { services: shown }))
}

/// What `enable` and `disable` echo.
#[derive(Serialize)]
pub(super) struct Changed {
    host: String,
    service: String,
    binary: String,
    status: &'static str,
    disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_reason: Option<String>,
}

/// `PUT os-services/enable`, `…/disable`, `…/disable-log-reason`
pub(super) async fn update(
    call: Call,
    Path(action): Path<String>,
    body: JsonBody,
) -> Answer<Json<Changed>> {
    let disabled = match action.as_str() {
        "enable" => false,
        "disable" | "disable-log-reason" => true,
        _ => return Err(Fault::not_found("Unknown action")),
    };
    call.enforce_own("volume_extension:services:update")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    let host = object.required_string("host", 1..=255)?;
    let binary = object
        .string("binary", 1..=255)?
        .or(object.string("service", 1..=255)?);
    let binary = binary
        .ok_or_else(|| Fault::bad_request("Missing required element 'binary' in request body."))?;
    let reason = match action.as_str() {
        "disable-log-reason" => Some(object.required_string("disabled_reason", 1..=255)?.trim()),
        _ => None,
    };
    domain::set_disabled(&call.service, binary, host, disabled, reason).await?;
    Ok(Json(Changed {
        host: host.to_owned(),
        service: binary.to_owned(),
        binary: binary.to_owned(),
        status: status_word(disabled),
        disabled,
        disabled_reason: reason.map(str::to_owned),
    }))
}
