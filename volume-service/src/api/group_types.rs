//! `group_types` (3.11): list, show, create, update, delete.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::list_query::Clause;
use rest::validate::{MapRules, Object};
use rest::{BadInput, JsonBody, QueryParams};

use super::call::Call;
use super::list_params::ListParams;
use super::types::parse_is_public;
use super::views::group_types::{GroupTypeView, List, One};
use super::{Answer, body};
use crate::db::group_types::GroupType;
use crate::domain::group_types::{self as domain, GroupTypeDetails};

fn one(call: &Call, details: GroupTypeDetails) -> Json<One> {
    Json(One {
        group_type: GroupTypeView::new(call, details),
    })
}

/// `GET group_types`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    call.version.require(3, 11)?;
    let params = ListParams::with_filters(&call, query, (&["is_public"], false), &[])?;
    // Public types unless an admin says otherwise.
    let mut is_public = Some(true);
    for (key, value) in &params.filters {
        if key == "is_public" && call.context.is_admin {
            is_public = parse_is_public(value)?;
        }
    }
    let filters = is_public.map(|public| Clause::equal("is_public", public));
    let (query, next) = params.into_query(filters.into_iter().collect());
    let page = domain::list(&call.service, query).await?;
    let ids = page.rows.iter().map(|row| row.group_type.id.to_string());
    let ids: Vec<String> = ids.collect();
    let group_type_links = next.of(&call, "group_types", ids.into_iter());
    let rows = page.rows.into_iter();
    Ok(Json(List {
        group_types: rows.map(|row| GroupTypeView::new(&call, row)).collect(),
        group_type_links,
    }))
}

/// `GET group_types/{id}`; the id `default` is the default type.
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One>> {
    call.version.require(3, 11)?;
    let found = match id.as_str() {
        "default" => domain::default_type(&call.service).await?,
        id => domain::get(&call.service, &call.context, id).await?,
    };
    let details = domain::details(&call.service, found).await?;
    Ok(one(&call, details))
}

/// `POST group_types`
pub(super) async fn create(call: Call, body: JsonBody) -> Answer<(StatusCode, Json<One>)> {
    call.version.require(3, 11)?;
    call.enforce_own("group:group_types:create")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "group_type")?;
    object.only(&["name", "description", "is_public", "group_specs"])?;
    let name = body::stripped_name(object.required_string("name", 0..=usize::MAX)?)?;
    let description = body::text(&object, "description")?;
    let is_public = object.boolean("is_public")?.unwrap_or(true);
    let specs = object.string_map("group_specs", MapRules::METADATA)?;
    let made = domain::create(
        &call.service,
        &call.context,
        &name,
        description.as_deref(),
        is_public,
        specs.unwrap_or_default(),
    );
    let made = made.await?;
    Ok((StatusCode::ACCEPTED, one(&call, made)))
}

/// `PUT group_types/{id}`
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<One>> {
    call.version.require(3, 11)?;
    call.enforce_own("group:group_types:update")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "group_type")?;
    object.only(&["name", "description", "is_public"])?;
    // An empty name means none; one of spaces is a mistake.
    let name = object
        .string("name", 0..=255)?
        .filter(|name| !name.is_empty());
    let name = match name {
        Some(name) if name.trim().is_empty() => {
            return Err(BadInput::new("Group type name can not be empty.").into());
        }
        name => name.map(|name| name.trim().to_owned()),
    };
    let description = body::text(&object, "description")?;
    let is_public = object.boolean("is_public")?;
    if name.is_none() && description.is_none() && is_public.is_none() {
        let text = "Specify group type name, description or a combination thereof.";
        return Err(BadInput::new(text).into());
    }
    let found = domain::get(&call.service, &call.context, &id).await?;
    let changed = GroupType {
        id: found.id,
        name: name.unwrap_or(found.name),
        description: description.or(found.description),
        is_public: is_public.unwrap_or(found.is_public),
    };
    let details = domain::update(&call.service, &call.context, changed).await?;
    Ok(one(&call, details))
}

/// `DELETE group_types/{id}`
pub(super) async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    call.version.require(3, 11)?;
    call.enforce_own("group:group_types:delete")?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    domain::delete(&call.service, &call.context, &found).await?;
    Ok(StatusCode::ACCEPTED)
}
