//! Table `group_snapshots`, and which snapshots are a part of one.

use database::{Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::snapshots::{self, Snapshot};
use super::{Change, Source, status};

/// One live group snapshot.
#[derive(Debug, Clone)]
pub struct GroupSnapshot {
    pub id: Uuid,
    pub user_id: String,
    pub project_id: String,
    pub group_id: Uuid,
    pub group_type_id: Uuid,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: String,
    pub created_at: i64,
}

pub(crate) const COLUMNS: &str = "id, user_id, project_id, group_id, group_type_id, name, description, status, \
    created_at";

impl GroupSnapshot {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(GroupSnapshot {
            id: row.get("id")?,
            user_id: row.get("user_id")?,
            project_id: row.get("project_id")?,
            group_id: row.get("group_id")?,
            group_type_id: row.get("group_type_id")?,
            name: row.get("name")?,
            description: row.get("description")?,
            status: row.get("status")?,
            created_at: row.get("created_at")?,
        })
    }
}

/// Inserts a group snapshot.
pub async fn insert(tx: &mut Tx, new: &GroupSnapshot) -> Result<()> {
    let sql = "INSERT INTO group_snapshots (id, user_id, project_id, group_id, group_type_id, name, description, \
               status, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = params![
        new.id,
        &new.user_id,
        &new.project_id,
        new.group_id,
        new.group_type_id,
        &new.name,
        &new.description,
        &new.status,
        new.created_at,
    ];
    tx.execute(sql, values).await?;
    Ok(())
}

/// The group snapshot `id`, deleted or not.
pub(crate) async fn even_deleted(tx: &mut Tx, id: Uuid) -> Result<Option<GroupSnapshot>> {
    let sql = format!("SELECT {COLUMNS} FROM group_snapshots WHERE id = ?");
    let row = tx.fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(GroupSnapshot::from_row).transpose()
}

/// The live group snapshot `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<GroupSnapshot>> {
    let sql = format!("SELECT {COLUMNS} FROM group_snapshots WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(GroupSnapshot::from_row).transpose()
}

/// Whether a group has any.
pub async fn any_of_group(tx: &mut Tx, group_id: Uuid) -> Result<bool> {
    let sql = "SELECT id FROM group_snapshots WHERE group_id = ? AND deleted_at IS NULL LIMIT 1";
    Ok(tx.fetch_optional(sql, params![group_id]).await?.is_some())
}

/// The live snapshots of a group snapshot, oldest first.
pub async fn members<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Vec<Snapshot>> {
    let sql = format!(
        "SELECT {} FROM snapshots WHERE group_snapshot_id = ? AND deleted_at IS NULL ORDER BY created_at, id",
        snapshots::COLUMNS
    );
    let rows = from.into().fetch_all(&sql, params![id]).await?;
    rows.iter().map(Snapshot::from_row).collect()
}

/// Makes a snapshot a part of the group snapshot.
pub async fn add_snapshot(tx: &mut Tx, id: Uuid, snapshot_id: Uuid) -> Result<()> {
    Change::snapshot(snapshot_id)
        .set("group_snapshot_id = ?", id)
        .apply(tx)
        .await?;
    Ok(())
}

/// Marks the group snapshot deleted.
pub async fn delete(tx: &mut Tx, id: Uuid) -> Result<()> {
    let change = Change::group_snapshot(id)
        .status(status::DELETED)
        .set("deleted_at = ?", now_us());
    change.apply(tx).await?;
    Ok(())
}
