//! Backups: find, list, create, update, delete, restore, states.

use database::Tx;
use rest::RequestContext;
use rest::list_query::{Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::volume_create;
use super::volume_source::SourceRef;
use super::volumes::{self, Changes, write_changes};
use super::{backup_hosts, encryption, parse_id, quota, requester, sees, snapshots};
use crate::backup::{Candidate, choose_parent};
use crate::db::backups::{self, Backup, NewBackup};
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::snapshots::Snapshot;
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, status};
use crate::flows::{
    self, CreateBackup, CreateBackupParams, DeleteBackup, DeleteBackupParams, RestoreBackup,
    RestoreBackupParams,
};
use crate::{Error, Result, VolumeService};

/// A backup with all that its view shows.
#[derive(Debug, Clone)]
pub struct BackupDetails {
    pub backup: Backup,
    pub metadata: Metadata,
    pub has_dependents: bool,
}

/// What lists of backups may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name").nullable(),
        Column::text("display_name", "name").nullable(),
        Column::text("status", "status"),
        Column::int("size", "size_gib"),
        Column::text("volume_id", "volume_id"),
        Column::text("user_id", "user_id"),
        Column::text("project_id", "project_id"),
        Column::int("data_timestamp", "data_timestamp"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Backup",
    name: "backups",
    columns: backups::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

fn not_found(id: impl std::fmt::Display) -> Error {
    Error::no_such("Backup", id)
}

/// The backup of this id, if the caller may see it; otherwise it does not exist.
pub async fn get(service: &VolumeService, context: &RequestContext, id: &str) -> Result<Backup> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = backups::get(&service.database, uuid).await?;
    let backup = found
        .filter(|found| sees(context, &found.project_id))
        .ok_or_else(|| not_found(id))?;
    service
        .policy
        .enforce(context, "backup:get", &backup.project_id)?;
    Ok(backup)
}

/// One page of backups.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<Backup>> {
    listing::fetch(&service.database, &TABLE, query, Backup::from_row).await
}

/// Adds what views of backups show, in two reads however many they are.
pub async fn with_details(
    service: &VolumeService,
    rows: Vec<Backup>,
) -> Result<Vec<BackupDetails>> {
    let ids: Vec<Uuid> = rows.iter().map(|backup| backup.id).collect();
    let mut found = metadata::of_many(&service.database, Kind::Backup, &ids).await?;
    let parents = backups::with_dependents(&service.database, &ids).await?;
    let join = |backup: Backup| BackupDetails {
        metadata: found.remove(&backup.id).unwrap_or_default(),
        has_dependents: parents.contains(&backup.id),
        backup,
    };
    Ok(rows.into_iter().map(join).collect())
}

/// Adds what the view of one backup shows.
pub async fn details(service: &VolumeService, backup: Backup) -> Result<BackupDetails> {
    let id = backup.id;
    with_details(service, vec![backup])
        .await?
        .pop()
        .ok_or_else(|| not_found(id))
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request {
    pub name: Option<String>,
    pub description: Option<String>,
    pub container: Option<String>,
    pub metadata: Metadata,
    pub availability_zone: Option<String>,
    pub incremental: bool,
    /// Also of a volume that is in use.
    pub force: bool,
}

/// Inserts a backup of `volume`, or of its snapshot, and its flow.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    snapshot: Option<&Snapshot>,
    request: Request,
) -> Result<Backup> {
    if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.volume_id != volume.id) {
        return Err(Error::invalid_volume(format!(
            "Volume {} does not match with snapshot.volume_id {}.",
            volume.id, snapshot.volume_id
        )));
    }
    let key_id = encryption::copy(service, context, volume.encryption_key_id).await?;
    let created = insert(service, context, volume, snapshot, request, key_id).await;
    if created.is_err() {
        encryption::forget(service, context, key_id).await;
    }
    created
}

