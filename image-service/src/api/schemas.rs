//! JSON schemas of the documents (Image API ref, "Image Schemas").

use axum::Json;
use axum::extract::{Path, State};
use rest::RequestContext;
use serde_json::{Value, json};

use super::Service;
use super::attributes::KEY_DELETION_POLICIES;
use crate::error::{Error, Result};
use crate::image::{MemberStatus, Status, TaskStatus, Visibility};
use crate::options::Options;

pub async fn show(
    State(service): Service,
    _: RequestContext,
    Path(name): Path<String>,
) -> Result<Json<Value>> {
    let schema = match name.as_str() {
        "image" => image(&service.options),
        "images" => collection("images", image(&service.options), true),
        "member" => member(),
        "members" => collection("members", member(), false),
        "task" => task(),
        "tasks" => collection("tasks", task(), true),
        _ => return Err(Error::NotFound(format!("There is no schema '{name}'."))),
    };
    Ok(Json(schema))
}

fn collection(name: &str, item: Value, paged: bool) -> Value {
    let mut properties = json!({
        name: {"type": "array", "items": item},
        "schema": {"type": "string"},
    });
    let mut links = vec![json!({"rel": "describedby", "href": "{schema}"})];
    if paged {
        for link in ["first", "next"] {
            properties[link] = json!({"type": "string"});
            links.push(json!({"rel": link, "href": format!("{{{link}}}")}));
        }
    }
    json!({"name": name, "properties": properties, "links": links})
}

const UUID_PATTERN: &str =
    "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";

