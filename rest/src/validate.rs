//! Typed access to a JSON body, with the texts of Cinder's schema validation:
//! `Invalid input for field/attribute size. Value: -1. -1 is less than the minimum of 1`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{BadInput, filter, python};

/// The words that stand for true and false in a body (Cinder's `parameter_types.boolean`).
const TRUE_WORDS: &[&str] = &[
    "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t",
];
const FALSE_WORDS: &[&str] = &[
    "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f",
];

/// A JSON object under validation. A getter returns `None` for an absent key and, unless its
/// name says `required`, for null; what has the wrong type or range is a [`BadInput`] that names
/// the field.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    /// The key it stands under; `None` for the body itself.
    field: Option<&'a str>,
}

impl<'a> Object<'a> {
    /// The body itself.
    pub fn new(body: &'a Value) -> Result<Self, BadInput> {
        match body {
            Value::Object(map) => Ok(Self { map, field: None }),
            other => Err(BadInput::new(not_of_type(other, &["object"]))),
        }
    }

    /// The object under the one key of a body such as `{"volume": {…}}`; other keys are refused.
    pub fn only_member(body: &'a Value, key: &'a str) -> Result<Self, BadInput> {
        let body = Self::new(body)?;
        body.required(key)?;
        body.only(&[key])?;
        body.required_object(key)
    }

    /// The error for the object as a whole. `reason` is the validator's sentence.
    fn refused(&self, reason: &str) -> BadInput {
        match self.field {
            None => BadInput::new(reason.to_owned()),
            Some(field) => {
                let whole = python::repr_map(self.map);
                BadInput::new(format!(
                    "Invalid input for field/attribute {field}. Value: {whole}. {reason}"
                ))
            }
        }
    }

    /// The error for a key that must be there.
    pub fn lacks(&self, key: &str) -> BadInput {
        self.refused(&format!("{} is a required property", python::repr_str(key)))
    }

    /// An object without any key is refused.
    pub fn not_empty(&self) -> Result<(), BadInput> {
        match self.map.is_empty() {
            true => Err(self.refused("{} should be non-empty")),
            false => Ok(()),
        }
    }

    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The value as it stands; null is a value here.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Refuses every key that is not in `keys` (`additionalProperties: false`).
    pub fn only(&self, keys: &[&str]) -> Result<(), BadInput> {
        let extra: Vec<_> = self
            .map
            .keys()
            .map(String::as_str)
            .filter(|key| !keys.contains(key))
            .collect();
        if extra.is_empty() {
            return Ok(());
        }
        let verb = if extra.len() == 1 { "was" } else { "were" };
        let names = python::join_reprs(extra);
        Err(self.refused(&format!(
            "Additional properties are not allowed ({names} {verb} unexpected)"
        )))
    }

    fn present(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn required(&self, key: &str) -> Result<&'a Value, BadInput> {
        self.map.get(key).ok_or_else(|| self.lacks(key))
    }

