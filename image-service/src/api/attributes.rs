//! Image attributes as clients write them: types, lengths and who may set what, for create and
//! PATCH alike.

use serde_json::Value;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::image::{
    Image, Key, NAME_CHARS_MAX, PROPERTY_VALUE_BYTES_MAX, SYSTEM_PREFIX, Status, Visibility,
};
use crate::options::Options;

/// Refuses keys that no client may write: 403, as Glance.
pub fn check_writable(name: &str) -> Result<()> {
    match Key::of(name) {
        Key::ReadOnly => Err(Error::Forbidden(format!(
            "Attribute '{name}' is read-only."
        ))),
        Key::Reserved => Err(Error::Forbidden(format!("Attribute '{name}' is reserved."))),
        Key::Base | Key::Property => Ok(()),
    }
}

/// 400 with Glance's words for a document that does not fit the schema.
pub fn mismatch(reason: impl std::fmt::Display) -> Error {
    Error::BadRequest(format!(
        "Provided object does not match schema 'image': {reason}"
    ))
}

fn wrong_type(name: &str, value: &Value, wanted: &str) -> Error {
    let mut shown = value.to_string();
    if shown.chars().count() > 80 {
        shown = shown.chars().take(80).chain("…".chars()).collect();
    }
    mismatch(format!(
        "{shown} is not of type {wanted} (attribute '{name}')"
    ))
}

/// Text without control characters, `chars_max` characters at most.
pub fn check_text(name: &str, text: &str, chars_max: usize) -> Result<()> {
    if text.chars().count() > chars_max {
        return Err(mismatch(format!(
            "the value of '{name}' is longer than {chars_max} characters"
        )));
    }
    if text.contains('\0') {
        return Err(mismatch(format!(
            "the value of '{name}' holds a NUL character"
        )));
    }
    Ok(())
}

fn text(name: &str, value: &Value) -> Result<String> {
    let text = value
        .as_str()
        .ok_or_else(|| wrong_type(name, value, "'string'"))?;
    check_text(name, text, NAME_CHARS_MAX)?;
    Ok(text.to_owned())
}

fn optional_text(name: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(_) => text(name, value).map(Some),
        other => Err(wrong_type(name, other, "'null', 'string'")),
    }
}

fn flag(name: &str, value: &Value) -> Result<bool> {
    value
        .as_bool()
        .ok_or_else(|| wrong_type(name, value, "'boolean'"))
}

/// A size of the API (MB, GB): 0 to 2³¹-1, what an INTEGER of every server holds.
fn amount(name: &str, value: &Value) -> Result<i64> {
    let amount = value
        .as_i64()
        .ok_or_else(|| wrong_type(name, value, "'integer'"))?;
    if amount < 0 {
        return Err(mismatch(format!(
            "{amount} is less than the minimum of 0 (attribute '{name}')"
        )));
    }
    if amount > i64::from(i32::MAX) {
        return Err(mismatch(format!(
            "{amount} is greater than the maximum of {} (attribute '{name}')",
            i32::MAX
        )));
    }
    Ok(amount)
}

fn one_of(name: &str, value: &Value, words: &[String]) -> Result<Option<String>> {
    let word = optional_text(name, value)?;
    match &word {
        Some(word) if !words.contains(word) => Err(mismatch(format!(
            "'{word}' is not one of {words:?} (attribute '{name}')"
        ))),
        _ => Ok(word),
    }
}

/// A list of tags.
fn tags(value: &Value) -> Result<std::collections::BTreeSet<String>> {
    let list = value
        .as_array()
        .ok_or_else(|| wrong_type("tags", value, "'array'"))?;
    list.iter().map(|tag| text("tags", tag)).collect()
}

