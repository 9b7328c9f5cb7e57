//! What monitors know: room in a pool, as Cinder counts it, and where they are.

use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::watch;

use super::CephStore;
use super::connection::Connection;
use super::native::Errno;
use crate::{Capacity, Error, Result};

#[derive(Deserialize)]
struct Df {
    pools: Vec<PoolDf>,
}

#[derive(Deserialize)]
struct PoolDf {
    name: String,
    stats: PoolStats,
}

#[derive(Deserialize)]
struct PoolStats {
    stored: Option<u64>,
    bytes_used: u64,
    max_avail: u64,
}

#[derive(Deserialize)]
struct Quota {
    quota_max_bytes: u64,
}

#[derive(Deserialize)]
struct MonitorMap {
    mons: Vec<Monitor>,
}

#[derive(Deserialize)]
struct Monitor {
    /// `10.0.0.1:6789/0`, of the first version of the protocol, which libvirt hands to QEMU.
    addr: String,
}

/// Seconds that a dead client stays fenced: longer than its requests can be on their way.
const FENCE_S: f64 = 600.0;

impl CephStore {
    /// Host and port of each monitor, IPv6 without brackets.
    pub async fn monitors(&self) -> Result<Vec<(String, u16)>> {
        let connection = self.client.connection().await?;
        let dump = r#"{"prefix":"mon dump","format":"json"}"#.to_owned();
        let map: MonitorMap = self.ask(&connection, dump).await?;
        Ok(map
            .mons
            .iter()
            .filter_map(|one| address(&one.addr))
            .collect())
    }

    /// With a quota the pool's total is the quota; without, it is what it has and what it could
    /// get of the cluster (`report_dynamic_total_capacity`).
    pub(super) async fn room_in(&self, pool: &str) -> Result<Capacity> {
        let connection = self.client.connection().await?;
        let df = r#"{"prefix":"df","format":"json"}"#.to_owned();
        let df: Df = self.ask(&connection, df).await?;
        let found = df.pools.into_iter().find(|one| one.name == pool);
        let stats = found.ok_or_else(|| Error::NotFound(format!("pool {pool}")))?;
        let stats = stats.stats;
        let quota = serde_json::json!({
            "prefix": "osd pool get-quota", "pool": pool, "format": "json",
        });
        let quota: Quota = self.ask(&connection, quota.to_string()).await?;
        Ok(capacity(&stats, quota.quota_max_bytes))
    }

    /// The addresses by which the cluster knows this client, for [`CephStore::fence`]. They change
    /// with each new connection.
    pub fn client_addresses(&self) -> watch::Receiver<String> {
        self.client.addresses.subscribe()
    }

    /// Ends what the cluster still holds for a client that is known to be dead, by its addresses:
    /// without that, its open images are in use and their locks its own for half a minute.
    pub async fn fence(&self, addresses: &str) -> Result<()> {
        let connection = self.client.connection().await?;
        let one_by_one = addresses.trim_matches(['[', ']']).split(',');
        for address in one_by_one
            .map(str::trim)
            .filter(|address| !address.is_empty())
        {
            let command = |verb: &str, operation: &str| {
                let command = serde_json::json!({
                    "prefix": verb, operation: "add", "addr": address, "expire": FENCE_S,
                });
                command.to_string()
            };
            let cluster = Arc::clone(&connection.cluster);
            let (new, old) = (
                command("osd blocklist", "blocklistop"),
                // Before Ceph 16.
                command("osd blacklist", "blacklistop"),
            );
            let fence = move || match cluster.monitor_command(&new) {
                Err(Errno::INVAL) => cluster.monitor_command(&old),
                other => other,
            };
            let what = format!("the dead client {address}");
            self.client.call(&connection, what, fence).await?;
        }
        Ok(())
    }

    /// Lets nothing that a fenced client has sent happen after what this client asks from now on:
    /// an OSD that has not heard of the fence yet may still do it.
    pub async fn come_after_fences(&self) -> Result<()> {
        let connection = self.client.connection().await?;
        let cluster = Arc::clone(&connection.cluster);
        let wait = move || cluster.wait_for_latest_map();
        self.client.call(&connection, "the OSD map", wait).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        connection: &Arc<Connection>,
        command: String,
    ) -> Result<T> {
        let cluster = Arc::clone(&connection.cluster);
        let call = move || cluster.monitor_command(&command);
        let answer = self.client.call(connection, "the monitor", call).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| Error::Unavailable(format!("the monitor's answer: {error}")))
    }
}

fn address(text: &str) -> Option<(String, u16)> {
    let (address, _nonce) = text.split_once('/').unwrap_or((text, ""));
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

fn capacity(stats: &PoolStats, quota_bytes: u64) -> Capacity {
    let used_bytes = stats.stored.unwrap_or(stats.bytes_used);
    if quota_bytes > 0 {
        let free_bytes = quota_bytes.saturating_sub(used_bytes).min(stats.max_avail);
        return Capacity {
            total_bytes: quota_bytes,
            free_bytes,
            used_bytes,
        };
    }
    Capacity {
        total_bytes: stats.max_avail.saturating_add(used_bytes),
        free_bytes: stats.max_avail,
        used_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitors_have_addresses_of_both_kinds() {
        let of = |text| address(text);
        assert_eq!(of("10.0.0.1:6789/0"), Some(("10.0.0.1".to_owned(), 6789)));
        assert_eq!(of("[::1]:6789/0"), Some(("::1".to_owned(), 6789)));
        assert_eq!(of("nowhere"), None);
    }

    #[test]
    fn a_quota_limits_a_pool() {
        let stats = PoolStats {
            stored: Some(30),
            bytes_used: 90,
            max_avail: 100,
        };
        let room = |quota| {
            let capacity = capacity(&stats, quota);
            (capacity.total_bytes, capacity.free_bytes)
        };
        assert_eq!(room(0), (130, 100));
        assert_eq!(room(1000), (1000, 100));
        assert_eq!(room(50), (50, 20));
        assert_eq!(room(20), (20, 0));
    }
}
