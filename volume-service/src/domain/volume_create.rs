//! Creating a volume: from nothing, a snapshot, a volume, an image, a backup.

use database::Tx;
use rest::RequestContext;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::group_update::backend;
use super::quota::{self, Addition};
use super::volumes::VolumeDetails;
use super::{
    backups, groups, requester, services, snapshots, type_encryption, types, volume_image, volumes,
};
use crate::db::backups::Backup;
use crate::db::groups::Group;
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::placements::{self, Placement};
use crate::db::snapshots::Snapshot;
use crate::db::volume_types::{ExtraSpecs, VolumeType};
use crate::db::volumes::{NewVolume, Volume};
use crate::db::{self, Change, Outcome, status};
use crate::flows::{self, CreateVolume, CreateVolumeParams, VolumeSource};
use crate::images::{self, Image};
use crate::{Error, Result, SCHEDULER_QUEUE, VolumeService, scheduler};

/// The states of a volume that can be cloned.
const CLONEABLE: &[&str] = &[status::AVAILABLE, status::IN_USE];
/// The states of a group that volumes can be made in.
const GROUP_STATES: &[&str] = &[status::AVAILABLE, status::CREATING];

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

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// None: the source's.
    pub size_gib: Option<u32>,
    pub name: Option<String>,
    pub description: Option<String>,
    /// Id or name.
    pub volume_type: Option<String>,
    pub metadata: Metadata,
    pub availability_zone: Option<String>,
    /// The group that it is to be in.
    pub group_id: Option<String>,
    pub source: SourceRef,
    /// `OS-SCH-HNT:scheduler_hints`, for the scheduler's filters.
    pub hints: Map<String, Value>,
}

/// A source that was found.
enum Found {
    Nothing,
    Snapshot {
        snapshot: Box<Snapshot>,
        volume: Box<Volume>,
    },
    Volume(Box<Volume>),
    Image(Box<Image>),
    Backup(Box<Backup>),
}

/// Checks the request, inserts the volume and its flow, and rings the doorbell.
///
/// Errors: everything that Cinder refuses; nothing is left behind then.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    request: Request,
) -> Result<VolumeDetails> {
    let rule = match request.source {
        SourceRef::Image(_) | SourceRef::ImageOrSnapshot(_) => "volume:create_from_image",
        _ => "volume:create",
    };
    service.policy.enforce(context, rule, context)?;
    let asked_type = match request
        .volume_type
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        Some(name) => Some(types::find(service, context, name).await?),
        None => None,
    };
    let group = match &request.group_id {
        Some(id) => Some(find_group(service, context, id, asked_type.as_ref()).await?),
        None => None,
    };
    let source = find_source(service, context, &request.source).await?;
    let size_gib = volume_size(request.size_gib, &source)?;
    if let Found::Image(image) = &source {
        check_image(image, size_gib)?;
    }
    let volume_type = choose_type(service, context, asked_type, &source).await?;
    let extra_specs = db::volume_types::extra_specs(&service.database, volume_type.id).await?;
    types::check_size(&volume_type, &extra_specs, size_gib)?;
    type_encryption::refuse_encrypted(service, volume_type.id).await?;
    // A group's volumes are where the group is.
    let zone = match &group {
        Some(group) => Some(group.availability_zone.as_str()),
        None => request.availability_zone.as_deref(),
    };
    let zones = choose_zones(service, zone, &source, &extra_specs).await?;
    let host = choose_host(&source, group.as_ref())?;
    let placement = Placement {
        hints: request.hints,
        availability_zones: zones.of_type,
        attempts_left: service.options.scheduler_max_attempts,
        ..Placement::default()
    };
    let new = NewVolume {
        id: Uuid::new_v4(),
        user_id: context.user_id.clone(),
        project_id: context.project().to_owned(),
        name: request.name,
        description: request.description,
        size_gib,
        availability_zone: zones.own,
        host: host.clone(),
        volume_type_id: volume_type.id,
        snapshot_id: source.snapshot_id(),
        source_volid: source.source_volid(),
        multiattach: may_multiattach(service, context, &extra_specs)?,
        consumes_quota: true,
    };
    let queue = host
        .as_deref()
        .map_or_else(|| SCHEDULER_QUEUE.to_owned(), flows::volume_queue);
    let volume = insert(
        service,
        context,
        (new, group.as_ref()),
        &volume_type,
        &request.metadata,
        source,
        (&queue, placement),
    )
    .await?;
    service.doorbell.ring(&queue);
    let group_ids = volume.group_id.into_iter().collect();
    let consistency_groups = db::groups::consistency_groups(&service.database, &group_ids).await?;
    Ok(VolumeDetails {
        volume,
        type_name: Some(volume_type.name),
        metadata: request.metadata,
        image_metadata: Metadata::new(),
        attachments: Vec::new(),
        in_consistency_group: !consistency_groups.is_empty(),
    })
}

