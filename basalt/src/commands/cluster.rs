//! `basalt store --backend NAME`: a back-end's pool in a Ceph cluster, which needs no server: it is
//! asked itself.

use std::collections::HashSet;
use std::io::{Write, stdout};
use std::time::Duration;

use database::Database;
use storage::ImageStore;
use storage::ceph::CephStore;
use volume_service::pool_check::{Finding, PoolCheck};

use super::store::{damaged, print_usage, usage_json};
use crate::config::ceph::{self, Reach};
use crate::config::settings::required;
use crate::config::{Config, ConfigError, backends};
use crate::error::{Error, Result};
use crate::store_calls::StoreUsage;

/// Between two looks: longer than anybody is between two steps of making or removing an image.
const PAUSE: Duration = Duration::from_secs(5);

/// Prints every image and snapshot of the pool with its size, what it has, and what it has alone.
pub async fn du(config: &Config, backend: &str, as_json: bool) -> Result<()> {
    let (store, pool) = connect_backend(config, backend).await?;
    let capacity = store.capacity(&pool).await?;
    let usage = StoreUsage {
        fsid: store.fsid().to_owned(),
        total_bytes: capacity.total_bytes,
        free_bytes: capacity.free_bytes,
        used_bytes: capacity.used_bytes,
        usage: store.usage(&pool).await?,
    };
    store.close().await?;
    if as_json {
        writeln!(stdout(), "{:#}", usage_json(&usage))?;
        return Ok(());
    }
    print_usage(&usage)
}

/// Compares the pool with the database. With `repair`, what is left over for certain goes.
///
/// Errors: `Damaged` after printing what is wrong, and was not repaired.
pub async fn check(
    config: &Config,
    database: &Database,
    backend: &str,
    repair: bool,
) -> Result<()> {
    let (store, pool) = connect_backend(config, backend).await?;
    let backups = ceph::of_backups(config)?;
    // Backups elsewhere have no snapshots in a cluster; those of the volumes stand for them.
    let backup_store = match &backups {
        Some(reach) => Some(connect(reach).await?),
        None => None,
    };
    let backup_pool = match &backup_store {
        Some(_) => required(config, "DEFAULT", "backup_ceph_pool")?,
        None => pool.clone(),
    };
    let host = required(config, "DEFAULT", "host")?;
    let check = PoolCheck {
        database,
        store: &store,
        pool: &pool,
        host: &format!("{host}@{backend}#{pool}"),
        backups: (backup_store.as_ref().unwrap_or(&store), &backup_pool),
    };
    let mut found = check.look().await.map_err(failed)?;
    if !found.is_empty() {
        tokio::time::sleep(PAUSE).await;
        let again: HashSet<Finding> = check.look().await.map_err(failed)?;
        found.retain(|finding| again.contains(finding));
    }
    let mut left = 0;
    let mut lines = Vec::new();
    for finding in found {
        let repaired = repair && finding.can_be_repaired();
        if repaired {
            finding.repair(&store).await.map_err(failed)?;
        } else {
            left += 1;
        }
        let mark = match (repaired, finding.can_be_repaired()) {
            (true, _) => " (repaired)",
            (false, true) => " (--repair removes or mends it)",
            (false, false) => "",
        };
        lines.push(format!("{finding}{mark}"));
    }
    if repair {
        let purged = store.purge(&pool).await?;
        lines.extend(purged.iter().map(|name| format!("{pool}/{name}: purged")));
    }
    store.close().await?;
    if let Some(store) = backup_store {
        store.close().await?;
    }
    lines.sort();
    let mut output = stdout().lock();
    for line in lines {
        writeln!(output, "{line}")?;
    }
    writeln!(output, "pool {pool}: {left} faults left")?;
    drop(output);
    damaged(left)
}

fn failed(error: taskflow::TaskError) -> Error {
    Error::Start(error.to_string())
}

/// The cluster and the pool of a back-end.
async fn connect_backend(config: &Config, backend: &str) -> Result<(CephStore, String)> {
    let reach = ceph::of_backend(config, backend)?.ok_or_else(|| {
        let reason = format!("is not {}", ceph::RBD_DRIVER);
        ConfigError::option(backend, "volume_driver", reason)
    })?;
    let mut store = connect(&reach).await?;
    if let Some(delay) = backends::deferral(config, backend)? {
        store = store.deferring_deletion(delay);
    }
    Ok((store, required(config, backend, "rbd_pool")?))
}

async fn connect(reach: &Reach) -> Result<CephStore> {
    Ok(CephStore::connect(reach.options.clone()).await?)
}
