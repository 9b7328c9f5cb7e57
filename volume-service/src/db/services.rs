//! Tables `volume_services` and `volume_pools`: who is alive, and what their pools can take.

use std::collections::HashMap;

use database::{Result, Row, Tx, now_us, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Source;

/// One process of one role on one host.
#[derive(Debug, Clone)]
pub struct Service {
    pub id: Uuid,
    /// `cinder-volume`, `cinder-scheduler`, `cinder-backup`: the names clients know.
    pub binary: String,
    /// `host@backend` of a manager, `host` of the others.
    pub host: String,
    pub availability_zone: String,
    pub disabled: bool,
    pub disabled_reason: Option<String>,
    /// `cluster@backend` of a manager that belongs to one.
    pub cluster_name: Option<String>,
    /// The operator allows no changes to its volumes.
    pub frozen: bool,
    /// The store that a backup service writes to.
    pub store_fsid: Option<String>,
    pub heartbeat_at: i64,
}

/// The binary names under which the roles report (`openstack volume service list`).
pub const VOLUME: &str = "cinder-volume";
pub const SCHEDULER: &str = "cinder-scheduler";
pub const BACKUP: &str = "cinder-backup";

const COLUMNS: &str = "id, binary_name, host, availability_zone, disabled, disabled_reason, cluster_name, frozen, store_fsid, heartbeat_at";

impl Service {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Service {
            id: row.get("id")?,
            binary: row.get("binary_name")?,
            host: row.get("host")?,
            availability_zone: row.get("availability_zone")?,
            disabled: row.get("disabled")?,
            disabled_reason: row.get("disabled_reason")?,
            cluster_name: row.get("cluster_name")?,
            frozen: row.get("frozen")?,
            store_fsid: row.get("store_fsid")?,
            heartbeat_at: row.get("heartbeat_at")?,
        })
    }

    /// Whether the last heartbeat is at most `down_time_s` old.
    pub fn is_up(&self, down_time_s: u32) -> bool {
        now_us().saturating_sub(self.heartbeat_at)
            <= i64::from(down_time_s).saturating_mul(1_000_000)
    }
}

/// What a manager reports of one pool (Cinder's driver stats).
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Capabilities {
    pub volume_backend_name: String,
    pub pool_name: String,
    pub vendor_name: String,
    pub driver_version: String,
    pub storage_protocol: String,
    /// GiB.
    pub total_capacity_gb: f64,
    pub free_capacity_gb: f64,
    pub allocated_capacity_gb: f64,
    pub provisioned_capacity_gb: f64,
    pub reserved_percentage: u32,
    pub max_over_subscription_ratio: f64,
    pub thin_provisioning_support: bool,
    #[serde(default)]
    pub thick_provisioning_support: bool,
    pub multiattach: bool,
    #[serde(default)]
    pub online_extend_support: bool,
    #[serde(rename = "QoS_support", default)]
    pub qos_support: bool,
    #[serde(default)]
    pub replication_enabled: bool,
    /// `up` or `down`.
    pub backend_state: String,
    /// Which store the pool is in: pools of one store can move volumes without copying them.
    #[serde(default)]
    pub location_info: String,
    /// Whether the pool takes a volume, as an expression (`capabilities.total_volumes < 10`).
    #[serde(default)]
    pub filter_function: Option<String>,
    /// How well it suits, 0 to 100, as an expression.
    #[serde(default)]
    pub goodness_function: Option<String>,
}

/// One pool with its last report.
#[derive(Debug, Clone)]
pub struct Pool {
    /// `host@backend#pool`.
    pub name: String,
    /// `host@backend`.
    pub service_host: String,
    pub capabilities: Capabilities,
    pub reported_at: i64,
}

/// Says that this service lives; the first time, registers it (enabled). Returns its id.
pub async fn heartbeat(
    tx: &mut Tx,
    binary: &str,
    host: &str,
    availability_zone: &str,
) -> Result<Uuid> {
    let now = now_us();
    let updated = tx
        .execute(
            "UPDATE volume_services SET heartbeat_at = ?, availability_zone = ? WHERE host = ? AND binary_name = ?",
            params![now, availability_zone, host, binary],
        )
        .await?;
    if updated > 0 {
        let sql = "SELECT id FROM volume_services WHERE host = ? AND binary_name = ?";
        return tx.fetch_one(sql, params![host, binary]).await?.get("id");
    }
    let id = Uuid::new_v4();
    tx.execute(
        "INSERT INTO volume_services (id, binary_name, host, availability_zone, disabled, created_at, heartbeat_at) \
         VALUES (?, ?, ?, ?, 0, ?, ?)",
        params![id, binary, host, availability_zone, now, now],
    )
    .await?;
    Ok(id)
}

/// Replaces the report of one pool. `name` is `host@backend#pool`.
pub async fn report_pool(tx: &mut Tx, name: &str, capabilities: &Capabilities) -> Result<()> {
    let service_host = name.split('#').next().unwrap_or(name);
    let json = serde_json::to_string(capabilities)
        .map_err(|error| database::Error::Other(error.to_string()))?;
    let now = now_us();
    let sql = "UPDATE volume_pools SET capabilities = ?, reported_at = ? WHERE name = ?";
    if tx.execute(sql, params![&json, now, name]).await? == 0 {
        let sql = "INSERT INTO volume_pools (name, service_host, capabilities, reported_at) VALUES (?, ?, ?, ?)";
        tx.execute(sql, params![name, service_host, &json, now])
            .await?;
    }
    Ok(())
}

