//! Snapshots: find, list, create, update, delete, metadata, states.

use database::Tx;
use rest::RequestContext;
use rest::list_query::{Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::quota::{self, Addition};
use super::volumes::{self, Changes, write_changes};
use super::{parse_id, requester, sees, services, volume_actions};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::snapshots::{self, NewSnapshot, Snapshot};
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::flows::{
    self, CreateSnapshot, CreateSnapshotParams, DeleteSnapshot, DeleteSnapshotParams,
    UnmanageSnapshot, UnmanageSnapshotParams,
};
use crate::{Error, Result, VolumeService};

/// A snapshot with all that its view shows.
#[derive(Debug, Clone)]
pub struct SnapshotDetails {
    pub snapshot: Snapshot,
    pub metadata: Metadata,
}

/// What lists of snapshots may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name").nullable(),
        Column::text("display_name", "name").nullable(),
        Column::text("status", "status"),
        Column::int("volume_size", "size_gib"),
        Column::int("size", "size_gib"),
        Column::text("volume_id", "volume_id"),
        Column::text("user_id", "user_id"),
        Column::text("project_id", "project_id"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Snapshot",
    name: "snapshots",
    columns: snapshots::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

fn not_found(id: impl std::fmt::Display) -> Error {
    Error::no_such("Snapshot", id)
}

/// The snapshot of this id, if the caller may see it; otherwise it does not exist.
pub async fn get(service: &VolumeService, context: &RequestContext, id: &str) -> Result<Snapshot> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = snapshots::get(&service.database, uuid).await?;
    let snapshot = found
        .filter(|found| sees(context, &found.project_id))
        .ok_or_else(|| not_found(id))?;
    service
        .policy
        .enforce(context, "volume:get_snapshot", &snapshot.project_id)?;
    Ok(snapshot)
}

/// One page of snapshots.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<Snapshot>> {
    listing::fetch(&service.database, &TABLE, query, Snapshot::from_row).await
}

/// Adds what views of snapshots show, in one read however many they are.
pub async fn with_details(
    service: &VolumeService,
    rows: Vec<Snapshot>,
) -> Result<Vec<SnapshotDetails>> {
    let ids: Vec<Uuid> = rows.iter().map(|snapshot| snapshot.id).collect();
    let mut found = metadata::of_many(&service.database, Kind::Snapshot, &ids).await?;
    let join = |snapshot: Snapshot| SnapshotDetails {
        metadata: found.remove(&snapshot.id).unwrap_or_default(),
        snapshot,
    };
    Ok(rows.into_iter().map(join).collect())
}

