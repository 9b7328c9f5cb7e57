//! `POST volumes/{id}/action`: the actions about images.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rest::BadInput;
use rest::validate::MapRules;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::call::Call;
use super::views::time_or_null;
use super::views::types::UploadedType;
use super::{Answer, actions};
use crate::db::metadata::Metadata;
use crate::domain::volume_image::{self as domain, Upload};
use crate::domain::{types, volumes};

/// Formats that the schema names; the service writes [`WRITABLE`].
const DISK_FORMATS: &[&str] = &["raw", "vmdk", "vdi", "qcow2", "vhd", "vhdx", "ploop"];
const WRITABLE: &[&str] = &["raw", "qcow2"];
const CONTAINER_FORMATS: &[&str] = &[
    "ami",
    "ari",
    "aki",
    "bare",
    "docker",
    "ova",
    "ovf",
    "compressed",
];
const VISIBILITIES: &[&str] = &["community", "public", "private", "shared"];

/// The actions about images, by name; a name that none has is refused.
pub(super) async fn act(call: &Call, id: &str, name: &str, body: &Value) -> Answer<Response> {
    match name {
        "os-volume_upload_image" => upload(call, id, body)
            .await
            .map(IntoResponse::into_response),
        "os-reimage" => reimage(call, id, body)
            .await
            .map(IntoResponse::into_response),
        "os-set_image_metadata" => set(call, id, body).await.map(IntoResponse::into_response),
        "os-unset_image_metadata" => unset(call, id, body).await.map(IntoResponse::into_response),
        "os-show_image_metadata" => show(call, id).await.map(IntoResponse::into_response),
        other => Err(actions::unknown(other).into()),
    }
}

#[derive(Serialize)]
struct Uploading {
    #[serde(rename = "os-volume_upload_image")]
    upload: UploadView,
}

#[derive(Serialize)]
struct UploadView {
    id: Uuid,
    updated_at: Option<String>,
    status: &'static str,
    display_description: Option<String>,
    size: u32,
    volume_type: Option<UploadedType>,
    image_id: Uuid,
    container_format: String,
    disk_format: String,
    image_name: String,
    visibility: Option<String>,
    protected: bool,
}

async fn upload(call: &Call, id: &str, body: &Value) -> Answer<(StatusCode, Json<Uploading>)> {
    let name = "os-volume_upload_image";
    let arguments = actions::arguments(body, name)?;
    let newer = call.at_least(1);
    let mut keys = vec!["image_name", "force", "disk_format", "container_format"];
    if newer {
        keys.extend(["visibility", "protected"]);
    }
    arguments.only(&keys)?;
    let disk_format = arguments
        .one_of("disk_format", DISK_FORMATS)?
        .unwrap_or("raw")
        .to_owned();
    if !WRITABLE.contains(&disk_format.as_str()) {
        let text = format!(
            "disk_format {disk_format} cannot be written; use {}",
            WRITABLE.join(" or ")
        );
        return Err(BadInput::invalid_input(text).into());
    }
    let container_format = arguments
        .one_of("container_format", CONTAINER_FORMATS)?
        .unwrap_or("bare")
        .to_owned();
    if container_format == "compressed" {
        return Err(BadInput::new(
            "Image compression upload disallowed, but container_format is compressed",
        )
        .into());
    }
    let visibility = if newer {
        arguments
            .one_of("visibility", VISIBILITIES)?
            .unwrap_or("private")
    } else {
        ""
    };
    let upload = Upload {
        image_name: arguments.required_string("image_name", 1..=255)?.to_owned(),
        force: arguments.boolean("force")?.unwrap_or(false),
        disk_format: disk_format.clone(),
        container_format: container_format.clone(),
        visibility: newer.then(|| visibility.to_owned()),
        protected: if newer {
            Some(arguments.boolean("protected")?.unwrap_or(false))
        } else {
            None
        },
    };
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_actions:upload_image",
        &volume.project_id,
    )?;
    if visibility == "public" {
        call.enforce(
            "volume_extension:volume_actions:upload_public",
            &volume.project_id,
        )?;
    }
    let image = domain::upload(&call.service, &call.context, &volume, upload).await?;
    let volume = volumes::details(&call.service, volume).await?.volume;
    let volume_type = types::of_volume(&call.service, &volume).await?;
    let upload = UploadView {
        id: volume.id,
        updated_at: time_or_null(volume.updated_at),
        status: crate::db::status::UPLOADING,
        display_description: volume.description,
        size: volume.size_gib,
        volume_type: volume_type.map(|details| UploadedType::new(call, details)),
        image_id: image.id,
        container_format: image.container_format.unwrap_or(container_format),
        disk_format: image.disk_format.unwrap_or(disk_format),
        image_name: image.name.unwrap_or_default(),
        visibility: image.visibility,
        protected: image.protected,
    };
    Ok((StatusCode::ACCEPTED, Json(Uploading { upload })))
}

/// Since 3.68.
async fn reimage(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    call.version.require(3, 68)?;
    let arguments = actions::arguments(body, "os-reimage")?;
    arguments.only(&["image_id", "reimage_reserved"])?;
    let image_id = arguments.required_uuid("image_id")?;
    let reserved_too = arguments.boolean("reimage_reserved")?.unwrap_or(false);
    let volume = volumes::get(&call.service, &call.context, id).await?;
    let rule = match volume.status.as_str() {
        crate::db::status::RESERVED => "volume:reimage_reserved",
        _ => "volume:reimage",
    };
    call.enforce(rule, &volume.project_id)?;
    domain::reimage(
        &call.service,
        &call.context,
        &volume,
        image_id,
        reserved_too,
    )
    .await?;
    Ok(StatusCode::ACCEPTED)
}

/// `{"metadata": …}`
#[derive(Serialize)]
struct MetadataBody {
    metadata: Metadata,
}

async fn set(call: &Call, id: &str, body: &Value) -> Answer<Json<MetadataBody>> {
    let arguments = actions::arguments(body, "os-set_image_metadata")?;
    arguments.only(&["metadata"])?;
    let entries = arguments.required_string_map("metadata", MapRules::IMAGE_METADATA)?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_image_metadata:set",
        &volume.project_id,
    )?;
    Ok(Json(MetadataBody {
        metadata: domain::set_metadata(&call.service, &volume, &entries).await?,
    }))
}

async fn unset(call: &Call, id: &str, body: &Value) -> Answer<StatusCode> {
    let arguments = actions::arguments(body, "os-unset_image_metadata")?;
    arguments.only(&["key"])?;
    let key = arguments.required_string("key", 1..=255)?;
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_image_metadata:remove",
        &volume.project_id,
    )?;
    domain::unset_metadata(&call.service, &volume, key).await?;
    Ok(StatusCode::OK)
}

async fn show(call: &Call, id: &str) -> Answer<Json<MetadataBody>> {
    let volume = volumes::get(&call.service, &call.context, id).await?;
    call.enforce(
        "volume_extension:volume_image_metadata:show",
        &volume.project_id,
    )?;
    Ok(Json(MetadataBody {
        metadata: domain::show_metadata(&call.service, &volume).await?,
    }))
}
