//! Beginning an operation that clients watch as a task: an import, or a location that is added.
//!
//! The marks on the image, the task and the flow are written in one transaction. The marks are
//! the lock: an image that has them takes no second operation, and the flow takes them away
//! whatever happens, so that nothing has to be stolen from a dead process.

use database::{Tx, now_us};
use rest::RequestContext;
use serde_json::{Value, json};
use taskflow::NewFlow;
use uuid::Uuid;

use crate::ImageService;
use crate::db::{imports, locations, tasks};
use crate::error::{Error, Result};
use crate::flows::import::{ImportImage, Method, Params};
use crate::image::{Image, Status, Task, TaskStatus, lock_key};
use crate::import_plugins::Plugins;
use crate::quota::{self, Demand, Limits};
use crate::remote_image::Grant;
use crate::stores::store_of;

/// An import as it was asked for.
pub struct NewImport {
    pub method: Method,
    pub stores: Vec<String>,
    /// The stores were not named one by one.
    pub all_stores: bool,
    pub all_stores_must_succeed: bool,
    pub limit_bytes: u64,
    pub plugins: Plugins,
    /// What the image's owner may use.
    pub limits: Limits,
    /// `import` or `api_image_import`.
    pub task_type: &'static str,
    /// What the task shows as its input.
    pub input: Value,
}

/// Begins an import of the image that `tx` has locked. `None`: every store has the image.
/// Ring the doorbell after the commit.
pub async fn begin(
    service: &ImageService,
    tx: &mut Tx,
    context: &RequestContext,
    image: &Image,
    mut new: NewImport,
) -> Result<Option<Task>> {
    check_status(image, new.method.name())?;
    refuse_second(image)?;
    let to = if new.method == Method::CopyImage {
        leave_out_present(tx, image, &mut new).await?;
        None
    } else {
        Some(Status::Importing)
    };
    if new.stores.is_empty() {
        return Ok(None);
    }
    let demands = demands(&new.method, image.size_bytes.unwrap_or(0));
    let needs_grant = matches!(new.method, Method::GlanceDownload(_));
    let params = Params {
        image_id: image.id,
        method: new.method,
        stores: new.stores,
        all_stores_must_succeed: new.all_stores_must_succeed,
        limit_bytes: new.limit_bytes,
        plugins: new.plugins,
    };
    // The user's token is in this process and nowhere else.
    let queue = match needs_grant {
        true => service.upload_queue(),
        false => service.import_queue(),
    };
    let flow = NewFlow::of::<ImportImage>(&params)?
        .queue(queue)
        .resource("image", image.id)
        .request(&context.request_id, context.project(), &context.user_id)
        .lock_exclusive(lock_key(image.id));
    let task_id = flow.id();
    imports::lock(tx, image, task_id, to, &params.stores).await?;
    quota::check(tx, &new.limits, image.owner.as_deref(), &demands).await?;
    let task = new_task(context, task_id, image.id, new.task_type, new.input);
    tasks::insert(tx, &task).await?;
    service.notices.task(tx, task.id, "create", context).await?;
    flow.insert(tx).await?;
    if needs_grant {
        let grant = Grant {
            token: context.token.clone(),
            identity_url: service.identity_url.get().cloned().unwrap_or_default(),
        };
        service.grants.put(task_id, grant);
    }
    Ok(Some(task))
}

/// What an import needs room for, as Glance asks for it: also a copy counts as staged.
fn demands(method: &Method, bytes: u64) -> Vec<Demand> {
    match method {
        Method::GlanceDirect => vec![Demand::Data { bytes }],
        Method::CopyImage => vec![Demand::Staged { bytes }],
        Method::WebDownload { .. } | Method::GlanceDownload(_) => {
            vec![Demand::Uploading, Demand::Staged { bytes: 0 }]
        }
    }
}

/// A task that has not begun.
pub fn new_task(
    context: &RequestContext,
    id: Uuid,
    image_id: Uuid,
    kind: &str,
    input: Value,
) -> Task {
    let now = now_us();
    Task {
        id,
        kind: kind.to_owned(),
        status: TaskStatus::Pending,
        owner: context.project().to_owned(),
        image_id: Some(image_id),
        request_id: context.request_id.clone(),
        user_id: context.user_id.clone(),
        input,
        result: None,
        message: String::new(),
        expires_at_us: None,
        created_at_us: now,
        updated_at_us: now,
    }
}

/// 409 while another operation runs on the image.
pub fn refuse_second(image: &Image) -> Result<()> {
    if !imports::is_locked(image) {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "New operation on image '{}' is not permitted as prior operation is still in progress",
        image.id
    )))
}

/// 409 unless the image is where the method of this name begins, with its formats set.
pub fn check_status(image: &Image, method: &str) -> Result<()> {
    let status = image.status;
    // While data is still coming in the image is not staged yet.
    let staged = status == Status::Uploading && image.upload_id.is_none();
    let refusal = match method {
        "copy-image" if status == Status::Active => None,
        "copy-image" => {
            Some("Only images with status active can be targeted for copying".to_owned())
        }
        _ if status == Status::Active => {
            Some("Image with status active cannot be target for import".to_owned())
        }
        "glance-direct" if staged => None,
        "glance-direct" => {
            Some("Image needs to be staged before 'glance-direct' method can be used".to_owned())
        }
        _ if status == Status::Queued => None,
        name => Some(format!(
            "Image needs to be in 'queued' state to use '{name}' method"
        )),
    };
    if let Some(refusal) = refusal {
        return Err(Error::Conflict(refusal));
    }
    let formats = [
        ("container_format", &image.container_format),
        ("disk_format", &image.disk_format),
    ];
    for (name, format) in formats {
        if format.is_none() {
            let message = format!("'{name}' needs to be set before import");
            return Err(Error::Conflict(message));
        }
    }
    Ok(())
}

/// Stores that have the image already are skipped where all of them were meant, and otherwise a
/// mistake.
async fn leave_out_present(tx: &mut Tx, image: &Image, new: &mut NewImport) -> Result<()> {
    for location in locations::of_image_in(tx, image.id).await? {
        let present = store_of(&location).unwrap_or_default();
        let before = new.stores.len();
        new.stores.retain(|store| store != present);
        if new.stores.len() < before && !new.all_stores {
            return Err(Error::BadRequest(format!(
                "Image is already present at store '{present}'"
            )));
        }
    }
    Ok(())
}

impl Method {
    /// The name that clients use.
    pub fn name(&self) -> &'static str {
        match self {
            Method::GlanceDirect => "glance-direct",
            Method::WebDownload { .. } => "web-download",
            Method::CopyImage => "copy-image",
            Method::GlanceDownload(_) => "glance-download",
        }
    }
}

/// The input of a task of the import API.
pub fn task_input(image_id: Uuid, request: &Value, stores: &[String]) -> Value {
    let stores: Vec<Option<&String>> = stores
        .iter()
        .map(|store| (!store.is_empty()).then_some(store))
        .collect();
    json!({"image_id": image_id, "import_req": request, "backend": stores})
}
