//! Taking images and snapshots that are there already into management, and letting them go.

use rest::RequestContext;
use uuid::Uuid;

use super::quota::{self, Addition};
use super::snapshots::{self, SnapshotDetails};
use super::volumes::{self, VolumeDetails};
use super::{requester, types, volume_actions};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::services::{self, Service, VOLUME};
use crate::db::volumes::{NewVolume, Volume};
use crate::db::{self, Change, status};
use crate::flows::{self, ManageSnapshot, ManageSnapshotParams, ManageVolume, ManageVolumeParams};
use crate::manager::{snapshot_name, volume_id_of_image, volume_image_name};
use crate::{Error, Result, VolumeService};

/// How a client names what is to be managed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The name in the store.
    Name(String),
    /// The id under which it was managed before.
    Id(Uuid),
}

impl Reference {
    fn image_name(&self) -> String {
        match self {
            Reference::Name(name) => name.clone(),
            Reference::Id(id) => volume_image_name(*id),
        }
    }

    fn snapshot_name(&self) -> String {
        match self {
            Reference::Name(name) => name.clone(),
            Reference::Id(id) => snapshot_name(*id),
        }
    }
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request {
    pub reference: Reference,
    /// `host@backend` or `host@backend#pool`.
    pub host: String,
    pub name: Option<String>,
    pub description: Option<String>,
    /// Id or name.
    pub volume_type: Option<String>,
    pub metadata: Metadata,
    pub availability_zone: Option<String>,
    pub bootable: bool,
}

/// The volume service that a host (with or without its pool) belongs to.
///
/// Errors: [`Error::NotFound`]; [`Error::Invalid`] when it is disabled or down.
pub async fn service_of(service: &VolumeService, host: &str) -> Result<Service> {
    let service_host = host.split('#').next().unwrap_or(host);
    let known = services::list(&service.database).await?;
    let found = known
        .into_iter()
        .find(|known| known.binary == VOLUME && known.host == service_host)
        .ok_or_else(|| {
            Error::NotFound(format!(
                "Service {VOLUME} could not be found on host {service_host}."
            ))
        })?;
    if found.disabled || !found.is_up(service.options.service_down_time_s) {
        return Err(Error::Invalid(
            "Service is unavailable at this time.".to_owned(),
        ));
    }
    Ok(found)
}

/// The pools of a service that `host` means: the named one, else all of them.
pub async fn pools_of(service: &VolumeService, host: &str) -> Result<Vec<String>> {
    let pools = services::pools(&service.database).await?.into_iter();
    let meant = pools
        .filter(|pool| pool.name == host || pool.service_host == host)
        .map(|pool| pool.name);
    Ok(meant.collect())
}

/// Inserts a volume in status `managing`, and the flow that finds and renames its image.
pub async fn manage_volume(
    service: &VolumeService,
    context: &RequestContext,
    request: Request,
) -> Result<VolumeDetails> {
    let source_name = request.reference.image_name();
    if let Some(id) = volume_id_of_image(&source_name)
        && !db::volumes::of_images(&service.database, &[id])
            .await?
            .is_empty()
    {
        return Err(Error::invalid_volume(
            "Unable to manage existing volume. The volume is already managed",
        ));
    }
    let asked = request
        .volume_type
        .as_deref()
        .filter(|name| !name.is_empty());
    let volume_type = match asked {
        Some(name) => types::find(service, context, name).await.map_err(|_| {
            Error::Invalid(format!(
                "Invalid volume type: Cannot find requested '{name}' volume type"
            ))
        })?,
        None => types::default_type(service, context.project()).await?,
    };
    let found = service_of(service, &request.host).await;
    let found = found.map_err(|error| match error {
        Error::NotFound(_) => Error::Invalid(format!("Host '{}' not found", request.host)),
        other => other,
    })?;
    let host = pools_of(service, &request.host).await?.into_iter().next();
    let host = host.ok_or_else(|| Error::Invalid(format!("Host '{}' not found", request.host)))?;
    let encryption = db::type_encryption::get(&service.database, volume_type.id).await?;
    if encryption.is_some() {
        return Err(Error::Invalid(
            "Invalid volume type: Managing to an encrypted volume type is not supported."
                .to_owned(),
        ));
    }
    let specs = db::volume_types::extra_specs(&service.database, volume_type.id).await?;
    let new = NewVolume {
        id: Uuid::new_v4(),
        user_id: context.user_id.clone(),
        project_id: context.project().to_owned(),
        name: request.name,
        description: request.description,
        size_gib: 0,
        availability_zone: request.availability_zone.unwrap_or(found.availability_zone),
        host: Some(host.clone()),
        volume_type_id: volume_type.id,
        snapshot_id: None,
        source_volid: None,
        multiattach: specs
            .get("multiattach")
            .is_some_and(|value| value == "<is> True"),
        encryption_key_id: None,
        consumes_quota: true,
    };
    let (id, queue) = (new.id, flows::volume_queue(&host));
    let mut tx = service.database.begin().await?;
    let (options, project_id) = (&service.options, new.project_id.clone());
    let addition = Addition::Volume;
    quota::check_volumes(options, &mut tx, &project_id, &volume_type, addition, 0).await?;
    db::volumes::insert(&mut tx, new).await?;
    Change::volume(id)
        .status(status::MANAGING)
        .set("bootable = ?", request.bootable)
        .set("service_uuid = ?", found.id)
        .apply(&mut tx)
        .await?;
    metadata::insert(&mut tx, Kind::Volume, id, &request.metadata).await?;
    let params = ManageVolumeParams {
        volume_id: id,
        source_name,
    };
    ManageVolume::new_flow(&params, &queue, &requester(context, &project_id))?
        .insert(&mut tx)
        .await?;
    let volume = db::volumes::get(&mut tx, id)
        .await?
        .ok_or_else(|| volumes::not_found(id))?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    volumes::details(service, volume).await
}

/// Inserts a snapshot in status `creating`, and the flow that finds and renames the image's.
pub async fn manage_snapshot(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    reference: &Reference,
    request: snapshots::Request,
) -> Result<SnapshotDetails> {
    let host = volume.host.as_deref().unwrap_or_default();
    service_of(service, host).await?;
    let queue = volume_actions::queue_of(volume)?;
    let mut tx = service.database.begin().await?;
    let details = snapshots::insert_row(service, context, &mut tx, volume.id, request).await?;
    let snapshot = &details.snapshot;
    let params = ManageSnapshotParams {
        snapshot_id: snapshot.id,
        volume_id: snapshot.volume_id,
        source_name: reference.snapshot_name(),
    };
    ManageSnapshot::new_flow(&params, &queue, &requester(context, &snapshot.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(details)
}
