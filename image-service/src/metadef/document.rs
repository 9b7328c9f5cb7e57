//! Parsing and checking the documents that clients and files describe definitions with. Whatever
//! passes here is stored as it is.

use serde_json::{Map, Value};

use super::{DESCRIPTION_CHARS_MAX, NAME_CHARS_MAX, Visibility};
use crate::error::{Error, Result};
use crate::image;

type Document = Map<String, Value>;

/// What a client says about a namespace; what it left out is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct NamespaceDocument {
    pub namespace: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub visibility: Option<Visibility>,
    pub protected: Option<bool>,
    pub owner: Option<String>,
    pub associations: Vec<AssociationDocument>,
    pub objects: Vec<NamedDocument>,
    pub properties: Vec<NamedDocument>,
    pub tags: Vec<NamedDocument>,
}

/// An object, a property or a tag.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedDocument {
    pub name: String,
    pub document: Document,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationDocument {
    pub resource_type: String,
    pub prefix: Option<String>,
    pub properties_target: Option<String>,
}

const NAMESPACE_KEYS: &[&str] = &[
    "namespace",
    "display_name",
    "description",
    "visibility",
    "protected",
    "owner",
    "resource_type_associations",
    "objects",
    "properties",
    "tags",
];
const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// What only the service says about a definition.
const READ_ONLY: &[&str] = &["self", "schema", "created_at", "updated_at"];

/// The body as a JSON object without read-only keys (403) or unknown ones (400).
fn object_of<'a>(body: Option<&'a Value>, keys: &[&str]) -> Result<&'a Document> {
    let missing = || Error::BadRequest("Body expected in request.".to_owned());
    let document = body.ok_or_else(missing)?;
    let document = document
        .as_object()
        .ok_or_else(|| invalid("the body must be a JSON object"))?;
    let unknown = document.keys().find(|key| !keys.contains(&key.as_str()));
    match unknown {
        None => Ok(document),
        Some(key) if READ_ONLY.contains(&key.as_str()) => {
            Err(Error::Forbidden(format!("Attribute '{key}' is read-only.")))
        }
        Some(key) => Err(invalid(format!("the attribute '{key}' is unknown"))),
    }
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::BadRequest(format!(
        "Provided object does not match the schema of metadata definitions: {why}"
    ))
}

fn text(document: &Document, key: &str, chars_max: usize) -> Result<Option<String>> {
    match document.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= chars_max => Ok(Some(text.clone())),
        Some(_) => Err(invalid(format!(
            "'{key}' must be a text of at most {chars_max} characters"
        ))),
    }
}

/// A name that must be there.
fn name(document: &Document, key: &str) -> Result<String> {
    let name = text(document, key, NAME_CHARS_MAX)?;
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| invalid(format!("'{key}' is a required attribute")))
}

fn list<'a>(document: &'a Document, key: &str) -> Result<&'a [Value]> {
    match document.get(key) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(invalid(format!("'{key}' must be a list"))),
    }
}

/// The body of POST and PUT of a namespace, and the content of a definition file.
pub fn namespace(body: Option<&Value>) -> Result<NamespaceDocument> {
    let document = object_of(body, NAMESPACE_KEYS)?;
    let visibility = match text(document, "visibility", NAME_CHARS_MAX)? {
        None => None,
        Some(word) => Some(
            Visibility::parse(&word)
                .ok_or_else(|| invalid("'visibility' must be public or private"))?,
        ),
    };
    let protected = match document.get("protected") {
        None => None,
        Some(Value::Bool(protected)) => Some(*protected),
        Some(_) => return Err(invalid("'protected' must be true or false")),
    };
    let all = |key: &str, parse: fn(Option<&Value>) -> Result<NamedDocument>| {
        let items = list(document, key)?.iter();
        items
            .map(|item| parse(Some(item)))
            .collect::<Result<Vec<_>>>()
    };
    Ok(NamespaceDocument {
        namespace: name(document, "namespace")?,
        display_name: text(document, "display_name", NAME_CHARS_MAX)?,
        description: text(document, "description", DESCRIPTION_CHARS_MAX)?,
        visibility,
        protected,
        owner: text(document, "owner", image::NAME_CHARS_MAX)?,
        associations: list(document, "resource_type_associations")?
            .iter()
            .map(|item| association(Some(item)))
            .collect::<Result<_>>()?,
        objects: all("objects", object)?,
        properties: match document.get("properties") {
            None => Vec::new(),
            Some(properties) => property_map(properties)?,
        },
        tags: all("tags", tag)?,
    })
}

