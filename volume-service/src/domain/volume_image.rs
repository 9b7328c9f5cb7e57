//! A volume and images: uploading one as an image, and the metadata it has from one.

use std::collections::BTreeMap;

use rest::RequestContext;
use serde::Deserialize;

use super::{encryption, requester, snapshots, volume_actions, volume_source, volumes};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::snapshots::Snapshot;
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::flows::{ReimageVolume, ReimageVolumeParams, UploadVolume, UploadVolumeParams};
use crate::images::{ENCRYPTION_KEY_PROPERTY, Image, KEY_DELETION_PROPERTY, NewImage};
use crate::{Error, Result, VolumeService};

/// Keys of image metadata that an uploaded image has as attributes (Cinder's
/// `glance_core_properties`).
const CORE_KEYS: &[&str] = &[
    "checksum",
    "container_format",
    "disk_format",
    "image_id",
    "image_name",
    "min_disk",
    "min_ram",
    "name",
    "size",
];

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Upload {
    pub image_name: String,
    /// Upload although the volume is in use, where the operator allows it.
    pub force: bool,
    pub disk_format: String,
    pub container_format: String,
    pub visibility: Option<String>,
    pub protected: Option<bool>,
}

/// Makes the image's record, sets the volume `uploading` and inserts the flow.
pub async fn upload(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    upload: Upload,
) -> Result<Image> {
    let force = upload.force && service.options.enable_force_upload;
    let expected: &[&str] = if force {
        &[status::AVAILABLE, status::IN_USE]
    } else {
        &[status::AVAILABLE]
    };
    if !expected.contains(&volume.status.as_str()) {
        return Err(wrong_state(volume, expected));
    }
    let queue = volume_actions::queue_of(volume)?;
    let disk_format = upload.disk_format.clone();
    if volume.encryption_key_id.is_some()
        && (disk_format != "raw" || upload.container_format != "bare")
    {
        return Err(Error::Invalid(
            "An encrypted volume uploaded as an image must use 'raw' disk_format and 'bare' \
             container_format, which are the defaults for these options."
                .to_owned(),
        ));
    }
    let mut new = new_image(service, volume, upload).await?;
    // The image outlives the volume and its key.
    let key_id = encryption::copy(service, context, volume.encryption_key_id).await?;
    if let Some(key_id) = key_id {
        let properties = [
            (ENCRYPTION_KEY_PROPERTY, key_id.to_string()),
            (KEY_DELETION_PROPERTY, "on_image_deletion".to_owned()),
        ];
        let properties = properties.map(|(key, value)| (key.to_owned(), value));
        new.properties.extend(properties);
    }
    let made = service.images.create(context.token.expose(), &new).await;
    let image = match made {
        Ok(image) => image,
        Err(error) => {
            encryption::forget(service, context, key_id).await;
            return Err(error.into());
        }
    };
    let params = UploadVolumeParams {
        volume_id: volume.id,
        image_id: image.id,
        disk_format,
    };
    let inserted = insert(service, context, volume, expected, &queue, &params).await;
    if let Err(error) = inserted {
        if let Err(left) = service.images.delete(image.id).await {
            tracing::warn!(image = %image.id, error = %left, "the record of a refused upload stays");
        } else {
            encryption::forget(service, context, key_id).await;
        }
        return Err(error);
    }
    service.doorbell.ring(&queue);
    Ok(image)
}

async fn insert(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    expected: &[&'static str],
    queue: &str,
    params: &UploadVolumeParams,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let change = Change::volume(volume.id)
        .when(expected)
        .set_expression("previous_status = status")
        .status(status::UPLOADING);
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(volumes::not_found(volume.id)),
        Outcome::WrongState { .. } => return Err(wrong_state(volume, expected)),
    }
    UploadVolume::new_flow(params, queue, &requester(context, &volume.project_id))?
        .insert(&mut tx)
        .await?;
    Ok(tx.commit().await?)
}