/// The one transaction: quota, the source's state once more, row, metadata, flow.
async fn insert(
    service: &VolumeService,
    context: &RequestContext,
    (new, group): (NewVolume, Option<&Group>),
    volume_type: &VolumeType,
    user_metadata: &Metadata,
    source: Found,
    (queue, placement): (&str, Placement),
) -> Result<Volume> {
    let mut tx = service.database.begin().await?;
    quota::check_volumes(
        &service.options,
        &mut tx,
        &new.project_id,
        volume_type,
        Addition::Volume,
        new.size_gib,
    )
    .await?;
    source.claim(&mut tx).await?;
    if let Some(group) = group {
        // Touching the row keeps a delete of the group from passing this transaction.
        match Change::group(group.id)
            .when(GROUP_STATES)
            .apply(&mut tx)
            .await?
        {
            Outcome::Done => {}
            Outcome::NotFound => return Err(groups::not_found(group.id)),
            Outcome::WrongState { status: state } => {
                check_state(&state, GROUP_STATES, "group", Error::invalid_group)?;
            }
        }
    }
    let group_id = group.map(|group| group.id);
    let source = source.into_params();
    let made = insert_with_flow(
        &mut tx,
        context,
        new,
        group_id,
        user_metadata,
        source,
        queue,
    );
    let volume = made.await?;
    if volume.host.is_none() {
        placements::put(&mut tx, volume.id, &placement).await?;
    }
    tx.commit().await?;
    Ok(volume)
}

/// Row, group, metadata and flow of a volume that has been checked.
pub(super) async fn insert_with_flow(
    tx: &mut Tx,
    context: &RequestContext,
    new: NewVolume,
    group_id: Option<Uuid>,
    user_metadata: &Metadata,
    source: VolumeSource,
    queue: &str,
) -> Result<Volume> {
    let (volume_id, size_gib) = (new.id, new.size_gib);
    let mut volume = db::volumes::insert(tx, new).await?;
    if let Some(host) = &volume.host {
        volume.service_uuid = db::services::id_of_host(&mut *tx, host).await?;
        Change::volume(volume_id)
            .set("service_uuid = ?", volume.service_uuid)
            .apply(tx)
            .await?;
    }
    if let Some(group_id) = group_id {
        db::groups::add_volume(tx, group_id, volume_id, &[status::CREATING]).await?;
        volume.group_id = Some(group_id);
    }
    metadata::insert(tx, Kind::Volume, volume_id, user_metadata).await?;
    let params = CreateVolumeParams {
        volume_id,
        size_gib,
        source,
    };
    CreateVolume::new_flow(&params, queue, &requester(context, &volume.project_id))?
        .insert(tx)
        .await?;
    Ok(volume)
}

/// The group of this id, if volumes of the type that the client asks for can be made in it.
async fn find_group(
    service: &VolumeService,
    context: &RequestContext,
    id: &str,
    asked_type: Option<&VolumeType>,
) -> Result<Group> {
    let group = groups::get(service, context, id).await?;
    let volume_type = asked_type.ok_or_else(|| {
        Error::invalid_input("volume_type must be provided when creating a volume in a group.")
    })?;
    let types = db::groups::volume_types(&service.database, &[group.id]).await?;
    if !types.into_values().flatten().any(|id| id == volume_type.id) {
        return Err(Error::invalid_input(format!(
            "Invalid volume_type provided: {} (requested type must be supported by this group).",
            volume_type.id
        )));
    }
    check_state(&group.status, GROUP_STATES, "group", Error::invalid_group)?;
    Ok(group)
}

/// Where the volume must be: where its source is, and on the back-end of its group.
fn choose_host(source: &Found, group: Option<&Group>) -> Result<Option<String>> {
    let fixed = source.fixed_host();
    let Some(group) = group else {
        return Ok(fixed);
    };
    if fixed.is_none() {
        return Ok(group.host.clone());
    }
    if backend(fixed.as_deref()) != backend(group.host.as_deref()) {
        return Err(Error::invalid_volume("Volume is not local to this node."));
    }
    Ok(fixed)
}

