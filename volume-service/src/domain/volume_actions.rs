//! What `POST volumes/{id}/action` does: extend, revert, reset status, flags.

use rest::RequestContext;
use uuid::Uuid;

use super::quota::{self, Addition};
use super::{requester, types, volumes};
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::flows::{self, ExtendVolume, ExtendVolumeParams, RevertVolume, RevertVolumeParams};
use crate::{Error, Result, VolumeService};

/// Grows a volume. `attached`: it is in use and the client may extend it so (3.42).
pub async fn extend(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    new_size_gib: u32,
    attached: bool,
) -> Result<()> {
    let id = volume.id;
    let mut tx = service.database.begin().await?;
    let current = db::volumes::get(&mut tx, id)
        .await?
        .ok_or_else(|| volumes::not_found(id))?;
    let old_size_gib = current.size_gib;
    if new_size_gib <= old_size_gib {
        return Err(Error::invalid_input(format!(
            "New size for extend must be greater than current size. (current: {old_size_gib}, \
             extended: {new_size_gib})."
        )));
    }
    let expected = if attached {
        status::IN_USE
    } else {
        status::AVAILABLE
    };
    let change = Change::volume(id)
        .when(&[expected])
        // A server that gets another volume in its place must find it as large.
        .and(
            "attach_status = 'detached' OR migration_status IS NULL \
             OR migration_status IN ('none', 'deleting', 'error', 'success')",
            &[],
        )
        .set_expression("previous_status = status")
        .status(status::EXTENDING);
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(volumes::not_found(id)),
        Outcome::WrongState { status } => {
            return Err(Error::invalid_volume(format!(
                "Volume {id} status must be '{expected}' to extend, currently {status}."
            )));
        }
    }
    let volume_type = db::volume_types::get(&mut tx, current.volume_type_id).await?;
    let volume_type =
        volume_type.ok_or_else(|| Error::no_such("Volume type", current.volume_type_id))?;
    let specs = db::volume_types::extra_specs(&mut tx, volume_type.id).await?;
    types::check_size(&volume_type, &specs, new_size_gib)?;
    let growth = Addition::Growth {
        to_gib: new_size_gib,
    };
    let by_gib = new_size_gib.saturating_sub(old_size_gib);
    quota::check_volumes(
        &service.options,
        &mut tx,
        &current.project_id,
        &volume_type,
        growth,
        by_gib,
    )
    .await?;
    // Counted from now on, so that two volumes extended at once cannot pass the quota together.
    Change::volume(id)
        .set("extend_to_gib = ?", new_size_gib)
        .apply(&mut tx)
        .await?;
    let queue = queue_of(&current)?;
    let params = ExtendVolumeParams {
        volume_id: id,
        old_size_gib,
        new_size_gib,
    };
    ExtendVolume::new_flow(&params, &queue, &requester(context, &current.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(())
}

/// Takes a volume back to its latest snapshot.
///
/// Errors: [`Error::Invalid`] unless `snapshot_id` is the latest and of the volume's size;
/// [`Error::Conflict`] when either is not available.
pub async fn revert(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    snapshot_id: Option<&str>,
) -> Result<()> {
    let id = volume.id;
    let mut tx = service.database.begin().await?;
    let current = db::volumes::get(&mut tx, id)
        .await?
        .ok_or_else(|| volumes::not_found(id))?;
    let latest = db::snapshots::of_volume(&mut tx, id)
        .await?
        .into_iter()
        .next();
    let latest =
        latest.ok_or_else(|| Error::Invalid(format!("Volume {id} doesn't have any snapshots.")))?;
    if snapshot_id.and_then(super::parse_id) != Some(latest.id) {
        return Err(Error::Invalid(format!(
            "Specified snapshot {} is None or not the latest one of volume {id}.",
            snapshot_id.unwrap_or("None")
        )));
    }
    let cannot = format!(
        "Can't revert volume {id} to its latest snapshot {}.",
        latest.id
    );
    if current.size_gib != latest.size_gib {
        return Err(Error::Invalid(format!(
            "{cannot} The volume size must be equal to the snapshot size."
        )));
    }
    let change = Change::volume(id)
        .when(&[status::AVAILABLE])
        .status(status::REVERTING);
    if !change.apply(&mut tx).await?.is_done() {
        return Err(Error::Conflict(format!(
            "Invalid volume: {cannot} Volume's status must be 'available'."
        )));
    }
    let change = Change::snapshot(latest.id)
        .when(&[status::AVAILABLE])
        .status(status::RESTORING);
    if !change.apply(&mut tx).await?.is_done() {
        return Err(Error::Conflict(format!(
            "Invalid snapshot: {cannot} Snapshot's status must be 'available'."
        )));
    }
    let queue = queue_of(&current)?;
    let params = RevertVolumeParams {
        volume_id: id,
        snapshot_id: latest.id,
    };
    RevertVolume::new_flow(&params, &queue, &requester(context, &current.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(())
}

/// The queue of the manager that has the volume.
pub(super) fn queue_of(volume: &Volume) -> Result<String> {
    match &volume.host {
        Some(host) => Ok(flows::volume_queue(host)),
        None => Err(Error::invalid_volume(
            "The volume has not been scheduled to any host.",
        )),
    }
}

/// What an admin writes into a volume's states.
#[derive(Debug, Clone, Default)]
pub struct Reset {
    pub status: Option<String>,
    pub attach_status: Option<String>,
    pub migration_status: Option<String>,
}

/// Writes states without looking at the present ones. `detached` takes all attachments away.
pub async fn reset_status(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    reset: &Reset,
) -> Result<()> {
    let id = volume.id;
    let mut tx = service.database.begin().await?;
    if reset.status.as_deref() == Some(status::IN_USE)
        && db::attachments::of_volume(&mut tx, id).await?.is_empty()
    {
        return Err(Error::Invalid(
            "Cannot reset-state to in-use because volume does not have any attachments.".to_owned(),
        ));
    }
    let notices = &service.notices;
    notices
        .volume(&mut tx, id, "reset_status.start", context)
        .await?;
    if reset.attach_status.as_deref() == Some(status::DETACHED) {
        db::attachments::delete_of_volume(&mut tx, id).await?;
        db::exports::delete_of_volume(&mut tx, id).await?;
        super::attachments::settle(&mut tx, id).await?;
    }
    let mut change = Change::volume(id);
    if let Some(status) = &reset.status {
        change = change.set("status = ?", status.as_str());
    }
    if let Some(status) = &reset.attach_status {
        change = change.set("attach_status = ?", status.as_str());
    }
    if let Some(status) = &reset.migration_status {
        let value = Some(status.as_str()).filter(|status| *status != "none");
        change = change.set("migration_status = ?", value);
    }
    if !change.apply(&mut tx).await?.is_done() {
        return Err(volumes::not_found(id));
    }
    notices
        .volume(&mut tx, id, "reset_status.end", context)
        .await?;
    Ok(tx.commit().await?)
}

/// Marks a volume as bootable or not.
pub async fn set_bootable(service: &VolumeService, volume: &Volume, bootable: bool) -> Result<()> {
    if volume.status == status::MAINTENANCE {
        return Err(Error::invalid_volume(
            "The volume cannot be updated during maintenance.",
        ));
    }
    apply(
        service,
        volume.id,
        Change::volume(volume.id).set("bootable = ?", bootable),
    )
    .await
}

/// Marks a volume as read-only for those who attach it.
pub async fn set_readonly(service: &VolumeService, volume: &Volume, readonly: bool) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let change = Change::volume(volume.id)
        .when(&[status::AVAILABLE])
        .set("readonly = ?", readonly);
    match change.apply(&mut tx).await? {
        Outcome::Done => Ok(tx.commit().await?),
        Outcome::NotFound => Err(volumes::not_found(volume.id)),
        Outcome::WrongState { status } => Err(Error::invalid_volume(format!(
            "Volume {} status must be available to update readonly flag, but current status is: {status}.",
            volume.id
        ))),
    }
}

async fn apply(service: &VolumeService, id: Uuid, change: Change) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !change.apply(&mut tx).await?.is_done() {
        return Err(volumes::not_found(id));
    }
    Ok(tx.commit().await?)
}