    /// A text of so many characters.
    pub fn string(
        &self,
        key: &str,
        chars: RangeInclusive<usize>,
    ) -> Result<Option<&'a str>, BadInput> {
        self.present(key)
            .map(|value| text(key, value, &chars, true))
            .transpose()
    }

    pub fn required_string(
        &self,
        key: &str,
        chars: RangeInclusive<usize>,
    ) -> Result<&'a str, BadInput> {
        text(key, self.required(key)?, &chars, false)
    }

    /// One of the given words.
    pub fn one_of(&self, key: &str, words: &[&str]) -> Result<Option<&'a str>, BadInput> {
        let Some(value) = self.present(key) else {
            return Ok(None);
        };
        match value.as_str() {
            Some(text) if words.contains(&text) => Ok(Some(text)),
            Some(_) => {
                let words = python::join_reprs(words.iter().copied());
                let shown = python::repr(value);
                Err(invalid(
                    key,
                    value,
                    &format!("{shown} is not one of [{words}]"),
                ))
            }
            None => Err(invalid(key, value, &not_of_type(value, &["string"]))),
        }
    }

    /// An integer, also written as a text of digits.
    pub fn integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, BadInput> {
        self.present(key)
            .map(|value| integer(key, value, &range))
            .transpose()
    }

    pub fn required_integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<i64, BadInput> {
        integer(key, self.required(key)?, &range)
    }

    /// A JSON boolean, or one of Cinder's words for it.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, BadInput> {
        self.present(key)
            .map(|value| boolean(key, value))
            .transpose()
    }

    pub fn required_boolean(&self, key: &str) -> Result<bool, BadInput> {
        boolean(key, self.required(key)?)
    }

    /// A boolean as oslo's `bool_from_string(strict=True)` reads it: any case, spaces around.
    pub fn lenient_boolean(&self, key: &str) -> Result<Option<bool>, BadInput> {
        let Some(value) = self.present(key) else {
            return Ok(None);
        };
        let read = match value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => filter::parse_bool(text),
            Value::Number(number) => filter::parse_bool(&number.to_string()),
            _ => None,
        };
        let shown = python::repr(value);
        read.map(Some)
            .ok_or_else(|| invalid(key, value, &format!("{shown} is not a boolean")))
    }

    /// A uuid, with or without dashes; as it was written.
    pub fn uuid(&self, key: &str) -> Result<Option<&'a str>, BadInput> {
        self.present(key).map(|value| uuid(key, value)).transpose()
    }

    pub fn required_uuid(&self, key: &str) -> Result<&'a str, BadInput> {
        uuid(key, self.required(key)?)
    }

    pub fn object(&self, key: &'a str) -> Result<Option<Object<'a>>, BadInput> {
        self.present(key)
            .map(|value| object(key, value))
            .transpose()
    }

    pub fn required_object(&self, key: &'a str) -> Result<Object<'a>, BadInput> {
        object(key, self.required(key)?)
    }

    /// A list of at most `max_items`.
    pub fn list(&self, key: &str, max_items: usize) -> Result<Option<&'a [Value]>, BadInput> {
        let Some(value) = self.present(key) else {
            return Ok(None);
        };
        match value {
            Value::Array(items) if items.len() <= max_items => Ok(Some(items)),
            Value::Array(_) => Err(invalid(
                key,
                value,
                &format!("{} is too long", python::repr(value)),
            )),
            other => Err(invalid(key, value, &not_of_type(other, &["array"]))),
        }
    }

    /// An object of texts: metadata, extra specs.
    pub fn string_map(
        &self,
        key: &'a str,
        rules: MapRules,
    ) -> Result<Option<BTreeMap<String, String>>, BadInput> {
        let Some(object) = self.object(key)? else {
            return Ok(None);
        };
        rules.read(key, object).map(Some)
    }

    pub fn required_string_map(
        &self,
        key: &'a str,
        rules: MapRules,
    ) -> Result<BTreeMap<String, String>, BadInput> {
        rules.read(key, self.required_object(key)?)
    }
}

/// What an object of texts may hold.
#[derive(Debug, Clone, Copy)]
pub struct MapRules {
    /// ASCII characters that keys may have besides letters and digits.
    key_punctuation: &'static str,
    /// The same as the pattern that an error shows.
    key_pattern: &'static str,
    max_key_chars: usize,
    max_value_chars: usize,
    /// Null stands for the empty text.
    nulls: bool,
}

impl MapRules {
    /// Cinder's `extra_specs`, `image_metadata` and `metadata_allows_null` (there it is the
    /// whole object that may be null).
    pub const METADATA: Self = Self {
        key_punctuation: "-_:. /",
        key_pattern: "^[a-zA-Z0-9-_:. /]{1,255}$",
        max_key_chars: 255,
        max_value_chars: 255,
        nulls: false,
    };
    pub const EXTRA_SPECS: Self = Self::METADATA;
    /// Cinder's `extra_specs_with_no_spaces_key`: extra specs of volume types.
    pub const TYPE_EXTRA_SPECS: Self = Self {
        key_punctuation: "-_:.",
        key_pattern: "^[a-zA-Z0-9-_:.]{1,255}$",
        ..Self::METADATA
    };
    /// Specs of group types: as those of volume types, and null stands for the empty text.
    pub const GROUP_SPECS: Self = Self {
        nulls: true,
        ..Self::TYPE_EXTRA_SPECS
    };
    /// Cinder's `extra_specs_with_null`: QoS specs. Null stands for the empty text.
    pub const QOS_SPECS: Self = Self {
        nulls: true,
        ..Self::METADATA
    };
    /// Cinder's `image_metadata`: values of up to 64 KiB.
    pub const IMAGE_METADATA: Self = Self {
        max_value_chars: 65_535,
        ..Self::METADATA
    };

