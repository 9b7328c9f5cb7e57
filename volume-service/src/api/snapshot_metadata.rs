//! `snapshots/{id}/metadata` and `…/metadata/{key}`.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::JsonBody;

use super::call::Call;
use super::volume_metadata::{MetaBody, MetadataBody};
use super::{Answer, body};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::snapshots::Snapshot;
use crate::domain::snapshots as domain;
use crate::domain::volumes::Write;

async fn find(call: &Call, id: &str, rule: &str) -> Answer<Snapshot> {
    let snapshot = domain::get(&call.service, &call.context, id).await?;
    call.enforce(rule, &snapshot.project_id)?;
    Ok(snapshot)
}

/// `GET snapshots/{id}/metadata`
pub(super) async fn index(
    call: Call,
    Path(id): Path<String>,
) -> Answer<Json<MetadataBody<Metadata>>> {
    let snapshot = find(&call, &id, "volume:get_snapshot_metadata").await?;
    let metadata = metadata::get(&call.service.database, Kind::Snapshot, snapshot.id).await?;
    Ok(Json(MetadataBody { metadata }))
}

/// `POST snapshots/{id}/metadata`: adds and replaces keys.
pub(super) async fn merge(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<MetadataBody<Metadata>>> {
    write(call, &id, body, Write::Merge).await
}

/// `PUT snapshots/{id}/metadata`: replaces everything.
pub(super) async fn replace(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<MetadataBody<Metadata>>> {
    write(call, &id, body, Write::Replace).await
}

async fn write(
    call: Call,
    id: &str,
    body: JsonBody,
    write: Write,
) -> Answer<Json<MetadataBody<Metadata>>> {
    let entries = body::only_metadata(&body::required(body)?)?;
    let snapshot = find(&call, id, "volume:update_snapshot_metadata").await?;
    let metadata = domain::write_metadata(&call.service, snapshot.id, &entries, write).await?;
    Ok(Json(MetadataBody { metadata }))
}

/// `GET snapshots/{id}/metadata/{key}`
pub(super) async fn show(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<Json<MetaBody>> {
    let snapshot = find(&call, &id, "volume:get_snapshot_metadata").await?;
    let metadata = metadata::get(&call.service.database, Kind::Snapshot, snapshot.id).await?;
    let value = metadata
        .get(&key)
        .cloned()
        .ok_or_else(|| domain::no_metadata(snapshot.id, &key))?;
    Ok(Json(MetaBody {
        meta: Metadata::from([(key, value)]),
    }))
}

/// `PUT snapshots/{id}/metadata/{key}`
pub(super) async fn update(
    call: Call,
    Path((id, key)): Path<(String, String)>,
    body: JsonBody,
) -> Answer<Json<MetaBody>> {
    let meta = body::meta_entry(&body::required(body)?, &key)?;
    let snapshot = find(&call, &id, "volume:update_snapshot_metadata").await?;
    domain::write_metadata(&call.service, snapshot.id, &meta, Write::Merge).await?;
    Ok(Json(MetaBody { meta }))
}

/// `DELETE snapshots/{id}/metadata/{key}`
pub(super) async fn delete(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let snapshot = find(&call, &id, "volume:delete_snapshot_metadata").await?;
    domain::delete_metadata(&call.service, snapshot.id, &key).await?;
    Ok(StatusCode::OK)
}
