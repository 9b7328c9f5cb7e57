//! `types`: list, show, create, update, delete.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::list_query::{Clause, Column, Columns};
use rest::validate::{MapRules, Object};
use rest::{BadInput, JsonBody, QueryParams, filter};

use super::call::Call;
use super::list_params::{ListParams, metadata, nothing};
use super::views::types::{List, One, Shown, TypeView, is_user_visible};
use super::{Answer, body};
use crate::db::volume_types::{self, VolumeType};
use crate::domain::listing::{self, Table};
use crate::domain::types::{self as domain, NewType};

const HAS_SPEC: &str = "EXISTS (SELECT 1 FROM volume_type_extra_specs s WHERE s.volume_type_id = volume_types.id \
     AND s.spec_key = ? AND s.spec_value = ?)";

static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name"),
        Column::int("is_public", "is_public"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Volume type",
    name: "volume_types",
    columns: volume_types::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

/// `GET types`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    call.enforce_own("volume_extension:type_get_all")?;
    let params = ListParams::parse(&call, query, "volume_type", &[("extra_specs", 52)])?;
    // Public types unless an admin says otherwise.
    let mut is_public = Some(true);
    let mut filters = Vec::new();
    for (key, value) in &params.filters {
        match key.as_str() {
            "is_public" if call.context.is_admin => is_public = parse_is_public(value)?,
            "is_public" => {}
            "name" => filters.push(Clause::equal("name", value.as_str())),
            "extra_specs" => filters.push(extra_specs(&call, value)?),
            _ => {}
        }
    }
    filters.extend(domain::visible_filter(&call.context, is_public));
    let (query, next) = params.into_query(filters);
    let page = listing::fetch(&call.service.database, &TABLE, query, VolumeType::from_row).await?;
    let ids: Vec<String> = page
        .rows
        .iter()
        .map(|volume_type| volume_type.id.to_string())
        .collect();
    let volume_type_links = next.of(&call, "types", ids.into_iter());
    let rows = domain::with_specs(&call.service.database, page.rows).await?;
    let volume_types = rows
        .into_iter()
        .map(|details| TypeView::new(&call, details, Shown::Whole))
        .collect();
    Ok(Json(List {
        volume_types,
        volume_type_links,
    }))
}

/// Types with these extra specs. Nobody finds out by filters what it may not see.
fn extra_specs(call: &Call, value: &str) -> Result<Clause, BadInput> {
    let sensitive = call.allows_own("volume_extension:types_extra_specs:read_sensitive");
    let keys = filter::parse_text_map("extra_specs", value)?;
    if !sensitive && keys.iter().any(|(key, _)| !is_user_visible(key)) {
        return Ok(nothing());
    }
    metadata("extra_specs", HAS_SPEC, value)
}

/// `none` for both kinds; a boolean otherwise.
pub(super) fn parse_is_public(text: &str) -> Result<Option<bool>, BadInput> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let invalid = || BadInput::new(format!("Invalid is_public filter [{text}]"));
    filter::parse_bool(text).map(Some).ok_or_else(invalid)
}

/// `GET types/{id}`; the id `default` is the default type.
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One>> {
    call.enforce_own("volume_extension:type_get")?;
    let found = match id.as_str() {
        "default" => domain::default_type(&call.service, call.context.project()).await?,
        id => domain::get(&call.service, &call.context, id).await?,
    };
    one(&call, found).await
}

async fn one(call: &Call, volume_type: VolumeType) -> Answer<Json<One>> {
    let extra_specs = volume_types::extra_specs(&call.service.database, volume_type.id).await?;
    let details = domain::TypeDetails {
        volume_type,
        extra_specs,
    };
    Ok(Json(One {
        volume_type: TypeView::new(call, details, Shown::Whole),
    }))
}

/// `POST types`
pub(super) async fn create(call: Call, body: JsonBody) -> Answer<Json<One>> {
    call.enforce_own("volume_extension:type_create")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "volume_type")?;
    object.only(&[
        "name",
        "description",
        "extra_specs",
        "os-volume-type-access:is_public",
    ])?;
    let new = NewType {
        name: body::stripped_name(object.required_string("name", 0..=usize::MAX)?)?,
        description: body::text(&object, "description")?,
        is_public: object
            .boolean("os-volume-type-access:is_public")?
            .unwrap_or(true),
        extra_specs: object
            .string_map("extra_specs", MapRules::TYPE_EXTRA_SPECS)?
            .unwrap_or_default(),
    };
    let details = domain::create(&call.service, &call.context, new).await?;
    Ok(Json(One {
        volume_type: TypeView::new(&call, details, Shown::Created),
    }))
}

/// `PUT types/{id}`
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<One>> {
    call.enforce_own("volume_extension:type_update")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "volume_type")?;
    object.only(&["name", "description", "is_public"])?;
    let new_name = object
        .string("name", 0..=usize::MAX)?
        .map(body::stripped_name)
        .transpose()?;
    let description = body::text(&object, "description")?;
    let is_public = object.boolean("is_public")?;
    if new_name.is_none() && description.is_none() && is_public.is_none() {
        let text = "Specify volume type name, description, is_public or a combination thereof.";
        return Err(BadInput::new(text).into());
    }
    let found = domain::get(&call.service, &call.context, &id).await?;
    let changed = VolumeType {
        name: new_name.unwrap_or(found.name),
        description: description.or(found.description),
        is_public: is_public.unwrap_or(found.is_public),
        ..found
    };
    let details = domain::update(&call.service, &call.context, changed).await?;
    Ok(Json(One {
        volume_type: TypeView::new(&call, details, Shown::Updated),
    }))
}

/// `DELETE types/{id}`
pub(super) async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:type_delete")?;
    let found = domain::get(&call.service, &call.context, &id).await?;
    domain::delete(&call.service, &call.context, &found).await?;
    Ok(StatusCode::ACCEPTED)
}
