//! Image PATCH documents: the two media types of the Image API, parsed and applied.
//!
//! This is not RFC 6902: only `add`, `replace` and `remove`, one level deep, and what an
//! operation may do to an attribute is the Image API's own rule.

use serde_json::{Map, Value};

use super::attributes;
use crate::error::{Error, Result};
use crate::image::{Image, Key};
use crate::options::Options;

/// Most operations of one document.
const OPERATIONS_MAX: usize = 1000;

/// The media type of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `application/openstack-images-v2.0-json-patch`: `{"add": "/path", "value": …}`.
    V20,
    /// `application/openstack-images-v2.1-json-patch`: `{"op": "add", "path": "/path", "value": …}`.
    V21,
}

impl Version {
    /// From a Content-Type header, parameters ignored.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/openstack-images-v2.0-json-patch" => Some(Version::V20),
            "application/openstack-images-v2.1-json-patch" => Some(Version::V21),
            _ => None,
        }
    }
}

/// One operation on one key of the image.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    Add { key: String, value: Value },
    Replace { key: String, value: Value },
    Remove { key: String },
    Location(LocationOperation),
}

/// One operation on the image's locations; positions are as the path has them.
#[derive(Debug, Clone, PartialEq)]
pub enum LocationOperation {
    Add { position: String, value: Value },
    Replace { value: Value },
    Remove { position: String },
}

/// Reads a document; everything that can be told without the image is checked here.
pub fn parse(version: Version, document: &Value) -> Result<Vec<Operation>> {
    let bad = |message: &str| Error::BadRequest(message.to_owned());
    let operations = document
        .as_array()
        .ok_or_else(|| bad("Request body must be a JSON array of operation objects."))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(Error::TooLarge(format!(
            "A document may hold {OPERATIONS_MAX} operations."
        )));
    }
    let read = |operation: &Value| {
        let object = operation
            .as_object()
            .ok_or_else(|| bad("Operations must be JSON objects."))?;
        parse_operation(version, object)
    };
    operations.iter().map(read).collect()
}

fn parse_operation(version: Version, object: &Map<String, Value>) -> Result<Operation> {
    let (name, pointer) = match version {
        Version::V20 => name_and_pointer_v20(object)?,
        Version::V21 => name_and_pointer_v21(object)?,
    };
    let tokens = parse_pointer(pointer)?;
    let key = check_depth(name, &tokens)?;
    if key == "id" {
        return Err(Error::Forbidden("Attribute 'id' is read-only.".to_owned()));
    }
    attributes::check_writable(&key)?;
    let position = tokens.get(1).cloned().unwrap_or_default();
    if name == "remove" {
        return Ok(match key.as_str() {
            "locations" => Operation::Location(LocationOperation::Remove { position }),
            _ => Operation::Remove { key },
        });
    }
    let missing = || {
        Error::BadRequest(format!(
            "Operation \"{name}\" requires a member named \"value\"."
        ))
    };
    let value = object.get("value").ok_or_else(missing)?.clone();
    Ok(match (name, key.as_str()) {
        ("add", "locations") => Operation::Location(LocationOperation::Add { position, value }),
        (_, "locations") => Operation::Location(LocationOperation::Replace { value }),
        ("add", _) => Operation::Add { key, value },
        _ => Operation::Replace { key, value },
    })
}

const NAMES: [&str; 3] = ["add", "replace", "remove"];

fn name_and_pointer_v21(object: &Map<String, Value>) -> Result<(&'static str, &str)> {
    let member = |name: &str| {
        let missing =
            || Error::BadRequest(format!("Unable to find '{name}' in JSON Schema change"));
        object.get(name).ok_or_else(missing)
    };
    let op = member("op")?;
    let unknown = || {
        let shown = op.as_str().map_or_else(|| op.to_string(), str::to_owned);
        Error::BadRequest(format!(
            "Invalid operation: `{shown}`. It must be one of the following: add, replace, remove."
        ))
    };
    let name = NAMES
        .into_iter()
        .find(|name| op.as_str() == Some(name))
        .ok_or_else(unknown)?;
    let path = member("path")?.as_str();
    Ok((
        name,
        path.ok_or_else(|| Error::BadRequest("The member 'path' must be a string.".to_owned()))?,
    ))
}

