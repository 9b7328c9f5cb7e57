//! Table `volume_transfers`: volumes offered to whoever has the key.

use database::{Result, Row, Tx, now_us, params};
use uuid::Uuid;

use super::Source;

/// One offer that nobody has accepted or withdrawn yet.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub id: Uuid,
    pub volume_id: Uuid,
    pub name: Option<String>,
    pub salt: String,
    /// What the key hashes to with the salt, in hex. The key is not kept.
    pub key_hash: String,
    /// The snapshots stay behind.
    pub no_snapshots: bool,
    pub source_project_id: String,
    pub destination_project_id: Option<String>,
    pub accepted: bool,
    pub created_at: i64,
}

pub(crate) const COLUMNS: &str = "id, volume_id, name, salt, key_hash, no_snapshots, source_project_id, \
    destination_project_id, accepted, created_at";

impl Transfer {
    /// The row of a select of [`COLUMNS`].
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        Ok(Transfer {
            id: row.get("id")?,
            volume_id: row.get("volume_id")?,
            name: row.get("name")?,
            salt: row.get("salt")?,
            key_hash: row.get("key_hash")?,
            no_snapshots: row.get("no_snapshots")?,
            source_project_id: row.get("source_project_id")?,
            destination_project_id: row.get("destination_project_id")?,
            accepted: row.get("accepted")?,
            created_at: row.get("created_at")?,
        })
    }
}

/// Inserts an offer.
pub async fn insert(tx: &mut Tx, new: &Transfer) -> Result<()> {
    let sql = "INSERT INTO volume_transfers (id, volume_id, name, salt, key_hash, no_snapshots, source_project_id, \
               accepted, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = params![
        new.id,
        new.volume_id,
        &new.name,
        &new.salt,
        &new.key_hash,
        new.no_snapshots,
        &new.source_project_id,
        new.accepted,
        new.created_at,
    ];
    tx.execute(sql, values).await?;
    Ok(())
}

/// The open offer `id`.
pub async fn get<'a>(from: impl Into<Source<'a>>, id: Uuid) -> Result<Option<Transfer>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_transfers WHERE id = ? AND deleted_at IS NULL");
    let row = from.into().fetch_optional(&sql, params![id]).await?;
    row.as_ref().map(Transfer::from_row).transpose()
}

/// Ends an offer: withdrawn, or accepted by a project. Whether it was still open.
pub async fn end(tx: &mut Tx, id: Uuid, accepted_by: Option<&str>) -> Result<bool> {
    let now = now_us();
    let sql = "UPDATE volume_transfers SET destination_project_id = ?, accepted = ?, updated_at = ?, deleted_at = ? \
               WHERE id = ? AND deleted_at IS NULL";
    let values = params![accepted_by, accepted_by.is_some(), now, now, id];
    Ok(tx.execute(sql, values).await? > 0)
}
