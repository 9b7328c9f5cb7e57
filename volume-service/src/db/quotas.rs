//! Quotas: limits as they were set, and usage summed from live rows.
//!
//! There is no usage table: usage is what the rows say, read under the project's lock row in the
//! transaction that inserts. The sums run over covering indexes.

use std::collections::{BTreeMap, HashMap};

use database::{Result, Tx, params};
use uuid::Uuid;

use super::Source;

/// Limits by resource name; -1 is unlimited.
pub type Limits = BTreeMap<String, i64>;

/// A number of things and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub count: i64,
    pub size_gib: i64,
}

/// What a project uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// By volume type.
    pub volumes: HashMap<Uuid, Amount>,
    /// By volume type.
    pub snapshots: HashMap<Uuid, Amount>,
    /// Volumes that are being retyped, by the type they go to; they are in `volumes`, too.
    pub retyping: HashMap<Uuid, Amount>,
    pub backups: Amount,
}

/// Lets the quota-changing transactions of one project run one after another: on servers that
/// write concurrently, the row lock of this update is held until the transaction ends.
pub async fn lock(tx: &mut Tx, project_id: &str) -> Result<()> {
    let sql = "UPDATE quota_locks SET generation = generation + 1 WHERE project_id = ?";
    if tx.execute(sql, params![project_id]).await? == 0 {
        let sql = "INSERT INTO quota_locks (project_id, generation) VALUES (?, 1)";
        tx.execute(sql, params![project_id]).await?;
    }
    Ok(())
}

/// What `project_id` uses of volumes and snapshots.
pub async fn volume_usage<'a>(from: impl Into<Source<'a>>, project_id: &str) -> Result<Usage> {
    let mut from = from.into();
    let mut usage = Usage::default();
    // A volume that is being extended counts with the size it will have.
    for (table, counted_gib, amounts) in [
        (
            "volumes",
            "COALESCE(extend_to_gib, size_gib)",
            &mut usage.volumes,
        ),
        ("snapshots", "size_gib", &mut usage.snapshots),
    ] {
        let sql = format!(
            "SELECT volume_type_id, COUNT(*) AS n, COALESCE(SUM({counted_gib}), 0) AS gib FROM {table} \
             WHERE project_id = ? AND deleted_at IS NULL AND consumes_quota = 1 GROUP BY volume_type_id"
        );
        for row in from.fetch_all(&sql, params![project_id]).await? {
            let amount = Amount {
                count: row.get("n")?,
                size_gib: row.get("gib")?,
            };
            amounts.insert(row.get("volume_type_id")?, amount);
        }
    }
    let sql = "SELECT new_type_id, COUNT(*) AS n, COALESCE(SUM(size_gib), 0) AS gib FROM volume_placements \
               JOIN volumes ON volumes.id = volume_placements.volume_id WHERE new_type_id IS NOT NULL \
               AND project_id = ? AND deleted_at IS NULL AND consumes_quota = 1 GROUP BY new_type_id";
    for row in from.fetch_all(sql, params![project_id]).await? {
        let amount = Amount {
            count: row.get("n")?,
            size_gib: row.get("gib")?,
        };
        usage.retyping.insert(row.get("new_type_id")?, amount);
    }
    Ok(usage)
}

/// What `project_id` uses of backups.
pub async fn backup_usage<'a>(from: impl Into<Source<'a>>, project_id: &str) -> Result<Amount> {
    let sql = "SELECT COUNT(*) AS n, COALESCE(SUM(size_gib), 0) AS gib FROM backups \
               WHERE project_id = ? AND deleted_at IS NULL";
    let row = from.into().fetch_one(sql, params![project_id]).await?;
    Ok(Amount {
        count: row.get("n")?,
        size_gib: row.get("gib")?,
    })
}

/// The limits set for a project.
pub async fn of_project<'a>(from: impl Into<Source<'a>>, project_id: &str) -> Result<Limits> {
    let sql = "SELECT resource, hard_limit FROM quotas WHERE project_id = ?";
    let rows = from.into().fetch_all(sql, params![project_id]).await?;
    rows.iter()
        .map(|row| Ok((row.get("resource")?, row.get("hard_limit")?)))
        .collect()
}

/// The limits set for a quota class (only `default` is used).
pub async fn of_class<'a>(from: impl Into<Source<'a>>, class: &str) -> Result<Limits> {
    let sql = "SELECT resource, hard_limit FROM quota_classes WHERE class_name = ?";
    let rows = from.into().fetch_all(sql, params![class]).await?;
    rows.iter()
        .map(|row| Ok((row.get("resource")?, row.get("hard_limit")?)))
        .collect()
}

/// Sets limits of a project.
pub async fn set_of_project(tx: &mut Tx, project_id: &str, limits: &Limits) -> Result<()> {
    for (resource, limit) in limits {
        let sql = "UPDATE quotas SET hard_limit = ? WHERE project_id = ? AND resource = ?";
        if tx
            .execute(sql, params![*limit, project_id, resource])
            .await?
            == 0
        {
            let sql = "INSERT INTO quotas (project_id, resource, hard_limit) VALUES (?, ?, ?)";
            tx.execute(sql, params![project_id, resource, *limit])
                .await?;
        }
    }
    Ok(())
}

/// Sets limits of a quota class.
pub async fn set_of_class(tx: &mut Tx, class: &str, limits: &Limits) -> Result<()> {
    for (resource, limit) in limits {
        let sql = "UPDATE quota_classes SET hard_limit = ? WHERE class_name = ? AND resource = ?";
        if tx.execute(sql, params![*limit, class, resource]).await? == 0 {
            let sql =
                "INSERT INTO quota_classes (class_name, resource, hard_limit) VALUES (?, ?, ?)";
            tx.execute(sql, params![class, resource, *limit]).await?;
        }
    }
    Ok(())
}

/// Takes a project back to the defaults.
pub async fn delete_of_project(tx: &mut Tx, project_id: &str) -> Result<()> {
    tx.execute(
        "DELETE FROM quotas WHERE project_id = ?",
        params![project_id],
    )
    .await?;
    Ok(())
}

/// Takes limits along when their resource gets another name (a volume type was renamed).
pub async fn rename_resource(tx: &mut Tx, from: &str, to: &str) -> Result<()> {
    for table in ["quotas", "quota_classes"] {
        let delete = format!("DELETE FROM {table} WHERE resource = ?");
        tx.execute(&delete, params![to]).await?;
        let rename = format!("UPDATE {table} SET resource = ? WHERE resource = ?");
        tx.execute(&rename, params![to, from]).await?;
    }
    Ok(())
}