    fn read(self, field: &str, object: Object<'_>) -> Result<BTreeMap<String, String>, BadInput> {
        let mut read = BTreeMap::new();
        for (key, value) in object.map {
            if !self.admits_key(key) {
                let shown = python::repr_str(key);
                let whole = python::repr_map(object.map);
                return Err(BadInput::new(format!(
                    "Invalid input for field/attribute {field}. Value: {whole}. \
                     {shown} does not match any of the regexes: '{}'",
                    self.key_pattern
                )));
            }
            let text = match value {
                Value::Null if self.nulls => "",
                value => text(key, value, &(0..=self.max_value_chars), false)?,
            };
            read.insert(key.clone(), text.to_owned());
        }
        Ok(read)
    }

    fn admits_key(self, key: &str) -> bool {
        let admitted = |c: char| c.is_ascii_alphanumeric() || self.key_punctuation.contains(c);
        let count = key.chars().take(self.max_key_chars + 1).count();
        (1..=self.max_key_chars).contains(&count) && key.chars().all(admitted)
    }
}

/// The 400 of Cinder's schema validation for one field. `reason` is the validator's sentence.
pub fn invalid(field: &str, value: &Value, reason: &str) -> BadInput {
    let shown = python::str(value);
    BadInput::new(format!(
        "Invalid input for field/attribute {field}. Value: {shown}. {reason}"
    ))
}

fn not_of_type(value: &Value, types: &[&str]) -> String {
    let types = python::join_reprs(types.iter().copied());
    format!("{} is not of type {types}", python::repr(value))
}

fn text<'a>(
    key: &str,
    value: &'a Value,
    chars: &RangeInclusive<usize>,
    nullable: bool,
) -> Result<&'a str, BadInput> {
    let Value::String(text) = value else {
        let types: &[&str] = if nullable {
            &["string", "null"]
        } else {
            &["string"]
        };
        return Err(invalid(key, value, &not_of_type(value, types)));
    };
    let count = text.chars().count();
    let shown = || python::repr_str(text);
    if count < *chars.start() {
        let reason = match count {
            0 if *chars.start() == 1 => "should be non-empty",
            _ => "is too short",
        };
        return Err(invalid(key, value, &format!("{} {reason}", shown())));
    }
    if count > *chars.end() {
        return Err(invalid(key, value, &format!("{} is too long", shown())));
    }
    Ok(text)
}

fn integer(key: &str, value: &Value, range: &RangeInclusive<i64>) -> Result<i64, BadInput> {
    let number = match value {
        Value::Number(number) => {
            whole(number).ok_or_else(|| not_of_type(value, &["integer", "string"]))
        }
        Value::String(text) => digits(text)
            .ok_or_else(|| format!("{} does not match '^[0-9]+$'", python::repr_str(text))),
        other => Err(not_of_type(other, &["integer", "string"])),
    };
    let number = number.map_err(|reason| invalid(key, value, &reason))?;
    let shown = python::str(value);
    if number < i128::from(*range.start()) {
        let reason = format!("{shown} is less than the minimum of {}", range.start());
        return Err(invalid(key, value, &reason));
    }
    i64::try_from(number)
        .ok()
        .filter(|number| number <= range.end())
        .ok_or_else(|| {
            invalid(
                key,
                value,
                &format!("{shown} is greater than the maximum of {}", range.end()),
            )
        })
}

/// The number if it is whole (`2.0` is, as in JSON Schema); saturates far outside of i64.
#[allow(
    clippy::cast_possible_truncation,
    reason = "float to int casts saturate"
)]
fn whole(number: &serde_json::Number) -> Option<i128> {
    let exact = number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from));
    exact.or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0).then_some(float as i128)
    })
}

