//! `POST …/action`: a body with one key, the action's name.

use rest::validate::Object;
use rest::{BadInput, JsonBody};
use serde_json::Value;

/// The name of the action, and the whole body.
pub(super) fn parse(body: JsonBody) -> Result<(String, Value), BadInput> {
    let malformed = || BadInput::new("Malformed request body");
    let body = body.0.ok_or_else(malformed)?;
    let name = match &body {
        Value::Object(map) if map.len() == 1 => map.keys().next().cloned(),
        _ => None,
    };
    let name = name.ok_or_else(malformed)?;
    Ok((name, body))
}

/// The object under the action's name; an absent one (null) is refused.
pub(super) fn arguments<'a>(body: &'a Value, name: &'a str) -> Result<Object<'a>, BadInput> {
    Object::new(body)?.required_object(name)
}

/// Cinder's 400 for a name that no action has.
pub(super) fn unknown(name: &str) -> BadInput {
    let shown: String = name.chars().take(64).collect();
    BadInput::new(format!(
        "There is no such action: {shown}. Verify the request body and Content-Type header and try again."
    ))
}
