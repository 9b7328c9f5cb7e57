//! `default-types` (3.62): the volume types of projects whose volumes name none.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::JsonBody;
use rest::validate::Object;
use serde::Serialize;
use uuid::Uuid;

use super::call::Call;
use super::{Answer, body};
use crate::db::default_types::{self, DefaultType};
use crate::domain::default_types as domain;

/// `{"default_type": …}`
#[derive(Serialize)]
pub(super) struct One {
    default_type: DefaultView,
}

/// `{"default_types": […]}`
#[derive(Serialize)]
pub(super) struct List {
    default_types: Vec<DefaultView>,
}

#[derive(Serialize)]
struct DefaultView {
    project_id: String,
    volume_type_id: Uuid,
}

impl DefaultView {
    fn new(of: DefaultType) -> Self {
        DefaultView {
            project_id: of.project_id,
            volume_type_id: of.volume_type_id,
        }
    }
}

/// `GET default-types`
pub(super) async fn index(call: Call) -> Answer<Json<List>> {
    call.version.require(3, 62)?;
    call.enforce_own("volume_extension:default_get_all")?;
    let all = default_types::all(&call.service.database).await?;
    Ok(Json(List {
        default_types: all.into_iter().map(DefaultView::new).collect(),
    }))
}

/// `GET default-types/{project}`
pub(super) async fn show(call: Call, Path(project): Path<String>) -> Answer<Json<One>> {
    call.version.require(3, 62)?;
    call.enforce("volume_extension:default_get", &project)?;
    let found = domain::get(&call.service, &project).await?;
    Ok(Json(One {
        default_type: DefaultView::new(found),
    }))
}

/// `PUT default-types/{project}`
pub(super) async fn update(
    call: Call,
    Path(project): Path<String>,
    body: JsonBody,
) -> Answer<Json<One>> {
    call.version.require(3, 62)?;
    call.enforce("volume_extension:default_set_or_update", &project)?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "default_type")?;
    object.only(&["volume_type"])?;
    let wanted = object.required_string("volume_type", 1..=255)?;
    let set = domain::set(&call.service, &call.context, &project, wanted).await?;
    Ok(Json(One {
        default_type: DefaultView::new(set),
    }))
}

/// `DELETE default-types/{project}`
pub(super) async fn delete(call: Call, Path(project): Path<String>) -> Answer<StatusCode> {
    call.version.require(3, 62)?;
    call.enforce("volume_extension:default_unset", &project)?;
    domain::unset(&call.service, &project).await?;
    Ok(StatusCode::NO_CONTENT)
}
