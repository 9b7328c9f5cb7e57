//! `backups`: list, show, create, update, delete, restore.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::list_query::Clause;
use rest::validate::Object;
use rest::{BadInput, JsonBody, QueryParams};

use super::call::Call;
use super::list_params::{ListParams, integer, nothing, text};
use super::views::backups::{BackupView, List, One, Restore, RestoreView, summary};
use super::views::{Detail, Rows, Summary};
use super::{Answer, body};
use crate::domain::backups::{self as domain, Request};
use crate::domain::volumes;

/// `GET backups`
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Summary).await
}

/// `GET backups/detail`
pub(super) async fn detail(call: Call, query: QueryParams) -> Answer<Json<List>> {
    list(call, query, Detail::Full).await
}

async fn list(call: Call, query: QueryParams, detail: Detail) -> Answer<Json<List>> {
    call.enforce_own("backup:get_all")?;
    let params = ListParams::parse(&call, query, "backup", &[])?;
    params.names_sort_since(&call, 37)?;
    let mut filters = params.scope(&call);
    filters.extend(params.filters.iter().map(|(key, value)| clause(key, value)));
    let (query, next) = params.into_query(filters);
    let page = domain::list(&call.service, query).await?;
    let ids: Vec<String> = page
        .rows
        .iter()
        .map(|backup| backup.id.to_string())
        .collect();
    let backups_links = next.of(&call, &detail.path("backups"), ids.into_iter());
    let backups = match detail {
        Detail::Summary => Rows::Summary(
            page.rows
                .into_iter()
                .map(|backup| summary(&call, backup))
                .collect(),
        ),
        Detail::Full => {
            let rows = domain::with_details(&call.service, page.rows).await?;
            Rows::Full(
                rows.into_iter()
                    .map(|details| BackupView::new(&call, details))
                    .collect(),
            )
        }
    };
    Ok(Json(List {
        backups,
        backups_links,
        count: page.total,
    }))
}

fn clause(key: &str, value: &str) -> Clause {
    match key.trim_end_matches('~') {
        "name" | "display_name" => text(key, "name", value),
        "description" | "display_description" => text(key, "description", value),
        "status" => text(key, "status", value),
        "volume_id" => text(key, "volume_id", value),
        "snapshot_id" => text(key, "snapshot_id", value),
        "parent_id" => text(key, "parent_id", value),
        "container" => text(key, "container", value),
        "host" => text(key, "host", value),
        "user_id" => text(key, "user_id", value),
        "project_id" => text(key, "project_id", value),
        "id" => text(key, "id", value),
        "size" => integer("size_gib", value),
        _ => nothing(),
    }
}

/// `GET backups/{id}`
pub(super) async fn show(call: Call, Path(id): Path<String>) -> Answer<Json<One<BackupView>>> {
    let backup = domain::get(&call.service, &call.context, &id).await?;
    let details = domain::details(&call.service, backup).await?;
    Ok(Json(One {
        backup: BackupView::new(&call, details),
    }))
}

/// `POST backups`
pub(super) async fn create(call: Call, body: JsonBody) -> Answer<(StatusCode, Json<One<Summary>>)> {
    let body = body::required(body)?;
    let object = Object::only_member(&body, "backup")?;
    let mut keys = vec![
        "volume_id",
        "name",
        "description",
        "container",
        "incremental",
        "force",
        "snapshot_id",
    ];
    if call.at_least(43) {
        keys.push("metadata");
    }
    if call.at_least(51) {
        keys.push("availability_zone");
    }
    object.only(&keys)?;
    let volume_id = object.required_uuid("volume_id")?;
    let snapshot_id = object.uuid("snapshot_id")?;
    let request = Request {
        name: body::text(&object, "name")?,
        description: body::text(&object, "description")?,
        container: object
            .string("container", 0..=255)?
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        metadata: body::metadata(&object)?,
        availability_zone: object
            .string("availability_zone", 1..=255)?
            .map(str::to_owned),
        incremental: object.boolean("incremental")?.unwrap_or(false),
        force: object.boolean("force")?.unwrap_or(false),
    };
    let volume = volumes::get(&call.service, &call.context, volume_id).await?;
    call.enforce("backup:create", &volume.project_id)?;
    let snapshot = domain::source_snapshot(&call.service, &call.context, snapshot_id).await?;
    let backup = domain::create(
        &call.service,
        &call.context,
        &volume,
        snapshot.as_ref(),
        request,
    )
    .await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(One {
            backup: summary(&call, backup),
        }),
    ))
}

/// `PUT backups/{id}` (3.9)
pub(super) async fn update(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<One<Summary>>> {
    call.version.require(3, 9)?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "backup")?;
    let keys = ["name", "description", "metadata"];
    object.only(if call.at_least(43) {
        &keys
    } else {
        keys.get(..2).unwrap_or(&keys)
    })?;
    if object.map().is_empty() {
        let text = "Must specify at least one of 'name', 'description' or 'metadata' to update.";
        return Err(BadInput::new(text).into());
    }
    let changes = body::changes(&object)?;
    let backup = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("backup:update", &backup.project_id)?;
    let backup = domain::update(&call.service, backup.id, &changes).await?;
    Ok(Json(One {
        backup: summary(&call, backup),
    }))
}

/// `DELETE backups/{id}`
pub(super) async fn delete(call: Call, Path(id): Path<String>) -> Answer<StatusCode> {
    let backup = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("backup:delete", &backup.project_id)?;
    domain::delete(&call.service, &call.context, &backup, false).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST backups/{id}/restore`
pub(super) async fn restore(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<(StatusCode, Json<Restore>)> {
    let body = body::required(body)?;
    let object = Object::only_member(&body, "restore")?;
    object.only(&["volume_id", "name"])?;
    let volume_id = object.uuid("volume_id")?;
    let name = body::text(&object, "name")?;
    let backup = domain::get(&call.service, &call.context, &id).await?;
    call.enforce("backup:restore", &backup.project_id)?;
    let volume = match volume_id {
        Some(id) => Some(volumes::get(&call.service, &call.context, id).await?),
        None => None,
    };
    let restoring =
        domain::restore(&call.service, &call.context, &backup, volume.as_ref(), name).await?;
    let restore = RestoreView {
        backup_id: backup.id,
        volume_id: restoring.volume_id,
        volume_name: restoring.volume_name,
    };
    Ok((StatusCode::ACCEPTED, Json(Restore { restore })))
}
