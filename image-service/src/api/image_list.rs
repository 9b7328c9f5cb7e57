//! GET of the images: paging, sorting and filters of the Image API.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use database::Value;
use rest::list_query::{Clause, Operator};
use rest::paging::Page;
use rest::{QueryParams, RequestContext, filter, sort};
use uuid::Uuid;

use super::{Service, access, images as image_api};
use crate::ImageService;
use crate::db::list::{self, ListQuery, SORT_COLUMNS, Viewer, VisibilityFilter};
use crate::db::locations;
use crate::error::{Error, Result};
use crate::image::{Image, Location, MemberStatus, Visibility};
use crate::views::{ImageView, ImagesView};

pub async fn list(
    State(service): Service,
    context: RequestContext,
    params: QueryParams,
) -> Result<Json<ImagesView>> {
    service
        .policy
        .enforce(&context, "get_images", &context)
        .map_err(|denied| access::not_authorized(&denied.rule))?;
    let mut rest = params.clone();
    let options = &service.options;
    let page = Page::take(
        &mut rest,
        options.limit_param_default,
        options.api_limit_max,
    )?;
    let query = parse(&service, &context, &page, rest).await?;
    let images = list::page(&service.database, query).await?;
    let link = |query: String| {
        if query.is_empty() {
            PATH.to_owned()
        } else {
            format!("{PATH}?{query}")
        }
    };
    let last = images.last().filter(|_| page.is_full(images.len()));
    Ok(Json(ImagesView {
        next: last.map(|last| link(params.with("marker", &last.id.to_string()))),
        first: link(params.without("marker")),
        images: views(&service, &context, images).await?,
        schema: "/v2/schemas/images",
    }))
}

const PATH: &str = "/v2/images";

async fn views(
    service: &ImageService,
    context: &RequestContext,
    images: Vec<Image>,
) -> Result<Vec<ImageView>> {
    let show = image_api::shown_locations(service);
    let mut found: HashMap<Uuid, Vec<Location>> = HashMap::new();
    if show.any() {
        let ids: Vec<Uuid> = images.iter().map(|image| image.id).collect();
        for (id, location) in locations::of_images(&service.database, &ids).await? {
            found.entry(id).or_default().push(location);
        }
    }
    let view = |image: Image| {
        let mut locations = found.remove(&image.id).unwrap_or_default();
        if image_api::hides_locations(context, &image) {
            locations.clear();
        }
        service.stores.sort(&mut locations);
        ImageView::new(image, locations, show)
    };
    Ok(images.into_iter().map(view).collect())
}

async fn parse(
    service: &ImageService,
    context: &RequestContext,
    page: &Page,
    mut params: QueryParams,
) -> Result<ListQuery> {
    let order = SORT_COLUMNS.order(&sort::take(&mut params)?)?;
    let marker = match &page.marker {
        None => None,
        Some(id) => match access::find(service, context, id).await {
            Ok(visible) => Some(Box::new(visible.image)),
            Err(Error::NotFound(_)) => {
                return Err(Error::BadRequest(format!(
                    "Marker {id} could not be found."
                )));
            }
            Err(error) => return Err(error),
        },
    };
    Ok(ListQuery {
        viewer: Viewer {
            is_admin: context.is_admin,
            project_id: context.project_id.clone(),
        },
        visibility: take_visibility(&mut params)?,
        member_status: take_member_status(&mut params)?,
        conditions: conditions(params)?,
        order,
        marker,
        limit: page.limit,
    })
}

fn take_visibility(params: &mut QueryParams) -> Result<VisibilityFilter> {
    match params.take("visibility").as_deref() {
        None => Ok(VisibilityFilter::Default),
        Some("all") => Ok(VisibilityFilter::All),
        Some(word) => match Visibility::parse(word) {
            Some(visibility) => Ok(VisibilityFilter::Only(visibility)),
            None => Err(Error::BadRequest(format!(
                "Invalid visibility value: {word}"
            ))),
        },
    }
}

fn take_member_status(params: &mut QueryParams) -> Result<Option<MemberStatus>> {
    match params.take("member_status").as_deref() {
        None => Ok(Some(MemberStatus::Accepted)),
        Some("all") => Ok(None),
        Some(word) => match MemberStatus::parse(word) {
            Some(status) => Ok(Some(status)),
            None => Err(Error::BadRequest(format!("Invalid status: {word}"))),
        },
    }
}

