//! What a new volume is made of: finding it, and what it asks of the volume.

use database::Tx;
use rest::RequestContext;
use uuid::Uuid;

use super::{backups, snapshots, volume_image, volumes};
use crate::db::backups::Backup;
use crate::db::snapshots::Snapshot;
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::flows::VolumeSource;
use crate::images::{self, Image};
use crate::{Error, Result, VolumeService};

/// The states of a volume that can be cloned.
const CLONEABLE: &[&str] = &[status::AVAILABLE, status::IN_USE];

/// What a client names as the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRef {
    Nothing,
    Snapshot(String),
    Volume(String),
    /// An id, or a URL that ends with one.
    Image(String),
    /// The same, or the snapshot that the image of a server stands for (3.46).
    ImageOrSnapshot(String),
    Backup(String),
}

/// A source that was found.
pub(super) enum Found {
    Nothing,
    Snapshot {
        snapshot: Box<Snapshot>,
        volume: Box<Volume>,
    },
    Volume(Box<Volume>),
    Image(Box<Image>),
    Backup(Box<Backup>),
}

impl Found {
    /// The zone of the source, and what the source is.
    pub fn zone(&self) -> Option<(&str, &'static str)> {
        match self {
            Found::Snapshot { volume, .. } => Some((volume.availability_zone.as_str(), "snapshot")),
            Found::Volume(volume) => Some((volume.availability_zone.as_str(), "source volume")),
            Found::Nothing | Found::Image(_) | Found::Backup(_) => None,
        }
    }

    /// Clones are made where their source is.
    pub fn fixed_host(&self) -> Option<String> {
        match self {
            Found::Snapshot { volume, .. } | Found::Volume(volume) => volume.host.clone(),
            Found::Nothing | Found::Image(_) | Found::Backup(_) => None,
        }
    }

    /// The volume type of the source, where it has one that is handed on.
    pub fn volume_type_id(&self) -> Option<Uuid> {
        match self {
            Found::Volume(volume) => Some(volume.volume_type_id),
            Found::Snapshot { snapshot, .. } => Some(snapshot.volume_type_id),
            Found::Nothing | Found::Image(_) | Found::Backup(_) => None,
        }
    }

    /// The key of a source whose bytes are encrypted already.
    pub fn encryption_key_id(&self) -> Option<Uuid> {
        match self {
            Found::Nothing => None,
            Found::Snapshot { volume, .. } | Found::Volume(volume) => volume.encryption_key_id,
            Found::Image(image) => image.encryption_key_id(),
            Found::Backup(backup) => backup.encryption_key_id,
        }
    }

    /// Whether its bytes become the volume's as they are, and so must be encrypted alike.
    pub fn is_copied_as_is(&self) -> bool {
        !matches!(self, Found::Nothing | Found::Image(_))
    }

    pub fn snapshot_id(&self) -> Option<Uuid> {
        match self {
            Found::Snapshot { snapshot, .. } => Some(snapshot.id),
            _ => None,
        }
    }

    pub fn source_volid(&self) -> Option<Uuid> {
        match self {
            Found::Volume(volume) => Some(volume.id),
            _ => None,
        }
    }

    /// Checks inside the transaction that the source is still there and usable: the flow's
    /// shared lock then keeps it from being deleted. A backup becomes `restoring`.
    pub async fn claim(&self, tx: &mut Tx) -> Result<()> {
        match self {
            Found::Nothing | Found::Image(_) => Ok(()),
            Found::Snapshot { snapshot, .. } => {
                let current = db::snapshots::get(&mut *tx, snapshot.id).await?;
                let current = current.ok_or_else(|| Error::no_such("Snapshot", snapshot.id))?;
                check_state(
                    &current.status,
                    &[status::AVAILABLE],
                    "snapshot",
                    Error::invalid_snapshot,
                )
            }
            Found::Volume(volume) => {
                let current = db::volumes::get(&mut *tx, volume.id).await?;
                let current = current.ok_or_else(|| volumes::not_found(volume.id))?;
                check_state(
                    &current.status,
                    CLONEABLE,
                    "source volume",
                    Error::invalid_volume,
                )
            }
            Found::Backup(backup) => {
                let change = Change::backup(backup.id)
                    .when(&[status::AVAILABLE])
                    .status(status::RESTORING);
                match change.apply(tx).await? {
                    Outcome::Done => Ok(()),
                    Outcome::NotFound => Err(Error::no_such("Backup", backup.id)),
                    Outcome::WrongState { status: state } => check_state(
                        &state,
                        &[status::AVAILABLE],
                        "backup",
                        Error::invalid_backup,
                    ),
                }
            }
        }
    }

    pub fn into_params(self) -> VolumeSource {
        match self {
            Found::Nothing => VolumeSource::Empty,
            Found::Snapshot { snapshot, .. } => VolumeSource::Snapshot {
                snapshot_id: snapshot.id,
                volume_id: snapshot.volume_id,
            },
            Found::Volume(volume) => VolumeSource::Volume {
                volume_id: volume.id,
            },
            Found::Image(image) => VolumeSource::Image { image: *image },
            Found::Backup(backup) => VolumeSource::Backup {
                backup_id: backup.id,
                volume_id: backup.volume_id,
            },
        }
    }
}

