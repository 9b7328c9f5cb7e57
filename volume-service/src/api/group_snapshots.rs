//! `group_snapshots` (3.14): list, show, create, delete, reset the status.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::list_query::Clause;
use rest::validate::Object;
use rest::{JsonBody, QueryParams};

use super::call::Call;
use super::group_actions::status;
use super::list_params::{ListParams, nothing, text};
use super::views::group_snapshots::{GroupSnapshotView, List, One, SummaryView};
use super::views::{Detail, Rows};
use super::{Answer, actions, body, groups};
use crate::db::group_snapshots::GroupSnapshot;
use crate::db::group_types::DEFAULT_CGSNAPSHOT_TYPE;
use crate::domain::group_snapshots as domain;
use crate::domain::group_types;

/// The group snapshot of this id, unless it is one of the consistency group API.
async fn find(call: &Call, id: &str) -> Answer<GroupSnapshot> {
    let found = domain::get(&call.service, &call.context, id).await?;
    let what = ("group snapshots", "CG snapshot");
    group_types::refuse_reserved(&call.service, found.group_type_id, what.0, what.1).await?;
    Ok(found)
}

/// `GET group_snapshots`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Summary).await
}

/// `GET group_snapshots/detail`
pub(super) async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Full).await
}

async fn list(call: Call, query: QueryParams, detail: Detail) -> Answer<Json<List>> {
    call.version.require(3, 14)?;
    call.enforce_own("group:get_all_group_snapshots")?;
    // Before 3.29 the list has neither pages nor filters.
    let query = match call.at_least(29) {
        true => query,
        false => QueryParams::default(),
    };
    let params = ListParams::parse(&call, query, "group_snapshot", &[])?;
    let mut filters = params.scope(&call);
    filters.push(Clause::raw(
        "group_type_id NOT IN (SELECT id FROM group_types WHERE live_name = ?)",
        vec![DEFAULT_CGSNAPSHOT_TYPE.into()],
    ));
    filters.extend(params.filters.iter().map(|(key, value)| clause(key, value)));
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page.rows.iter().map(|row| row.id.to_string()).collect();
    let group_snapshot_links = next.of(&call, &detail.path("group_snapshots"), ids.into_iter());
    let rows = page.rows.into_iter();
    let group_snapshots = match detail {
        Detail::Summary => Rows::Summary(rows.map(SummaryView::listed).collect()),
        Detail::Full => Rows::Full(rows.map(|row| GroupSnapshotView::new(&call, row)).collect()),
    };
    Ok(Json(List {
        group_snapshots,
        group_snapshot_links,
    }))
}

fn clause(key: &str, value: &str) -> Clause {
    match key.trim_end_matches('~') {
        "name" => text(key, "name", value),
        "description" => text(key, "description", value),
        "status" => text(key, "status", value),
        "group_id" => text(key, "group_id", value),
        "group_type_id" => text(key, "group_type_id", value),
        "user_id" => text(key, "user_id", value),
        "project_id" => text(key, "project_id", value),
        "id" => text(key, "id", value),
        _ => nothing(),
    }
}

/// `GET group_snapshots/{id}`
pub(super) async fn show(
    call: Call,
    Path(id): Path<String>,
) -> Answer<Json<One<GroupSnapshotView>>> {
    call.version.require(3, 14)?;
    let found = find(&call, &id).await?;
    Ok(Json(One {
        group_snapshot: GroupSnapshotView::new(&call, found),
    }))
}

/// `POST group_snapshots`
pub(super) async fn create(
    call: Call,
    body: JsonBody,
) -> Answer<(StatusCode, Json<One<SummaryView>>)> {
    call.version.require(3, 14)?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "group_snapshot")?;
    object.only(&["group_id", "name", "description"])?;
    let group_id = object.required_uuid("group_id")?;
    let name = body::text(&object, "name")?;
    let description = body::text(&object, "description")?;
    let group = groups::find(&call, group_id).await?;
    call.enforce("group:create_group_snapshot", &group.project_id)?;
    let made = domain::create(&call.service, &call.context, &group, name, description).await?;
    let group_snapshot = SummaryView::created(made);
    Ok((StatusCode::ACCEPTED, Json(One { group_snapshot })))
}

/// `DELETE group_snapshots/{id}`
pub(super) async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    call.version.require(3, 14)?;
    let found = find(&call, &id).await?;
    call.enforce("group:delete_group_snapshot", &found.project_id)?;
    domain::delete(&call.service, &call.context, &found).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST group_snapshots/{id}/action`: `reset_status` (3.19)
pub(super) async fn act(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<StatusCode> {
    let (name, body) = actions::parse(body)?;
    if name != "reset_status" {
        return Err(actions::unknown(&name).into());
    }
    call.version.require(3, 19)?;
    let arguments = actions::arguments(&body, &name)?;
    let status = status(&arguments, "Group snapshot")?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("group:reset_group_snapshot_status", &found.project_id)?;
    domain::set_status(&call.service, found.id, &status).await?;
    Ok(StatusCode::ACCEPTED)
}
