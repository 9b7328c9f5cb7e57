//! A connection with its pools and open images, and the calls on it.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::blocking::{Blocking, Overdue};
use super::failure::{failure, needs_reconnect};
use super::native::{Cluster, Errno, Login, Pool};
use super::open_images::OpenImages;
use super::{CephOptions, features};
use crate::{Error, Result};

/// What is shared by all stores of one cluster and user.
pub(super) struct Client {
    pub(super) options: CephOptions,
    pub(super) fsid: String,
    pub(super) blocking: Blocking,
    /// Flattening at once.
    pub(super) flattening: Semaphore,
    current: tokio::sync::Mutex<Option<Arc<Connection>>>,
    /// Of the last connection.
    pub(super) addresses: watch::Sender<String>,
    closed: AtomicBool,
}

pub(super) struct Connection {
    pub(super) cluster: Arc<Cluster>,
    /// By which the cluster knows this client.
    pub(super) addresses: String,
    pub(super) images: OpenImages,
    /// Features of new images: the cluster's defaults, as Cinder takes them.
    pub(super) features: u64,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
    /// The cluster does not know this client any more.
    lost: AtomicBool,
}

impl Client {
    /// Connects.
    ///
    /// Errors: `Unavailable` with what to do: no library, no configuration, a wrong key, no
    /// answer.
    pub(super) async fn connect(options: CephOptions) -> Result<Arc<Self>> {
        let blocking = Blocking::new(options.threads);
        let connection = connect(&options, &blocking).await?;
        let cluster = Arc::clone(&connection.cluster);
        let fsid = blocking.run(options.call_limit(), move || cluster.fsid());
        let fsid = fsid.await.map_err(|_| overdue("the cluster"))?;
        let fsid = fsid.map_err(|error| failure("the cluster", error))?;
        let client = Arc::new(Client {
            addresses: watch::Sender::new(connection.addresses.clone()),
            flattening: Semaphore::new(options.concurrent_flattens.max(1)),
            current: tokio::sync::Mutex::new(Some(connection)),
            closed: AtomicBool::new(false),
            options,
            fsid,
            blocking,
        });
        tokio::spawn(close_idle(Arc::downgrade(&client)));
        Ok(client)
    }

    /// The connection; a new one where the last was lost.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Unavailable("it is closed".into()));
        }
        let mut current = self.current.lock().await;
        if let Some(connection) = &*current
            && !connection.lost.load(Ordering::Acquire)
        {
            return Ok(Arc::clone(connection));
        }
        tracing::warn!("connecting to the Ceph cluster again");
        let connection = connect(&self.options, &self.blocking).await?;
        self.addresses.send_replace(connection.addresses.clone());
        let lost = current.replace(Arc::clone(&connection));
        // Shutting a client down blocks.
        self.blocking.detach(move || drop(lost));
        Ok(connection)
    }

    /// A short call on a thread of the pool.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        connection: &Arc<Connection>,
        what: impl Display + Send,
        call: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let limit = self.options.call_limit();
        self.limited(connection, what, limit, call).await
    }

    /// A call that takes as long as the image has data. Each of its requests to an OSD has its
    /// time limit; the call has none.
    pub(super) async fn long_call<T: Send + 'static>(
        &self,
        connection: &Arc<Connection>,
        what: impl Display + Send,
        call: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let limit = Duration::from_secs(30 * 24 * 3600);
        self.limited(connection, what, limit, call).await
    }

    async fn limited<T: Send + 'static>(
        &self,
        connection: &Arc<Connection>,
        what: impl Display + Send,
        limit: Duration,
        call: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        match self.blocking.run(limit, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(connection.failed(what, error)),
            Err(Overdue) => Err(overdue(what)),
        }
    }

    pub(super) async fn pool(&self, connection: &Arc<Connection>, name: &str) -> Result<Arc<Pool>> {
        if let Some(pool) = connection.pools().get(name) {
            return Ok(Arc::clone(pool));
        }
        let (cluster, wanted) = (Arc::clone(&connection.cluster), name.to_owned());
        let open = move || cluster.pool(&wanted);
        let pool = self.call(connection, format!("pool {name}"), open).await?;
        connection
            .pools()
            .insert(name.to_owned(), Arc::clone(&pool));
        Ok(pool)
    }

    /// Closes images and connection; calls that run end by themselves.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(connection) = self.current.lock().await.take() {
            connection.images.close_all().await;
            let limit = self.options.call_limit();
            // The last owner shuts the client down, on a thread where that may take its time.
            let _ = self.blocking.run(limit, move || drop(connection)).await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let connection = self.current.get_mut().take();
        self.blocking.detach(move || drop(connection));
    }
}

impl Connection {
    pub(super) fn failed(&self, what: impl Display + Send, error: Errno) -> Error {
        if needs_reconnect(error) {
            self.lost.store(true, Ordering::Release);
        }
        failure(what, error)
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<String, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn overdue(what: impl Display) -> Error {
    Error::Unavailable(format!("{what}: the cluster does not answer"))
}

async fn connect(options: &CephOptions, blocking: &Blocking) -> Result<Arc<Connection>> {
    let (owned, pool) = (options.clone(), blocking.clone());
    let connect = move || {
        let conf = owned.conf.as_ref().map(|path| path.to_string_lossy());
        let cluster = Cluster::connect(&Login {
            cluster_name: &owned.cluster_name,
            user: &owned.user,
            conf: conf.as_deref(),
            options: &owned.client_options(),
        })?;
        let addresses = cluster
            .addresses()
            .map_err(|error| format!("the client's addresses: {error}"))?;
        let features = features::of_new_images(cluster.option("rbd_default_features").ok());
        Ok(Arc::new(Connection {
            images: OpenImages::new(pool, owned.idle),
            cluster,
            addresses,
            features,
            pools: Mutex::default(),
            lost: AtomicBool::new(false),
        }))
    };
    let connected = blocking.run(options.connect_limit(), connect).await;
    let connected = connected.map_err(|_| overdue("the cluster"))?;
    connected.map_err(|text: String| Error::Unavailable(text))
}

/// Closes images that nobody uses any more: an image that is open for writing cannot be removed
/// by other clients.
async fn close_idle(client: std::sync::Weak<Client>) {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Some(client) = client.upgrade() else {
            return;
        };
        if client.closed.load(Ordering::Acquire) {
            return;
        }
        let connection = client.current.lock().await.clone();
        if let Some(connection) = connection {
            connection.images.close_idle();
        }
    }
}
