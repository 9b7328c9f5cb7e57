//! `messages`: what went wrong, told to the user (3.3).

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::QueryParams;
use rest::list_query::Clause;

use super::Answer;
use super::call::Call;
use super::list_params::{ListParams, nothing, text};
use super::views::messages::{List, MessageView, One};
use crate::domain::messages as domain;

/// `GET messages` (paging, order and filters since 3.5); an admin sees every project's.
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    call.version.require(3, 3)?;
    call.enforce_own("message:get_all")?;
    let query = if call.at_least(5) {
        query
    } else {
        QueryParams::default()
    };
    let params = ListParams::parse(&call, query, "message", &[])?;
    let mut filters = Vec::new();
    if !call.context.is_admin {
        filters.push(Clause::equal("project_id", call.context.project()));
    }
    filters.extend(params.filters.iter().map(|(key, value)| clause(key, value)));
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page
        .rows
        .iter()
        .map(|message| message.id.to_string())
        .collect();
    let messages_links = next.of(&call, "messages", ids.into_iter());
    let messages = page
        .rows
        .into_iter()
        .map(|message| MessageView::new(&call, message))
        .collect();
    Ok(Json(List {
        messages,
        messages_links,
    }))
}

fn clause(key: &str, value: &str) -> Clause {
    match key.trim_end_matches('~') {
        "resource_uuid" => text(key, "resource_id", value),
        "resource_type" => text(key, "resource_type", &value.to_ascii_uppercase()),
        "request_id" => text(key, "request_id", value),
        "message_level" => text(key, "level", &value.to_ascii_uppercase()),
        "event_id" => event(value),
        _ => nothing(),
    }
}

/// `VOLUME_<resource type>_<action>_<detail>`, taken apart.
fn event(value: &str) -> Clause {
    let parts = value.strip_prefix("VOLUME_").and_then(|rest| {
        let (rest, detail) = rest.rsplit_once('_')?;
        let (resource_type, action) = rest.rsplit_once('_')?;
        Some((resource_type, action, detail))
    });
    let Some((resource_type, action, detail)) = parts else {
        return nothing();
    };
    Clause::all([
        Clause::equal("resource_type", resource_type),
        Clause::equal("action_id", action),
        Clause::equal("detail_id", detail),
    ])
}

/// `GET messages/{id}`
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One>> {
    call.version.require(3, 3)?;
    let message = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("message:get", &message.project_id)?;
    Ok(Json(One {
        message: MessageView::new(&call, message),
    }))
}

/// `DELETE messages/{id}`
pub(super) async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    call.version.require(3, 3)?;
    let message = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("message:delete", &message.project_id)?;
    domain::delete(&call.service, &message).await?;
    Ok(StatusCode::NO_CONTENT)
}
