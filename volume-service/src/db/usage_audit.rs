//! What existed in a period, also what has been deleted since: volumes, snapshots and backups.

use database::{Result, Tx, params};
use uuid::Uuid;

use crate::notices::Period;

/// What is audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audited {
    Volume,
    Snapshot,
    Backup,
}

impl Audited {
    pub const ALL: [Audited; 3] = [Audited::Volume, Audited::Snapshot, Audited::Backup];

    /// As event types begin.
    pub fn kind(self) -> &'static str {
        match self {
            Audited::Volume => "volume",
            Audited::Snapshot => "snapshot",
            Audited::Backup => "backup",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Audited::Volume => "volumes",
            Audited::Snapshot => "snapshots",
            Audited::Backup => "backups",
        }
    }
}

/// One that existed.
#[derive(Debug, Clone, Copy)]
pub struct Existed {
    pub id: Uuid,
    pub created_at: i64,
    pub deleted_at: Option<i64>,
}

/// The next ones after the id, by id.
pub async fn existed(
    tx: &mut Tx,
    what: Audited,
    period: Period,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Existed>> {
    let sql = format!(
        "SELECT id, created_at, deleted_at FROM {} WHERE created_at < ? \
         AND (deleted_at IS NULL OR deleted_at > ?) AND id > ? ORDER BY id LIMIT {limit}",
        what.table()
    );
    let after = after.unwrap_or_default();
    let rows = tx
        .fetch_all(&sql, params![period.end_us, period.begin_us, after])
        .await?;
    let existed = |row: &database::Row| {
        Ok(Existed {
            id: row.get("id")?,
            created_at: row.get("created_at")?,
            deleted_at: row.get("deleted_at")?,
        })
    };
    rows.iter().map(existed).collect()
}
