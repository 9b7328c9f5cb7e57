//! `volumes/{id}/metadata` and `…/metadata/{key}`, with entity tags since 3.15.

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderValue, StatusCode};
use md5::{Digest, Md5};
use rest::{Fault, JsonBody};
use serde::Serialize;

use super::call::{Call, IfMatch};
use super::{Answer, body};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::volumes::Volume;
use crate::domain::volumes::{self as domain, Write};

/// `{"metadata": …}`
#[derive(Serialize)]
pub(super) struct MetadataBody<T> {
    pub metadata: T,
}

/// `{"meta": …}`
#[derive(Serialize)]
pub(super) struct MetaBody {
    pub meta: Metadata,
}

async fn find(call: &Call, id: &str, rule: &str) -> Answer<Volume> {
    let volume = domain::get(&call.service, &call.context, id).await?;
    call.enforce(rule, &volume.project_id)?;
    Ok(volume)
}

/// The body, byte for byte what the entity tag is computed over.
fn rendered(metadata: &Metadata) -> Result<(String, String), serde_json::Error> {
    let body = serde_json::to_string(&MetadataBody { metadata })?;
    let tag = Md5::digest(body.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((body, tag))
}

/// Whether the stored metadata is what `If-Match` names; nothing to check before 3.15.
fn admits(call: &Call, wanted: &IfMatch, stored: &Metadata) -> bool {
    !call.at_least(15) || rendered(stored).is_ok_and(|(_, tag)| wanted.admits(&tag))
}

/// `GET volumes/{id}/metadata`
pub(super) async fn index(call: Call, Path(id): Path<String>) -> Answer<Response> {
    let volume = find(&call, &id, "volume:get_volume_metadata").await?;
    let metadata = metadata::get(&call.service.database, Kind::Volume, volume.id).await?;
    let (body, tag) = rendered(&metadata).map_err(|error| Fault::internal(&error))?;
    let mut response = body.into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let (true, Ok(tag)) = (call.at_least(15), HeaderValue::from_str(&tag)) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

/// `POST volumes/{id}/metadata`: adds and replaces keys.
pub(super) async fn merge(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<MetadataBody<Metadata>>> {
    let entries = body::only_metadata(&body::required(body)?)?;
    let volume = find(&call, &id, "volume:create_volume_metadata").await?;
    let metadata =
        domain::write_metadata(&call.service, volume.id, &entries, Write::Merge, &|_| true).await?;
    Ok(Json(MetadataBody { metadata }))
}

/// `PUT volumes/{id}/metadata`: replaces everything.
pub(super) async fn replace(
    call: Call,
    Path(id): Path<String>,
    wanted: IfMatch,
    body: JsonBody,
) -> Answer<Json<MetadataBody<Metadata>>> {
    let entries = body::only_metadata(&body::required(body)?)?;
    let volume = find(&call, &id, "volume:update_volume_metadata").await?;
    let unchanged = |stored: &Metadata| admits(&call, &wanted, stored);
    let metadata = domain::write_metadata(
        &call.service,
        volume.id,
        &entries,
        Write::Replace,
        &unchanged,
    )
    .await?;
    Ok(Json(MetadataBody { metadata }))
}

/// `GET volumes/{id}/metadata/{key}`
pub(super) async fn show(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<Json<MetaBody>> {
    let volume = find(&call, &id, "volume:get_volume_metadata").await?;
    let metadata = metadata::get(&call.service.database, Kind::Volume, volume.id).await?;
    let value = metadata
        .get(&key)
        .cloned()
        .ok_or_else(|| domain::no_metadata(volume.id, &key))?;
    Ok(Json(MetaBody {
        meta: Metadata::from([(key, value)]),
    }))
}

/// `PUT volumes/{id}/metadata/{key}`
pub(super) async fn update(
    call: Call,
    Path((id, key)): Path<(String, String)>,
    wanted: IfMatch,
    body: JsonBody,
) -> Answer<Json<MetaBody>> {
    let meta = body::meta_entry(&body::required(body)?, &key)?;
    let volume = find(&call, &id, "volume:update_volume_metadata").await?;
    let unchanged = |stored: &Metadata| admits(&call, &wanted, stored);
    domain::write_metadata(&call.service, volume.id, &meta, Write::Merge, &unchanged).await?;
    Ok(Json(MetaBody { meta }))
}

/// `DELETE volumes/{id}/metadata/{key}`
pub(super) async fn delete(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let volume = find(&call, &id, "volume:delete_volume_metadata").await?;
    domain::delete_metadata(&call.service, volume.id, &key).await?;
    Ok(StatusCode::OK)
}