fn digits(text: &str) -> Option<i128> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let magnitude = digits.parse().unwrap_or(i128::MAX);
    Some(if negative { -magnitude } else { magnitude })
}

fn boolean(key: &str, value: &Value) -> Result<bool, BadInput> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) if TRUE_WORDS.contains(&text.as_str()) => Ok(true),
        Value::String(text) if FALSE_WORDS.contains(&text.as_str()) => Ok(false),
        Value::String(text) => {
            let words = format!(
                "True, {}, False, {}",
                python::join_reprs(TRUE_WORDS.iter().copied()),
                python::join_reprs(FALSE_WORDS.iter().copied())
            );
            let shown = python::repr_str(text);
            Err(invalid(
                key,
                value,
                &format!("{shown} is not one of [{words}]"),
            ))
        }
        other => Err(invalid(
            key,
            value,
            &not_of_type(other, &["boolean", "string"]),
        )),
    }
}

fn uuid<'a>(key: &str, value: &'a Value) -> Result<&'a str, BadInput> {
    let Value::String(text) = value else {
        return Err(invalid(key, value, &not_of_type(value, &["string"])));
    };
    if is_uuid(text) {
        return Ok(text);
    }
    Err(invalid(
        key,
        value,
        &format!("{} is not a 'uuid'", python::repr_str(text)),
    ))
}

fn object<'a>(key: &'a str, value: &'a Value) -> Result<Object<'a>, BadInput> {
    match value {
        Value::Object(map) => Ok(Object {
            map,
            field: Some(key),
        }),
        other => Err(invalid(key, value, &not_of_type(other, &["object"]))),
    }
}