/// Finds the source, in a state that a volume can be made of.
pub(super) async fn find(
    service: &VolumeService,
    context: &RequestContext,
    source: &SourceRef,
) -> Result<Found> {
    match source {
        SourceRef::Nothing => Ok(Found::Nothing),
        SourceRef::Snapshot(id) => {
            let snapshot = snapshots::get(service, context, id).await?;
            found_snapshot(service, snapshot).await
        }
        SourceRef::ImageOrSnapshot(reference) => {
            let image = find_image(service, context, reference).await?;
            match volume_image::boot_snapshot(service, context, &image).await? {
                Some(snapshot) => found_snapshot(service, snapshot).await,
                None => Ok(Found::Image(Box::new(image))),
            }
        }
        SourceRef::Volume(id) => {
            let volume = volumes::get(service, context, id).await?;
            check_state(
                &volume.status,
                CLONEABLE,
                "source volume",
                Error::invalid_volume,
            )?;
            if volume.host.is_none() {
                return Err(Error::invalid_volume(
                    "The source volume has not been scheduled to any host.",
                ));
            }
            Ok(Found::Volume(Box::new(volume)))
        }
        SourceRef::Image(reference) => Ok(Found::Image(Box::new(
            find_image(service, context, reference).await?,
        ))),
        SourceRef::Backup(id) => {
            let backup = backups::get(service, context, id).await?;
            check_state(
                &backup.status,
                &[status::AVAILABLE],
                "backup",
                Error::invalid_backup,
            )?;
            Ok(Found::Backup(Box::new(backup)))
        }
    }
}

async fn found_snapshot(service: &VolumeService, snapshot: Snapshot) -> Result<Found> {
    check_state(
        &snapshot.status,
        &[status::AVAILABLE],
        "snapshot",
        Error::invalid_snapshot,
    )?;
    let volume = db::volumes::get(&service.database, snapshot.volume_id).await?;
    let volume = volume.ok_or_else(|| volumes::not_found(snapshot.volume_id))?;
    Ok(Found::Snapshot {
        snapshot: Box::new(snapshot),
        volume: Box::new(volume),
    })
}

pub(super) fn check_state(
    state: &str,
    allowed: &[&str],
    what: &str,
    error: fn(String) -> Error,
) -> Result<()> {
    if allowed.contains(&state) {
        return Ok(());
    }
    let allowed = allowed.join(", ");
    Err(error(format!(
        "Originating {what} status must be one of '{allowed}' values"
    )))
}

/// The image of an id, of a URL that ends with one, or of a name that only one image has; as the
/// caller's token shows it.
async fn find_image(
    service: &VolumeService,
    context: &RequestContext,
    reference: &str,
) -> Result<Image> {
    let token = context.token.expose();
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if let Some(id) = super::parse_id(last) {
        match service.images.show(token, id).await {
            Ok(image) => return Ok(image),
            // It may still be a name that looks like an id.
            Err(images::Error::NotFound(_) | images::Error::Forbidden(_)) => {}
            Err(other) => return Err(other.into()),
        }
    }
    let mut named = match reference.is_empty() {
        true => Vec::new(),
        false => service.images.find_by_name(token, reference).await?,
    };
    if named.len() > 1 {
        return Err(Error::Conflict(format!(
            "Multiple matches found for '{reference}', use an ID to be more specific."
        )));
    }
    named.pop().ok_or_else(|| {
        let text = "Invalid image identifier or unable to access requested image.";
        Error::Invalid(text.to_owned())
    })
}

/// The size asked for, else the source's; at least the source's.
pub(super) fn volume_size(asked_gib: Option<u32>, source: &Found) -> Result<u32> {
    let source_gib = match source {
        Found::Snapshot { snapshot, .. } => Some(snapshot.size_gib),
        Found::Volume(volume) => Some(volume.size_gib),
        Found::Backup(backup) => Some(backup.size_gib),
        Found::Nothing | Found::Image(_) => None,
    };
    let Some(size) = asked_gib.or(source_gib) else {
        return Err(Error::invalid_input(
            "Volume size 'None' must be an integer and greater than 0",
        ));
    };
    if size == 0 {
        return Err(Error::invalid_input(
            "Volume size '0' must be an integer and greater than 0",
        ));
    }
    let Some(least) = source_gib.filter(|least| size < *least) else {
        return Ok(size);
    };
    Err(Error::invalid_input(match source {
        Found::Snapshot { .. } => format!(
            "Volume size '{size}'GB cannot be smaller than the snapshot size {least}GB. \
             They must be >= original snapshot size."
        ),
        Found::Backup(_) => format!(
            "Volume size {size}GB cannot be smaller than the backup size {least}GB. It must be >= backup size."
        ),
        _ => format!(
            "Volume size '{size}'GB cannot be smaller than original volume size  {least}GB. \
             They must be >= original volume size."
        ),
    }))
}

/// Active, and no larger than the volume in any way.
pub(super) fn check_image(image: &Image, size_gib: u32) -> Result<()> {
    if image.status != "active" {
        return Err(Error::invalid_input(format!(
            "Image {} is not active.",
            image.id
        )));
    }
    let volume_gib = u64::from(size_gib);
    let gib = |bytes: Option<u64>| bytes.unwrap_or(0).div_ceil(1 << 30);
    let image_gib = gib(image.size);
    if image_gib > volume_gib {
        return Err(Error::invalid_input(format!(
            "Size of specified image {image_gib}GB is larger than volume size {volume_gib}GB."
        )));
    }
    if image.min_disk > volume_gib {
        return Err(Error::invalid_input(format!(
            "Volume size {volume_gib}GB cannot be smaller than the image minDisk size {}GB.",
            image.min_disk
        )));
    }
    let virtual_gib = gib(image.virtual_size);
    if virtual_gib > volume_gib {
        return Err(Error::invalid_input(format!(
            "Image virtual size is {virtual_gib}GB and doesn't fit in a volume of size {volume_gib}GB."
        )));
    }
    Ok(())
}
