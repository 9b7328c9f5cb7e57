//! `os-volume-transfer` and `volume-transfers`: one resource under two names. The first knows
//! nothing of transfers without snapshots.

use std::sync::Arc;

use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use rest::list_query::Clause;
use rest::sort::{Direction, SortKey};
use rest::validate::Object;
use rest::{BadInput, JsonBody, QueryParams, filter};
use serde_json::Value;

use super::call::Call;
use super::list_params::{ListParams, nothing, text};
use super::views::transfers::{List, One, SummaryView, TransferView};
use super::views::{Detail, Rows};
use super::{Answer, body};
use crate::VolumeService;
use crate::domain::{transfers as domain, volumes};

/// The microversion from which lists of transfers have pages and an order.
const PAGES: u16 = 59;
const FILTERS: &[&str] = &[
    "id",
    "name",
    "display_name",
    "volume_id",
    "project_id",
    "source_project_id",
    "destination_project_id",
    "accepted",
    "no_snapshots",
];

/// Under both names; they differ in what a new transfer may say.
pub(super) fn routes() -> Router<Arc<VolumeService>> {
    let legacy = under("os-volume-transfer").route(
        "/v3/os-volume-transfer",
        get(index_legacy).post(create_legacy),
    );
    let current = under("volume-transfers").route("/v3/volume-transfers", get(index).post(create));
    legacy
        .route("/v3/os-volume-transfer/detail", get(detail_legacy))
        .merge(current.route("/v3/volume-transfers/detail", get(detail)))
}

fn under(name: &str) -> Router<Arc<VolumeService>> {
    Router::new()
        .route(&format!("/v3/{name}/{{id}}"), get(show).delete(delete))
        .route(&format!("/v3/{name}/{{id}}/accept"), post(accept))
}

async fn index_legacy(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, "os-volume-transfer", Detail::Summary).await
}

async fn detail_legacy(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, "os-volume-transfer", Detail::Full).await
}

/// `GET volume-transfers`
async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, "volume-transfers", Detail::Summary).await
}

/// `GET volume-transfers/detail`
async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, "volume-transfers", Detail::Full).await
}

async fn list(
    call: Call,
    mut query: QueryParams,
    collection: &'static str,
    detail: Detail,
) -> Answer<Json<List>> {
    call.enforce_own("volume:get_all_transfers")?;
    let pages = call.at_least(PAGES);
    if !pages {
        for key in ["marker", "sort", "sort_key", "sort_dir"] {
            query.take(key);
        }
    }
    let mut params = ListParams::with_filters(&call, query, (FILTERS, false), &[])?;
    if !pages {
        params.sort = ["created_at", "id"]
            .map(|key| SortKey {
                key: key.to_owned(),
                direction: Direction::Ascending,
            })
            .into();
    }
    let mut filters = Vec::new();
    if !params.all_tenants {
        let own = call.context.project();
        filters.push(Clause::equal("source_project_id", own));
    }
    for (key, value) in &params.filters {
        filters.push(clause(key, value)?);
    }
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page.rows.iter().map(|row| row.id.to_string()).collect();
    let transfers_links = next.of(&call, &detail.path(collection), ids.into_iter());
    let rows = page.rows.into_iter();
    let transfers = match detail {
        Detail::Summary => Rows::Summary(rows.map(|row| SummaryView::new(&call, row)).collect()),
        Detail::Full => Rows::Full(
            rows.map(|row| TransferView::new(&call, row, None))
                .collect(),
        ),
    };
    Ok(Json(List {
        transfers,
        transfers_links,
    }))
}

fn clause(key: &str, value: &str) -> Result<Clause, BadInput> {
    Ok(match key {
        "id" => text(key, "id", value),
        "name" | "display_name" => text(key, "name", value),
        "volume_id" => text(key, "volume_id", value),
        "project_id" | "source_project_id" => text(key, "source_project_id", value),
        "destination_project_id" => text(key, "destination_project_id", value),
        "accepted" => Clause::equal("accepted", filter::require_bool(key, value)?),
        "no_snapshots" => Clause::equal("no_snapshots", filter::require_bool(key, value)?),
        _ => nothing(),
    })
}

/// `GET volume-transfers/{id}`
async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One<TransferView>>> {
    call.enforce_own("volume:get_transfer")?;
    let transfer = domain::get(&call.service, &call.context, &id).await?;
    Ok(Json(One {
        transfer: TransferView::new(&call, transfer, None),
    }))
}

type Created = (StatusCode, Json<One<TransferView>>);

async fn create_legacy(call: Call, body: JsonBody) -> Answer<Created> {
    make(call, body, false).await
}

/// `POST volume-transfers`; `no_snapshots` since 3.55
async fn create(call: Call, body: JsonBody) -> Answer<Created> {
    let with_snapshots = call.at_least(55);
    make(call, body, with_snapshots).await
}

async fn make(call: Call, body: JsonBody, knows_snapshots: bool) -> Answer<Created> {
    let body = body::required(body)?;
    let object = Object::only_member(&body, "transfer")?;
    let keys: &[&str] = match knows_snapshots {
        true => &["volume_id", "name", "no_snapshots"],
        false => &["volume_id", "name"],
    };
    object.only(keys)?;
    let volume_id = object.required_uuid("volume_id")?;
    let name = object.string("name", 0..=usize::MAX)?;
    let name = name.map(body::stripped_name).transpose()?;
    let no_snapshots = object.boolean("no_snapshots")?.unwrap_or(false);
    let encrypted = call.at_least(70);
    let volume = volumes::get(&call.service, &call.context, volume_id).await?;
    call.enforce("volume:create_transfer", &volume.project_id)?;
    let (transfer, key) = domain::create(
        &call.service,
        &call.context,
        &volume,
        name,
        no_snapshots,
        encrypted,
    )
    .await?;
    let transfer = TransferView::new(&call, transfer, Some(key));
    Ok((StatusCode::ACCEPTED, Json(One { transfer })))
}

/// `POST volume-transfers/{id}/accept`
async fn accept(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<(StatusCode, Json<One<SummaryView>>)> {
    call.enforce_own("volume:accept_transfer")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "accept")?;
    object.only(&["auth_key"])?;
    let key = match object.get("auth_key") {
        // A key that has digits only may come as a number.
        Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
        _ => object.required_string("auth_key", 0..=255)?.to_owned(),
    };
    let accepted = domain::accept(&call.service, &call.context, &id, &key).await?;
    let transfer = SummaryView::new(&call, accepted);
    Ok((StatusCode::ACCEPTED, Json(One { transfer })))
}

/// `DELETE volume-transfers/{id}`
async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    let transfer = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:delete_transfer", &transfer.source_project_id)?;
    domain::delete(&call.service, &call.context, &transfer).await?;
    Ok(StatusCode::ACCEPTED)
}