/// Whether oslo's `is_uuid_like` says yes: 32 hex digits, with or without dashes.
pub fn is_uuid(text: &str) -> bool {
    matches!(text.len(), 32 | 36) && uuid::Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error<T: std::fmt::Debug>(result: Result<T, BadInput>) -> String {
        result.unwrap_err().message.into_owned()
    }

    #[test]
    fn nulls_in_maps_are_empty_texts_where_they_are_allowed() {
        let body = json!({"map": {"a": "1", "b": null}});
        let object = Object::new(&body).unwrap();
        let read = object.required_string_map("map", MapRules::GROUP_SPECS);
        let texts: Vec<_> = read.unwrap().into_iter().collect();
        let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(texts, [text("a", "1"), text("b", "")]);
        let refused = error(object.required_string_map("map", MapRules::METADATA));
        assert!(
            refused.ends_with("None is not of type 'string'"),
            "{refused}"
        );
    }

    #[test]
    fn integers() {
        let body = json!({"size": -1, "text": "7", "huge": 1e300, "half": 1.5, "two": 2.0, "flag": true,
            "word": "x", "digits": "9".repeat(60)});
        let object = Object::new(&body).unwrap();
        assert_eq!(
            error(object.integer("size", 1..=10)),
            "Invalid input for field/attribute size. Value: -1. -1 is less than the minimum of 1"
        );
        assert_eq!(object.integer("text", 1..=10).unwrap(), Some(7));
        assert_eq!(object.integer("two", 1..=10).unwrap(), Some(2));
        assert_eq!(object.integer("absent", 1..=10).unwrap(), None);
        assert!(
            error(object.integer("huge", 1..=10)).ends_with("is greater than the maximum of 10")
        );
        assert!(
            error(object.integer("digits", 1..=10)).ends_with("is greater than the maximum of 10")
        );
        assert!(
            error(object.integer("half", 1..=10))
                .ends_with("1.5 is not of type 'integer', 'string'")
        );
        assert!(
            error(object.integer("flag", 1..=10))
                .ends_with("True is not of type 'integer', 'string'")
        );
        assert!(error(object.integer("word", 1..=10)).ends_with("'x' does not match '^[0-9]+$'"));
        assert_eq!(
            error(object.required_integer("absent", 1..=2)),
            "'absent' is a required property"
        );
    }

    #[test]
    fn texts_words_and_uuids() {
        let id = "8ad7a1c2-0c9b-4f7d-a3f5-6e2a2f1f5f00";
        let body = json!({"name": "äöü", "none": null, "n": 5, "id": id, "bad": "xyz"});
        let object = Object::new(&body).unwrap();
        assert_eq!(object.string("name", 0..=3).unwrap(), Some("äöü"));
        assert_eq!(object.string("none", 0..=3).unwrap(), None);
        assert!(object.contains("none"));
        assert!(error(object.string("name", 0..=2)).ends_with("'äöü' is too long"));
        assert!(error(object.string("name", 4..=5)).ends_with("'äöü' is too short"));
        assert!(error(object.string("n", 0..=2)).ends_with("5 is not of type 'string', 'null'"));
        assert!(
            error(object.required_string("none", 0..=2)).ends_with("None is not of type 'string'")
        );
        assert_eq!(object.required_uuid("id").unwrap(), id);
        assert!(error(object.uuid("bad")).ends_with("'xyz' is not a 'uuid'"));
        assert!(
            error(object.one_of("bad", &["a", "b"])).ends_with("'xyz' is not one of ['a', 'b']")
        );
        assert!(!is_uuid("{8ad7a1c20c9b4f7da3f56e2a2f1f5f00}"));
    }

    #[test]
    fn booleans() {
        let body = json!({"t": "On", "f": false, "x": "oN", "n": 1});
        let object = Object::new(&body).unwrap();
        assert_eq!(object.boolean("t").unwrap(), Some(true));
        assert_eq!(object.boolean("f").unwrap(), Some(false));
        assert!(error(object.boolean("x")).contains("'oN' is not one of [True, 'True',"));
        assert!(error(object.boolean("n")).ends_with("1 is not of type 'boolean', 'string'"));
        assert_eq!(object.lenient_boolean("x").unwrap(), Some(true));
        assert_eq!(object.lenient_boolean("n").unwrap(), Some(true));
    }

    #[test]
    fn objects_and_maps() {
        let body = json!({"volume": {
            "metadata": {"a/b": "v"}, "null": {"n": null}, "specs": {"a!b": "c"}, "x": 1, "y": 2,
        }});
        let volume = Object::only_member(&body, "volume").unwrap();
        let known = ["metadata", "null", "specs"];
        assert_eq!(
            error(Object::new(&body["volume"]).unwrap().only(&known)),
            "Additional properties are not allowed ('x', 'y' were unexpected)"
        );
        let refused = error(volume.only(&[&known[..], &["x"]].concat()));
        assert!(
            refused.starts_with("Invalid input for field/attribute volume. Value: {'metadata'")
        );
        assert!(
            refused.ends_with(". Additional properties are not allowed ('y' was unexpected)"),
            "{refused}"
        );
        let refused = error(volume.required_uuid("id"));
        assert!(refused.starts_with("Invalid input for field/attribute volume. Value: {"));
        assert!(
            refused.ends_with(". 'id' is a required property"),
            "{refused}"
        );
        let metadata = volume
            .string_map("metadata", MapRules::METADATA)
            .unwrap()
            .unwrap();
        assert_eq!(metadata["a/b"], "v");
        assert!(
            error(volume.string_map("null", MapRules::METADATA))
                .ends_with("attribute n. Value: None. None is not of type 'string'")
        );
        assert_eq!(
            error(volume.string_map("specs", MapRules::EXTRA_SPECS)),
            "Invalid input for field/attribute specs. Value: {'a!b': 'c'}. 'a!b' does not match \
             any of the regexes: '^[a-zA-Z0-9-_:. /]{1,255}$'"
        );
        assert!(
            error(volume.string_map("x", MapRules::METADATA))
                .ends_with("1 is not of type 'object'")
        );
        assert_eq!(
            error(Object::only_member(
                &json!({"a": 1, "volume": {}}),
                "volume"
            )),
            "Additional properties are not allowed ('a' was unexpected)"
        );
        assert_eq!(
            error(Object::only_member(&json!({"a": 1}), "volume")),
            "'volume' is a required property"
        );
        assert_eq!(
            error(Object::new(&json!([1]))),
            "[1] is not of type 'object'"
        );
    }
}
