//! `OS-SCH-HNT:scheduler_hints`: what a client would like of the pool that takes its volume.

use rest::BadInput;
use rest::validate::{self, Object};
use serde_json::{Map, Value};

/// The most volumes that one hint may name.
const MAX_VOLUMES: usize = 100;
/// The longest query of the `JsonFilter`, and the most bytes of all hints together.
const MAX_BYTES: usize = 4096;

/// The hints, checked as far as this service knows them; others are kept, as in Cinder.
pub(super) fn parse(hints: Option<Object<'_>>) -> Result<Map<String, Value>, BadInput> {
    let Some(hints) = hints else {
        return Ok(Map::new());
    };
    hints.uuid("local_to_instance")?;
    for key in ["same_host", "different_host"] {
        volumes(&hints, key)?;
    }
    let bytes = Value::Object(hints.map().clone()).to_string().len();
    if bytes > MAX_BYTES {
        return Err(BadInput::invalid_input(format!(
            "scheduler hints of {bytes} bytes are more than {MAX_BYTES}"
        )));
    }
    Ok(hints.map().clone())
}

/// One volume id, or a list of them.
fn volumes(hints: &Object<'_>, key: &str) -> Result<(), BadInput> {
    let listed = match hints.get(key) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::String(_)) => return hints.uuid(key).map(|_| ()),
        Some(_) => hints.list(key, MAX_VOLUMES)?.unwrap_or_default(),
    };
    for value in listed {
        let is_id = value.as_str().is_some_and(validate::is_uuid);
        if !is_id {
            return Err(validate::invalid(key, value, "is not a 'uuid'"));
        }
    }
    Ok(())
}
