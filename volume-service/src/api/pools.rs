//! `GET scheduler-stats/get_pools`.

use axum::Json;
use rest::{QueryParams, filter};
use serde::Serialize;

use super::Answer;
use super::call::Call;
use super::resource_filters;
use super::views::time;
use crate::db::services::{self, Capabilities, Pool};
use crate::domain::services as domain;

/// `{"pools": […]}`
#[derive(Serialize)]
pub(super) struct List {
    pools: Vec<PoolView>,
}

#[derive(Serialize)]
struct PoolView {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<CapabilitiesView>,
}

#[derive(Serialize)]
struct CapabilitiesView {
    #[serde(flatten)]
    reported: Capabilities,
    timestamp: String,
}

fn view(pool: Pool, detail: bool) -> PoolView {
    let capabilities = detail.then(|| CapabilitiesView {
        timestamp: time(pool.reported_at),
        reported: pool.capabilities,
    });
    PoolView {
        name: pool.name,
        capabilities,
    }
}

/// `GET scheduler-stats/get_pools?detail=&name=&volume_type=` (the name since 3.28, the type,
/// whose extra specs a pool must meet, since 3.35)
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    call.enforce_own("scheduler_extension:scheduler_stats:get_pools")?;
    let detail = query
        .get("detail")
        .map(|text| filter::require_bool("detail", text))
        .transpose()?;
    let mut filters = query.clone();
    filters.take("detail");
    // Even admins have only the filters of the table here.
    let strict = call.at_least(31);
    let filters = filter::restrict(filters, resource_filters::of("pool"), false, strict)?;
    let of = |wanted: &str, since: u16| {
        let found = filters.iter().find(|(key, _)| key == wanted);
        found
            .map(|(_, value)| value.as_str())
            .filter(|_| call.at_least(since))
    };
    let (name, volume_type) = (of("name", 28), of("volume_type", 35));
    let fitting = match volume_type {
        Some(name) => Some(domain::pools_for_type(&call.service, &call.context, name).await?),
        None => None,
    };
    let pools = services::pools(&call.service.database).await?;
    let shown = pools
        .into_iter()
        .filter(|pool| name.is_none_or(|name| pool.name == name))
        .filter(|pool| {
            fitting
                .as_ref()
                .is_none_or(|fitting| fitting.contains(&pool.name))
        });
    Ok(Json(List {
        pools: shown
            .map(|pool| view(pool, detail.unwrap_or(false)))
            .collect(),
    }))
}
