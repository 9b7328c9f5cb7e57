//! `cgsnapshots`: snapshots in the older API of consistency groups, on group snapshots.

use std::sync::Arc;

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use rest::validate::Object;
use rest::{JsonBody, QueryParams};

use super::call::Call;
use super::list_params::ListParams;
use super::views::consistency_groups::{OneSnapshot, SnapshotView, Snapshots, SummaryView};
use super::views::{Detail, Rows};
use super::{Answer, body};
use crate::VolumeService;
use crate::domain::{group_snapshots as domain, groups};

pub(super) fn routes() -> Router<Arc<VolumeService>> {
    Router::new()
        .route("/v3/cgsnapshots", get(index).post(create))
        .route("/v3/cgsnapshots/detail", get(detail))
        .route("/v3/cgsnapshots/{id}", get(show).delete(delete))
}

async fn index(call: Call, query: QueryParams) -> Answer<Json<Snapshots>> {
    list(call, query, Detail::Summary).await
}

async fn detail(call: Call, query: QueryParams) -> Answer<Json<Snapshots>> {
    list(call, query, Detail::Full).await
}

/// Only of the caller's project, without filters or links.
async fn list(call: Call, mut query: QueryParams, detail: Detail) -> Answer<Json<Snapshots>> {
    call.enforce_own("group:get_all_group_snapshots")?;
    query.take("all_tenants");
    let params = ListParams::with_filters(&call, query, (&[], false), &[])?;
    let filters = params.scope(&call);
    let (query, _) = params.into_query(filters);
    let rows = domain::list(&call.service, query).await?.rows.into_iter();
    let cgsnapshots = match detail {
        Detail::Summary => Rows::Summary(rows.map(SummaryView::of_snapshot).collect()),
        Detail::Full => Rows::Full(rows.map(SnapshotView::new).collect()),
    };
    Ok(Json(Snapshots { cgsnapshots }))
}

/// `GET cgsnapshots/{id}`
async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<OneSnapshot<SnapshotView>>> {
    let found = domain::get(&call.service, &call.context, &id).await?;
    Ok(Json(OneSnapshot {
        cgsnapshot: SnapshotView::new(found),
    }))
}

/// `POST cgsnapshots`
async fn create(
    call: Call,
    body: JsonBody,
) -> Answer<(StatusCode, Json<OneSnapshot<SummaryView>>)> {
    let body = body::required(body)?;
    let object = Object::new(&body)?.required_object("cgsnapshot")?;
    let group_id = object.required_string("consistencygroup_id", 0..=255)?;
    let name = body::text(&object, "name")?;
    let description = body::text(&object, "description")?;
    let group = groups::get(&call.service, &call.context, group_id).await?;
    call.enforce("group:create_group_snapshot", &group.project_id)?;
    let made = domain::create(&call.service, &call.context, &group, name, description).await?;
    let cgsnapshot = SummaryView::of_snapshot(made);
    Ok((StatusCode::ACCEPTED, Json(OneSnapshot { cgsnapshot })))
}

/// `DELETE cgsnapshots/{id}`
async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    let found = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("group:delete_group_snapshot", &found.project_id)?;
    domain::delete(&call.service, &call.context, &found).await?;
    Ok(StatusCode::ACCEPTED)
}
