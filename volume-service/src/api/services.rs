//! `os-services`: who is up, and who takes work.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, Fault, JsonBody, QueryParams};
use serde::Serialize;

use super::call::Call;
use super::views::time;
use super::{Answer, body, service_logs};
use crate::db::services::{self, Service};
use crate::domain::services::{self as domain, Managers};

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
    backend_state: Option<Option<String>>,
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
        cluster: call.at_least(7).then(|| service.cluster_name.clone()),
        replication_status: manages.then_some("not-capable"),
        active_backend_id: manages.then_some(None),
        frozen: manages.then_some(service.frozen),
        backend_state: (manages && call.at_least(49))
            .then(|| pool.map(|pool| pool.capabilities.backend_state.clone())),
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
struct Changed {
    host: String,
    service: String,
    binary: String,
    status: &'static str,
    disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_reason: Option<Option<String>>,
}

/// `PUT os-services/{action}`
pub(super) async fn act(
    call: Call,
    Path(action): Path<String>,
    body: JsonBody,
) -> Answer<Response> {
    match action.as_str() {
        "freeze" => freeze(call, body, true).await,
        "thaw" => freeze(call, body, false).await,
        "failover_host" => failover(call, body, false).await,
        "failover" if call.at_least(26) => failover(call, body, true).await,
        "get-log" | "set-log" if !call.at_least(32) => Err(Fault::not_found("Unknown action")),
        "get-log" => {
            call.enforce_own("volume_extension:services:update")?;
            let levels = service_logs::get(&call, &body::required(body)?).await?;
            Ok(Json(levels).into_response())
        }
        "set-log" => {
            call.enforce_own("volume_extension:services:update")?;
            service_logs::set(&call, &body::required(body)?).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        "enable" | "disable" | "disable-log-reason" => update(call, &action, body).await,
        _ => Err(Fault::not_found("Unknown action")),
    }
}

/// `enable`, `disable`, `disable-log-reason`
async fn update(call: Call, action: &str, body: JsonBody) -> Answer<Response> {
    let disabled = action != "enable";
    call.enforce_own("volume_extension:services:update")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    let known = ["host", "binary", "service", "cluster", "disabled_reason"];
    let takes_reason = action == "disable-log-reason";
    object.only(
        known
            .get(..if takes_reason { 5 } else { 4 })
            .unwrap_or(&known),
    )?;
    let host = object.required_string("host", 1..=255)?;
    let binary = object
        .string("binary", 1..=255)?
        .or(object.string("service", 1..=255)?);
    let binary = binary
        .ok_or_else(|| Fault::bad_request("Missing required element 'binary' in request body."))?;
    let reason = match action {
        "disable-log-reason" => Some(object.required_string("disabled_reason", 1..=255)?.trim()),
        _ => None,
    };
    domain::set_disabled(&call.service, binary, host, disabled, reason).await?;
    let changed = Changed {
        host: host.to_owned(),
        service: binary.to_owned(),
        binary: binary.to_owned(),
        status: status_word(disabled),
        disabled,
        disabled_reason: (action != "disable").then(|| reason.map(str::to_owned)),
    };
    Ok(Json(changed).into_response())
}

/// The one host or (since 3.26) cluster that a body names.
fn managers<'a>(call: &Call, object: &Object<'a>) -> Result<Managers<'a>, BadInput> {
    let host = object
        .string("host", 0..=255)?
        .filter(|name| !name.is_empty());
    let cluster = object.string("cluster", 0..=255)?;
    let cluster = cluster.filter(|name| call.at_least(26) && !name.is_empty());
    match (host, cluster) {
        (Some(host), None) => Ok(Managers::Host(host)),
        (None, Some(cluster)) => Ok(Managers::Cluster(cluster)),
        _ if call.at_least(26) => Err(BadInput::invalid_input(
            "Must specify one and only one of: host, cluster.",
        )),
        _ => Err(BadInput::new(
            "Missing required element 'host' in request body.",
        )),
    }
}

async fn freeze(call: Call, body: JsonBody, frozen: bool) -> Answer<Response> {
    call.enforce_own(if frozen {
        "volume:freeze_host"
    } else {
        "volume:thaw_host"
    })?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&["host", "cluster"])?;
    let managers = managers(&call, &object)?;
    domain::set_frozen(&call.service, managers, frozen).await?;
    Ok(StatusCode::OK.into_response())
}

/// `named`: the newer action, which takes a cluster.
async fn failover(call: Call, body: JsonBody, named: bool) -> Answer<Response> {
    call.enforce_own("volume:failover_host")?;
    let body = body::required(body)?;
    let object = Object::new(&body)?;
    object.only(&["host", "cluster", "backend_id"])?;
    object.string("backend_id", 0..=255)?;
    let managers = if named {
        managers(&call, &object)?
    } else {
        Managers::Host(object.required_string("host", 1..=255)?)
    };
    domain::failover(&call.service, managers).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
