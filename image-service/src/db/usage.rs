//! Sums over live images: what a project uses of its limits. Nothing is kept, so nothing drifts.

use database::{Database, Result, params};

/// What one project uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of data of active and deactivated images.
    pub size_bytes: u64,
    pub images: u64,
    /// Images that are receiving data.
    pub uploading: u64,
}

pub async fn of_project(database: &Database, owner: &str) -> Result<Usage> {
    let sql = "SELECT COALESCE(SUM(size_bytes), 0) AS bytes, COUNT(*) AS images, \
        COALESCE(SUM(CASE WHEN status IN ('saving', 'uploading', 'importing') THEN 1 ELSE 0 END), 0) AS uploading \
        FROM images WHERE deleted_at IS NULL AND owner = ?";
    let row = database.fetch_one(sql, params![owner]).await?;
    Ok(Usage {
        size_bytes: row.get("bytes")?,
        images: row.get("images")?,
        uploading: row.get("uploading")?,
    })
}
