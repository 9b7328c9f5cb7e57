//! Export and import of backup records.

use rest::RequestContext;

use super::{backup_hosts, quota};
use crate::backup::record;
use crate::db::backups::{self, Backup};
use crate::db::metadata::{self, Kind};
use crate::db::status;
use crate::{Error, Result, VolumeService};

/// What names a backup outside of this database.
#[derive(Debug, Clone)]
pub struct BackupRecord {
    /// The driver's name.
    pub service: String,
    pub url: String,
}

/// The record of a backup. Errors: [`Error::Invalid`] unless it is available.
pub async fn export(service: &VolumeService, backup: &Backup) -> Result<BackupRecord> {
    if backup.status != status::AVAILABLE {
        return Err(Error::invalid_backup(format!(
            "Backup status must be available and not {}.",
            backup.status
        )));
    }
    let database = &service.database;
    let metadata = metadata::get(database, Kind::Backup, backup.id).await?;
    let dependents = backups::count_dependents(database, backup.id).await?;
    let url = record::encode(backup, &metadata, dependents).map_err(Error::invalid_backup)?;
    Ok(BackupRecord {
        service: record::BACKUP_SERVICE.to_owned(),
        url,
    })
}

/// Makes the backup of a record known, as the caller's. Nothing is read from the back-end: a
/// restore tells whether its data is there.
///
/// Errors: [`Error::Invalid`] for no record, or a backup that is known; [`Error::Unavailable`]
/// when no service has the record's driver.
pub async fn import(
    service: &VolumeService,
    context: &RequestContext,
    record: &BackupRecord,
) -> Result<Backup> {
    let (mut backup, user_metadata) = record::decode(&record.url).map_err(Error::invalid_input)?;
    let host = backup_hosts::any(service).await?;
    if record.service != record::BACKUP_SERVICE {
        return Err(Error::Unavailable(format!(
            "Service {} could not be found.",
            record.service
        )));
    }
    backup.user_id = context.user_id.clone();
    backup.project_id = context.project().to_owned();
    backup.host = Some(host.host);
    let mut tx = service.database.begin().await?;
    quota::check_backup(
        &service.options,
        &mut tx,
        &backup.project_id,
        backup.size_gib,
    )
    .await?;
    if backups::get(&mut tx, backup.id).await?.is_some()
        || backups::deleted_elsewhere(&mut tx, backup.id, &backup.project_id).await?
    {
        return Err(Error::invalid_backup("Backup already exists in database."));
    }
    backups::import(&mut tx, &backup).await?;
    metadata::delete_all(&mut tx, Kind::Backup, backup.id).await?;
    metadata::insert(&mut tx, Kind::Backup, backup.id, &user_metadata).await?;
    tx.commit().await?;
    Ok(backup)
}