/// `{name: schema, …}`
fn property_map(properties: &Value) -> Result<Vec<NamedDocument>> {
    let properties = properties
        .as_object()
        .ok_or_else(|| invalid("'properties' must be an object of definitions by name"))?;
    let named = |(name, schema): (&String, &Value)| {
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            return Err(invalid(format!(
                "the name of a property must have 1 to {NAME_CHARS_MAX} characters"
            )));
        }
        let mut document = property_schema(name, schema)?;
        document.remove("name");
        Ok(NamedDocument {
            name: name.clone(),
            document,
        })
    };
    properties.iter().map(named).collect()
}

/// The body of POST and PUT of an object.
pub fn object(body: Option<&Value>) -> Result<NamedDocument> {
    let document = object_of(body, &["name", "description", "required", "properties"])?;
    let name = name(document, "name")?;
    text(document, "description", image::PROPERTY_VALUE_BYTES_MAX)?;
    if let Some(required) = document.get("required") {
        unique_texts("required", required)?;
    }
    if let Some(properties) = document.get("properties") {
        property_map(properties)?;
    }
    let mut document = document.clone();
    document.remove("name");
    Ok(NamedDocument { name, document })
}

/// The body of POST and PUT of a property.
pub fn property(body: Option<&Value>) -> Result<NamedDocument> {
    let known: Vec<&str> = PROPERTY_KEYS.iter().map(|(key, _)| *key).collect();
    let document = object_of(body, &known)?;
    let name = name(document, "name")?;
    let mut document = property_schema(&name, &Value::Object(document.clone()))?;
    document.remove("name");
    Ok(NamedDocument { name, document })
}

/// The body of PUT of a tag, and an item of a list of tags.
pub fn tag(body: Option<&Value>) -> Result<NamedDocument> {
    let document = object_of(body, &["name"])?;
    tag_named(&name(document, "name")?)
}

pub fn tag_named(name: &str) -> Result<NamedDocument> {
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(invalid(format!(
            "the name of a tag must have 1 to {NAME_CHARS_MAX} characters"
        )));
    }
    Ok(NamedDocument {
        name: name.to_owned(),
        document: Map::new(),
    })
}

/// `{"tags": [{"name": …}, …]}`
pub fn tags(body: Option<&Value>) -> Result<Vec<NamedDocument>> {
    let document = object_of(body, &["tags"])?;
    list(document, "tags")?
        .iter()
        .map(|item| tag(Some(item)))
        .collect()
}

pub fn association(body: Option<&Value>) -> Result<AssociationDocument> {
    let document = object_of(body, &["name", "prefix", "properties_target"])?;
    Ok(AssociationDocument {
        resource_type: name(document, "name")?,
        prefix: text(document, "prefix", NAME_CHARS_MAX)?,
        properties_target: text(document, "properties_target", NAME_CHARS_MAX)?,
    })
}

/// What a key of a property's schema takes.
#[derive(Clone, Copy)]
enum Takes {
    Text,
    Type,
    Texts,
    List,
    Number,
    /// An integer of at least 0.
    Count,
    Flag,
    Items,
    Anything,
}

const PROPERTY_KEYS: &[(&str, Takes)] = &[
    ("name", Takes::Text),
    ("title", Takes::Text),
    ("description", Takes::Text),
    ("type", Takes::Type),
    ("operators", Takes::Texts),
    ("required", Takes::Texts),
    ("enum", Takes::List),
    ("minimum", Takes::Number),
    ("maximum", Takes::Number),
    ("minLength", Takes::Count),
    ("maxLength", Takes::Count),
    ("pattern", Takes::Text),
    ("items", Takes::Items),
    ("minItems", Takes::Count),
    ("maxItems", Takes::Count),
    ("uniqueItems", Takes::Flag),
    ("additionalItems", Takes::Flag),
    ("readonly", Takes::Flag),
    ("confidential", Takes::Flag),
    ("default", Takes::Anything),
];

