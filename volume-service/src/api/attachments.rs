//! `attachments` (3.27): list, show, create, update, complete, delete.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::list_query::Clause;
use rest::validate::{self, Object};
use rest::{BadInput, JsonBody, QueryParams};

use super::call::Call;
use super::list_params::{ListParams, nothing, text};
use super::views::attachments::{AttachmentView, List, One, SummaryView};
use super::views::{Detail, Rows};
use super::{Answer, actions, body};
use crate::db::attachments::Document;
use crate::domain::attachments::{self as domain, Request};
use crate::domain::volumes;

/// `GET attachments`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Summary).await
}

/// `GET attachments/detail`
pub(super) async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Full).await
}

async fn list(call: Call, query: QueryParams, detail: Detail) -> Answer<Json<List>> {
    call.version.require(3, 27)?;
    let params = ListParams::parse(&call, query, "attachment", &[])?;
    let mut filters = Vec::new();
    if !params.all_tenants {
        filters.push(domain::of_project(call.context.project()));
    }
    filters.extend(params.filters.iter().map(|(key, value)| clause(key, value)));
    let (query, _) = params.into_query(filters);
    let rows = domain::list(&call.service, query).await?.rows.into_iter();
    let attachments = match detail {
        Detail::Summary => Rows::Summary(rows.map(SummaryView::new).collect()),
        Detail::Full => Rows::Full(rows.map(AttachmentView::new).collect()),
    };
    Ok(Json(List { attachments }))
}

fn clause(key: &str, value: &str) -> Clause {
    match key.trim_end_matches('~') {
        "id" => text(key, "id", value),
        "volume_id" => text(key, "volume_id", value),
        "instance_id" | "instance_uuid" => text(key, "instance_id", value),
        "status" | "attach_status" => text(key, "attach_status", value),
        "attached_host" => text(key, "attached_host", value),
        _ => nothing(),
    }
}

/// `GET attachments/{id}`
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One>> {
    call.version.require(3, 27)?;
    let (attachment, _) = domain::get(&call.service, &call.context, &id).await?;
    Ok(Json(One::new(attachment)))
}

/// `POST attachments` (`mode` since 3.54)
pub(super) async fn create(call: Call, body: JsonBody) -> Answer<Json<One>> {
    call.version.require(3, 27)?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "attachment")?;
    let mut keys = vec!["volume_uuid", "instance_uuid", "connector"];
    if call.at_least(54) {
        keys.push("mode");
    }
    object.only(&keys)?;
    let volume_id = object.required_uuid("volume_uuid")?;
    let request = Request {
        instance_id: object
            .uuid("instance_uuid")?
            .and_then(crate::domain::parse_id),
        connector: object.object("connector")?.map(|it| it.map().clone()),
        mode: object.one_of("mode", &["rw", "ro"])?.map(str::to_owned),
    };
    let volume = volumes::get(&call.service, &call.context, volume_id).await?;
    call.enforce("volume:attachment_create", &volume.project_id)?;
    let created = domain::create(&call.service, &call.context, &volume, request).await?;
    Ok(Json(One::new(created)))
}

/// `PUT attachments/{id}`
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<One>> {
    call.version.require(3, 27)?;
    let body = body::required(body)?;
    let connector = connector(&body)?;
    let (attachment, volume) = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:attachment_update", &volume.project_id)?;
    let updated = domain::update(&call.service, &call.context, attachment.id, connector).await?;
    Ok(Json(One::new(updated)))
}

/// The connector of an update: an object with something in it.
fn connector(body: &serde_json::Value) -> Result<Document, BadInput> {
    let object = Object::only_member(body, "attachment")?;
    object.only(&["connector"])?;
    let connector = object.required_object("connector")?;
    if connector.map().is_empty() {
        let shown = serde_json::json!({});
        let reason = "{} should be non-empty";
        return Err(validate::invalid("connector", &shown, reason));
    }
    Ok(connector.map().clone())
}

/// `DELETE attachments/{id}`
pub(super) async fn delete(call: Call, Path(id): Path<String>) -> Answer<Json<List>> {
    call.version.require(3, 27)?;
    let (attachment, volume) = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:attachment_delete", &volume.project_id)?;
    let left = domain::delete(&call.service, &call.context, &attachment).await?;
    let attachments = Rows::Summary(left.into_iter().map(SummaryView::new).collect());
    Ok(Json(List { attachments }))
}

/// `POST attachments/{id}/action`: `os-complete` (3.44)
pub(super) async fn act(call: Call, Path(id): Path<String>, body: JsonBody) -> Answer<StatusCode> {
    call.version.require(3, 27)?;
    let (name, _) = actions::parse(body)?;
    if name != "os-complete" {
        return Err(actions::unknown(&name).into());
    }
    call.version.require(3, 44)?;
    let (attachment, volume) = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("volume:attachment_complete", &volume.project_id)?;
    domain::complete(&call.service, attachment.id).await?;
    Ok(StatusCode::NO_CONTENT)
}
