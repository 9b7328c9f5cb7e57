//! Sums over the volumes and snapshots of a manager.

use std::collections::BTreeMap;

use database::{Result, params};

use super::Source;

/// What a project has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    pub volumes: u64,
    pub volume_gib: u64,
    pub snapshots: u64,
    pub snapshot_gib: u64,
}

/// What projects have on the pools of `service_host` (`host@backend`), by project.
pub async fn holdings<'a>(
    from: impl Into<Source<'a>>,
    service_host: &str,
) -> Result<BTreeMap<String, Holdings>> {
    let mut from = from.into();
    let mut holdings: BTreeMap<String, Holdings> = BTreeMap::new();
    // The pools are host#pool; $ is what follows # in every character set.
    let (first, last) = (format!("{service_host}#"), format!("{service_host}$"));
    let sql = "SELECT project_id, COUNT(*) AS n, COALESCE(SUM(size_gib), 0) AS gib FROM volumes \
               WHERE host >= ? AND host < ? AND deleted_at IS NULL GROUP BY project_id";
    for row in from.fetch_all(sql, params![&first, &last]).await? {
        let project = holdings.entry(row.get("project_id")?).or_default();
        project.volumes = row.get("n")?;
        project.volume_gib = row.get("gib")?;
    }
    let sql = "SELECT snapshots.project_id AS project_id, COUNT(*) AS n, \
               COALESCE(SUM(snapshots.size_gib), 0) AS gib FROM snapshots \
               JOIN volumes ON volumes.id = snapshots.volume_id \
               WHERE volumes.host >= ? AND volumes.host < ? AND volumes.deleted_at IS NULL \
               AND snapshots.deleted_at IS NULL GROUP BY snapshots.project_id";
    for row in from.fetch_all(sql, params![&first, &last]).await? {
        let project = holdings.entry(row.get("project_id")?).or_default();
        project.snapshots = row.get("n")?;
        project.snapshot_gib = row.get("gib")?;
    }
    Ok(holdings)
}
