//! How the Ceph clusters know this process, written down for those that take over what its
//! workers held: whatever a killed process had open, or a frozen one is about to write, must be
//! shut out of the cluster first.
//!
//! Every worker has a row for each cluster. A process that starts shuts out the one before it,
//! which had workers of the same names and was killed; a worker that takes a flow from another
//! shuts out that one's process, which may be frozen. Who was shut out and lives connects anew,
//! with another address, and finds that the flow is not its own any more.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use database::{Database, params};
use storage::ImageStore;
use storage::ceph::CephStore;
use taskflow::Fence;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::backends::Cluster;

/// Before rows that could not be written are tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The clients of this process, and the way to shut out others'.
pub struct StoreClients {
    database: Database,
    /// The names of this process's workers.
    owners: Vec<String>,
    stores: Vec<CephStore>,
    /// One at a time, so that who comes second finds the work done.
    fencing: Mutex<()>,
}

/// Each cluster's id with the addresses of this process's client there.
type Addresses = Vec<(String, watch::Receiver<String>)>;

impl StoreClients {
    /// `None` where no cluster is connected.
    pub fn new(
        database: &Database,
        owners: Vec<String>,
        clusters: &[Cluster],
    ) -> Option<Arc<Self>> {
        let stores: Vec<_> = clusters.iter().map(|one| one.store.clone()).collect();
        (!stores.is_empty()).then(|| {
            Arc::new(StoreClients {
                database: database.clone(),
                owners,
                stores,
                fencing: Mutex::new(()),
            })
        })
    }

    /// Shuts out the process before this one, if that was killed, and writes this one down.
    ///
    /// Errors: the database's.
    pub async fn replace_the_one_before(&self) -> database::Result<()> {
        for owner in &self.owners {
            self.fence(owner).await?;
        }
        self.write(&self.addresses()).await
    }

    /// Writes the rows anew whenever a client had to connect again, until `stop`.
    pub fn note_changes(self: &Arc<Self>, stop: &CancellationToken) -> JoinHandle<()> {
        let (own, stop) = (Arc::clone(self), stop.clone());
        let mut addresses = own.addresses();
        tokio::spawn(async move {
            let noting = async {
                // What changed since the rows were written is not missed.
                loop {
                    while let Err(error) = own.write(&addresses).await {
                        tracing::warn!(%error, "the clients of Ceph are not noted");
                        tokio::time::sleep(PAUSE).await;
                    }
                    any_change(&mut addresses).await;
                }
            };
            stop.run_until_cancelled(noting).await;
        })
    }

    /// After a stop that has closed everything.
    pub async fn forget(&self) {
        for owner in &self.owners {
            if let Err(error) = self.forget_owner(owner).await {
                tracing::warn!(%error, "the clients of Ceph are not forgotten");
            }
        }
    }

    fn addresses(&self) -> Addresses {
        let address = |store: &CephStore| (store.fsid().to_owned(), store.client_addresses());
        self.stores.iter().map(address).collect()
    }

    async fn write(&self, addresses: &Addresses) -> database::Result<()> {
        let current =
            |(fsid, now): &(String, watch::Receiver<String>)| (fsid.clone(), now.borrow().clone());
        let rows: BTreeSet<_> = addresses.iter().map(current).collect();
        let mut tx = self.database.begin().await?;
        for owner in &self.owners {
            let old = "DELETE FROM store_clients WHERE owner = ?";
            tx.execute(old, params![owner]).await?;
            for (fsid, addresses) in &rows {
                let new = "INSERT INTO store_clients (owner, fsid, addresses) VALUES (?, ?, ?)";
                tx.execute(new, params![owner, fsid, addresses]).await?;
            }
        }
        tx.commit().await
    }

    async fn forget_owner(&self, owner: &str) -> database::Result<()> {
        let sql = "DELETE FROM store_clients WHERE owner = ?";
        self.database.execute(sql, params![owner]).await.map(|_| ())
    }

    /// Shuts out what the rows of `owner` name, and removes these clients' rows, other owners', too:
    /// workers of a process share its clients, and each takes a monitor a second.
    async fn fence(&self, owner: &str) -> database::Result<()> {
        let _turn = self.fencing.lock().await;
        let sql = "SELECT fsid, addresses FROM store_clients WHERE owner = ?";
        let rows = self.database.fetch_all(sql, params![owner]).await?;
        // All at once: the monitors take what comes within a second together.
        let mut fencing = JoinSet::new();
        for row in rows {
            let (fsid, addresses): (String, String) = (row.get("fsid")?, row.get("addresses")?);
            let users = self.stores.iter().filter(|store| store.fsid() == fsid);
            fencing.spawn(fence_one(users.cloned().collect(), fsid, addresses));
        }
        while let Some(fenced) = fencing.join_next().await {
            let Ok((fsid, addresses)) = fenced else {
                continue;
            };
            // Not what the process has written since: it has connected anew.
            let gone = "DELETE FROM store_clients WHERE fsid = ? AND addresses = ?";
            let values = params![fsid, addresses];
            self.database.execute(gone, values).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Fence for StoreClients {
    async fn shut_out(&self, owner: &str) {
        if let Err(error) = self.fence(owner).await {
            tracing::warn!(owner, %error, "not shut out of Ceph");
        }
    }
}

/// By any user of the cluster that may. A cluster that does not let its users do so only makes
/// its images wait until it misses the client.
async fn fence_one(users: Vec<CephStore>, fsid: String, addresses: String) -> (String, String) {
    let mut last = None;
    for user in &users {
        match user.fence(&addresses).await {
            Ok(()) => {
                last = None;
                break;
            }
            Err(error) => last = Some(error),
        }
    }
    for user in &users {
        if let Err(error) = user.come_after_fences().await {
            last = Some(error);
        }
    }
    if let Some(error) = last {
        tracing::warn!(addresses, %error, "a process that is gone is not shut out of Ceph");
    }
    (fsid, addresses)
}

async fn any_change(addresses: &mut Addresses) {
    let mut changes: Vec<_> = addresses
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn rows(database: &Database) -> Vec<(String, String)> {
        let sql = "SELECT owner, addresses FROM store_clients ORDER BY owner, addresses";
        let rows = database.fetch_all(sql, params![]).await.unwrap();
        let pair = |row: &database::Row| (row.get("owner").unwrap(), row.get("addresses").unwrap());
        rows.iter().map(pair).collect()
    }

    #[tokio::test]
    async fn whichever_client_changes_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let own = StoreClients {
            database: database.await.unwrap(),
            owners: vec!["volume-manager:h".to_owned()],
            stores: Vec::new(),
            fencing: Mutex::new(()),
        };
        let pair = |address: &str| ("volume-manager:h".to_owned(), address.to_owned());
        let senders = ["a", "b"].map(|text| watch::Sender::new(text.to_owned()));
        let [one, other] = &senders;
        let mut addresses: Addresses = vec![
            ("f".to_owned(), one.subscribe()),
            ("f".to_owned(), other.subscribe()),
        ];
        own.write(&addresses).await.unwrap();
        assert_eq!(rows(&own.database).await, [pair("a"), pair("b")]);
        for (sender, new, now) in [(other, "c", ["a", "c"]), (one, "d", ["c", "d"])] {
            sender.send_replace(new.to_owned());
            any_change(&mut addresses).await;
            own.write(&addresses).await.unwrap();
            assert_eq!(rows(&own.database).await, now.map(pair));
        }
        own.forget().await;
        assert!(rows(&own.database).await.is_empty());
    }
}