fn name_and_pointer_v20(object: &Map<String, Value>) -> Result<(&'static str, &str)> {
    let bad = || {
        let message = "Operation objects must contain exactly one member named \"add\", \"remove\", or \"replace\".";
        Error::BadRequest(message.to_owned())
    };
    let mut found = NAMES
        .into_iter()
        .filter_map(|name| object.get(name).map(|pointer| (name, pointer)));
    let (name, pointer) = found.next().ok_or_else(bad)?;
    if found.next().is_some() {
        return Err(bad());
    }
    Ok((name, pointer.as_str().ok_or_else(bad)?))
}

/// The tokens of a JSON pointer, unescaped. `/a/` and `//` are refused, as Glance does.
fn parse_pointer(pointer: &str) -> Result<Vec<String>> {
    let bad = |problem: &str| Error::BadRequest(format!("Pointer `{pointer}` {problem}."));
    let Some(inner) = pointer.strip_prefix('/') else {
        return Err(bad("does not start with \"/\""));
    };
    if inner.is_empty() {
        return Err(bad("does not name an attribute"));
    }
    if inner.starts_with('/') || inner.contains("//") {
        return Err(bad("contains adjacent \"/\""));
    }
    if inner.ends_with('/') {
        return Err(bad("ends with \"/\""));
    }
    let unescape = |token: &str| {
        let mut parts = token.split('~');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = match part.strip_prefix('0') {
                Some(rest) => {
                    text.push('~');
                    rest
                }
                None => {
                    let unknown = || bad("contains \"~\" not part of a recognized escape sequence");
                    let rest = part.strip_prefix('1').ok_or_else(unknown)?;
                    text.push('/');
                    rest
                }
            };
            text.push_str(rest);
        }
        Ok(text)
    };
    inner.split('/').map(unescape).collect()
}

/// Attributes are one level deep; single locations two, except where the list is replaced.
fn check_depth(name: &str, tokens: &[String]) -> Result<String> {
    let root = tokens.first().cloned().unwrap_or_default();
    let depth = if root == "locations" && name != "replace" {
        2
    } else {
        1
    };
    if tokens.len() != depth {
        return Err(Error::BadRequest(format!(
            "Invalid JSON pointer for this resource: '/{}'",
            tokens.join("/")
        )));
    }
    Ok(root)
}

/// Applies the operations on attributes in order to a copy of the image; the caller checks and
/// saves it once, and sees to its locations.
pub fn apply(
    version: Version,
    operations: &[Operation],
    image: &mut Image,
    options: &Options,
) -> Result<()> {
    for operation in operations {
        match operation {
            Operation::Add { key, value } => {
                let present = Key::of(key) == Key::Base || image.properties.contains_key(key);
                if present && version == Version::V20 {
                    return Err(Error::Conflict(format!("Property {key} already present.")));
                }
                set(image, key, value, options)?;
            }
            Operation::Replace { key, value } => {
                if Key::of(key) == Key::Property && !image.properties.contains_key(key) {
                    return Err(Error::Conflict(format!("Property {key} does not exist.")));
                }
                set(image, key, value, options)?;
            }
            Operation::Remove { key } => remove(image, key)?,
            Operation::Location(_) => {}
        }
    }
    Ok(())
}

fn set(image: &mut Image, key: &str, value: &Value, options: &Options) -> Result<()> {
    match Key::of(key) {
        Key::Base => attributes::set(image, key, value, options),
        _ => attributes::set_property(image, key, value),
    }
}

fn remove(image: &mut Image, key: &str) -> Result<()> {
    if Key::of(key) == Key::Base {
        return Err(Error::Forbidden(format!(
            "Property {key} may not be removed."
        )));
    }
    match image.properties.remove(key) {
        Some(_) => Ok(()),
        None => Err(Error::Conflict(format!("Property {key} does not exist."))),
    }
}