/// Replaces the volume's content by an image. `reserved_too`: also of a volume that a server
/// has reserved, while it is rebuilt.
///
/// Errors: [`Error::Conflict`] when more than one has the volume.
pub async fn reimage(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    image_id: &str,
    reserved_too: bool,
) -> Result<()> {
    let expected: &[&str] = if reserved_too {
        &[status::AVAILABLE, status::ERROR, status::RESERVED]
    } else {
        &[status::AVAILABLE, status::ERROR]
    };
    if !expected.contains(&volume.status.as_str()) {
        return Err(not_reimaged(volume, expected));
    }
    let queue = volume_actions::queue_of(volume)?;
    let id = super::parse_id(image_id).ok_or_else(|| Error::no_such("Image", image_id))?;
    let image = service.images.show(context.token.expose(), id).await?;
    volume_source::check_image(&image, volume.size_gib)?;
    let snapshot = boot_snapshot(service, context, &image).await?;
    if let Some(snapshot) = &snapshot {
        check_snapshot(snapshot, volume.size_gib)?;
    }
    let encryption = encryption::of_volume(service, volume).await?;
    if snapshot.is_none() && image.encryption_key_id().is_some() {
        return Err(Error::invalid_volume(
            "A volume cannot be re-imaged with encrypted content.",
        ));
    }
    let mut tx = service.database.begin().await?;
    if db::attachments::of_volume(&mut tx, volume.id).await?.len() > 1 {
        return Err(Error::Conflict(
            "Cannot re-image a volume which is attached to more than one server.".to_owned(),
        ));
    }
    let change = Change::volume(volume.id)
        .and("status = ?", &[volume.status.as_str().into()])
        .set_expression("previous_status = status")
        .status(status::DOWNLOADING);
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(volumes::not_found(volume.id)),
        Outcome::WrongState { .. } => return Err(not_reimaged(volume, expected)),
    }
    let params = ReimageVolumeParams {
        volume_id: volume.id,
        image,
        snapshot: snapshot.map(|snapshot| (snapshot.id, snapshot.volume_id)),
        encryption,
        previous_status: volume.status.clone(),
    };
    ReimageVolume::new_flow(&params, &queue, &requester(context, &volume.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(())
}

/// One entry of `block_device_mapping`, as Nova writes it into the image of a server that boots
/// from a volume.
#[derive(Debug, Deserialize)]
struct BlockDevice {
    source_type: Option<String>,
    boot_index: Option<i64>,
    snapshot_id: Option<String>,
}

/// The snapshot that such an image stands for.
///
/// Errors: [`Error::NotFound`] when it is gone, or not the caller's.
pub(super) async fn boot_snapshot(
    service: &VolumeService,
    context: &RequestContext,
    image: &Image,
) -> Result<Option<Snapshot>> {
    let Some(text) = image.properties.get("block_device_mapping") else {
        return Ok(None);
    };
    let devices: Vec<BlockDevice> = serde_json::from_str(text).unwrap_or_default();
    let boots = |device: &BlockDevice| {
        device.source_type.as_deref() == Some("snapshot") && device.boot_index == Some(0)
    };
    let Some(device) = devices.into_iter().find(boots) else {
        return Ok(None);
    };
    let id = device.snapshot_id.unwrap_or_default();
    match snapshots::get(service, context, &id).await {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(Error::NotFound(_)) => Err(Error::NotFound(format!(
            "Nova specific image is found, but boot volume snapshot id:{id} not found."
        ))),
        Err(other) => Err(other),
    }
}

/// Available, and no larger than the volume.
fn check_snapshot(snapshot: &Snapshot, size_gib: u32) -> Result<()> {
    if snapshot.size_gib > size_gib {
        return Err(Error::Invalid(format!(
            "Volume size must be greater than the image size. (Image: {}, Volume: {size_gib}).",
            snapshot.size_gib
        )));
    }
    if snapshot.status != status::AVAILABLE {
        return Err(Error::invalid_snapshot(
            "The status of the image's snapshot must be available.",
        ));
    }
    Ok(())
}

fn not_reimaged(volume: &Volume, expected: &[&str]) -> Error {
    Error::invalid_volume(format!(
        "Volume {} status must be {}, but current status is {}.",
        volume.id,
        expected.join(" or "),
        volume.status
    ))
}

fn wrong_state(volume: &Volume, expected: &[&str]) -> Error {
    Error::invalid_volume(format!(
        "Volume {} status must be {}",
        volume.id,
        expected.join(" or ")
    ))
}

/// The record with the properties that the volume has from its own image.
async fn new_image(service: &VolumeService, volume: &Volume, upload: Upload) -> Result<NewImage> {
    let from_image = metadata::get(&service.database, Kind::VolumeImage, volume.id).await?;
    let number = |key: &str| from_image.get(key).and_then(|text| text.parse().ok());
    let (min_disk, min_ram) = (number("min_disk"), number("min_ram"));
    let kept = |key: &String| !CORE_KEYS.contains(&key.as_str()) && !key.starts_with("os_glance");
    let properties: BTreeMap<_, _> = from_image
        .into_iter()
        .filter(|(key, _)| kept(key))
        .collect();
    Ok(NewImage {
        name: upload.image_name,
        disk_format: upload.disk_format,
        container_format: upload.container_format,
        visibility: upload.visibility,
        protected: upload.protected,
        min_disk,
        min_ram,
        properties,
    })
}

/// Adds or replaces keys of `volume_image_metadata`; returns all there is afterwards.
pub async fn set_metadata(
    service: &VolumeService,
    volume: &Volume,
    entries: &Metadata,
) -> Result<Metadata> {
    let mut tx = service.database.begin().await?;
    metadata::merge(&mut tx, Kind::VolumeImage, volume.id, entries).await?;
    let all = metadata::get(&mut tx, Kind::VolumeImage, volume.id).await?;
    tx.commit().await?;
    Ok(all)
}

/// Removes one key of `volume_image_metadata`.
pub async fn unset_metadata(service: &VolumeService, volume: &Volume, key: &str) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !metadata::delete_key(&mut tx, Kind::VolumeImage, volume.id, key).await? {
        return Err(Error::NotFound("Metadata not found.".to_owned()));
    }
    Ok(tx.commit().await?)
}

/// All of `volume_image_metadata`.
pub async fn show_metadata(service: &VolumeService, volume: &Volume) -> Result<Metadata> {
    Ok(metadata::get(&service.database, Kind::VolumeImage, volume.id).await?)
}
