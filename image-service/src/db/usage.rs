//! Sums over live images: what a project uses of its limits. Nothing is kept, so nothing drifts.

use database::{Database, Result, Row, Tx, params};

/// What one project uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of data of images, once for each location that keeps them.
    pub size_bytes: u64,
    /// Bytes of data that waits to be imported.
    pub staged_bytes: u64,
    pub images: u64,
    /// Images that are receiving data.
    pub uploading: u64,
}

const COUNTS: &str = "SELECT COUNT(*) AS images, \
    COALESCE(SUM(CASE WHEN status IN ('saving', 'uploading', 'importing') THEN 1 ELSE 0 END), 0) AS uploading, \
    COALESCE(SUM(CASE WHEN status IN ('uploading', 'importing') THEN size_bytes ELSE 0 END), 0) AS staged \
    FROM images WHERE deleted_at IS NULL AND owner = ?";
const BYTES: &str = "SELECT COALESCE(SUM(i.size_bytes), 0) AS bytes FROM images i \
    JOIN image_locations l ON l.image_id = i.id WHERE i.deleted_at IS NULL AND i.owner = ?";

pub async fn of_project(database: &Database, owner: &str) -> Result<Usage> {
    let counts = database.fetch_one(COUNTS, params![owner]).await?;
    let bytes = database.fetch_one(BYTES, params![owner]).await?;
    from_rows(&counts, &bytes)
}

/// As the transaction sees it, and as nobody else can change it: the project's lock row is held
/// until the end of the transaction.
pub async fn of_project_locked(tx: &mut Tx, owner: &str) -> Result<Usage> {
    let sql = "UPDATE image_quota_locks SET generation = generation + 1 WHERE project_id = ?";
    if tx.execute(sql, params![owner]).await? == 0 {
        let sql = "INSERT INTO image_quota_locks (project_id, generation) VALUES (?, 1)";
        tx.execute(sql, params![owner]).await?;
    }
    let counts = tx.fetch_one(COUNTS, params![owner]).await?;
    let bytes = tx.fetch_one(BYTES, params![owner]).await?;
    from_rows(&counts, &bytes)
}

fn from_rows(counts: &Row, bytes: &Row) -> Result<Usage> {
    Ok(Usage {
        size_bytes: bytes.get("bytes")?,
        staged_bytes: counts.get("staged")?,
        images: counts.get("images")?,
        uploading: counts.get("uploading")?,
    })
}
