//! The table `image_staging`: what is known of data that waits to be imported.

use database::{Database, Error, Result, Tx, now_us, params};
use image_formats::Inspection;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What staged data turned out to be when it came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedData {
    pub checksum: String,
    pub os_hash_value: String,
    pub inspection: Inspection,
}

impl StagedData {
    pub fn size_bytes(&self) -> u64 {
        self.inspection.size_bytes
    }
}

pub async fn insert(tx: &mut Tx, image_id: Uuid, data: &StagedData) -> Result<()> {
    let facts = serde_json::to_string(data).map_err(|error| Error::Other(error.to_string()))?;
    forget(tx, image_id).await?;
    let sql = "INSERT INTO image_staging (image_id, size_bytes, facts, created_at) \
        VALUES (?, ?, ?, ?)";
    let size = super::images::bytes_column(Some(data.size_bytes()));
    let values = params![image_id, size, facts, now_us()];
    tx.execute(sql, values).await.map(|_| ())
}

pub async fn find(database: &Database, image_id: Uuid) -> Result<Option<StagedData>> {
    let sql = "SELECT facts FROM image_staging WHERE image_id = ?";
    let Some(row) = database.fetch_optional(sql, params![image_id]).await? else {
        return Ok(None);
    };
    let facts: String = row.get("facts")?;
    let decoded = serde_json::from_str(&facts).map_err(|error| Error::Decode {
        column: "facts".to_owned(),
        reason: error.to_string(),
    });
    decoded.map(Some)
}

pub async fn forget(tx: &mut Tx, image_id: Uuid) -> Result<()> {
    let sql = "DELETE FROM image_staging WHERE image_id = ?";
    tx.execute(sql, params![image_id]).await.map(|_| ())
}
