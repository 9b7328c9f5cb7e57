//! `basalt serve`: the roles of one process, from the data folder to the listeners, and back.
//!
//! The start makes sure of everything that can fail before it says that it is ready. A stop ends
//! in the order of need: first what takes new work, then the volume flows, which may need the
//! image API, then the image API and its flows, then the store and the database. What does not
//! end within the grace period is dropped, and the next start resumes it.

mod bells;
pub mod control;
mod identity;
mod image;
mod listen;
mod nbd;
mod notifications;
mod ready_text;
mod roles;
mod store_clients;
mod volume;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amqp::{Bus, InProcess, Outbox, RabbitMq};
use axum::Router;
use database::Database;
use rest::identity::dev::{self, DevIdentity};
use rest::identity::{Identity, TokenSource};
use rest::policy::Policy;
use rest::server::ServerOptions;
use storage::ImageStore;
use storage::ceph::CephStore;
use storage::embedded::{EmbeddedOptions, EmbeddedStore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use volume_service::connection::Connection;

use crate::commands;
use crate::config::backends::{self, Cluster, OwnStore, Stores, Uses};
use crate::config::ceph::{self, Reach};
use crate::config::{Config, Settings, policy};
use crate::data_dir::DataDir;
use crate::error::{Error, Result};
use crate::secrets::Secrets;
use crate::signals;
use identity::Identities;
use listen::{Bound, Sockets};
pub use roles::Role;
use roles::Roles;
use store_clients::StoreClients;

/// Everything that the parts of the process share.
struct Node {
    config: Config,
    settings: Settings,
    database: Database,
    stores: Stores,
    /// How clusters know this process; `None`: it is connected to none.
    clients: Option<Arc<StoreClients>>,
    identity: Arc<dyn Identity>,
    tokens: Arc<dyn TokenSource>,
    bus: Arc<dyn Bus>,
    /// Of notifications.
    outbox: Outbox,
}

/// Serves until a signal; `Ok` when everything was ended or handed over.
pub async fn serve(
    data_dir: &Path,
    config: Config,
    settings: Settings,
    roles: &[Role],
) -> Result<()> {
    let roles = Roles::of(roles);
    roles.check(&config, &settings)?;
    let stop = signals::watch()?;
    let data_dir = DataDir::open(data_dir)?;
    let secrets = Secrets::load_or_make(&data_dir.join("secrets.json"))?;
    let with_nbd = roles.manager && backends::use_node_store(&config, roles.uses())?;
    let sockets = listen::bind(&settings, &data_dir, roles, with_nbd).await?;
    let (database, (stores, embedded)) = tokio::try_join!(
        open_database(&settings, &data_dir),
        open_stores(&config, roles.uses(), &data_dir)
    )?;
    let Identities {
        identity,
        tokens,
        dev,
    } = identity::identities(&config, &settings, &secrets, &sockets)?;
    identity::write_clouds_yaml(&settings, &data_dir, &secrets, &sockets)?;
    let bus: Arc<dyn Bus> = match &settings.rabbit {
        Some(rabbit) => Arc::new(RabbitMq::new(rabbit.clone())),
        None => Arc::new(InProcess::new()),
    };
    let outbox = notifications::outbox(&settings.notifications);
    let owners = owners(&settings.host, roles);
    let clients = StoreClients::new(&database, owners, &stores.clusters);
    if let Some(clients) = &clients {
        clients.replace_the_one_before().await?;
    }
    let node = Node {
        config,
        settings,
        database,
        stores,
        clients,
        identity,
        tokens,
        bus,
        outbox,
    };

    let control = |(folder, store): (PathBuf, _)| control::start(&folder, store, &stop);
    let controls: Vec<_> = embedded.into_iter().map(control).collect();
    let clients = node.clients.iter();
    let noting = clients.map(|clients| clients.note_changes(&stop)).collect();
    let outcome = run(&node, roles, sockets, dev, &data_dir, &stop).await;
    // Also when the start failed.
    stop.cancel();
    end(controls).await;
    end(noting).await;
    let mut closed = Vec::new();
    if let Some(store) = &node.stores.node {
        closed.push(store.close().await);
    }
    for own in node.stores.own.values() {
        closed.push(own.store.close().await);
    }
    for cluster in &node.stores.clusters {
        closed.push(cluster.store.close().await);
    }
    if let Some(clients) = &node.clients {
        clients.forget().await;
    }
    node.database.close().await;
    outcome?;
    closed.into_iter().collect::<storage::Result<()>>()?;
    tracing::info!("stopped");
    Ok(())
}

/// The names by which the workers of this process own flows.
fn owners(host: &str, roles: Roles) -> Vec<String> {
    let mut owners = Vec::new();
    owners.extend(volume::owner(host, roles));
    if roles.image_api {
        owners.extend(image_service::worker_owners(host));
    }
    owners
}

/// Starts the parts, says so, waits for the signal, and ends them.
async fn run(
    node: &Node,
    roles: Roles,
    sockets: Sockets,
    dev: Option<Arc<DevIdentity>>,
    data_dir: &DataDir,
    stop: &CancellationToken,
) -> Result<()> {
    let exports = match roles.manager {
        true => Some(nbd::Exports::prepare(node)?),
        false => None,
    };
    let mut own_stores = Vec::new();
    for own in node.stores.own.values() {
        let listener = listen::unix(&own.nbd_socket).await?;
        own_stores.push((listener, Arc::clone(&own.store)));
    }
    let stop_postman = CancellationToken::new();
    let postman = notifications::deliver(
        &node.settings.notifications,
        node.outbox.clone(),
        node.database.clone(),
        &node.bus,
        &stop_postman,
    );
    let text = ready_text::ready_text(&node.settings, &sockets, data_dir.path());
    let stop_images = CancellationToken::new();
    let mut serving = Vec::new();
    if let (Some(bound), Some(dev)) = (sockets.identity, dev) {
        serving.push(serve_http(node, bound, dev::router(dev), stop));
    }
    let images = match sockets.image {
        Some(bound) => Some(image::start(node, bound, &stop_images).await?),
        None => None,
    };
    let tls = node.settings.nbd.tls.is_some();
    let connection = nbd_connection(&sockets.nbd_socket, sockets.nbd_address, tls);
    let image_url = sockets.image_url.as_deref();
    let volumes = match roles.has_volumes() {
        true => {
            let bound = sockets.volume;
            Some(volume::start(node, roles, bound, image_url, &connection, stop).await?)
        }
        false => None,
    };
    if let Some(exports) = exports {
        serving.extend(exports.start(sockets.nbd, own_stores, stop));
    }
    print_ready(&text);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir = %data_dir.path().display(), "ready");

    stop.cancelled().await;
    if let Some(volumes) = volumes {
        volumes.end().await;
    }
    stop_images.cancel();
    if let Some(images) = images {
        images.end().await;
    }
    end(serving).await;
    stop_postman.cancel();
    end(postman.into_iter().collect()).await;
    Ok(())
}

