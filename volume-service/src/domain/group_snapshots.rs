//! Group snapshots: a snapshot of every volume of a group.

use database::{Tx, now_us};
use rest::RequestContext;
use rest::list_query::{Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::quota::{self, Additions};
use super::{parse_id, requester, sees, snapshots as single};
use crate::db::group_snapshots::{self, GroupSnapshot};
use crate::db::groups::{self, Group};
use crate::db::metadata::{self, Kind};
use crate::db::snapshots::{self, NewSnapshot};
use crate::db::volumes::Volume;
use crate::db::{Change, Outcome, status, volume_types, volumes};
use crate::flows::{
    self, CreateGroupSnapshot, CreateGroupSnapshotParams, DeleteGroupSnapshot,
    DeleteGroupSnapshotParams, DeleteSnapshot, DeleteSnapshotParams, Member,
};
use crate::{Error, Result, VolumeService};

/// What lists of group snapshots may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name").nullable(),
        Column::text("status", "status"),
        Column::text("group_id", "group_id"),
        Column::text("group_type_id", "group_type_id"),
        Column::text("user_id", "user_id"),
        Column::text("project_id", "project_id"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "GroupSnapshot",
    name: "group_snapshots",
    columns: group_snapshots::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

fn not_found(id: impl std::fmt::Display) -> Error {
    Error::no_such("GroupSnapshot", id)
}

/// The group snapshot of this id, if the caller may see it; otherwise it does not exist.
pub async fn get(
    service: &VolumeService,
    context: &RequestContext,
    id: &str,
) -> Result<GroupSnapshot> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = group_snapshots::get(&service.database, uuid).await?;
    let found = found
        .filter(|found| sees(context, &found.project_id))
        .ok_or_else(|| not_found(id))?;
    let rule = "group:get_group_snapshot";
    service.policy.enforce(context, rule, &found.project_id)?;
    Ok(found)
}

/// One page of group snapshots.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<GroupSnapshot>> {
    listing::fetch(&service.database, &TABLE, query, GroupSnapshot::from_row).await
}

