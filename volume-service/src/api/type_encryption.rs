//! `types/{id}/encryption`. The last part of the path of a change is the encryption's id, which
//! says nothing that the type's does not.

use axum::Json;
use axum::extract::Path;
use http::StatusCode;
use rest::validate::Object;
use rest::{BadInput, JsonBody};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::call::Call;
use super::views::{time, time_or_null};
use super::{Answer, body};
use crate::db::type_encryption::{self, TypeEncryption};
use crate::domain::type_encryption::{self as domain, Request};
use crate::domain::types;

const LOCATIONS: &[&str] = &["front-end", "back-end"];

/// `{"encryption": …}`
#[derive(Serialize)]
pub(super) struct Created {
    encryption: NewView,
}

/// What the answer to a creation shows.
#[derive(Serialize)]
struct NewView {
    volume_type_id: Uuid,
    encryption_id: Uuid,
    provider: String,
    control_location: String,
    cipher: Option<String>,
    key_size: Option<i64>,
}

impl NewView {
    fn new(of: TypeEncryption) -> Self {
        NewView {
            volume_type_id: of.volume_type_id,
            encryption_id: of.id,
            provider: of.provider,
            control_location: of.control_location,
            cipher: of.cipher,
            key_size: of.key_size,
        }
    }
}

/// What is shown: nothing where volumes are not encrypted.
async fn shown(call: &Call, type_id: &str) -> Answer<(Uuid, Map<String, Value>)> {
    call.enforce_own("volume_extension:volume_type_encryption:get")?;
    let found = types::get(&call.service, &call.context, type_id).await?;
    let mut fields = Map::new();
    if let Some(of) = type_encryption::get(&call.service.database, found.id).await? {
        let value = json!({
            "volume_type_id": of.volume_type_id,
            "encryption_id": of.id,
            "provider": of.provider,
            "control_location": of.control_location,
            "cipher": of.cipher,
            "key_size": of.key_size,
            "created_at": time(of.created_at),
            "updated_at": time_or_null(of.updated_at),
            "deleted": false,
            "deleted_at": null,
        });
        if let Value::Object(map) = value {
            fields = map;
        }
    }
    Ok((found.id, fields))
}

/// `GET types/{id}/encryption`
pub(super) async fn index(call: Call, Path(id): Path<String>) -> Answer<Json<Map<String, Value>>> {
    Ok(Json(shown(&call, &id).await?.1))
}

/// `GET types/{id}/encryption/{key}`: `{key: value}`
pub(super) async fn show(
    call: Call,
    Path((id, key)): Path<(String, String)>,
) -> Answer<Json<Map<String, Value>>> {
    let (type_id, mut fields) = shown(&call, &id).await?;
    let value = fields.remove(&key).ok_or_else(|| domain::none(type_id))?;
    Ok(Json(Map::from_iter([(key, value)])))
}

fn parse(object: &Object<'_>) -> Result<Request, BadInput> {
    let text = |key: &str| -> Result<Option<String>, BadInput> {
        Ok(object.string(key, 0..=255)?.map(str::to_owned))
    };
    let cipher = object.contains("cipher").then(|| text("cipher"));
    let key_size = object
        .contains("key_size")
        .then(|| object.integer("key_size", 0..=body::MAX_INT));
    let location = object.one_of("control_location", LOCATIONS)?;
    Ok(Request {
        provider: text("provider")?,
        control_location: location.map(str::to_owned),
        cipher: cipher.transpose()?,
        key_size: key_size.transpose()?,
    })
}

/// `POST types/{id}/encryption`
pub(super) async fn create(
    call: Call,
    Path(id): Path<String>,
    body: JsonBody,
) -> Answer<Json<Created>> {
    call.enforce_own("volume_extension:volume_type_encryption:create")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "encryption")?;
    object.required_string("provider", 0..=255)?;
    object.required_string("control_location", 0..=255)?;
    let request = parse(&object)?;
    let found = types::get(&call.service, &call.context, &id).await?;
    let made = domain::create(&call.service, &call.context, found.id, request).await?;
    Ok(Json(Created {
        encryption: NewView::new(made),
    }))
}

/// `PUT types/{id}/encryption/{encryption}`: answers what it was given.
pub(super) async fn update(
    call: Call,
    Path((id, _encryption)): Path<(String, String)>,
    body: JsonBody,
) -> Answer<Json<Value>> {
    call.enforce_own("volume_extension:volume_type_encryption:update")?;
    let body = body::required(body)?;
    let object = Object::only_member(&body, "encryption")?;
    let request = parse(&object)?;
    let mut given = object.map().clone();
    given.retain(|key, _| {
        ["provider", "control_location", "cipher", "key_size"].contains(&key.as_str())
    });
    let found = types::get(&call.service, &call.context, &id).await?;
    domain::update(&call.service, &call.context, found.id, request).await?;
    Ok(Json(json!({ "encryption": given })))
}

/// `DELETE types/{id}/encryption/{encryption}`
pub(super) async fn delete(
    call: Call,
    Path((id, _encryption)): Path<(String, String)>,
) -> Answer<StatusCode> {
    call.enforce_own("volume_extension:volume_type_encryption:delete")?;
    let found = types::get(&call.service, &call.context, &id).await?;
    domain::delete(&call.service, found.id).await?;
    Ok(StatusCode::ACCEPTED)
}
