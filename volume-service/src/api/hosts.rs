//! `os-hosts`: the hosts of services, and what is on them.

use axum::Json;
use axum::extract::Path;
use rest::QueryParams;
use serde::Serialize;

use super::Answer;
use super::call::Call;
use super::views::time;
use crate::db::hosts::Holdings;
use crate::db::services::{self, Service};
use crate::domain::hosts as domain;

/// `{"hosts": […]}`
#[derive(Serialize)]
pub(super) struct List {
    hosts: Vec<HostView>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct HostView {
    #[serde(rename = "host_name")]
    host_name: String,
    service: String,
    zone: String,
    service_status: &'static str,
    service_state: &'static str,
    last_update: String,
}

/// `{"host": [{"resource": …}]}`
#[derive(Serialize)]
pub(super) struct Resources {
    host: Vec<Resource>,
}

#[derive(Serialize)]
struct Resource {
    resource: ResourceView,
}

/// Numbers are texts here.
#[derive(Serialize)]
struct ResourceView {
    host: String,
    project: String,
    volume_count: String,
    total_volume_gb: String,
    snapshot_count: String,
    total_snapshot_gb: String,
}

fn view(call: &Call, service: Service) -> HostView {
    let up = service.is_up(call.service.options.service_down_time_s);
    HostView {
        host_name: service.host,
        service: service.binary,
        zone: service.availability_zone,
        service_status: if up { "available" } else { "unavailable" },
        service_state: if service.disabled {
            "disabled"
        } else {
            "enabled"
        },
        last_update: time(service.heartbeat_at),
    }
}

/// `GET os-hosts?service=&zone=`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    call.enforce_own("volume_extension:hosts")?;
    let known = services::list(&call.service.database).await?;
    let is = |key: &str, found: &str| query.get(key).is_none_or(|wanted| wanted == found);
    let hosts = known
        .into_iter()
        .filter(|one| is("service", &one.binary) && is("zone", &one.availability_zone))
        .map(|one| view(&call, one))
        .collect();
    Ok(Json(List { hosts }))
}

/// `GET os-hosts/{host}`: all projects together, then each.
pub(super) async fn show(call: Call, Path(host): Path<String>) -> Answer<Json<Resources>> {
    call.enforce_own("volume_extension:hosts")?;
    let holdings = domain::holdings(&call.service, &host).await?;
    let mut total = Holdings::default();
    for project in holdings.values() {
        total.volumes = total.volumes.saturating_add(project.volumes);
        total.volume_gib = total.volume_gib.saturating_add(project.volume_gib);
        total.snapshots = total.snapshots.saturating_add(project.snapshots);
        total.snapshot_gib = total.snapshot_gib.saturating_add(project.snapshot_gib);
    }
    let resource = |(project, holdings): (String, Holdings)| Resource {
        resource: ResourceView {
            host: host.clone(),
            project,
            volume_count: holdings.volumes.to_string(),
            total_volume_gb: holdings.volume_gib.to_string(),
            snapshot_count: holdings.snapshots.to_string(),
            total_snapshot_gb: holdings.snapshot_gib.to_string(),
        },
    };
    let all = [("(total)".to_owned(), total)].into_iter().chain(holdings);
    Ok(Json(Resources {
        host: all.map(resource).collect(),
    }))
}
