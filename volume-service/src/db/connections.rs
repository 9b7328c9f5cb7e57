//! Table `volume_connections`: how clients reach the images of a pool, as its manager says.

use database::{Result, Tx, now_us, params};

use super::Source;
use crate::connection::Connection;

/// Replaces what is known of a pool (`host@backend#pool`).
pub async fn report(tx: &mut Tx, pool_name: &str, connection: &Connection) -> Result<()> {
    let json = serde_json::to_string(connection)
        .map_err(|error| database::Error::Other(error.to_string()))?;
    let now = now_us();
    let sql = "UPDATE volume_connections SET connection = ?, reported_at = ? WHERE pool_name = ?";
    if tx.execute(sql, params![&json, now, pool_name]).await? == 0 {
        let sql =
            "INSERT INTO volume_connections (pool_name, connection, reported_at) VALUES (?, ?, ?)";
        tx.execute(sql, params![pool_name, &json, now]).await?;
    }
    Ok(())
}

/// How the images of a pool are reached; `None` until its manager has reported.
pub async fn of_pool<'a>(
    from: impl Into<Source<'a>>,
    pool_name: &str,
) -> Result<Option<Connection>> {
    let sql = "SELECT connection FROM volume_connections WHERE pool_name = ?";
    let row = from.into().fetch_optional(sql, params![pool_name]).await?;
    let Some(row) = row else { return Ok(None) };
    let json: String = row.get("connection")?;
    let parsed = serde_json::from_str(&json).map_err(|error| database::Error::Decode {
        column: "connection".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Some(parsed))
}
