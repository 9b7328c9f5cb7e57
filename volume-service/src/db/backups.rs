//! Table `backups`.

use std::collections::HashSet;

use database::{Result, Row, Tx, Value, now_us, params};
use uuid::Uuid;

use super::{Change, Outcome, Source, metadata, placeholders, status};

/// One live backup.
#[derive(Debug, Clone)]
pub struct Backup {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub volume_id: Uuid,
    pub snapshot_id: Option<Uuid>,
    /// The backup this one is the difference to; none for a full one.
    pub parent_id: Option<Uuid>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub fail_reason: Option<String>,
    pub size_gib: u32,
    pub object_count: u64,
    /// The target's pool or container.
    pub container: Option<String>,
    pub availability_zone: Option<String>,
    /// The backup service that made it and alone can read it.
    pub host: Option<String>,
    /// The driver's own JSON: `{"base": "volume-<vol>.backup.<id>"}`.
    pub service_metadata: Option<String>,
    pub restore_volume_id: Option<Uuid>,
    /// A copy of the key of the encrypted volume that it was made of.
    pub encryption_key_id: Option<Uuid>,
    /// When the data was as it is in this backup: the snapshot's creation, or the backup's.
    pub data_timestamp: i64,
    pub created_at: i64,
    pub updated_at: Option<i64>,
}

pub(crate) const COLUMNS: &str = "id, user_id, project_id, volume_id, snapshot_id, parent_id, name, description, \
    status, fail_reason, size_gib, object_count, container, availability_zone, host, service_metadata, \
    restore_volume_id, encryption_key_id, data_timestamp, created_at, updated_at";

impl Backup {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(Backup {
            id: row.get("id")?,
            user_id: row.get("user_id")?,
            project_id: row.get("project_id")?,
            volume_id: row.get("volume_id")?,
            snapshot_id: row.get("snapshot_id")?,
            parent_id: row.get("parent_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            status: row.get("status")?,
            fail_reason: row.get("fail_reason")?,
            size_gib: row.get("size_gib")?,
            object_count: row.get("object_count")?,
            container: row.get("container")?,
            availability_zone: row.get("availability_zone")?,
            host: row.get("host")?,
            service_metadata: row.get("service_metadata")?,
            restore_volume_id: row.get("restore_volume_id")?,
            encryption_key_id: row.get("encryption_key_id")?,
            data_timestamp: row.get("data_timestamp")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
        })
    }
}

/// A new backup, as the API inserts it: status `creating`.
#[derive(Debug, Clone)]
pub struct NewBackup {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub volume_id: Uuid,
    pub snapshot_id: Option<Uuid>,
    pub parent_id: Option<Uuid>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub size_gib: u32,
    pub container: Option<String>,
    pub availability_zone: Option<String>,
    pub host: Option<String>,
    pub encryption_key_id: Option<Uuid>,
    /// None: now.
    pub data_timestamp: Option<i64>,
}

/// Inserts a backup in status `creating`; returns it.
pub async fn insert(tx: &mut Tx, new: NewBackup) -> Result<Backup> {
    let now = now_us();
    let backup = Backup {
        id: new.id,
        user_id: new.user_id,
        project_id: new.project_id,
        volume_id: new.volume_id,
        snapshot_id: new.snapshot_id,
        parent_id: new.parent_id,
        name: new.name,
        description: new.description,
        status: status::CREATING.to_owned(),
        fail_reason: None,
        size_gib: new.size_gib,
        object_count: 0,
        container: new.container,
        availability_zone: new.availability_zone,
        host: new.host,
        service_metadata: None,
        restore_volume_id: None,
        encryption_key_id: new.encryption_key_id,
        data_timestamp: new.data_timestamp.unwrap_or(now),
        created_at: now,
        updated_at: None,
    };
    tx.execute(
        "INSERT INTO backups (id, user_id, project_id, volume_id, snapshot_id, parent_id, name, description, \
         status, size_gib, object_count, container, availability_zone, host, encryption_key_id, \
         data_timestamp, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?)",
        params![
            backup.id,
            &backup.user_id,
            &backup.project_id,
            backup.volume_id,
            backup.snapshot_id,
            backup.parent_id,
            &backup.name,
            &backup.description,
            &backup.status,
            backup.size_gib,
            &backup.container,
            &backup.availability_zone,
            &backup.host,
            backup.encryption_key_id,
            backup.data_timestamp,
            backup.created_at,
        ],
    )
    .await?;
    Ok(backup)
}

