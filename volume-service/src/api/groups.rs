//! `groups` (3.13): list, show, create, create from a source, update.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::list_query::Clause;
use rest::validate::Object;
use rest::{BadInput, JsonBody, QueryParams, filter};

use super::call::Call;
use super::list_params::{ListParams, NO_FILTER, nothing, text};
use super::views::groups::{GroupView, List, One, SummaryView};
use super::views::{Detail, Rows};
use super::{Answer, actions, body};
use crate::db::group_types::DEFAULT_CGSNAPSHOT_TYPE;
use crate::db::groups::Group;
use crate::domain::group_from_source::{self, Source};
use crate::domain::group_update::{self, Changes};
use crate::domain::groups::{self as domain, Request};
use crate::domain::{group_snapshots, group_types};

/// More volume types than a cloud has.
const MOST_TYPES: usize = 1000;

/// The group of this id, unless it is one of the consistency group API.
pub(super) async fn find(call: &Call, id: &str) -> Answer<Group> {
    let group = domain::get(&call.service, &call.context, id).await?;
    refuse_reserved(call, &group).await?;
    Ok(group)
}

pub(super) async fn refuse_reserved(call: &Call, group: &Group) -> Answer<()> {
    let checked = group_types::refuse_reserved(&call.service, group.group_type_id, "group", "CG");
    Ok(checked.await?)
}

/// `GET groups`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Summary).await
}

/// `GET groups/detail`
pub(super) async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Full).await
}

async fn list(call: Call, query: QueryParams, detail: Detail) -> Answer<Json<List>> {
    call.version.require(3, 13)?;
    call.enforce_own("group:get_all")?;
    let with_volumes = list_volumes(&call, &query)?;
    let params = ListParams::parse(&call, query, "group", &[("list_volume", NO_FILTER)])?;
    let mut filters = params.scope(&call);
    filters.push(Clause::raw(
        "group_type_id NOT IN (SELECT id FROM group_types WHERE live_name = ?)",
        vec![DEFAULT_CGSNAPSHOT_TYPE.into()],
    ));
    filters.extend(params.filters.iter().map(|(key, value)| clause(key, value)));
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page.rows.iter().map(|row| row.id.to_string()).collect();
    let group_links = next.of(&call, &detail.path("groups"), ids.into_iter());
    let groups = match detail {
        Detail::Summary => Rows::Summary(page.rows.into_iter().map(SummaryView::new).collect()),
        Detail::Full => {
            let rows = domain::with_details(&call.service, page.rows).await?;
            let view = |row| GroupView::new(&call, row, with_volumes);
            Rows::Full(rows.into_iter().map(view).collect())
        }
    };
    Ok(Json(List {
        groups,
        group_links,
    }))
}

/// A condition on groups, also for the consistency group API.
pub(super) fn clause(key: &str, value: &str) -> Clause {
    match key.trim_end_matches('~') {
        "name" => text(key, "name", value),
        "description" => text(key, "description", value),
        "status" => text(key, "status", value),
        "availability_zone" => text(key, "availability_zone", value),
        "host" => text(key, "host", value),
        "group_type_id" => text(key, "group_type_id", value),
        "group_snapshot_id" => text(key, "group_snapshot_id", value),
        "source_group_id" => text(key, "source_group_id", value),
        "user_id" => text(key, "user_id", value),
        "project_id" => text(key, "project_id", value),
        "id" => text(key, "id", value),
        _ => nothing(),
    }
}

/// `?list_volume=` (3.25): the views show the ids of the volumes.
fn list_volumes(call: &Call, query: &QueryParams) -> Result<bool, BadInput> {
    let text = query.get("list_volume").filter(|_| call.at_least(25));
    let asked = text.map(|text| filter::require_bool("list_volume", text));
    Ok(asked.transpose()?.unwrap_or(false))
}

/// `GET groups/{id}?list_volume=`
pub(super) async fn show(
    call: Call,
    Path(id): Path<String>,
    query: QueryParams,
) -> Answer<Json<One<GroupView>>> {
    call.version.require(3, 13)?;
    let with_volumes = list_volumes(&call, &query)?;
    let group = find(&call, &id).await?;
    let details = domain::details(&call.service, group).await?;
    Ok(Json(One {
        group: GroupView::new(&call, details, with_volumes),
    }))
}

