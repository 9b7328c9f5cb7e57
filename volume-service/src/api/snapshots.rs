//! `snapshots`: list, show, create, update, delete.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::list_query::Clause;
use rest::validate::Object;
use rest::{BadInput, JsonBody, QueryParams, filter};
use serde_json::Value;

use super::call::Call;
use super::list_params::{ListParams, integer, metadata, nothing, text};
use super::views::snapshots::{List, One, SnapshotView, SummaryView};
use super::views::{Detail, Rows};
use super::{Answer, body};
use crate::db::metadata::Kind;
use crate::domain::snapshots::{self as domain, Manner, Request};
use crate::domain::volumes;

/// `GET snapshots`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Summary).await
}

/// `GET snapshots/detail`
pub(super) async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Full).await
}

async fn list(call: Call, query: QueryParams, detail: Detail) -> Answer<Json<List>> {
    call.enforce_own("volume:get_all_snapshots")?;
    let params = ListParams::parse(
        &call,
        query,
        "snapshot",
        &[("metadata", 22), ("consumes_quota", 65)],
    )?;
    params.names_sort_since(&call, 30)?;
    let mut filters = params.scope(&call);
    for (key, value) in &params.filters {
        filters.push(clause(key, value)?);
    }
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page
        .rows
        .iter()
        .map(|snapshot| snapshot.id.to_string())
        .collect();
    let snapshots_links = next.of(&call, &detail.path("snapshots"), ids.into_iter());
    let rows = domain::with_details(&call.service, page.rows)
        .await?
        .into_iter();
    let snapshots = match detail {
        Detail::Summary => Rows::Summary(rows.map(SummaryView::brief).collect()),
        Detail::Full => Rows::Full(
            rows.map(|details| SnapshotView::new(&call, details))
                .collect(),
        ),
    };
    Ok(Json(List {
        snapshots,
        snapshots_links,
        count: page.total,
    }))
}

fn clause(key: &str, value: &str) -> Result<Clause, BadInput> {
    let in_zone = "EXISTS (SELECT 1 FROM volumes v WHERE v.id = snapshots.volume_id AND v.availability_zone = ?)";
    Ok(match key.trim_end_matches('~') {
        "name" | "display_name" => text(key, "name", value),
        "description" | "display_description" => text(key, "description", value),
        "status" => text(key, "status", value),
        "volume_id" => text(key, "volume_id", value),
        "user_id" => text(key, "user_id", value),
        "project_id" => text(key, "project_id", value),
        "id" => text(key, "id", value),
        "volume_size" | "size" => integer("size_gib", value),
        "availability_zone" => Clause::raw(in_zone, vec![value.into()]),
        "consumes_quota" => Clause::equal("consumes_quota", filter::require_bool(key, value)?),
        "metadata" => metadata(key, Kind::Snapshot.has_entry(), value)?,
        _ => nothing(),
    })
}

/// `GET snapshots/{id}`
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One<SnapshotView>>> {
    let snapshot = domain::get(&call.service, &call.context, &id).await?;
    let details = domain::details(&call.service, snapshot).await?;
    Ok(Json(One {
        snapshot: SnapshotView::new(&call, details),
    }))
}

/// `POST snapshots`
pub(super) async fn create(
    call: Call,
    body: JsonBody,
) -> Answer<(StatusCode, Json<One<SummaryView>>)> {
    let body = body::required(body)?;
    let object = Object::only_member(&body, "snapshot")?;
    object.only(&[
        "name",
        "description",
        "display_name",
        "display_description",
        "volume_id",
        "force",
        "metadata",
    ])?;
    let volume_id = match object.get("volume_id") {
        // Null passes Cinder's schema, and names no volume.
        Some(Value::Null) => "None",
        _ => object.required_uuid("volume_id")?,
    };
    let request = Request {
        name: body::name(&object)?,
        description: body::description(&object)?,
        metadata: body::metadata(&object)?,
        in_use_too: in_use_too(&call, &object)?,
    };
    let volume = volumes::get(&call.service, &call.context, volume_id).await?;
    call.enforce("volume:create_snapshot", &volume.project_id)?;
    let details = domain::create(&call.service, &call.context, &volume, request).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(One {
            snapshot: SummaryView::new(&call, details),
        }),
    ))
}

/// Before 3.66 `force` asks for it; since then it goes without saying.
fn in_use_too(call: &Call, object: &Object<'_>) -> Result<bool, BadInput> {
    let force = object.boolean("force")?;
    if !call.at_least(66) {
        return Ok(force.unwrap_or(false));
    }
    if force == Some(false) {
        return Err(BadInput::new(
            "Since microversion 3.66 the 'force' parameter is invalid for this request. Snapshots of in-use volumes \
             are always allowed.",
        ));
    }
    Ok(true)
}

/// `PUT snapshots/{id}`
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<One<SummaryView>>> {
    let body = body::required(body)?;
    let object = Object::only_member(&body, "snapshot")?;
    object.only(&["name", "description", "display_name", "display_description"])?;
    let changes = body::changes(&object)?;
    if object.map().is_empty() {
        return Err(object.lacks("name").into());
    }
    let snapshot = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:update_snapshot", &snapshot.project_id)?;
    let details = domain::update(&call.service, &call.context, snapshot.id, &changes).await?;
    Ok(Json(One {
        snapshot: SummaryView::new(&call, details),
    }))
}

/// `DELETE snapshots/{id}`
pub(super) async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    let snapshot = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:delete_snapshot", &snapshot.project_id)?;
    domain::delete(&call.service, &call.context, &snapshot, Manner::Delete).await?;
    Ok(StatusCode::ACCEPTED)
}
