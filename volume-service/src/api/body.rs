//! What bodies of several resources have in common: names, descriptions, metadata.

use rest::validate::{self, MapRules, Object};
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

/// A name of 1 to 255 characters beside the white space around it.
pub(super) fn stripped_name(text: &str) -> Result<String, BadInput> {
    let name = text.trim();
    if name.is_empty() {
        return Err(BadInput::new("The 'name' can not be empty."));
    }
    if name.chars().count() > 255 {
        return Err(BadInput::new(
            "The 'name' can not be greater than 255 characters.",
        ));
    }
    Ok(name.to_owned())
}

/// The longest text that is a list in itself.
pub(super) const MAX_TEXT: usize = 65_535;

/// A list of at most `most` texts of 1 to 255 characters, each different.
pub(super) fn texts(
    object: &Object<'_>,
    key: &str,
    most: usize,
) -> Result<Option<Vec<String>>, BadInput> {
    let Some(items) = object.list(key, most)? else {
        return Ok(None);
    };
    let mut texts: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let text = match item {
            Value::String(text) if (1..=255).contains(&text.chars().count()) => text.clone(),
            other => {
                let reason = "every item must be a text of 1 to 255 characters";
                return Err(validate::invalid(key, other, reason));
            }
        };
        if texts.contains(&text) {
            return Err(validate::invalid(key, item, "the items must be unique"));
        }
        texts.push(text);
    }
    Ok(Some(texts))
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