type Accepted = (StatusCode, Json<One<SummaryView>>);

fn accepted(group: Group) -> Accepted {
    let group = SummaryView::new(group);
    (StatusCode::ACCEPTED, Json(One { group }))
}

/// `POST groups`
pub(super) async fn create(call: Call, body: JsonBody) -> Answer<Accepted> {
    call.version.require(3, 13)?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "group")?;
    object.only(&[
        "name",
        "description",
        "group_type",
        "volume_types",
        "availability_zone",
    ])?;
    let group_type = object.required_string("group_type", 1..=255)?.trim();
    let volume_types = body::texts(&object, "volume_types", MOST_TYPES)?
        .filter(|types| !types.is_empty())
        .ok_or_else(|| object.lacks("volume_types"))?;
    let zone = object.string("availability_zone", 1..=255)?;
    let request = Request {
        name: body::text(&object, "name")?,
        description: body::text(&object, "description")?,
        volume_types,
        availability_zone: zone.map(|zone| zone.trim().to_owned()),
    };
    let group_type = group_types::find(&call.service, &call.context, group_type).await?;
    group_types::refuse_reserved(&call.service, group_type.id, "group", "CG").await?;
    let group = domain::create(&call.service, &call.context, &group_type, request).await?;
    Ok(accepted(group))
}

/// `POST groups/action`: `create-from-src` (3.14)
pub(super) async fn create_from_source(call: Call, body: JsonBody) -> Answer<Accepted> {
    let (name, body) = actions::parse(body)?;
    if name != "create-from-src" {
        return Err(actions::unknown(&name).into());
    }
    call.version.require(3, 14)?;
    let object = actions::arguments(&body, &name)?;
    object.only(&[
        "name",
        "description",
        "group_snapshot_id",
        "source_group_id",
    ])?;
    let snapshot = object.uuid("group_snapshot_id")?;
    let group = object.uuid("source_group_id")?;
    let source = match (snapshot, group) {
        (Some(id), None) => {
            let found = group_snapshots::get(&call.service, &call.context, id).await?;
            Source::GroupSnapshot(found)
        }
        (None, Some(id)) => Source::Group(domain::get(&call.service, &call.context, id).await?),
        _ => {
            let text = "exactly one of 'group_snapshot_id' and 'source_group_id' is required";
            return Err(BadInput::invalid_input(text).into());
        }
    };
    let group_type_id = match &source {
        Source::GroupSnapshot(snapshot) => snapshot.group_type_id,
        Source::Group(group) => group.group_type_id,
    };
    group_types::refuse_reserved(&call.service, group_type_id, "group", "CG").await?;
    let (name, description) = (
        body::text(&object, "name")?,
        body::text(&object, "description")?,
    );
    let made = group_from_source::create(&call.service, &call.context, name, description, source);
    Ok(accepted(made.await?))
}

/// `id,id` as a list; also with commas around.
pub(super) fn ids(
    object: &Object<'_>,
    key: &str,
    max_chars: usize,
) -> Result<Vec<String>, BadInput> {
    let text = object.string(key, 0..=max_chars)?.unwrap_or_default();
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    Ok(ids.map(str::to_owned).collect())
}

/// `PUT groups/{id}`
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<StatusCode> {
    call.version.require(3, 13)?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "group")?;
    object.only(&["name", "description", "add_volumes", "remove_volumes"])?;
    if object.map().is_empty() {
        return Err(object.lacks("name").into());
    }
    let changes = Changes {
        name: body::text(&object, "name")?,
        description: body::text(&object, "description")?,
        add: ids(&object, "add_volumes", 255)?,
        remove: ids(&object, "remove_volumes", 255)?,
    };
    let group = find(&call, &id).await?;
    call.enforce("group:update", &group.project_id)?;
    group_update::update(&call.service, &call.context, &group, changes).await?;
    Ok(StatusCode::ACCEPTED)
}
