//! JSON schemas of metadata definitions (Image API ref, "Metadata definition schemas").

use axum::Json;
use axum::extract::Path;
use rest::RequestContext;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::metadef::{DESCRIPTION_CHARS_MAX, NAME_CHARS_MAX};

pub async fn show(_: RequestContext, Path(name): Path<String>) -> Result<Json<Value>> {
    let schema = match name.as_str() {
        "namespace" => with_definitions(namespace()),
        "namespaces" => with_definitions(collection("namespaces", namespace())),
        "object" => with_definitions(object()),
        "objects" => with_definitions(collection("objects", object())),
        "property" => with_definitions(property(true)),
        "properties" => with_definitions(by_name("properties", property(false))),
        "tag" => tag(),
        "tags" => collection("tags", tag()),
        "resource_type" => resource_type(),
        "resource_types" => collection("resource_type_associations", resource_type()),
        _ => {
            return Err(Error::NotFound(format!(
                "There is no schema 'metadefs/{name}'."
            )));
        }
    };
    Ok(Json(schema))
}

fn schema(name: &str, properties: Value, required: Value) -> Value {
    json!({
        "name": name,
        "properties": properties,
        "additionalProperties": false,
        "required": required,
    })
}

fn collection(name: &str, item: Value) -> Value {
    pages(name, json!({"type": "array", "items": item}))
}

/// A collection whose items stand under their names.
fn by_name(name: &str, item: Value) -> Value {
    pages(
        name,
        json!({"type": "object", "additionalProperties": item}),
    )
}

fn pages(name: &str, items: Value) -> Value {
    json!({
        "name": name,
        "properties": {
            name: items,
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

fn with_definitions(mut schema: Value) -> Value {
    schema["definitions"] = json!({
        "positiveInteger": {"type": "integer", "minimum": 0},
        "positiveIntegerDefault0": {"allOf": [{"$ref": "#/definitions/positiveInteger"}, {"default": 0}]},
        "stringArray": {"type": "array", "items": {"type": "string"}, "uniqueItems": true},
        "property": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": property_keys(),
                "required": ["title", "type"],
            },
        },
    });
    schema
}

fn property_keys() -> Value {
    let types = json!([
        "array", "boolean", "integer", "number", "object", "string", null
    ]);
    json!({
        "name": {"type": "string", "maxLength": NAME_CHARS_MAX},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "operators": {"type": "array", "items": {"type": "string"}},
        "type": {"type": "string", "enum": types},
        "required": {"$ref": "#/definitions/stringArray"},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "maxLength": {"$ref": "#/definitions/positiveInteger"},
        "minLength": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "pattern": {"type": "string", "format": "regex"},
        "enum": {"type": "array"},
        "readonly": {"type": "boolean"},
        "default": {},
        "items": {
            "type": "object",
            "properties": {"type": {"type": "string", "enum": types}, "enum": {"type": "array"}},
        },
        "maxItems": {"$ref": "#/definitions/positiveInteger"},
        "minItems": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "uniqueItems": {"type": "boolean", "default": false},
        "additionalItems": {"type": "boolean"},
    })
}

fn property(by_itself: bool) -> Value {
    let required = match by_itself {
        true => json!(["type", "title", "name"]),
        false => json!(["type", "title"]),
    };
    schema("property", property_keys(), required)
}

/// The times of a definition, which only the service sets.
fn add_times(properties: &mut Value, of: &str) {
    for (key, what) in [
        ("created_at", "creation"),
        ("updated_at", "the last change"),
    ] {
        properties[key] = json!({
            "type": "string",
            "readOnly": true,
            "description": format!("Date and time of {what} of the {of}"),
            "format": "date-time",
        });
    }
}

fn add_links(properties: &mut Value) {
    for key in ["self", "schema"] {
        properties[key] = json!({"readOnly": true, "type": "string"});
    }
}

fn namespace() -> Value {
    let text = |chars: usize, description: &str| json!({"type": "string", "description": description, "maxLength": chars});
    let word = json!({"type": "string"});
    let mut properties = json!({
        "namespace": text(NAME_CHARS_MAX, "The unique name of the namespace"),
        "display_name": text(NAME_CHARS_MAX, "The name that people are shown"),
        "description": text(DESCRIPTION_CHARS_MAX, "What the namespace is for"),
        "visibility": {"type": "string", "description": "Who may see the namespace", "enum": ["public", "private"]},
        "protected": {"type": "boolean", "description": "If true, the namespace cannot be deleted"},
        "owner": text(255, "The project that owns the namespace"),
        "resource_type_associations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": word, "prefix": word, "properties_target": word},
            },
        },
        "properties": {"$ref": "#/definitions/property"},
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": word,
                    "description": word,
                    "required": {"$ref": "#/definitions/stringArray"},
                    "properties": {"$ref": "#/definitions/property"},
                },
            },
        },
        "tags": {"type": "array", "items": {"type": "object", "properties": {"name": word}}},
    });
    add_times(&mut properties, "namespace");
    add_links(&mut properties);
    schema("namespace", properties, json!(["namespace"]))
}

fn object() -> Value {
    let mut properties = json!({
        "name": {"type": "string", "maxLength": NAME_CHARS_MAX},
        "description": {"type": "string"},
        "required": {"$ref": "#/definitions/stringArray"},
        "properties": {"$ref": "#/definitions/property"},
    });
    add_times(&mut properties, "object");
    add_links(&mut properties);
    schema("object", properties, json!(["name"]))
}

fn tag() -> Value {
    let mut properties = json!({"name": {"type": "string", "maxLength": NAME_CHARS_MAX}});
    add_times(&mut properties, "tag");
    schema("tag", properties, json!(["name"]))
}

fn resource_type() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description, "maxLength": NAME_CHARS_MAX});
    let mut properties = json!({
        "name": text("The type of resource, by its Heat name where it has one"),
        "prefix": text("What the names of properties begin with on such a resource, separator included"),
        "properties_target": text("Which of the resource's collections of properties is meant, where it has several"),
    });
    add_times(&mut properties, "association");
    schema("resource_type_association", properties, json!(["name"]))
}