/// Every known pool, by name.
pub async fn pools<'a>(from: impl Into<Source<'a>>) -> Result<Vec<Pool>> {
    let sql =
        "SELECT name, service_host, capabilities, reported_at FROM volume_pools ORDER BY name";
    let rows = from.into().fetch_all(sql, params![]).await?;
    let read = |row: &Row| {
        let json: String = row.get("capabilities")?;
        let capabilities =
            serde_json::from_str(&json).map_err(|error| database::Error::Decode {
                column: "capabilities".to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Pool {
            name: row.get("name")?,
            service_host: row.get("service_host")?,
            capabilities,
            reported_at: row.get("reported_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Every known service, by binary and host.
pub async fn list<'a>(from: impl Into<Source<'a>>) -> Result<Vec<Service>> {
    let sql = format!("SELECT {COLUMNS} FROM volume_services ORDER BY binary_name, host");
    let rows = from.into().fetch_all(&sql, params![]).await?;
    rows.iter().map(Service::from_row).collect()
}

/// Enables or disables a service; whether it is known.
pub async fn set_disabled(
    tx: &mut Tx,
    binary: &str,
    host: &str,
    disabled: bool,
    reason: Option<&str>,
) -> Result<bool> {
    let sql = "UPDATE volume_services SET disabled = ?, disabled_reason = ? WHERE host = ? AND binary_name = ?";
    Ok(tx
        .execute(sql, params![disabled, reason, host, binary])
        .await?
        > 0)
}

/// Freezes or thaws the manager of `host`; a frozen one takes no volumes. False: it was so, or is
/// not known.
pub async fn set_frozen(tx: &mut Tx, host: &str, frozen: bool) -> Result<bool> {
    let reason = frozen.then_some("frozen");
    let sql = "UPDATE volume_services SET frozen = ?, disabled = ?, disabled_reason = ? \
               WHERE host = ? AND binary_name = ? AND frozen <> ?";
    let values = params![frozen, frozen, reason, host, VOLUME, frozen];
    Ok(tx.execute(sql, values).await? > 0)
}

/// Whether the manager of `host` (`host@backend#pool`) is frozen.
pub async fn is_frozen<'a>(from: impl Into<Source<'a>>, host: &str) -> Result<bool> {
    let service_host = host.split('#').next().unwrap_or(host);
    let sql = "SELECT frozen FROM volume_services WHERE host = ? AND binary_name = ?";
    let row = from
        .into()
        .fetch_optional(sql, params![service_host, VOLUME])
        .await?;
    row.map_or(Ok(false), |row| row.get("frozen"))
}

/// Says which store the backup service of `host` writes to.
pub async fn set_store(tx: &mut Tx, host: &str, fsid: &str) -> Result<()> {
    let sql = "UPDATE volume_services SET store_fsid = ? WHERE host = ? AND binary_name = ?";
    tx.execute(sql, params![fsid, host, BACKUP]).await?;
    Ok(())
}

/// Says which cluster a service belongs to.
pub async fn set_cluster(
    tx: &mut Tx,
    binary: &str,
    host: &str,
    cluster_name: Option<&str>,
) -> Result<()> {
    let sql = "UPDATE volume_services SET cluster_name = ? WHERE host = ? AND binary_name = ?";
    tx.execute(sql, params![cluster_name, host, binary]).await?;
    Ok(())
}

/// Forgets the pools of `service_host` that are none of `names`: they were taken out of the
/// configuration.
pub async fn forget_pools(tx: &mut Tx, service_host: &str, names: &[String]) -> Result<()> {
    let sql = "SELECT name FROM volume_pools WHERE service_host = ?";
    for row in tx.fetch_all(sql, params![service_host]).await? {
        let name: String = row.get("name")?;
        if !names.contains(&name) {
            tx.execute("DELETE FROM volume_pools WHERE name = ?", params![name])
                .await?;
        }
    }
    Ok(())
}

/// The manager that serves `host` (`host@backend#pool`).
pub async fn of_host<'a>(from: impl Into<Source<'a>>, host: &str) -> Result<Option<Service>> {
    let service_host = host.split('#').next().unwrap_or(host);
    let sql = format!("SELECT {COLUMNS} FROM volume_services WHERE host = ? AND binary_name = ?");
    let row = from
        .into()
        .fetch_optional(&sql, params![service_host, VOLUME])
        .await?;
    row.as_ref().map(Service::from_row).transpose()
}

/// The clusters of the hosts (`host@backend`) that belong to one.
pub async fn clusters_by_host<'a>(from: impl Into<Source<'a>>) -> Result<HashMap<String, String>> {
    let sql = "SELECT host, cluster_name FROM volume_services WHERE cluster_name IS NOT NULL";
    let rows = from.into().fetch_all(sql, params![]).await?;
    rows.iter()
        .map(|row| Ok((row.get("host")?, row.get("cluster_name")?)))
        .collect()
}
