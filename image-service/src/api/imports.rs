//! POST of an import: data that is staged or lies elsewhere becomes the image's.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use rest::RequestContext;
use rest::body::AnyJsonBody;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Service, access, image_data};
use crate::ImageService;
use crate::db::{images, tasks as tasks_db};
use crate::error::{Error, Result};
use crate::fetch;
use crate::flows::import::Method;
use crate::import_plugins::Plugins;
use crate::imports::{self, NewImport, task_input};
use crate::quota;
use crate::remote_image::RemoteImage;
use crate::views::{ImageTaskView, ImageTasksView};

pub async fn import(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    headers: HeaderMap,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<StatusCode> {
    let asked = Asked::parse(&service, body.as_ref())?;
    let visible = access::find(&service, &context, &id).await?;
    let image = &visible.image;
    imports::check_status(image, asked.name)?;
    let method = asked.method()?;
    let rule = match method {
        Method::CopyImage => "copy_image",
        _ => "modify_image",
    };
    visible.enforce(&service, &context, rule)?;
    imports::refuse_second(image)?;
    let stores = asked.stores(&service, &headers)?;
    if let Method::WebDownload { uri } = &method {
        check_uri(&service, uri).await?;
    }
    let plugins = match method {
        // The image has its data; nothing about it changes.
        Method::CopyImage => Plugins::default(),
        _ => service.options.import_plugins.for_caller(&context),
    };
    let new = NewImport {
        plugins,
        limits: quota::limits_of(&service, image.owner.as_deref()).await?,
        limit_bytes: image_data::limit_bytes(&service, image).await?,
        input: task_input(image.id, asked.body, &stores),
        method,
        stores,
        all_stores: asked.all_stores,
        all_stores_must_succeed: asked.all_stores_must_succeed,
        task_type: "api_image_import",
    };
    let mut tx = service.database.begin().await?;
    let image = images::find_locked(&mut tx, image.id).await?;
    let image = image.ok_or_else(|| Error::no_image(&id))?;
    if imports::begin(&service, &mut tx, &context, &image, new)
        .await?
        .is_some()
    {
        tx.commit().await?;
        service.doorbell.wake();
    }
    Ok(StatusCode::ACCEPTED)
}

/// 400 for a URL that the service does not fetch from.
pub async fn check_uri(service: &ImageService, uri: &str) -> Result<()> {
    let checked = fetch::check(&service.options.import_filter, uri).await;
    checked.map_err(|error| {
        Error::BadRequest(format!(
            "URI for web-download does not pass filtering: {uri}: {error}"
        ))
    })
}

/// The body of a request.
struct Asked<'a> {
    body: &'a Value,
    method: &'a Map<String, Value>,
    name: &'a str,
    all_stores: bool,
    all_stores_must_succeed: bool,
}

impl<'a> Asked<'a> {
    fn parse(service: &ImageService, body: Option<&'a Value>) -> Result<Self> {
        let bad = |message: &str| Error::BadRequest(message.to_owned());
        let body = body.ok_or_else(|| bad("Body expected in request."))?;
        let method = body.get("method").and_then(Value::as_object);
        let method = method.ok_or_else(|| bad("Import request requires a 'method' field."))?;
        let name = method.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| bad("Import request requires a 'name' field."))?;
        let enabled = &service.options.enabled_import_methods;
        if !enabled.iter().any(|method| method == name) {
            return Err(bad(&format!("Unknown import method name '{name}'.")));
        }
        let flag = |field: &str, default: bool| match body.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(bad(&format!("'{field}' must be boolean value only"))),
        };
        Ok(Asked {
            body,
            method,
            name,
            all_stores_must_succeed: flag("all_stores_must_succeed", true)?,
            all_stores: flag("all_stores", false)?,
        })
    }

    fn text(&self, field: &str) -> Option<String> {
        let value = self.method.get(field)?.as_str()?;
        Some(value.to_owned())
    }

    fn method(&self) -> Result<Method> {
        let needs = |field: &str| {
            let missing = || {
                let name = self.name;
                let message = format!("'{field}' needs to be set for {name} import method");
                Error::BadRequest(message)
            };
            self.text(field).ok_or_else(missing)
        };
        match self.name {
            "glance-direct" => Ok(Method::GlanceDirect),
            "copy-image" => Ok(Method::CopyImage),
            "web-download" => Ok(Method::WebDownload { uri: needs("uri")? }),
            "glance-download" => {
                let region = needs("glance_region")?;
                let id = needs("glance_image_id")?;
                let id = Uuid::parse_str(&id).map_err(|_| {
                    let message = format!("Remote image id does not look like a UUID: {id}");
                    Error::BadRequest(message)
                })?;
                let interface = self.text("glance_service_interface");
                Ok(Method::GlanceDownload(RemoteImage {
                    id,
                    region,
                    interface: interface.unwrap_or_else(|| "public".to_owned()),
                }))
            }
            name => Err(Error::BadRequest(format!(
                "Unknown import method name '{name}'."
            ))),
        }
    }

    /// The stores that the data goes to, by the body or the header.
    fn stores(&self, service: &ImageService, headers: &HeaderMap) -> Result<Vec<String>> {
        if !service.stores.have_ids() {
            return Ok(vec![String::new()]);
        }
        let header = image_data::store_header(headers)?;
        let named = self.body.get("stores");
        let stores = if self.all_stores {
            if named.is_some() || header.is_some() {
                let message = "All_stores parameter can't be used with x-image-meta-store header \
                    or stores parameter";
                return Err(Error::BadRequest(message.to_owned()));
            }
            service.stores.writable_ids()
        } else {
            match (named, header) {
                (Some(_), Some(_)) => {
                    let message = "Stores parameter and x-image-meta-store header can't be both \
                        specified";
                    return Err(Error::BadRequest(message.to_owned()));
                }
                (Some(named), None) => names(named)?,
                (None, Some(header)) => vec![header],
                (None, None) => {
                    let default = service.stores.choose(None).map_err(Error::Conflict)?;
                    vec![default.name().to_owned()]
                }
            }
        };
        for store in &stores {
            let chosen = service.stores.choose_pool(Some(store));
            chosen.map_err(Error::Conflict)?;
        }
        Ok(stores)
    }
}

/// A list of store ids, each once.
fn names(value: &Value) -> Result<Vec<String>> {
    let malformed = || Error::BadRequest("'stores' must be a list of store ids".to_owned());
    let items = value.as_array().filter(|items| !items.is_empty());
    let mut names: Vec<String> = Vec::new();
    for item in items.ok_or_else(malformed)? {
        let name = item.as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(malformed)?;
        if !names.iter().any(|held| held == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The tasks of one image, for those who see the image.
pub async fn tasks(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<Json<ImageTasksView>> {
    let image = access::find(&service, &context, &id).await?.image;
    let tasks = tasks_db::of_image(&service.database, image.id).await?;
    let tasks = tasks.into_iter().map(ImageTaskView::from).collect();
    Ok(Json(ImageTasksView { tasks }))
}
