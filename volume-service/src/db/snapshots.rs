//! Table `snapshots`.

use database::{Result, Row, Tx, Value, now_us, params};
use uuid::Uuid;

use super::{Change, Outcome, Source, metadata, placeholders, status};

/// One live snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub volume_id: Uuid,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    /// `0%` … `100%`.
    pub progress: Option<String>,
    /// The volume's size when the snapshot was made.
    pub size_gib: u32,
    pub volume_type_id: Uuid,
    pub consumes_quota: bool,
    /// The group snapshot it is a part of.
    pub group_snapshot_id: Option<Uuid>,
    pub created_at: i64,
    pub updated_at: Option<i64>,
}

pub(crate) const COLUMNS: &str = "id, user_id, project_id, volume_id, name, description, status, progress, \
    size_gib, volume_type_id, consumes_quota, group_snapshot_id, created_at, updated_at";

impl Snapshot {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(Snapshot {
            id: row.get("id")?,
            user_id: row.get("user_id")?,
            project_id: row.get("project_id")?,
            volume_id: row.get("volume_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            status: row.get("status")?,
            progress: row.get("progress")?,
            size_gib: row.get("size_gib")?,
            volume_type_id: row.get("volume_type_id")?,
            consumes_quota: row.get("consumes_quota")?,
            group_snapshot_id: row.get("group_snapshot_id")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
        })
    }
}

/// A new snapshot, as the API inserts it: status `creating`.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub volume_id: Uuid,
    pub name: Option<String>,
    pub description: Option<String>,
    pub size_gib: u32,
    pub volume_type_id: Uuid,
    pub consumes_quota: bool,
}

/// Inserts a snapshot in status `creating`; returns it.
pub async fn insert(tx: &mut Tx, new: NewSnapshot) -> Result<Snapshot> {
    let snapshot = Snapshot {
        id: new.id,
        user_id: new.user_id,
        project_id: new.project_id,
        volume_id: new.volume_id,
        name: new.name,
        description: new.description,
        status: status::CREATING.to_owned(),
        progress: Some("0%".to_owned()),
        size_gib: new.size_gib,
        volume_type_id: new.volume_type_id,
        consumes_quota: new.consumes_quota,
        group_snapshot_id: None,
        created_at: now_us(),
        updated_at: None,
    };
    tx.execute(
        "INSERT INTO snapshots (id, user_id, project_id, volume_id, name, description, status, progress, \
         size_gib, volume_type_id, consumes_quota, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            snapshot.id,
            &snapshot.user_id,
            &snapshot.project_id,
            snapshot.volume_id,
            &snapshot.name,
            &snapshot.description,
            &snapshot.status,
            &snapshot.progress,
            snapshot.size_gib,
            snapshot.volume_type_id,
            snapshot.consumes_quota,
            snapshot.created_at,
        ],
    )
    .await?;
    Ok(snapshot)
}

/// The snapshot `id` and whether it is deleted.
pub(crate) async fn even_deleted(tx: &mut Tx, id: Uuid) -> Result<Option<(Snapshot, bool)>> {
    let sql = format!("SELECT {COLUMNS}, deleted_at FROM snapshots WHERE id = ?");
    let Some(row) = tx.fetch_optional(&sql, params![id]).await? else {
        return Ok(None);
    };
    let deleted_at: Option<i64> = row.get("deleted_at")?;
    Ok(Some((Snapshot::from_row(&row)?, deleted_at.is_some())))
}

/// The live snapshot `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<Snapshot>> {
    let sql = format!("SELECT {COLUMNS} FROM snapshots WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Snapshot::from_row).transpose()
}

/// The live snapshots of a volume, newest first.
pub async fn of_volume<'a>(from: impl Into<Source<'a>>, volume_id: Uuid) -> Result<Vec<Snapshot>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM snapshots WHERE volume_id = ? AND deleted_at IS NULL ORDER BY created_at DESC, id DESC"
    );
    let rows = from.into().fetch_all(&sql, params![volume_id]).await?;
    rows.iter().map(Snapshot::from_row).collect()
}

/// Which of `ids` are live snapshots.
pub async fn live_ids<'a>(from: impl Into<Source<'a>>, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let list = placeholders(ids.len());
    let sql = format!("SELECT id FROM snapshots WHERE id IN ({list}) AND deleted_at IS NULL");
    let values: Vec<_> = ids.iter().map(Value::from).collect();
    let rows = from.into().fetch_all(&sql, &values).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// Puts every live snapshot of a volume that is in one of `expected` into `to`; returns how many.
pub async fn change_all_of_volume(
    tx: &mut Tx,
    volume_id: Uuid,
    expected: &[&str],
    to: &str,
) -> Result<u64> {
    let sql = format!(
        "UPDATE snapshots SET status = ?, updated_at = ? WHERE volume_id = ? AND deleted_at IS NULL AND status IN ({})",
        placeholders(expected.len())
    );
    let mut values = params![to, now_us(), volume_id].to_vec();
    values.extend(expected.iter().map(|status| Value::from(*status)));
    tx.execute(&sql, &values).await
}

/// Marks the snapshot deleted and drops its metadata: the last record of a delete flow.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<Outcome> {
    let outcome = Change::snapshot(id)
        .status(status::DELETED)
        .set("deleted_at = ?", now_us())
        .apply(tx)
        .await?;
    metadata::delete_all(tx, metadata::Kind::Snapshot, id).await?;
    metadata::delete_all(tx, metadata::Kind::SnapshotImage, id).await?;
    Ok(outcome)
}
