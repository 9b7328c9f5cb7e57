//! Deleting a group, with or without its volumes.
//!
//! Every volume is deleted by a flow of its own; the group's flow waits for them by their locks
//! and ends with the row of the group, or with its `error` when a volume would not go.

use database::{Tx, now_us};
use rest::RequestContext;
use uuid::Uuid;

use super::groups::not_found;
use super::requester;
use crate::db::groups::{self, Group};
use crate::db::volumes::Volume;
use crate::db::{Change, group_snapshots, snapshots, status, volumes};
use crate::flows::{self, DeleteGroup, DeleteGroupParams, DeleteVolume, DeleteVolumeParams};
use crate::{Error, Result, VolumeService};

/// Sets group and volumes `deleting` and inserts their flows. With `delete_volumes` in any status.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    group: &Group,
    delete_volumes: bool,
) -> Result<()> {
    let id = group.id;
    let mut tx = service.database.begin().await?;
    let current = groups::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    let members = groups::members(&mut tx, id).await?;
    let Some(host) = &current.host else {
        groups::delete(&mut tx, id).await?;
        return Ok(tx.commit().await?);
    };
    if current.status == status::DELETING && delete_volumes {
        return Ok(());
    }
    check(&mut tx, &current, &members, delete_volumes).await?;
    let by = requester(context, &current.project_id);
    let mut rung = Vec::new();
    for volume in &members {
        rung.extend(delete_member(&mut tx, volume, &by).await?);
    }
    Change::group(id)
        .status(status::DELETING)
        .apply(&mut tx)
        .await?;
    let queue = flows::volume_queue(host);
    let params = DeleteGroupParams {
        group_id: id,
        volume_ids: members.iter().map(|volume| volume.id).collect(),
    };
    DeleteGroup::new_flow(&params, &queue, &by)?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    rung.push(queue);
    rung.iter().for_each(|queue| service.doorbell.ring(queue));
    Ok(())
}

/// The queue of the volume's flow; none where nothing was made yet and the row went at once.
async fn delete_member(
    tx: &mut Tx,
    volume: &Volume,
    by: &flows::Requester,
) -> Result<Option<String>> {
    let Some(host) = &volume.host else {
        volumes::delete(tx, volume.id).await?;
        return Ok(None);
    };
    Change::volume(volume.id)
        .set("terminated_at = ?", now_us())
        .status(status::DELETING)
        .apply(tx)
        .await?;
    let queue = flows::volume_queue(host);
    let params = DeleteVolumeParams {
        volume_id: volume.id,
        cascade: false,
    };
    DeleteVolume::new_flow(&params, &queue, by)?
        .insert(tx)
        .await?;
    Ok(Some(queue))
}

async fn check(tx: &mut Tx, group: &Group, members: &[Volume], delete_volumes: bool) -> Result<()> {
    let id: Uuid = group.id;
    let refuse = |reason: String| Err(Error::invalid_group(reason));
    if !delete_volumes && ![status::AVAILABLE, status::ERROR].contains(&group.status.as_str()) {
        return refuse(format!(
            "Group status must be available or error, but current status is: {}",
            group.status
        ));
    }
    if group_snapshots::any_of_group(tx, id).await? {
        return refuse("Group has existing snapshots.".to_owned());
    }
    if !members.is_empty() && !delete_volumes {
        return refuse(format!(
            "Group {id} still contains volumes. The delete-volumes flag is required to delete it."
        ));
    }
    for volume in members {
        if volume.attach_status == status::ATTACHED {
            return refuse(format!(
                "Volume in group {id} is attached. Need to detach first."
            ));
        }
        if !snapshots::of_volume(&mut *tx, volume.id).await?.is_empty() {
            return refuse("Volume in group still has dependent snapshots.".to_owned());
        }
    }
    if groups::is_source(tx, id).await? {
        return refuse(format!(
            "Cannot delete group {id}. It cannot be the source for an ongoing group or group snapshot creation."
        ));
    }
    Ok(())
}