/// What is left of the query: filters on attributes, tags and custom properties.
fn conditions(mut params: QueryParams) -> Result<Vec<Clause>> {
    if params.contains("changes-since") {
        return Err(Error::BadRequest(
            "The \"changes-since\" filter is no longer available on v2.".to_owned(),
        ));
    }
    let hidden = params.take("os_hidden");
    let hidden = hidden
        .as_deref()
        .map_or(Ok(false), |text| flag("os_hidden", text))?;
    let mut conditions = vec![Clause::equal("i.os_hidden", hidden)];
    for (name, value) in params.iter() {
        conditions.extend(condition(name, value)?);
    }
    Ok(conditions)
}

fn condition(name: &str, value: &str) -> Result<Vec<Clause>> {
    let one = |clause| Ok(vec![clause]);
    match name {
        "id" => any_of("i.id", name, value),
        "name" => any_of("i.name", name, value),
        "status" => any_of("i.status", name, value),
        "container_format" => any_of("i.container_format", name, value),
        "disk_format" => any_of("i.disk_format", name, value),
        "owner" => one(Clause::equal("i.owner", value)),
        "checksum" => one(Clause::equal("i.checksum", value)),
        "os_hash_algo" => one(Clause::equal("i.os_hash_algo", value)),
        "os_hash_value" => one(Clause::equal("i.os_hash_value", value)),
        "protected" => one(Clause::equal("i.protected", exact_flag(name, value)?)),
        "created_at" => times("i.created_at", name, value),
        "updated_at" => times("i.updated_at", name, value),
        "tag" => one(list::has_tag(value.to_owned())),
        _ => match amount_column(name) {
            Some((column, operator)) => {
                one(Clause::compare(column, operator, amount(name, value)?))
            }
            None => one(list::has_property(name.to_owned(), value.to_owned())),
        },
    }
}

fn amount_column(name: &str) -> Option<(&'static str, Operator)> {
    let (name, operator) = if let Some(name) = name.strip_suffix("_min") {
        (name, Operator::GreaterOrEqual)
    } else if let Some(name) = name.strip_suffix("_max") {
        (name, Operator::LessOrEqual)
    } else {
        (name, Operator::Equal)
    };
    let column = match name {
        "size" => "i.size_bytes",
        "virtual_size" => "i.virtual_size_bytes",
        "min_ram" => "i.min_ram_mib",
        "min_disk" => "i.min_disk_gib",
        _ => return None,
    };
    Some((column, operator))
}

fn amount(name: &str, value: &str) -> Result<i64> {
    value.trim().parse().map_err(|_| {
        Error::BadRequest(format!(
            "Bad value passed to filter {name}: '{value}' is not an integer"
        ))
    })
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::BadRequest(format!(
            "Invalid value '{value}' for '{name}' filter. Valid values are case insensitive 'true' or 'false'."
        ))),
    }
}

/// As [`flag`], in small letters only.
fn exact_flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::BadRequest(format!(
            "Invalid value '{value}' for '{name}' filter. Valid values are 'true' or 'false'."
        ))),
    }
}

fn any_of(column: &'static str, name: &str, value: &str) -> Result<Vec<Clause>> {
    for operator in ["neq", "lt", "lte", "gt", "gte"] {
        if value
            .strip_prefix(operator)
            .is_some_and(|rest| rest.starts_with(':'))
        {
            return Err(Error::BadRequest(format!(
                "Unable to filter by unknown operator '{operator}'."
            )));
        }
    }
    Ok(vec![Clause::is_in(column, filter::parse_in(name, value)?)])
}

/// Documents show whole seconds, so a time without a fraction means the whole of its second.
fn times(column: &'static str, name: &str, value: &str) -> Result<Vec<Clause>> {
    let bad = |_| {
        Error::BadRequest(format!(
            "Bad \"{name}\" query filter format. Use ISO 8601 DateTime notation."
        ))
    };
    let parsed = filter::parse_times(name, value).map_err(bad)?;
    Ok(parsed
        .into_iter()
        .map(|(operator, time_us)| time_condition(column, operator, time_us))
        .collect())
}

fn time_condition(column: &'static str, operator: Operator, start_us: i64) -> Clause {
    let last_us = if start_us % 1_000_000 == 0 {
        start_us.saturating_add(999_999)
    } else {
        start_us
    };
    let compare = |operator, time: i64| Clause::compare(column, operator, Value::Int(time));
    let within = Clause::all([
        compare(Operator::GreaterOrEqual, start_us),
        compare(Operator::LessOrEqual, last_us),
    ]);
    match operator {
        Operator::Equal => within,
        Operator::NotEqual => within.negated(),
        Operator::Less | Operator::GreaterOrEqual => compare(operator, start_us),
        Operator::LessOrEqual | Operator::Greater => compare(operator, last_us),
    }
}
