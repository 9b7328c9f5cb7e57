//! What Ceph still holds for this node's process before this one, if that was killed: its images
//! count as open, and their locks as taken, until the OSDs miss it. The data folder belongs to
//! one process at a time, so whoever wrote the file there is dead, and may be fenced.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use storage::ImageStore;

use crate::config::backends::Cluster;
use crate::error::{Error, Result};

/// Fences the clients that the file names, and writes this process's instead. A cluster that
/// does not let its user do so only makes this process wait for its images.
///
/// Errors: the file cannot be written.
pub async fn fence(clusters: &[Cluster], file: &Path) -> Result<()> {
    if clusters.is_empty() {
        return Ok(());
    }
    let mut own: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let dead = read(file);
    for cluster in clusters {
        let fsid = cluster.store.fsid();
        let addresses = cluster.store.client_addresses().await?;
        own.entry(fsid.to_owned()).or_default().push(addresses);
    }
    // Each once, by any user of the cluster that may.
    for (fsid, addresses) in dead {
        for address in addresses {
            let mut last = None;
            for cluster in clusters.iter().filter(|one| one.store.fsid() == fsid) {
                last = cluster.store.fence(&address).await.err();
                if last.is_none() {
                    break;
                }
            }
            if let Some(error) = last {
                tracing::warn!(address, %error, "the process before this one is not fenced");
            }
        }
    }
    let text = serde_json::to_vec(&own).map_err(io::Error::other);
    let written = text.and_then(|text| std::fs::write(file, text));
    written.map_err(|error| Error::Start(format!("{}: {error}", file.display())))
}

/// After a stop that has closed everything.
pub fn forget(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %file.display(), "not removed");
    }
}

/// Addresses by cluster; a file that was cut off names nobody.
fn read(file: &Path) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}