/// Checks the definition of one property.
fn property_schema(name: &str, schema: &Value) -> Result<Document> {
    let schema = schema
        .as_object()
        .ok_or_else(|| invalid(format!("the property '{name}' must be an object")))?;
    for key in ["title", "type"] {
        if !schema.contains_key(key) {
            return Err(invalid(format!(
                "'{key}' is a required attribute of the property '{name}'"
            )));
        }
    }
    for (key, value) in schema {
        let takes = PROPERTY_KEYS.iter().find(|(known, _)| known == key);
        let Some((_, takes)) = takes else {
            return Err(invalid(format!(
                "the attribute '{key}' of the property '{name}' is unknown"
            )));
        };
        if !takes.admits(value) {
            return Err(invalid(format!(
                "'{key}' of the property '{name}' has a value of a wrong type"
            )));
        }
    }
    Ok(schema.clone())
}

impl Takes {
    fn admits(self, value: &Value) -> bool {
        match self {
            Takes::Text => value.is_string(),
            Takes::Type => value.as_str().is_some_and(|word| TYPES.contains(&word)),
            Takes::Texts => value
                .as_array()
                .is_some_and(|items| items.iter().all(Value::is_string)),
            Takes::List => value.is_array(),
            Takes::Number => value.is_number(),
            Takes::Count => value.is_u64(),
            Takes::Flag => value.is_boolean(),
            Takes::Items => value.as_object().is_some_and(|items| {
                items
                    .get("type")
                    .is_none_or(|word| Takes::Type.admits(word))
                    && items.get("enum").is_none_or(Value::is_array)
            }),
            Takes::Anything => true,
        }
    }
}

fn unique_texts(key: &str, value: &Value) -> Result<()> {
    let texts = value.as_array().filter(|_| Takes::Texts.admits(value));
    let texts = texts.ok_or_else(|| invalid(format!("'{key}' must be a list of texts")))?;
    let mut seen = std::collections::HashSet::new();
    match texts.iter().all(|text| seen.insert(text.as_str())) {
        true => Ok(()),
        false => Err(invalid(format!("'{key}' must not name anything twice"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(body: &Value) -> Error {
        namespace(Some(body)).unwrap_err()
    }

    #[test]
    fn a_whole_namespace() {
        let body = json!({
            "namespace": "OS::X", "visibility": "public", "protected": true,
            "resource_type_associations": [{"name": "OS::Glance::Image", "prefix": "hw_"}],
            "properties": {"a": {"title": "A", "type": "integer", "minimum": 1, "default": 2}},
            "objects": [{"name": "O", "required": ["b"], "properties": {"b": {"title": "B", "type": "string"}}}],
            "tags": [{"name": "t"}],
        });
        let parsed = namespace(Some(&body)).unwrap();
        assert_eq!(parsed.visibility, Some(Visibility::Public));
        assert_eq!(parsed.properties[0].name, "a");
        assert_eq!(parsed.objects[0].document["required"], json!(["b"]));
        assert_eq!(parsed.tags[0].name, "t");
        assert_eq!(parsed.associations[0].prefix.as_deref(), Some("hw_"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(namespace(None), Err(Error::BadRequest(_))));
        let read_only = json!({"namespace": "n", "created_at": "now"});
        assert!(matches!(refused(&read_only), Error::Forbidden(_)));
        let bad = [
            (json!([]), "JSON object"),
            (json!({}), "'namespace'"),
            (json!({"namespace": "x".repeat(81)}), "'namespace'"),
            (
                json!({"namespace": "n", "description": "x".repeat(501)}),
                "'description'",
            ),
            (
                json!({"namespace": "n", "visibility": "shared"}),
                "'visibility'",
            ),
            (json!({"namespace": "n", "protected": "yes"}), "'protected'"),
            (json!({"namespace": "n", "colour": 1}), "'colour'"),
            (
                json!({"namespace": "n", "properties": {"p": {"type": "string"}}}),
                "'title'",
            ),
            (
                json!({"namespace": "n", "properties": {"p": {"title": "", "type": "text"}}}),
                "'type'",
            ),
            (
                json!({"namespace": "n", "properties": {"p": {"title": "", "type": "string", "minLength": -1}}}),
                "'minLength'",
            ),
            (
                json!({"namespace": "n", "properties": {"p": {"title": "", "type": "string", "x": 1}}}),
                "'x'",
            ),
            (
                json!({"namespace": "n", "objects": [{"name": "o", "required": ["a", "a"]}]}),
                "'required'",
            ),
            (json!({"namespace": "n", "tags": [{}]}), "'name'"),
        ];
        for (body, part) in bad {
            let error = refused(&body);
            assert!(matches!(error, Error::BadRequest(_)), "{body}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
    }
}