/// Adds what the view of one snapshot shows.
pub async fn details(service: &VolumeService, snapshot: Snapshot) -> Result<SnapshotDetails> {
    let metadata = metadata::get(&service.database, Kind::Snapshot, snapshot.id).await?;
    Ok(SnapshotDetails { snapshot, metadata })
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request {
    pub name: Option<String>,
    pub description: Option<String>,
    pub metadata: Metadata,
    /// Also of a volume that is in use.
    pub in_use_too: bool,
}

/// Inserts a snapshot of `volume` and its flow.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    request: Request,
) -> Result<SnapshotDetails> {
    let queue = volume_actions::queue_of(volume)?;
    let mut tx = service.database.begin().await?;
    let details = insert_row(service, context, &mut tx, volume.id, request).await?;
    let snapshot = &details.snapshot;
    let params = CreateSnapshotParams {
        snapshot_id: snapshot.id,
        volume_id: snapshot.volume_id,
    };
    CreateSnapshot::new_flow(&params, &queue, &requester(context, &snapshot.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(details)
}

/// Checks volume and quota, and inserts a snapshot in status `creating`.
pub(super) async fn insert_row(
    service: &VolumeService,
    context: &RequestContext,
    tx: &mut Tx,
    volume_id: Uuid,
    request: Request,
) -> Result<SnapshotDetails> {
    let current = db::volumes::get(&mut *tx, volume_id)
        .await?
        .ok_or_else(|| volumes::not_found(volume_id))?;
    check_source(&current, request.in_use_too)?;
    services::check_not_frozen(tx, current.host.as_deref()).await?;
    let volume_type = db::volume_types::get(&mut *tx, current.volume_type_id).await?;
    let volume_type =
        volume_type.ok_or_else(|| Error::no_such("Volume type", current.volume_type_id))?;
    let (project_id, size_gib) = (context.project(), current.size_gib);
    quota::check_volumes(
        &service.options,
        tx,
        project_id,
        &volume_type,
        Addition::Snapshot,
        size_gib,
    )
    .await?;
    let new = NewSnapshot {
        id: Uuid::new_v4(),
        user_id: context.user_id.clone(),
        project_id: project_id.to_owned(),
        volume_id: current.id,
        name: request.name,
        description: request.description,
        size_gib,
        volume_type_id: current.volume_type_id,
        consumes_quota: true,
    };
    let snapshot = snapshots::insert(tx, new).await?;
    metadata::insert(tx, Kind::Snapshot, snapshot.id, &request.metadata).await?;
    metadata::copy(
        tx,
        (Kind::VolumeImage, current.id),
        (Kind::SnapshotImage, snapshot.id),
    )
    .await?;
    Ok(SnapshotDetails {
        snapshot,
        metadata: request.metadata,
    })
}

/// Whether a snapshot may be made of this volume.
pub(super) fn check_source(volume: &Volume, in_use_too: bool) -> Result<()> {
    let cannot = |reason: &str| {
        Err(Error::invalid_volume(format!(
            "The snapshot cannot be created {reason}"
        )))
    };
    if volume.host.is_none() {
        return cannot("because volume has not been scheduled to any host.");
    }
    match volume.status.as_str() {
        status::MAINTENANCE => return cannot("when the volume is in maintenance mode."),
        status::ERROR => return cannot("when the volume is in error status."),
        _ => {}
    }
    if volume
        .migration_status
        .as_deref()
        .is_some_and(|state| !["error", "success", "deleting"].contains(&state))
    {
        return Err(Error::invalid_volume(
            "Snapshot cannot be created while volume is migrating.",
        ));
    }
    let allowed: &[&str] = if in_use_too {
        &[status::AVAILABLE, status::IN_USE]
    } else {
        &[status::AVAILABLE]
    };
    if allowed.contains(&volume.status.as_str()) {
        return Ok(());
    }
    Err(Error::invalid_volume(format!(
        "Volume {} status must be {}, but current status is: {}.",
        volume.id,
        allowed.join(", "),
        volume.status
    )))
}

/// Changes name and description.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    changes: &Changes,
) -> Result<SnapshotDetails> {
    let mut tx = service.database.begin().await?;
    let notices = &service.notices;
    notices
        .snapshot(&mut tx, id, "update.start", context)
        .await?;
    write_changes(&mut tx, "snapshots", Kind::Snapshot, id, changes).await?;
    notices.snapshot(&mut tx, id, "update.end", context).await?;
    let snapshot = snapshots::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    tx.commit().await?;
    details(service, snapshot).await
}

/// How a snapshot goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Delete,
    /// In any status.
    ForceDelete,
    /// The snapshot in the store stays.
    Unmanage,
}