/// Sets one base attribute from its JSON value; types and lengths as in the schema.
///
/// Errors: 400 for a value that does not fit, 403 where the image's state forbids the change.
pub fn set(image: &mut Image, name: &str, value: &Value, options: &Options) -> Result<()> {
    match name {
        "name" => image.name = optional_text(name, value)?,
        "owner" => image.owner = optional_text(name, value)?,
        "visibility" => {
            let word = text(name, value)?;
            let unknown = || mismatch(format!("'{word}' is not one of {:?}", Visibility::WORDS));
            image.visibility = Visibility::parse(&word).ok_or_else(unknown)?;
        }
        "protected" => image.protected = flag(name, value)?,
        "os_hidden" => image.os_hidden = flag(name, value)?,
        "min_ram" => image.min_ram_mib = amount(name, value)?,
        "min_disk" => image.min_disk_gib = amount(name, value)?,
        "tags" => image.tags = tags(value)?,
        "container_format" => {
            let format = one_of(name, value, &options.container_formats)?;
            check_format_may_change(image, name)?;
            image.container_format = format;
        }
        "disk_format" => {
            let format = one_of(name, value, &options.disk_formats)?;
            check_format_may_change(image, name)?;
            image.disk_format = format;
        }
        other => {
            return Err(Error::Forbidden(format!(
                "Attribute '{other}' is read-only."
            )));
        }
    }
    Ok(())
}

fn check_format_may_change(image: &Image, name: &str) -> Result<()> {
    match image.status {
        Status::Queued | Status::Importing => Ok(()),
        _ => Err(Error::Forbidden(format!(
            "Attribute {name} can be only replaced for a queued image."
        ))),
    }
}

/// Properties that name another image, or none.
pub const IMAGE_REFERENCES: [&str; 2] = ["kernel_id", "ramdisk_id"];
/// When the key that an image's data is encrypted with goes.
pub const KEY_DELETION_POLICIES: [&str; 2] = ["on_image_deletion", "do_not_delete"];

/// What the schema says of a property that it knows.
fn check_known_property(name: &str, text: &str) -> Result<()> {
    if IMAGE_REFERENCES.contains(&name) && !is_uuid(text) {
        return Err(mismatch(format!(
            "'{text}' is not a UUID (attribute '{name}')"
        )));
    }
    if name == "cinder_encryption_key_deletion_policy" && !KEY_DELETION_POLICIES.contains(&text) {
        return Err(mismatch(format!(
            "'{text}' is not one of {KEY_DELETION_POLICIES:?} (attribute '{name}')"
        )));
    }
    Ok(())
}

/// Only the form with hyphens is an id of the API.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && Uuid::parse_str(text).is_ok()
}

/// Sets one custom property.
pub fn set_property(image: &mut Image, name: &str, value: &Value) -> Result<()> {
    if name.is_empty() {
        return Err(mismatch("a property has an empty name"));
    }
    check_text(name, name, NAME_CHARS_MAX)?;
    let text = match value {
        Value::Null if IMAGE_REFERENCES.contains(&name) => None,
        Value::String(text) => Some(text.clone()),
        other => return Err(wrong_type(name, other, "'string'")),
    };
    if let Some(text) = &text {
        check_known_property(name, text)?;
    }
    if let Some(text) = &text {
        check_text(name, text, PROPERTY_VALUE_BYTES_MAX)?;
        if text.len() > PROPERTY_VALUE_BYTES_MAX {
            return Err(mismatch(format!(
                "the value of '{name}' is longer than {PROPERTY_VALUE_BYTES_MAX} bytes"
            )));
        }
    }
    image.properties.insert(name.to_owned(), text);
    Ok(())
}

/// Refuses growth past the quotas; `before` is the image as it is stored, if it is.
pub fn check_quotas(before: Option<&Image>, image: &Image, options: &Options) -> Result<()> {
    // What the service itself writes counts for nobody.
    let properties = |image: &Image| {
        let names = image.properties.keys();
        names
            .filter(|name| !name.starts_with(SYSTEM_PREFIX))
            .count()
    };
    let old = before.map_or((0, 0), |before| (properties(before), before.tags.len()));
    let counts = [
        (
            "properties",
            old.0,
            properties(image),
            options.image_property_quota,
        ),
        ("tags", old.1, image.tags.len(), options.image_tag_quota),
    ];
    for (what, old, new, quota) in counts {
        check_quota(what, old as u64, new as u64, quota)?;
    }
    Ok(())
}

/// 413 when a count grows past its quota.
pub fn check_quota(what: &str, old: u64, new: u64, quota: Option<u64>) -> Result<()> {
    match quota {
        Some(maximum) if new > maximum && new > old => Err(Error::TooLarge(format!(
            "The limit has been exceeded on the number of allowed image {what}. \
             Attempted: {new}, Maximum: {maximum}"
        ))),
        _ => Ok(()),
    }
}
