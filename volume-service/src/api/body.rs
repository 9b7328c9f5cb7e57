//! What bodies of several resources have in common: names, descriptions, metadata.

use rest::validate::{MapRules, Object};
use rest::{BadInput, JsonBody};
use serde_json::Value;

use crate::db::metadata::Metadata;
use crate::domain::volumes::Changes;

/// The largest integer in a body (a signed 32-bit integer in Cinder's database).
pub(super) const MAX_INT: i64 = 2_147_483_647;

/// The body, or the 400 for a missing one.
pub(super) fn required(body: JsonBody) -> Result<Value, BadInput> {
    body.required()
}

/// A text of at most 255 characters without the white space around it; empty stays empty.
pub(super) fn text(object: &Object<'_>, key: &str) -> Result<Option<String>, BadInput> {
    Ok(object
        .string(key, 0..=255)?
        .map(|text| text.trim().to_owned()))
}

/// `name`, or its older spelling `display_name`.
pub(super) fn name(object: &Object<'_>) -> Result<Option<String>, BadInput> {
    Ok(text(object, "name")?.or(text(object, "display_name")?))
}

/// `description`, or its older spelling `display_description`.
pub(super) fn description(object: &Object<'_>) -> Result<Option<String>, BadInput> {
    Ok(text(object, "description")?.or(text(object, "display_description")?))
}

/// `metadata`; nothing where it is absent or null.
pub(super) fn metadata(object: &Object<'_>) -> Result<Metadata, BadInput> {
    Ok(object
        .string_map("metadata", MapRules::METADATA)?
        .unwrap_or_default())
}

/// The part of an update that volumes, snapshots and backups share. Null empties a field.
pub(super) fn changes(object: &Object<'_>) -> Result<Changes, BadInput> {
    let present = |keys: [&str; 2]| keys.iter().any(|key| object.contains(key));
    Ok(Changes {
        name: present(["name", "display_name"])
            .then(|| name(object))
            .transpose()?,
        description: present(["description", "display_description"])
            .then(|| description(object))
            .transpose()?,
        metadata: object.string_map("metadata", MapRules::METADATA)?,
    })
}

/// The one entry of `meta`, whose key must be the one in the URL.
pub(super) fn meta_entry(body: &Value, key: &str) -> Result<Metadata, BadInput> {
    let entries = Object::only_member(body, "meta")
        .and_then(|_| Object::new(body)?.required_string_map("meta", MapRules::METADATA))?;
    if !entries.contains_key(key) {
        return Err(BadInput::new("Request body and URI mismatch"));
    }
    if entries.len() > 1 {
        return Err(BadInput::new("Request body contains too many items"));
    }
    Ok(entries)
}

/// The `metadata` of a body that has nothing else.
pub(super) fn only_metadata(body: &Value) -> Result<Metadata, BadInput> {
    let object = Object::new(body)?;
    object.only(&["metadata"])?;
    object.required_string_map("metadata", MapRules::METADATA)
}
