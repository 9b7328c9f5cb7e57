//! `consistencygroups`: the older API, on groups. What it makes has the group type
//! `default_cgsnapshot_type`; it shows and changes all groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::Path;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, JsonBody, QueryParams};

use super::call::Call;
use super::list_params::ListParams;
use super::views::consistency_groups::{GroupView, Groups, OneGroup, SummaryView};
use super::views::{Detail, Rows};
use super::{Answer, body, groups};
use crate::VolumeService;
use crate::db::groups::Group;
use crate::domain::group_from_source::{self, Source};
use crate::domain::group_update::{self, Changes};
use crate::domain::groups::{self as domain, Request};
use crate::domain::{group_delete, group_snapshots, group_types};

pub(super) fn routes() -> Router<Arc<VolumeService>> {
    Router::new()
        .route("/v3/consistencygroups", get(index).post(create))
        .route("/v3/consistencygroups/detail", get(detail))
        .route(
            "/v3/consistencygroups/create_from_src",
            post(create_from_source),
        )
        .route(
            "/v3/consistencygroups/{id}",
            get(show).put(update).delete(delete),
        )
        .route("/v3/consistencygroups/{id}/delete", post(delete))
        .route("/v3/consistencygroups/{id}/update", put(update))
}

async fn index(call: Call, query: QueryParams) -> Answer<Json<Groups>> {
    list(call, query, Detail::Summary).await
}

async fn detail(call: Call, query: QueryParams) -> Answer<Json<Groups>> {
    list(call, query, Detail::Full).await
}

async fn list(call: Call, query: QueryParams, detail: Detail) -> Answer<Json<Groups>> {
    call.enforce_own("group:get_all")?;
    let allowed = (
        &["name", "status", "availability_zone", "description"][..],
        false,
    );
    let params = ListParams::with_filters(&call, query, allowed, &[])?;
    let mut filters = params.scope(&call);
    let wanted = params.filters.iter();
    filters.extend(wanted.map(|(key, value)| groups::clause(key, value)));
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page.rows.iter().map(|row| row.id.to_string()).collect();
    let path = detail.path("consistencygroups");
    let consistencygroup_links = next.of(&call, &path, ids.into_iter());
    let consistencygroups = match detail {
        Detail::Summary => {
            Rows::Summary(page.rows.into_iter().map(SummaryView::of_group).collect())
        }
        Detail::Full => {
            let rows = domain::with_details(&call.service, page.rows).await?;
            Rows::Full(rows.into_iter().map(GroupView::new).collect())
        }
    };
    Ok(Json(Groups {
        consistencygroups,
        consistencygroup_links,
    }))
}

/// `GET consistencygroups/{id}`
async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<OneGroup<GroupView>>> {
    let group = domain::get(&call.service, &call.context, &id).await?;
    let details = domain::details(&call.service, group).await?;
    Ok(Json(OneGroup {
        consistencygroup: GroupView::new(details),
    }))
}

type Accepted = (StatusCode, Json<OneGroup<SummaryView>>);

fn accepted(group: Group) -> Accepted {
    let consistencygroup = SummaryView::of_group(group);
    (StatusCode::ACCEPTED, Json(OneGroup { consistencygroup }))
}

/// `POST consistencygroups`: `volume_types` are ids or names with commas between.
async fn create(call: Call, body: JsonBody) -> Answer<Accepted> {
    let body = body::required(body)?;
    let object = Object::new(&body)?.required_object("consistencygroup")?;
    let types = object.required_string("volume_types", 0..=body::MAX_TEXT)?;
    let types = types
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let request = Request {
        name: body::text(&object, "name")?,
        description: body::text(&object, "description")?,
        volume_types: types
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        availability_zone: object
            .string("availability_zone", 0..=255)?
            .map(str::to_owned),
    };
    if request.volume_types.is_empty() {
        let name = request.name.as_deref().unwrap_or("None");
        return Err(BadInput::new(format!(
            "volume_types must be provided to create consistency group {name}."
        ))
        .into());
    }
    let group_type = group_types::of_consistency_groups(&call.service).await?;
    let group = domain::create(&call.service, &call.context, &group_type, request).await?;
    Ok(accepted(group))
}

/// `POST consistencygroups/create_from_src`
async fn create_from_source(call: Call, body: JsonBody) -> Answer<Accepted> {
    let body = body::required(body)?;
    let object = Object::new(&body)?.required_object("consistencygroup-from-src")?;
    let name = body::text(&object, "name")?;
    let description = body::text(&object, "description")?;
    let present = |key: &str| -> Result<Option<&str>, BadInput> {
        Ok(object.string(key, 0..=255)?.filter(|id| !id.is_empty()))
    };
    let shown = name.as_deref().unwrap_or("None");
    let source = match (present("cgsnapshot_id")?, present("source_cgid")?) {
        (Some(id), None) => {
            let found = group_snapshots::get(&call.service, &call.context, id).await?;
            Source::GroupSnapshot(found)
        }
        (None, Some(id)) => Source::Group(domain::get(&call.service, &call.context, id).await?),
        (None, None) => {
            return Err(BadInput::new(format!(
                "Either 'cgsnapshot_id' or 'source_cgid' must be provided to create consistency group {shown} from \
                 source."
            ))
            .into());
        }
        (Some(_), Some(_)) => {
            return Err(BadInput::new(format!(
                "Cannot provide both 'cgsnapshot_id' and 'source_cgid' to create consistency group {shown} from \
                 source."
            ))
            .into());
        }
    };
    let made = group_from_source::create(&call.service, &call.context, name, description, source);
    Ok(accepted(made.await?))
}

/// `POST consistencygroups/{id}/delete`: `force` deletes the volumes, too. The body may be absent.
async fn delete(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<StatusCode> {
    let force = match &body.0 {
        None => None,
        Some(body) if body.as_object().is_some_and(serde_json::Map::is_empty) => None,
        Some(body) => Object::new(body)?
            .required_object("consistencygroup")?
            .boolean("force")?,
    };
    let group = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("group:delete", &group.project_id)?;
    let force = force.unwrap_or(false);
    group_delete::delete(&call.service, &call.context, &group, force).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `PUT consistencygroups/{id}/update`
async fn update(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<StatusCode> {
    let body = body::required(body)?;
    let object = Object::new(&body)?.required_object("consistencygroup")?;
    let changes = Changes {
        name: body::text(&object, "name")?,
        description: body::text(&object, "description")?,
        add: groups::ids(&object, "add_volumes", body::MAX_TEXT)?,
        remove: groups::ids(&object, "remove_volumes", body::MAX_TEXT)?,
    };
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    // Since 3.6 name and description may become empty.
    let (no_text, message) = match call.at_least(6) {
        true => (
            changes.name.is_none() && changes.description.is_none(),
            "Must specify one or more of the following keys to update: name, description, add_volumes, \
             remove_volumes.",
        ),
        false => (
            empty(&changes.name) && empty(&changes.description),
            "Name, description, add_volumes, and remove_volumes can not be all empty in the request body.",
        ),
    };
    if no_text && changes.add.is_empty() && changes.remove.is_empty() {
        return Err(BadInput::new(message).into());
    }
    let group = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("group:update", &group.project_id)?;
    group_update::update(&call.service, &call.context, &group, changes).await?;
    Ok(StatusCode::ACCEPTED)
}
