//! Creating a volume: from nothing, a snapshot, a volume, an image, a backup.

use database::Tx;
use rest::RequestContext;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::group_update::backend;
use super::quota::{self, Addition};
use super::volume_source::{self, Found, SourceRef, check_image, check_state, volume_size};
use super::volumes::VolumeDetails;
use super::{encryption, groups, requester, types, volume_zones};
use crate::db::groups::Group;
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::placements::{self, Placement};
use crate::db::volume_types::{ExtraSpecs, VolumeType};
use crate::db::volumes::{NewVolume, Volume};
use crate::db::{self, Change, Outcome, status};
use crate::flows::{self, CreateVolume, CreateVolumeParams, Encryption, VolumeSource};
use crate::{Error, Result, SCHEDULER_QUEUE, VolumeService};

/// The states of a group that volumes can be made in.
const GROUP_STATES: &[&str] = &[status::AVAILABLE, status::CREATING];

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
    let source = volume_source::find(service, context, &request.source).await?;
    let size_gib = volume_size(request.size_gib, &source)?;
    if let Found::Image(image) = &source {
        check_image(image, size_gib)?;
    }
    let volume_type = choose_type(service, context, asked_type, &source).await?;
    let extra_specs = db::volume_types::extra_specs(&service.database, volume_type.id).await?;
    types::check_size(&volume_type, &extra_specs, size_gib)?;
    encryption::check_source(service, volume_type.id, &source).await?;
    // A group's volumes are where the group is.
    let zone = match &group {
        Some(group) => Some(group.availability_zone.as_str()),
        None => request.availability_zone.as_deref(),
    };
    let zones = volume_zones::choose(service, zone, &source, &extra_specs).await?;
    let host = choose_host(&source, group.as_ref())?;
    let placement = Placement {
        hints: request.hints,
        availability_zones: zones.of_type,
        attempts_left: service.options.scheduler_max_attempts,
        ..Placement::default()
    };
    let multiattach = may_multiattach(service, context, &extra_specs)?;
    let key = encryption::key_for(service, context, volume_type.id, source.encryption_key_id());
    let key = key.await?;
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
        multiattach,
        encryption_key_id: key.map(|key| key.key_id),
        consumes_quota: true,
    };
    // The bytes of such a source are encrypted already.
    let encryption = key.filter(|_| source.encryption_key_id().is_none());
    let queue = host
        .as_deref()
        .map_or_else(|| SCHEDULER_QUEUE.to_owned(), flows::volume_queue);
    let inserted = insert(
        service,
        context,
        (new, group.as_ref()),
        &volume_type,
        &request.metadata,
        (source, encryption),
        (&queue, placement),
    );
    let volume = match inserted.await {
        Ok(volume) => volume,
        Err(error) => {
            encryption::forget(service, context, key.map(|key| key.key_id)).await;
            return Err(error);
        }
    };
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
        cluster_name: None,
    })
}

/// The one transaction: quota, the source's state once more, row, metadata, flow.
async fn insert(
    service: &VolumeService,
    context: &RequestContext,
    (new, group): (NewVolume, Option<&Group>),
    volume_type: &VolumeType,
    user_metadata: &Metadata,
    (source, encryption): (Found, Option<Encryption>),
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
        (source, encryption),
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
    (source, encryption): (VolumeSource, Option<Encryption>),
    queue: &str,
) -> Result<Volume> {
    let (volume_id, size_gib) = (new.id, new.size_gib);
    let mut volume = db::volumes::insert(tx, new).await?;
    if let Some(host) = &volume.host {
        let manager = db::services::of_host(&mut *tx, host).await?;
        volume.service_uuid = manager.map(|manager| manager.id);
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
        encryption,
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
    if let Some(id) = source.volume_type_id() {
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