async fn find_source(
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

fn check_state(
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
fn volume_size(asked_gib: Option<u32>, source: &Found) -> Result<u32> {
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

/// The type asked for, else the source's, else what the image names, else the default one.
async fn choose_type(
    service: &VolumeService,
    context: &RequestContext,
    asked: Option<VolumeType>,
    source: &Found,
) -> Result<VolumeType> {
    if let Some(asked) = asked {
        return Ok(asked);
    }
    let inherited = match source {
        Found::Volume(volume) => Some(volume.volume_type_id),
        Found::Snapshot { snapshot, .. } => Some(snapshot.volume_type_id),
        _ => None,
    };
    if let Some(id) = inherited {
        let found = db::volume_types::get(&service.database, id).await?;
        return found.ok_or_else(|| Error::no_such("Volume type", id));
    }
    if let Found::Image(image) = source
        && let Some(name) = image.properties.get("cinder_img_volume_type")
    {
        return types::find(service, context, name).await;
    }
    types::default_type(service, context.project()).await
}

/// Whether the type's volumes may be attached more than once, which takes a rule of its own.
pub(crate) fn may_multiattach(
    service: &VolumeService,
    context: &RequestContext,
    specs: &ExtraSpecs,
) -> Result<bool> {
    let multiattach = is_multiattach_spec(specs);
    if multiattach {
        service
            .policy
            .enforce(context, "volume:multiattach", context)?;
    }
    Ok(multiattach)
}

/// Whether a type with these extra specs is for volumes that are attached more than once.
pub(super) fn is_multiattach_spec(specs: &ExtraSpecs) -> bool {
    specs
        .get("multiattach")
        .is_some_and(|value| value == "<is> True")
}

/// Where a new volume may be.
struct Zones {
    /// The zone of the row, until the scheduler has chosen.
    own: String,
    /// Several that the type allows, where neither client nor source names one.
    of_type: Option<Vec<String>>,
}

/// The zone that client, source and type leave, or the zones that the type allows.
async fn choose_zones(
    service: &VolumeService,
    asked: Option<&str>,
    source: &Found,
    specs: &ExtraSpecs,
) -> Result<Zones> {
    let Some(allowed) = scheduler::zones_of_type(specs) else {
        let own = choose_zone(service, asked, source).await?;
        return Ok(Zones { own, of_type: None });
    };
    if asked.is_none() && source.zone().is_none() {
        let known = services::zones(service).await?;
        let usable: Vec<String> = allowed
            .into_iter()
            .filter(|zone| known.contains_key(zone))
            .collect();
        let default = service.options.default_zone();
        let own = usable.iter().find(|zone| *zone == default);
        let own = own.or(usable.first()).cloned().ok_or_else(|| {
            let text = "Volume type is only supported in zones that do not exist.";
            Error::invalid_input(text)
        })?;
        return Ok(Zones {
            own,
            of_type: Some(usable),
        });
    }
    let own = choose_zone(service, asked, source).await?;
    if !allowed.contains(&own) {
        return Err(Error::invalid_input(format!(
            "Volume and volume type are in different availability zones: '{own}' is not among \
             the zones of the volume type."
        )));
    }
    Ok(Zones { own, of_type: None })
}

/// The zone asked for, else the source's, else the default one; it must exist.
async fn choose_zone(
    service: &VolumeService,
    asked: Option<&str>,
    source: &Found,
) -> Result<String> {
    let source_zone = source.zone();
    let options = &service.options;
    let zone = asked
        .or(source_zone.map(|(zone, _)| zone))
        .unwrap_or(options.default_zone());
    let zone = services::existing_zone(service, zone)
        .await?
        .ok_or_else(|| Error::Invalid(format!("Availability zone '{zone}' is invalid.")))?;
    match source_zone {
        Some((source_zone, what)) if options.cloned_volume_same_az && source_zone != zone => {
            Err(Error::invalid_input(format!(
                "Volume must be in the same availability zone as the {what}"
            )))
        }
        _ => Ok(zone),
    }
}

impl Found {
    /// The zone of the source, and what the source is.
    fn zone(&self) -> Option<(&str, &'static str)> {
        match self {
            Found::Snapshot { volume, .. } => Some((volume.availability_zone.as_str(), "snapshot")),
            Found::Volume(volume) => Some((volume.availability_zone.as_str(), "source volume")),
            Found::Nothing | Found::Image(_) | Found::Backup(_) => None,
        }
    }

    /// Clones are made where their source is.
    fn fixed_host(&self) -> Option<String> {
        match self {
            Found::Snapshot { volume, .. } | Found::Volume(volume) => volume.host.clone(),
            Found::Nothing | Found::Image(_) | Found::Backup(_) => None,
        }
    }

    fn snapshot_id(&self) -> Option<Uuid> {
        match self {
            Found::Snapshot { snapshot, .. } => Some(snapshot.id),
            _ => None,
        }
    }

    fn source_volid(&self) -> Option<Uuid> {
        match self {
            Found::Volume(volume) => Some(volume.id),
            _ => None,
        }
    }

    /// Checks inside the transaction that the source is still there and usable: the flow's
    /// shared lock then keeps it from being deleted. A backup becomes `restoring`.
    async fn claim(&self, tx: &mut Tx) -> Result<()> {
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

    fn into_params(self) -> VolumeSource {
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
