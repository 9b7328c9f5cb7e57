//! Bounded history: flows that ended long ago are deleted.

use std::time::Duration;

use database::{Database, Row, Value, now_us, params};

/// How often a worker prunes.
const PAUSE: Duration = Duration::from_secs(60);
/// Flows deleted in one transaction: the writer is not held up for long.
const BATCH: usize = 100;
const DAY_US: i64 = 86_400_000_000;

/// What stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) days: u32,
    pub(crate) newest: u32,
}

/// Prunes now and then, for ever.
pub(crate) async fn run(database: &Database, keep: Keep) {
    loop {
        tokio::time::sleep(PAUSE).await;
        match prune(database, keep).await {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, "ended flows were pruned"),
            Err(error) => tracing::warn!(%error, "ended flows were not pruned"),
        }
    }
}

/// Deletes the ended flows that are not to be kept; returns how many.
pub(crate) async fn prune(database: &Database, keep: Keep) -> Result<usize, database::Error> {
    let newest = "SELECT finished_at FROM flows WHERE finished_at IS NOT NULL \
                  ORDER BY finished_at DESC LIMIT 1 OFFSET ?";
    let beyond = database
        .fetch_optional(newest, params![keep.newest])
        .await?;
    let beyond = beyond.map_or(Ok(i64::MIN), |row| row.get("finished_at"))?;
    let oldest = beyond.max(now_us() - i64::from(keep.days).saturating_mul(DAY_US));
    let sql =
        format!("SELECT id FROM flows WHERE finished_at <= ? ORDER BY finished_at LIMIT {BATCH}");
    let mut pruned = 0;
    loop {
        let rows = database.fetch_all(&sql, params![oldest]).await?;
        let Some(last) = rows.last() else {
            return Ok(pruned);
        };
        // Always as many placeholders, so that the statement stays prepared.
        let padding = std::iter::repeat_n(last, BATCH - rows.len());
        let id = |row: &Row| Ok(Value::Text(row.get::<String>("id")?));
        let ids = rows
            .iter()
            .chain(padding)
            .map(id)
            .collect::<Result<Vec<_>, database::Error>>()?;
        let marks = vec!["?"; BATCH].join(", ");
        let mut tx = database.begin().await?;
        tx.execute(
            &format!("DELETE FROM flow_atoms WHERE flow_id IN ({marks})"),
            &ids,
        )
        .await?;
        tx.execute(&format!("DELETE FROM flows WHERE id IN ({marks})"), &ids)
            .await?;
        tx.commit().await?;
        pruned += rows.len();
        if rows.len() < BATCH {
            return Ok(pruned);
        }
    }
}