/// Inserts a group snapshot, a snapshot of every volume of the group, and the flow that takes them.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    group: &Group,
    name: Option<String>,
    description: Option<String>,
) -> Result<GroupSnapshot> {
    let mut tx = service.database.begin().await?;
    let unusable = || Error::invalid_group("Group status must be available.");
    let host = group.host.as_ref().ok_or_else(unusable)?;
    // Touching the row keeps a delete of the group from passing this transaction.
    let change = Change::group(group.id).and("status <> ?", &[status::DELETING.into()]);
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(super::groups::not_found(group.id)),
        Outcome::WrongState { .. } => return Err(unusable()),
    }
    let members = groups::members(&mut tx, group.id).await?;
    if members.is_empty() {
        let text = "Source group cannot be empty or in 'creating' or 'updating' state. No group snapshot will be created.";
        return Err(Error::invalid_group(text));
    }
    let project_id = context.project();
    check_members(service, &mut tx, project_id, &members).await?;
    let new = GroupSnapshot {
        id: Uuid::new_v4(),
        user_id: context.user_id.clone(),
        project_id: project_id.to_owned(),
        group_id: group.id,
        group_type_id: group.group_type_id,
        name,
        description,
        status: status::CREATING.to_owned(),
        created_at: now_us(),
    };
    group_snapshots::insert(&mut tx, &new).await?;
    let mut parts = Vec::new();
    for volume in &members {
        parts.push(insert_part(&mut tx, &new, volume).await?);
    }
    let queue = flows::volume_queue(host);
    let params = CreateGroupSnapshotParams {
        group_snapshot_id: new.id,
        group_id: group.id,
        members: parts,
    };
    CreateGroupSnapshot::new_flow(&params, &queue, &requester(context, project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(new)
}

async fn check_members(
    service: &VolumeService,
    tx: &mut Tx,
    project_id: &str,
    members: &[Volume],
) -> Result<()> {
    let types = volume_types::all(&mut *tx).await?;
    let mut additions = Additions::default();
    for volume in members {
        single::check_source(volume, true)?;
        let volume_type = types
            .get(&volume.volume_type_id)
            .ok_or_else(|| Error::no_such("Volume type", volume.volume_type_id))?;
        additions.snapshot(volume_type, volume.size_gib);
    }
    quota::check_additions(&service.options, tx, project_id, &additions).await
}

/// The row of one member's snapshot.
async fn insert_part(tx: &mut Tx, whole: &GroupSnapshot, volume: &Volume) -> Result<Member> {
    let new = NewSnapshot {
        id: Uuid::new_v4(),
        user_id: whole.user_id.clone(),
        project_id: whole.project_id.clone(),
        volume_id: volume.id,
        name: whole.name.clone(),
        description: whole.description.clone(),
        size_gib: volume.size_gib,
        volume_type_id: volume.volume_type_id,
        consumes_quota: true,
    };
    let snapshot = snapshots::insert(tx, new).await?;
    group_snapshots::add_snapshot(tx, whole.id, snapshot.id).await?;
    let properties = (Kind::VolumeImage, volume.id);
    metadata::copy(tx, properties, (Kind::SnapshotImage, snapshot.id)).await?;
    Ok(Member {
        snapshot_id: snapshot.id,
        volume_id: volume.id,
    })
}

/// Sets the group snapshot and its parts `deleting` and inserts their flows.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    whole: &GroupSnapshot,
) -> Result<()> {
    let id = whole.id;
    let refused = || {
        Error::invalid_group_snapshot(
            "GroupSnapshot status must be available or error, and no Group can be currently using it as source \
             for its creation.",
        )
    };
    let mut tx = service.database.begin().await?;
    if groups::is_source(&mut tx, id).await? {
        return Err(refused());
    }
    let change = Change::group_snapshot(id)
        .when(&[status::AVAILABLE, status::ERROR])
        .status(status::DELETING);
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(not_found(id)),
        Outcome::WrongState { .. } => return Err(refused()),
    }
    let by = requester(context, &whole.project_id);
    let (mut rung, mut snapshot_ids) = (Vec::new(), Vec::new());
    for snapshot in group_snapshots::members(&mut tx, id).await? {
        let queue = delete_part(&mut tx, &snapshot, &by).await?;
        snapshot_ids.extend(queue.is_some().then_some(snapshot.id));
        rung.extend(queue);
    }
    let group = groups::get(&mut tx, whole.group_id).await?;
    let Some(host) = group.and_then(|group| group.host) else {
        group_snapshots::delete(&mut tx, id).await?;
        return Ok(tx.commit().await?);
    };
    let queue = flows::volume_queue(&host);
    let params = DeleteGroupSnapshotParams {
        group_snapshot_id: id,
        snapshot_ids,
    };
    DeleteGroupSnapshot::new_flow(&params, &queue, &by)?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    rung.push(queue);
    rung.iter().for_each(|queue| service.doorbell.ring(queue));
    Ok(())
}

/// The queue of the snapshot's flow; none where nothing was made and the row went at once.
async fn delete_part(
    tx: &mut Tx,
    snapshot: &snapshots::Snapshot,
    by: &flows::Requester,
) -> Result<Option<String>> {
    Change::snapshot(snapshot.id)
        .status(status::DELETING)
        .apply(tx)
        .await?;
    let volume = volumes::get(&mut *tx, snapshot.volume_id).await?;
    let Some(host) = volume.and_then(|volume| volume.host) else {
        snapshots::delete(tx, snapshot.id).await?;
        return Ok(None);
    };
    let queue = flows::volume_queue(&host);
    let params = DeleteSnapshotParams {
        snapshot_id: snapshot.id,
        volume_id: snapshot.volume_id,
    };
    DeleteSnapshot::new_flow(&params, &queue, by)?
        .insert(tx)
        .await?;
    Ok(Some(queue))
}

/// Writes the status without looking at the present one.
pub async fn set_status(service: &VolumeService, id: Uuid, to: &str) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let change = Change::group_snapshot(id).status(to);
    if !change.apply(&mut tx).await?.is_done() {
        return Err(not_found(id));
    }
    Ok(tx.commit().await?)
}
