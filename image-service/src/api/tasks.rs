//! Tasks: what is left of Glance's older import API, and where admins watch imports.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use rest::body::AnyJsonBody;
use rest::paging::Page;
use rest::{QueryParams, RequestContext, sort};
use serde_json::Value;
use uuid::Uuid;

use super::{Service, access, image_create, image_data, imports as import_api};
use crate::ImageService;
use crate::db::images;
use crate::db::tasks::{self, SORT_COLUMNS, TaskQuery};
use crate::error::{Error, Result};
use crate::flows::import::Method;
use crate::image::{Task, TaskStatus};
use crate::import_plugins::Plugins;
use crate::imports::{self, NewImport};
use crate::quota;
use crate::views::{TaskStubView, TaskView, TasksView};

/// The one type of task that can be asked for.
const IMPORT: &str = "import";
const PATH: &str = "/v2/tasks";

fn enforce(service: &ImageService, context: &RequestContext) -> Result<()> {
    let rule = "tasks_api_access";
    let enforced = service.policy.enforce(context, rule, context);
    enforced.map_err(|denied| access::not_authorized(&denied.rule))
}

fn no_task(id: &str) -> Error {
    Error::NotFound(format!("No task found with ID {id}"))
}

async fn find(service: &ImageService, id: &str) -> Result<Task> {
    let uuid = Uuid::parse_str(id).map_err(|_| no_task(id))?;
    let found = tasks::find(&service.database, uuid).await?;
    found.ok_or_else(|| no_task(id))
}

pub async fn show(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<Json<TaskView>> {
    enforce(&service, &context)?;
    Ok(Json(find(&service, &id).await?.into()))
}

pub async fn list(
    State(service): Service,
    context: RequestContext,
    params: QueryParams,
) -> Result<Json<TasksView>> {
    enforce(&service, &context)?;
    let mut rest = params.clone();
    let options = &service.options;
    let page = Page::take(
        &mut rest,
        options.limit_param_default,
        options.api_limit_max,
    )?;
    let query = parse_query(&service, &page, rest).await?;
    let found = tasks::page(&service.database, query).await?;
    let link = |query: String| match query.is_empty() {
        true => PATH.to_owned(),
        false => format!("{PATH}?{query}"),
    };
    let last = found.last().filter(|_| page.is_full(found.len()));
    Ok(Json(TasksView {
        next: last.map(|last| link(params.with("marker", &last.id.to_string()))),
        first: link(params.without("marker")),
        tasks: found.into_iter().map(TaskStubView::from).collect(),
        schema: "/v2/schemas/tasks",
    }))
}

async fn parse_query(
    service: &ImageService,
    page: &Page,
    mut params: QueryParams,
) -> Result<TaskQuery> {
    let bad = |what: &str, word: &str| Error::BadRequest(format!("Invalid {what} value: {word}"));
    let order = SORT_COLUMNS.order(&sort::take(&mut params)?)?;
    let status = params.take("status").map(|word| {
        let known = TaskStatus::WORDS.join(", ");
        let unknown = || bad("status", &format!("{word}: it must be one of {known}"));
        TaskStatus::parse(&word).ok_or_else(unknown)
    });
    let kind = params.take("type");
    if let Some(kind) = kind.as_deref().filter(|kind| *kind != IMPORT) {
        return Err(bad("type", kind));
    }
    let marker = match &page.marker {
        None => None,
        Some(id) => Some(find(service, id).await.map_err(no_marker)?),
    };
    Ok(TaskQuery {
        status: status.transpose()?,
        kind,
        order,
        marker,
        limit: page.limit,
    })
}

fn no_marker(error: Error) -> Error {
    match error {
        Error::NotFound(_) => Error::BadRequest("Invalid marker format".to_owned()),
        other => other,
    }
}

/// A task of type `import`: a new image with data from the web.
pub async fn create(
    State(service): Service,
    context: RequestContext,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, HeaderMap, Json<TaskView>)> {
    enforce(&service, &context)?;
    let asked = Asked::parse(body.as_ref())?;
    import_api::check_uri(&service, asked.uri).await?;
    let image = image_create::parse(&service, &context, Some(asked.properties))?;
    image_create::enforce(&service, &context, &image)?;
    let limits = quota::limits_of(&service, image.owner.as_deref()).await?;
    let new = NewImport {
        method: Method::WebDownload {
            uri: asked.uri.to_owned(),
        },
        stores: vec![default_store(&service)?],
        all_stores: false,
        all_stores_must_succeed: true,
        limit_bytes: image_data::limit_bytes(&service, &image).await?,
        plugins: Plugins::default(),
        limits: limits.clone(),
        task_type: IMPORT,
        input: asked.input.clone(),
    };
    let mut tx = service.database.begin().await?;
    image_create::insert(&mut tx, &image, &limits).await?;
    let notices = &service.notices;
    notices
        .image(&mut tx, image.id, "image.create", &context)
        .await?;
    let locked = images::find_locked(&mut tx, image.id).await?;
    let locked = locked.ok_or_else(|| Error::no_image(image.id))?;
    let begun = imports::begin(&service, &mut tx, &context, &locked, new).await?;
    let task = begun.ok_or_else(|| Error::Internal("an import without a store".to_owned()))?;
    tx.commit().await?;
    service.doorbell.wake();
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::try_from(format!("{PATH}/{}", task.id)) {
        headers.insert(header::LOCATION, location);
    }
    Ok((StatusCode::CREATED, headers, Json(task.into())))
}

fn default_store(service: &ImageService) -> Result<String> {
    let default = service.stores.choose(None).map_err(Error::Conflict)?;
    Ok(default.name().to_owned())
}

/// The body of a request.
struct Asked<'a> {
    input: &'a Value,
    uri: &'a str,
    properties: &'a Value,
}

impl<'a> Asked<'a> {
    fn parse(body: Option<&'a Value>) -> Result<Self> {
        let bad = |message: String| Error::BadRequest(message);
        let body = body.ok_or_else(|| bad("Body expected in request.".to_owned()))?;
        let member = |object: &'a Value, name: &str| {
            let missing = || bad(format!("Task '{name}' is required"));
            object.get(name).ok_or_else(missing)
        };
        let kind = member(body, "type")?;
        if kind != IMPORT {
            return Err(bad(format!("Invalid type value: {kind}")));
        }
        let input = member(body, "input")?;
        let uri = member(input, "import_from")?.as_str();
        member(input, "import_from_format")?;
        Ok(Asked {
            input,
            uri: uri.ok_or_else(|| bad("'import_from' must be a text".to_owned()))?,
            properties: member(input, "image_properties")?,
        })
    }
}
