//! What Ceph still holds for this node's process before this one, if that was killed: its images
//! count as open, and their locks as taken, until the OSDs miss it. The data folder belongs to
//! one process at a time, so whoever wrote the file there is dead, and may be fenced.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::task::Poll;

use storage::ImageStore;
use storage::ceph::CephStore;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::backends::Cluster;
use crate::data_dir::replace_file;
use crate::error::{Error, Result};

/// Fences the clients that the file names, and writes this process's instead. A cluster that
/// does not let its user do so only makes this process wait for its images.
///
/// Errors: the file cannot be written.
pub async fn fence(clusters: &[Cluster], file: &Path) -> Result<()> {
    if clusters.is_empty() {
        return Ok(());
    }
    // All at once: the monitors take what comes within a second together.
    let mut fencing = JoinSet::new();
    for (fsid, addresses) in read(file) {
        let users = clusters.iter().filter(|one| one.store.fsid() == fsid);
        let users: Vec<CephStore> = users.map(|one| one.store.clone()).collect();
        for address in addresses {
            fencing.spawn(fence_one(users.clone(), address));
        }
    }
    fencing.join_all().await;
    let own = clients(clusters);
    write(&own, file).map_err(|error| Error::Start(format!("{}: {error}", file.display())))
}

/// By any user of the cluster that may.
async fn fence_one(users: Vec<CephStore>, address: String) {
    let mut last = None;
    for user in users {
        match user.fence(&address).await {
            Ok(()) => return,
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        tracing::warn!(address, %error, "the process before this one is not fenced");
    }
}

/// Writes the file anew whenever a client had to connect again, until `stop`.
pub fn note_changes(
    clusters: &[Cluster],
    file: &Path,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    if clusters.is_empty() {
        return None;
    }
    let (mut own, file, stop) = (clients(clusters), file.to_owned(), stop.clone());
    Some(tokio::spawn(async move {
        // What changed since the file was written is not missed.
        loop {
            if let Err(error) = write(&own, &file) {
                tracing::warn!(%error, file = %file.display(), "the clients of Ceph are not noted");
            }
            if stop
                .run_until_cancelled(any_change(&mut own))
                .await
                .is_none()
            {
                return;
            }
        }
    }))
}

/// After a stop that has closed everything.
pub fn forget(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %file.display(), "not removed");
    }
}

/// Each cluster's id with the addresses of this process's client there.
type Clients = Vec<(String, watch::Receiver<String>)>;

fn clients(clusters: &[Cluster]) -> Clients {
    let client = |cluster: &Cluster| {
        let fsid = cluster.store.fsid().to_owned();
        (fsid, cluster.store.client_addresses())
    };
    clusters.iter().map(client).collect()
}

async fn any_change(clients: &mut Clients) {
    let mut changes: Vec<_> = clients
        .iter_mut()
        .map(|(_, addresses)| Box::pin(addresses.changed()))
        .collect();
    poll_fn(|context| {
        let mut polls = changes.iter_mut();
        match polls.any(|change| change.as_mut().poll(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

fn write(clients: &Clients, file: &Path) -> io::Result<()> {
    let mut own: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (fsid, addresses) in clients {
        let addresses = addresses.borrow().clone();
        own.entry(fsid).or_default().push(addresses);
    }
    replace_file(file, &serde_json::to_vec(&own)?)
}

/// Addresses by cluster; a file that was cut off names nobody.
fn read(file: &Path) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whichever_client_changes_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clients.json");
        let senders = ["a", "b"].map(|text| watch::Sender::new(text.to_owned()));
        let [one, other] = &senders;
        let mut clients: Clients = vec![
            ("f".to_owned(), one.subscribe()),
            ("f".to_owned(), other.subscribe()),
        ];
        write(&clients, &file).unwrap();
        assert_eq!(read(&file)["f"], ["a", "b"]);
        for (sender, now) in [(other, ["a", "c"]), (one, ["d", "c"])] {
            let text = now.iter().find(|text| **text > "b").unwrap();
            sender.send_replace((*text).to_owned());
            any_change(&mut clients).await;
            write(&clients, &file).unwrap();
            assert_eq!(read(&file)["f"], now);
        }
    }
}