async fn insert(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    snapshot: Option<&Snapshot>,
    request: Request,
    encryption_key_id: Option<Uuid>,
) -> Result<Backup> {
    let zone = request.availability_zone.as_deref();
    let backup_service = backup_hosts::for_new(service, volume, zone).await?;
    let host = backup_service.host;
    let project_id = context.project();
    let mut tx = service.database.begin().await?;
    let size_gib = claim_source(&mut tx, volume.id, snapshot, request.force).await?;
    quota::check_backup(&service.options, &mut tx, project_id, size_gib).await?;
    let snapshot_created_at = snapshot.map(|snapshot| snapshot.created_at);
    let parent_id = match request.incremental {
        false => None,
        true => Some(find_parent(&mut tx, volume.id, project_id, snapshot_created_at).await?),
    };
    let new = NewBackup {
        id: Uuid::new_v4(),
        user_id: context.user_id.clone(),
        project_id: project_id.to_owned(),
        volume_id: volume.id,
        snapshot_id: snapshot.map(|snapshot| snapshot.id),
        parent_id,
        name: request.name,
        description: request.description,
        size_gib,
        container: request
            .container
            .or_else(|| Some(service.options.backup_container.clone())),
        availability_zone: Some(backup_service.availability_zone),
        host: Some(host.clone()),
        encryption_key_id,
        data_timestamp: snapshot_created_at,
    };
    let backup = backups::insert(&mut tx, new).await?;
    metadata::insert(&mut tx, Kind::Backup, backup.id, &request.metadata).await?;
    let queue = flows::backup_queue(&host);
    let params = CreateBackupParams {
        backup_id: backup.id,
        volume_id: volume.id,
        snapshot_id: backup.snapshot_id,
        parent_id,
    };
    CreateBackup::new_flow(&params, &queue, &requester(context, project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(backup)
}

/// Puts what is backed up into `backing-up`; returns the volume's size.
async fn claim_source(
    tx: &mut Tx,
    volume_id: Uuid,
    snapshot: Option<&Snapshot>,
    force: bool,
) -> Result<u32> {
    let volume = db::volumes::get(&mut *tx, volume_id)
        .await?
        .ok_or_else(|| volumes::not_found(volume_id))?;
    if let Some(snapshot) = snapshot {
        let change = Change::snapshot(snapshot.id)
            .when(&[status::AVAILABLE])
            .status(status::BACKING_UP);
        return match change.apply(tx).await? {
            Outcome::Done => Ok(volume.size_gib),
            Outcome::NotFound => Err(Error::no_such("Snapshot", snapshot.id)),
            Outcome::WrongState { status } => Err(Error::invalid_snapshot(format!(
                "Snapshot to be backed up must be available, but the current status is \"{status}\"."
            ))),
        };
    }
    let allowed: &[&str] = if force {
        &[status::AVAILABLE, status::IN_USE]
    } else {
        &[status::AVAILABLE]
    };
    let change = Change::volume(volume_id)
        .when(allowed)
        .set_expression("previous_status = status")
        .status(status::BACKING_UP);
    match change.apply(tx).await? {
        Outcome::Done => Ok(volume.size_gib),
        Outcome::NotFound => Err(volumes::not_found(volume_id)),
        Outcome::WrongState { status } if status == status::IN_USE => Err(Error::invalid_volume(
            "Backing up an in-use volume must use the force flag.",
        )),
        Outcome::WrongState { status } => Err(Error::invalid_volume(format!(
            "Volume to be backed up must be available or in-use, but the current status is \"{status}\"."
        ))),
    }
}

async fn find_parent(
    tx: &mut Tx,
    volume_id: Uuid,
    project_id: &str,
    snapshot_created_at: Option<i64>,
) -> Result<Uuid> {
    let earlier = backups::of_volume(tx, volume_id, project_id).await?;
    let candidate = |backup: &Backup| Candidate {
        id: backup.id,
        available: backup.status == status::AVAILABLE,
        data_timestamp_us: backup.data_timestamp,
    };
    let candidates: Vec<_> = earlier.iter().map(candidate).collect();
    choose_parent(&candidates, snapshot_created_at)
        .ok_or_else(|| Error::invalid_backup("No backups available to do an incremental backup."))
}

/// Changes name, description and metadata.
pub async fn update(service: &VolumeService, id: Uuid, changes: &Changes) -> Result<Backup> {
    let mut tx = service.database.begin().await?;
    write_changes(&mut tx, "backups", Kind::Backup, id, changes).await?;
    let backup = backups::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    tx.commit().await?;
    Ok(backup)
}

/// Sets the backup `deleting` and inserts the flow. `force`: in any status.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    backup: &Backup,
    force: bool,
) -> Result<()> {
    let id = backup.id;
    let host = backup_hosts::for_backup(service, backup, None).await?.host;
    let mut tx = service.database.begin().await?;
    if backups::count_dependents(&mut tx, id).await? > 0 {
        return Err(Error::invalid_backup(
            "Incremental backups exist for this backup.",
        ));
    }
    let mut change = Change::backup(id)
        .status(status::DELETING)
        .set("host = ?", host.as_str());
    if !force {
        change = change.when(&[status::AVAILABLE, status::ERROR]);
    }
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(not_found(id)),
        Outcome::WrongState { .. } => {
            return Err(Error::invalid_backup(
                "Backup status must be available or error",
            ));
        }
    }
    let queue = flows::backup_queue(&host);
    let params = DeleteBackupParams {
        backup_id: id,
        volume_id: backup.volume_id,
    };
    DeleteBackup::new_flow(&params, &queue, &requester(context, &backup.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    encryption::forget(service, context, backup.encryption_key_id).await;
    Ok(())
}

/// What a restore writes to.
#[derive(Debug, Clone)]
pub struct Restoring {
    pub volume_id: Uuid,
    pub volume_name: Option<String>,
}

/// Restores into `volume`, or into a new volume of this name.
pub async fn restore(
    service: &VolumeService,
    context: &RequestContext,
    backup: &Backup,
    volume: Option<&Volume>,
    name: Option<String>,
) -> Result<Restoring> {
    if backup.status != status::AVAILABLE {
        return Err(Error::invalid_backup("Backup status must be available"));
    }
    let Some(volume) = volume else {
        return restore_to_new(service, context, backup, name).await;
    };
    if volume.encryption_key_id.is_some() != backup.encryption_key_id.is_some() {
        return Err(Error::invalid_volume(
            "An encrypted backup is restored to an encrypted volume only, and no other to one.",
        ));
    }
    // The volume gets the backup's bytes, so what opens it is what opened them.
    let key_id = encryption::copy(service, context, backup.encryption_key_id).await?;
    let restoring = restore_to(service, context, backup, volume, key_id).await;
    let unused = match &restoring {
        Ok(_) => volume.encryption_key_id,
        Err(_) => key_id,
    };
    encryption::forget(service, context, unused).await;
    restoring
}

async fn restore_to(
    service: &VolumeService,
    context: &RequestContext,
    backup: &Backup,
    volume: &Volume,
    encryption_key_id: Option<Uuid>,
) -> Result<Restoring> {
    let host = backup_hosts::for_backup(service, backup, Some(volume))
        .await?
        .host;
    let mut tx = service.database.begin().await?;
    let current = db::volumes::get(&mut tx, volume.id)
        .await?
        .ok_or_else(|| volumes::not_found(volume.id))?;
    if current.size_gib < backup.size_gib {
        return Err(Error::invalid_volume(format!(
            "volume size {} is too small to restore backup of size {}.",
            current.size_gib, backup.size_gib
        )));
    }
    let change = Change::volume(volume.id)
        .when(&[status::AVAILABLE])
        .set("encryption_key_id = ?", encryption_key_id)
        .status(status::RESTORING_BACKUP);
    if !change.apply(&mut tx).await?.is_done() {
        return Err(Error::invalid_volume(
            "Volume to be restored to must be available",
        ));
    }
    let change = Change::backup(backup.id)
        .when(&[status::AVAILABLE])
        .status(status::RESTORING)
        .set("restore_volume_id = ?", volume.id)
        .set("host = ?", host.as_str());
    if !change.apply(&mut tx).await?.is_done() {
        return Err(Error::invalid_backup("Backup status must be available"));
    }
    let queue = flows::backup_queue(&host);
    let params = RestoreBackupParams {
        backup_id: backup.id,
        source_volume_id: backup.volume_id,
        volume_id: volume.id,
    };
    RestoreBackup::new_flow(&params, &queue, &requester(context, &backup.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(Restoring {
        volume_id: volume.id,
        volume_name: current.name,
    })
}

async fn restore_to_new(
    service: &VolumeService,
    context: &RequestContext,
    backup: &Backup,
    name: Option<String>,
) -> Result<Restoring> {
    let request = volume_create::Request {
        group_id: None,
        size_gib: Some(backup.size_gib),
        name: Some(name.unwrap_or_else(|| format!("restore_backup_{}", backup.id))),
        description: Some("auto-created_from_restore_from_backup".to_owned()),
        volume_type: None,
        metadata: Metadata::new(),
        availability_zone: None,
        source: SourceRef::Backup(backup.id.to_string()),
        hints: serde_json::Map::new(),
    };
    let created = volume_create::create(service, context, request).await?;
    Ok(Restoring {
        volume_id: created.volume.id,
        volume_name: created.volume.name,
    })
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
        .backup(&mut tx, id, "reset_status.start", context)
        .await?;
    if !Change::backup(id)
        .status(to)
        .apply(&mut tx)
        .await?
        .is_done()
    {
        return Err(not_found(id));
    }
    notices
        .backup(&mut tx, id, "reset_status.end", context)
        .await?;
    Ok(tx.commit().await?)
}

/// The snapshot that a request names, as [`snapshots::get`].
pub async fn source_snapshot(
    service: &VolumeService,
    context: &RequestContext,
    id: Option<&str>,
) -> Result<Option<Snapshot>> {
    match id {
        Some(id) => snapshots::get(service, context, id).await.map(Some),
        None => Ok(None),
    }
}