/// Inserts a backup that was made elsewhere, or before the database was lost, as it is. A row of
/// the same id that is marked deleted makes room for it.
pub async fn import(tx: &mut Tx, backup: &Backup) -> Result<()> {
    let sql = "DELETE FROM backups WHERE id = ? AND deleted_at IS NOT NULL";
    tx.execute(sql, params![backup.id]).await?;
    let sql = format!(
        "INSERT INTO backups ({COLUMNS}) VALUES ({})",
        placeholders(21)
    );
    let values = params![
        backup.id,
        &backup.user_id,
        &backup.project_id,
        backup.volume_id,
        backup.snapshot_id,
        backup.parent_id,
        &backup.name,
        &backup.description,
        &backup.status,
        &backup.fail_reason,
        backup.size_gib,
        i64::try_from(backup.object_count).unwrap_or(i64::MAX),
        &backup.container,
        &backup.availability_zone,
        &backup.host,
        &backup.service_metadata,
        backup.restore_volume_id,
        backup.encryption_key_id,
        backup.data_timestamp,
        backup.created_at,
        backup.updated_at,
    ];
    tx.execute(&sql, values).await?;
    Ok(())
}

/// Whether a row of this id is left of a deleted backup of another project than `project_id`.
pub async fn deleted_elsewhere(tx: &mut Tx, id: Uuid, project_id: &str) -> Result<bool> {
    let sql = "SELECT id FROM backups WHERE id = ? AND project_id <> ? AND deleted_at IS NOT NULL";
    Ok(tx
        .fetch_optional(sql, params![id, project_id])
        .await?
        .is_some())
}

/// The backup `id`, deleted or not.
pub(crate) async fn even_deleted(tx: &mut Tx, id: Uuid) -> Result<Option<Backup>> {
    let sql = format!("SELECT {COLUMNS} FROM backups WHERE id = ?");
    let row = tx.fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Backup::from_row).transpose()
}

/// The live backup `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<Backup>> {
    let sql = format!("SELECT {COLUMNS} FROM backups WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Backup::from_row).transpose()
}

/// The live backups of a volume in a project, newest data first.
pub async fn of_volume<'a>(
    from: impl Into<Source<'a>>,
    volume_id: Uuid,
    project_id: &str,
) -> Result<Vec<Backup>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM backups WHERE volume_id = ? AND deleted_at IS NULL AND project_id = ? \
         ORDER BY data_timestamp DESC, created_at DESC"
    );
    let rows = from
        .into()
        .fetch_all(&sql, params![volume_id, project_id])
        .await?;
    rows.iter().map(Backup::from_row).collect()
}

/// How many live backups are the difference to `id`.
pub async fn count_dependents<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<u64> {
    let sql = "SELECT COUNT(*) AS n FROM backups WHERE parent_id = ? AND deleted_at IS NULL";
    from.into().fetch_one(sql, params![id]).await?.get("n")
}

/// Those of `ids` that have live dependents.
pub async fn with_dependents<'a>(
    from: impl Into<Source<'a>>,
    ids: &[Uuid],
) -> Result<HashSet<Uuid>> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = format!(
        "SELECT DISTINCT parent_id FROM backups WHERE parent_id IN ({}) AND deleted_at IS NULL",
        placeholders(ids.len())
    );
    let values: Vec<_> = ids.iter().map(Value::from).collect();
    let rows = from.into().fetch_all(&sql, &values).await?;
    rows.iter().map(|row| row.get("parent_id")).collect()
}

/// Marks the backup deleted and drops its metadata: the last record of a delete flow.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<Outcome> {
    let outcome = Change::backup(id)
        .status(status::DELETED)
        .set("deleted_at = ?", now_us())
        .apply(tx)
        .await?;
    metadata::delete_all(tx, metadata::Kind::Backup, id).await?;
    Ok(outcome)
}