/// How clients reach the volumes of the embedded store. An address that stands for all of the
/// machine's own tells a client nothing.
fn nbd_connection(socket: &Path, address: Option<SocketAddr>, tls: bool) -> Connection {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let address = address.filter(|address| !address.ip().is_unspecified());
    Connection::Nbd {
        socket: Some(socket.to_string_lossy().into_owned()),
        address: address.map(|address| (address.ip().to_string(), address.port())),
        tls,
    }
}

/// A half of the grace period for requests, the other for flows.
fn half(grace: Duration) -> Duration {
    grace / 2
}

/// Serves an API until `stop`, then lets requests in flight end.
fn serve_http(
    node: &Node,
    bound: Bound,
    router: Router,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let options = ServerOptions {
        drain_timeout: half(node.settings.grace),
        ..node.settings.server.clone()
    };
    let stop = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        let address = bound.url.clone();
        if !rest::server::serve(bound.listener, router, options, stop).await {
            tracing::warn!(address, "requests were cut: they did not end in time");
        }
    })
}

/// Puts the configuration's rules into force and looks after their files until `stop`.
fn look_after(node: &Node, policy: &Policy, stop: &CancellationToken) -> Result<JoinHandle<()>> {
    commands::policy::configure(policy, policy::policy_options(&node.config)?)?;
    let (policy, stop) = (policy.clone(), stop.clone());
    Ok(tokio::spawn(async move {
        let watching = rest::policy::watch(vec![policy]);
        stop.run_until_cancelled(watching).await;
    }))
}

/// Waits for tasks that were told to end. One that panicked has been logged by the panic itself.
async fn end(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if task.await.is_err() {
            tracing::error!("a part of the server ended by a panic");
        }
    }
}

async fn open_database(settings: &Settings, data_dir: &DataDir) -> Result<Database> {
    let own = || format!("sqlite://{}", data_dir.join("basalt.sqlite").display());
    let url = settings.database_url.clone().unwrap_or_else(own);
    let database = Database::open(&url).await?;
    database::migrate::run(&database).await?;
    Ok(database)
}

/// The node's store, where anything lies in it, and those that back-ends have for themselves; and
/// the embedded ones of them, with their folders.
async fn open_stores(
    config: &Config,
    uses: Uses,
    data_dir: &DataDir,
) -> Result<(Stores, Vec<(PathBuf, Arc<EmbeddedStore>)>)> {
    let map_cache_mib: usize = config.integer("store", "map_cache_mib")?;
    let options = EmbeddedOptions {
        map_cache_bytes: map_cache_mib << 20,
        ..EmbeddedOptions::default()
    };
    let mut embedded = Vec::new();
    let mut node: Option<Arc<dyn ImageStore>> = None;
    if backends::use_node_store(config, uses)? {
        let folder = data_dir.join("store");
        let store = open_store(folder.clone(), &options).await?;
        embedded.push((folder, Arc::clone(&store)));
        node = Some(store);
    }
    let mut own = BTreeMap::new();
    for folder in backends::store_folders(config, uses)? {
        let path = data_dir.path().join(&folder);
        let nbd_socket = path.join("nbd.sock");
        let store = open_store(path.clone(), &options).await?;
        embedded.push((path, Arc::clone(&store)));
        own.insert(folder, OwnStore { store, nbd_socket });
    }
    let mut clusters = Vec::new();
    for reach in ceph::all(config, uses)? {
        clusters.push(connect(reach).await?);
    }
    let stores = Stores {
        node,
        own,
        clusters,
    };
    Ok((stores, embedded))
}

/// Connects to a cluster, which may be starting, too.
async fn connect(reach: Reach) -> Result<Cluster> {
    let mut tries = 0;
    let store = loop {
        match CephStore::connect(reach.options.clone()).await {
            Ok(store) => break store,
            Err(error) if tries >= reach.retries => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "no connection to the Ceph cluster yet"),
        }
        tries += 1;
        tokio::time::sleep(reach.interval).await;
    };
    Ok(Cluster {
        monitors: store.monitors().await?,
        options: reach.options,
        store,
    })
}

async fn open_store(folder: PathBuf, options: &EmbeddedOptions) -> Result<Arc<EmbeddedStore>> {
    let options = options.clone();
    let open = move || EmbeddedStore::open(&folder, options);
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(opened.map_err(|error| Error::Start(error.to_string()))??)
}

/// A start must not fail because nobody reads what it says.
fn print_ready(text: &str) {
    use std::io::Write;
    let mut output = std::io::stdout().lock();
    let _ = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
}
