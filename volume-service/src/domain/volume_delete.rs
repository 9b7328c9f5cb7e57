//! Deleting a volume, with or without its snapshots.

use database::{Tx, now_us};
use rest::RequestContext;

use super::{encryption, requester, services, volumes};
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::flows::{self, DeleteVolume, DeleteVolumeParams, UnmanageVolume, UnmanageVolumeParams};
use crate::{Error, Result, VolumeService};

const DELETABLE: &[&str] = &[
    status::AVAILABLE,
    status::ERROR,
    status::ERROR_RESTORING,
    status::ERROR_EXTENDING,
    status::ERROR_MANAGING,
];

/// How a volume is deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// The snapshots go with it.
    pub cascade: bool,
    /// In any status.
    pub force: bool,
    /// The image stays.
    pub unmanage: bool,
}

/// Sets the volume `deleting` (or `unmanaging`) and inserts the flow. A volume that no host has goes at once.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    manner: Manner,
) -> Result<()> {
    let id = volume.id;
    let mut tx = service.database.begin().await?;
    let Some(current) = db::volumes::get(&mut tx, id).await? else {
        return Err(volumes::not_found(id));
    };
    if manner.unmanage && current.encryption_key_id.is_some() {
        return Err(Error::invalid_volume(
            "Unmanaging encrypted volumes is not supported.",
        ));
    }
    services::check_not_frozen(&mut tx, current.host.as_deref()).await?;
    if !snapshots_allow(&mut tx, context, &current, manner).await? {
        return Err(refused(manner));
    }
    let mut change = Change::volume(id)
        .set("terminated_at = ?", now_us())
        .status(if manner.unmanage {
            status::UNMANAGING
        } else {
            status::DELETING
        })
        .and("attach_status <> ?", &[status::ATTACHED.into()])
        // While a second attachment is made, the column does not tell of the first.
        .and(
            "NOT EXISTS (SELECT 1 FROM volume_attachments a WHERE a.volume_id = volumes.id AND a.attach_status = ?)",
            &[status::ATTACHED.into()],
        )
        .and("group_id IS NULL", &[])
        .and(
            "migration_status IS NULL OR migration_status IN ('deleting', 'error', 'success')",
            &[],
        );
    if !manner.force {
        change = change.when(DELETABLE);
    }
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(volumes::not_found(id)),
        Outcome::WrongState { .. } => return Err(refused(manner)),
    }
    let Some(host) = &current.host else {
        db::volumes::delete(&mut tx, id).await?;
        tx.commit().await?;
        encryption::forget(service, context, current.encryption_key_id).await;
        return Ok(());
    };
    let queue = flows::volume_queue(host);
    let by = requester(context, &current.project_id);
    let flow = if manner.unmanage {
        UnmanageVolume::new_flow(&UnmanageVolumeParams { volume_id: id }, &queue, &by)
    } else {
        let params = DeleteVolumeParams {
            volume_id: id,
            cascade: manner.cascade,
        };
        DeleteVolume::new_flow(&params, &queue, &by)
    };
    flow?.insert(&mut tx).await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    // Nobody is to read it any more, also if its space cannot be freed yet.
    encryption::forget(service, context, current.encryption_key_id).await;
    Ok(())
}

/// Whether the volume's snapshots let it go; with `cascade` they become `deleting`.
async fn snapshots_allow(
    tx: &mut Tx,
    context: &RequestContext,
    volume: &Volume,
    manner: Manner,
) -> Result<bool> {
    let snapshots = db::snapshots::of_volume(&mut *tx, volume.id).await?;
    if !manner.cascade {
        return Ok(snapshots.is_empty());
    }
    let deletable = [status::AVAILABLE, status::ERROR, status::DELETING];
    for snapshot in &snapshots {
        let idle = manner.force || deletable.contains(&snapshot.status.as_str());
        let own = context.is_admin || snapshot.project_id == volume.project_id;
        if !idle || !own {
            return Ok(false);
        }
        Change::snapshot(snapshot.id)
            .status(status::DELETING)
            .apply(tx)
            .await?;
    }
    Ok(true)
}

fn refused(manner: Manner) -> Error {
    let states = if manner.force {
        String::new()
    } else {
        format!("status must be {} and ", DELETABLE.join(" or "))
    };
    Error::invalid_volume(format!(
        "Volume {states}must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, \
         or be disassociated from snapshots after volume transfer."
    ))
}
