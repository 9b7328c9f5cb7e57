//! Table `volume_clusters`: managers of several hosts that serve the same back-end.

use database::{Result, Row, Tx, now_us, params};

use super::Source;

/// A cluster, as its services made it known.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// `cluster@backend`.
    pub name: String,
    pub binary: String,
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    pub created_at: i64,
    pub updated_at: Option<i64>,
}

const COLUMNS: &str = "name, binary_name, disabled, disabled_reason, created_at, updated_at";

impl Cluster {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Cluster {
            name: row.get("name")?,
            binary: row.get("binary_name")?,
            disabled: row.get("disabled")?,
            disabled_reason: row.get("disabled_reason")?,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
        })
    }
}

/// Every known cluster, by name.
pub async fn list<'a>(from: impl Into<Source<'a>>) -> Result<Vec<Cluster>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_clusters ORDER BY name, binary_name");
    let rows = from.into().fetch_all(&sql, params![]).await?;
    rows.iter().map(Cluster::from_row).collect()
}

/// Makes the cluster known unless it is.
pub async fn ensure(tx: &mut Tx, name: &str, binary: &str) -> Result<()> {
    let sql = "SELECT name FROM volume_clusters WHERE name = ? AND binary_name = ?";
    if tx
        .fetch_optional(sql, params![name, binary])
        .await?
        .is_none()
    {
        let sql = "INSERT INTO volume_clusters (name, binary_name, disabled, created_at) VALUES (?, ?, 0, ?)";
        tx.execute(sql, params![name, binary, now_us()]).await?;
    }
    Ok(())
}

/// Enables or disables a cluster; whether it is known.
pub async fn set_disabled(
    tx: &mut Tx,
    name: &str,
    binary: &str,
    disabled: bool,
    reason: Option<&str>,
) -> Result<bool> {
    let sql = "UPDATE volume_clusters SET disabled = ?, disabled_reason = ?, updated_at = ? \
               WHERE name = ? AND binary_name = ?";
    let values = params![disabled, reason, now_us(), name, binary];
    Ok(tx.execute(sql, values).await? > 0)
}