fn image(options: &Options) -> Value {
    let mut properties = identity_properties(options);
    for more in [data_properties(), link_properties()] {
        if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), more) {
            all.extend(more);
        }
    }
    json!({
        "name": "image",
        "properties": properties,
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

/// `null` and the words.
fn or_null(words: &[String]) -> Vec<Value> {
    std::iter::once(Value::Null)
        .chain(words.iter().cloned().map(Value::from))
        .collect()
}

fn identity_properties(options: &Options) -> Value {
    json!({
        "id": {"type": "string", "description": "An identifier for the image", "pattern": UUID_PATTERN},
        "name": {"type": ["null", "string"], "description": "Descriptive name for the image", "maxLength": 255},
        "status": {"type": "string", "readOnly": true, "description": "Status of the image", "enum": Status::WORDS},
        "visibility": {"type": "string", "description": "Scope of image accessibility", "enum": Visibility::WORDS},
        "protected": {"type": "boolean", "description": "If true, image will not be deletable."},
        "os_hidden": {"type": "boolean", "description": "If true, image will not appear in default image list response."},
        "owner": {"type": ["null", "string"], "description": "Owner of the image", "maxLength": 255},
        "container_format": {
            "type": ["null", "string"],
            "description": "Format of the container",
            "enum": or_null(&options.container_formats),
        },
        "disk_format": {
            "type": ["null", "string"],
            "description": "Format of the disk",
            "enum": or_null(&options.disk_formats),
        },
        "min_ram": {"type": "integer", "description": "Amount of ram (in MB) required to boot image."},
        "min_disk": {"type": "integer", "description": "Amount of disk space (in GB) required to boot image."},
        "tags": {
            "type": "array",
            "description": "List of strings related to the image",
            "items": {"type": "string", "maxLength": 255},
        },
    })
}

fn data_properties() -> Value {
    json!({
        "checksum": {"type": ["null", "string"], "readOnly": true, "description": "md5 hash of image contents.", "maxLength": 32},
        "os_hash_algo": {"type": ["null", "string"], "readOnly": true, "description": "Algorithm to calculate the os_hash_value", "maxLength": 64},
        "os_hash_value": {"type": ["null", "string"], "readOnly": true, "description": "Hexdigest of the image contents using the algorithm specified by the os_hash_algo", "maxLength": 128},
        "size": {"type": ["null", "integer"], "readOnly": true, "description": "Size of image file in bytes"},
        "virtual_size": {"type": ["null", "integer"], "readOnly": true, "description": "Virtual size of image in bytes"},
        "created_at": {"type": "string", "readOnly": true, "description": "Date and time of image registration"},
        "updated_at": {"type": "string", "readOnly": true, "description": "Date and time of the last image modification"},
    })
}

fn link_properties() -> Value {
    json!({
        "direct_url": {"type": "string", "readOnly": true, "description": "URL to access the image file kept in external store"},
        "locations": {
            "type": "array",
            "description": "A set of URLs to access the image file kept in external store",
            "items": {
                "type": "object",
                "properties": {
                    "url": {"type": "string", "maxLength": 255},
                    "metadata": {"type": "object"},
                    "validation_data": {
                        "type": "object",
                        "writeOnly": true,
                        "additionalProperties": false,
                        "description": "Values to be used to populate the corresponding image properties.",
                        "properties": {
                            "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
                            "os_hash_algo": {"type": "string", "maxLength": 64},
                            "os_hash_value": {"type": "string", "maxLength": 128},
                        },
                        "required": ["os_hash_algo", "os_hash_value"],
                    },
                },
                "required": ["url", "metadata"],
            },
        },
        "stores": {"type": "string", "readOnly": true, "description": "Stores in which the image data resides, where there are several."},
        "self": {"type": "string", "readOnly": true, "description": "An image self url"},
        "file": {"type": "string", "readOnly": true, "description": "An image file url"},
        "schema": {"type": "string", "readOnly": true, "description": "An image schema url"},
        "architecture": {"type": "string", "is_base": false, "description": "Operating system architecture"},
        "os_distro": {"type": "string", "is_base": false, "description": "Common name of operating system distribution"},
        "os_version": {"type": "string", "is_base": false, "description": "Operating system version as specified by the distributor."},
        "description": {"type": "string", "is_base": false, "description": "A human-readable string describing this image."},
        "cinder_encryption_key_id": {"type": "string", "is_base": false, "description": "Key that volumes made from the image are encrypted with"},
        "cinder_encryption_key_deletion_policy": {
            "type": "string",
            "is_base": false,
            "description": "When the key goes; it stays where this is missing",
            "enum": KEY_DELETION_POLICIES,
        },
        "instance_uuid": {"type": "string", "is_base": false, "description": "Metadata which can be used to record which instance this image is associated with."},
        "kernel_id": {"type": ["null", "string"], "is_base": false, "pattern": UUID_PATTERN, "description": "ID of image stored in Glance that should be used as the kernel when booting an AMI-style image."},
        "ramdisk_id": {"type": ["null", "string"], "is_base": false, "pattern": UUID_PATTERN, "description": "ID of image stored in Glance that should be used as the ramdisk when booting an AMI-style image."},
    })
}

fn member() -> Value {
    json!({
        "name": "member",
        "properties": {
            "member_id": {"type": "string", "description": "An identifier for the image member (tenantId)"},
            "image_id": {"type": "string", "description": "An identifier for the image", "pattern": UUID_PATTERN},
            "created_at": {"type": "string", "description": "Date and time of image member creation"},
            "updated_at": {"type": "string", "description": "Date and time of last modification of image member"},
            "status": {"type": "string", "description": "The status of this image member", "enum": MemberStatus::WORDS},
            "schema": {"type": "string", "readOnly": true},
        },
    })
}

fn task() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "name": "task",
        "properties": {
            "id": {"type": "string", "description": "An identifier for the task", "pattern": UUID_PATTERN},
            "type": {"type": "string", "description": "The type of task represented by this content", "enum": ["import", "api_image_import", "location_import"]},
            "status": {
                "type": "string",
                "description": "The current status of this task",
                "enum": TaskStatus::WORDS,
            },
            "input": {"type": ["null", "object"], "description": "The parameters required by task, JSON blob"},
            "result": {"type": ["null", "object"], "description": "The result of current task, JSON blob"},
            "owner": text("An identifier for the owner of this task"),
            "message": text("Human-readable informative message only included when appropriate (usually on failure)"),
            "image_id": text("Image associated with the task"),
            "request_id": text("Human-readable informative request-id"),
            "user_id": text("User associated with the task"),
            "expires_at": {"type": ["null", "string"], "description": "Datetime when this resource would be subject to removal"},
            "created_at": text("Datetime when this resource was created"),
            "updated_at": text("Datetime when this resource was updated"),
            "self": {"type": "string", "readOnly": true},
            "schema": {"type": "string", "readOnly": true},
        },
    })
}