/// Sets the snapshot `deleting` (or `unmanaging`) and inserts the flow.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    snapshot: &Snapshot,
    manner: Manner,
) -> Result<()> {
    let id = snapshot.id;
    let mut tx = service.database.begin().await?;
    let mut change = Change::snapshot(id)
        .status(match manner {
            Manner::Unmanage => status::UNMANAGING,
            Manner::Delete | Manner::ForceDelete => status::DELETING,
        })
        .and("group_snapshot_id IS NULL", &[]);
    if manner != Manner::ForceDelete {
        change = change.when(&[status::AVAILABLE, status::ERROR]);
    }
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(not_found(id)),
        Outcome::WrongState { .. } => {
            return Err(Error::invalid_snapshot(
                "Snapshot status must be available or error and must not be part of a group.",
            ));
        }
    }
    let volume = db::volumes::get(&mut tx, snapshot.volume_id).await?;
    let Some(host) = volume.and_then(|volume| volume.host) else {
        snapshots::delete(&mut tx, id).await?;
        return Ok(tx.commit().await?);
    };
    services::check_not_frozen(&mut tx, Some(&host)).await?;
    let queue = flows::volume_queue(&host);
    let (snapshot_id, volume_id) = (id, snapshot.volume_id);
    let by = requester(context, &snapshot.project_id);
    let flow = if manner == Manner::Unmanage {
        let params = UnmanageSnapshotParams {
            snapshot_id,
            volume_id,
        };
        UnmanageSnapshot::new_flow(&params, &queue, &by)
    } else {
        let params = DeleteSnapshotParams {
            snapshot_id,
            volume_id,
        };
        DeleteSnapshot::new_flow(&params, &queue, &by)
    };
    flow?.insert(&mut tx).await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(())
}

/// Writes the status without looking at the present one.
pub async fn set_status(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    to: &str,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let notices = &service.notices;
    notices
        .snapshot(&mut tx, id, "reset_status.start", context)
        .await?;
    write_status(&mut tx, id, to, None).await?;
    notices
        .snapshot(&mut tx, id, "reset_status.end", context)
        .await?;
    Ok(tx.commit().await?)
}

async fn write_status(tx: &mut Tx, id: Uuid, to: &str, progress: Option<&str>) -> Result<()> {
    let mut change = Change::snapshot(id).status(to);
    if let Some(progress) = progress {
        change = change.set("progress = ?", progress);
    }
    match change.apply(tx).await?.is_done() {
        true => Ok(()),
        false => Err(not_found(id)),
    }
}

/// What a storage service reports of a snapshot that it makes or deletes itself.
pub async fn report_status(
    service: &VolumeService,
    snapshot: &Snapshot,
    to: &str,
    progress: Option<&str>,
) -> Result<()> {
    let allowed: &[&str] = match snapshot.status.as_str() {
        status::CREATING => &[status::CREATING, status::AVAILABLE, status::ERROR],
        status::DELETING => &[status::DELETING, status::ERROR_DELETING],
        other => {
            return Err(Error::Invalid(format!(
                "Snapshot status {other} not allowed for update_snapshot_status"
            )));
        }
    };
    if !allowed.contains(&to) {
        return Err(Error::Invalid(format!(
            "Provided snapshot status {to} not allowed for snapshot with status {}.",
            snapshot.status
        )));
    }
    let mut tx = service.database.begin().await?;
    write_status(&mut tx, snapshot.id, to, progress).await?;
    Ok(tx.commit().await?)
}

/// Writes the user's metadata; returns all there is afterwards.
pub async fn write_metadata(
    service: &VolumeService,
    id: Uuid,
    entries: &Metadata,
    write: volumes::Write,
) -> Result<Metadata> {
    let mut tx = service.database.begin().await?;
    snapshots::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    match write {
        volumes::Write::Merge => metadata::merge(&mut tx, Kind::Snapshot, id, entries).await?,
        volumes::Write::Replace => metadata::replace(&mut tx, Kind::Snapshot, id, entries).await?,
    }
    let all = metadata::get(&mut tx, Kind::Snapshot, id).await?;
    tx.commit().await?;
    Ok(all)
}

/// "Snapshot … has no metadata with key …."
pub fn no_metadata(id: Uuid, key: &str) -> Error {
    Error::NotFound(format!("Snapshot {id} has no metadata with key {key}."))
}

/// Removes one key of the user's metadata.
pub async fn delete_metadata(service: &VolumeService, id: Uuid, key: &str) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !metadata::delete_key(&mut tx, Kind::Snapshot, id, key).await? {
        return Err(no_metadata(id, key));
    }
    Ok(tx.commit().await?)
}
