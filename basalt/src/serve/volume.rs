//! The volume API, the scheduler, and the manager with its worker: the roles of Cinder.

use std::collections::BTreeMap;
use std::sync::Arc;

use amqp::Serving;
use taskflow::Doorbell;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use volume_service::VolumeService;
use volume_service::compute::{self, Compute};
use volume_service::connection::Connection;
use volume_service::images;
use volume_service::keys::{self, KeyManager};
use volume_service::manager::Manager;
use volume_service::notices::Notices;
use volume_service::scheduler::Scheduler;

use super::listen::Bound;
use super::{Node, bells, end, half, look_after, serve_http};
use crate::config::settings::AuthStrategy;
use crate::config::{ConfigError, backends, services};
use crate::error::{Error, Result};
use crate::logging;

/// Flows that run at once.
const FLOWS_AT_ONCE: usize = 16;

/// The running volume service.
pub struct Volumes {
    tasks: Vec<JoinHandle<()>>,
    _serving: Vec<Serving>,
}

/// Starts the service; `stop` ends it. `image_url` is the image API of this process,
/// `connection` the way to the volumes of its store.
pub async fn start(
    node: &Node,
    bound: Bound,
    image_url: Option<&str>,
    connection: &Connection,
    stop: &CancellationToken,
) -> Result<Volumes> {
    let bus = Arc::clone(&node.bus);
    let images = image_client(node, image_url)?;
    let compute = compute(node)?;
    let keys = keys(node)?;
    let manager = manager(
        node,
        images.clone(),
        compute.clone(),
        keys.clone(),
        connection,
    );
    let manager = Arc::new(manager?);
    manager.prepare().await?;
    let options = services::volume_options(&node.config)?;
    let doorbell = Arc::new(bells::BusDoorbell::new(Arc::clone(&bus)));
    let mut service = VolumeService::new(node.database.clone(), options, images, doorbell);
    service.compute = compute;
    service.notices = manager.notices.clone();
    service.keys = keys;
    service.managers = Arc::new(bells::BusManagers::new(Arc::clone(&bus)));
    let service = Arc::new(service.with_logs(logging::levels()));
    let watching = look_after(node, &service.policy, stop)?;
    service.bootstrap().await.map_err(failed)?;
    // The scheduler must know the pools before the first request.
    manager.report().await?;

    let scheduler_bell = Arc::new(Notify::new());
    let scheduler = Scheduler::new(Arc::clone(&service), Arc::clone(&scheduler_bell));
    let worker_bell = Doorbell::new();
    let owner = format!("volume-manager:{}", node.settings.host);
    let grace_ms = u64::try_from(half(node.settings.grace).as_millis()).unwrap_or(u64::MAX);
    let worker = manager
        .worker(&owner, FLOWS_AT_ONCE, worker_bell.clone())
        .grace_ms(grace_ms)
        .build();
    let serving = bells::listen(
        bus.as_ref(),
        &manager,
        &node.settings.host,
        scheduler_bell,
        worker_bell,
    )
    .await?;

    let stopped = || stop.clone().cancelled_owned();
    let report = {
        let stopped = stopped();
        let manager = Arc::clone(&manager);
        async move { manager.report_until(stopped).await }
    };
    let sweep = {
        let stopped = stopped();
        async move { manager.sweep_until(stopped).await }
    };
    let router = volume_service::api::router(service, node.identity.clone());
    Ok(Volumes {
        tasks: vec![
            tokio::spawn(worker.run(stopped())),
            tokio::spawn(scheduler.run(stopped())),
            tokio::spawn(report),
            tokio::spawn(sweep),
            serve_http(node, bound, router, stop),
            watching,
        ],
        _serving: serving,
    })
}

impl Volumes {
    /// Waits until requests have ended and flows were handed over.
    pub async fn end(self) {
        end(self.tasks).await;
    }
}

fn failed(error: volume_service::Error) -> Error {
    Error::Start(format!("volume service: {error}"))
}

fn image_client(node: &Node, image_url: Option<&str>) -> Result<images::Client> {
    let url = node
        .settings
        .image_service_url
        .as_deref()
        .or(image_url)
        .ok_or_else(|| {
            let reason = "must be set where the role image-api does not run in this process";
            ConfigError::option("DEFAULT", "glance_api_servers", reason)
        })?;
    let tls = services::image_api_tls(&node.config)?;
    images::Client::new(url, &tls, Arc::clone(&node.tokens))
        .map_err(|error| Error::Start(format!("client of the image API: {error}")))
}

fn manager(
    node: &Node,
    images: images::Client,
    compute: Compute,
    keys: KeyManager,
    connection: &Connection,
) -> Result<Manager> {
    let options = services::volume_options(&node.config)?;
    let backends = backends::volume_backends(&node.config, &node.stores)?;
    let backends = backends.into_iter().map(|mut backend| {
        backend.connection.get_or_insert_with(|| connection.clone());
        (backend.name.clone(), backend)
    });
    let exchange = &node.settings.notifications.volume_exchange;
    let notices = Notices::new(node.outbox.of_exchange(exchange), &options.host);
    Ok(Manager {
        database: node.database.clone(),
        host: options.host.clone(),
        cluster: node.config.text("DEFAULT", "cluster")?,
        availability_zone: options.storage_availability_zone.clone(),
        options,
        backends: backends.collect::<BTreeMap<_, _>>(),
        backups: services::backup_target(&node.config, &node.stores)?,
        images,
        compute,
        notices,
        keys,
    })
}

/// Where the keys of encrypted volumes are.
pub(super) fn keys(node: &Node) -> Result<KeyManager> {
    if let Some(key) = services::fixed_key(&node.config)? {
        tracing::warn!(
            "every encrypted volume has the same key: [key_manager] backend is for tests only"
        );
        return Ok(KeyManager::Fixed(key));
    }
    let Some(url) = node.config.text("barbican", "barbican_endpoint")? else {
        return Ok(KeyManager::Absent);
    };
    let tls = services::barbican_tls(&node.config)?;
    let (tokens, identity) = (Arc::clone(&node.tokens), node.identity.clone());
    keys::Client::new(&url, &tls, tokens, identity)
        .map(KeyManager::Barbican)
        .map_err(|error| Error::Start(format!("client of the key manager: {error}")))
}

/// The compute service that the operator names. Where none is named, clouds of the built-in
/// identity and of none at all have none; behind Keystone there may be one.
fn compute(node: &Node) -> Result<Compute> {
    let Some(url) = node.config.text("nova", "endpoint_override")? else {
        return Ok(match node.settings.auth {
            AuthStrategy::Dev | AuthStrategy::NoAuth => Compute::Absent,
            AuthStrategy::Keystone => Compute::Unknown,
        });
    };
    let client = compute::Client::new(
        &url,
        &services::compute_tls(&node.config)?,
        Arc::clone(&node.tokens),
    );
    let client =
        client.map_err(|error| Error::Start(format!("client of the compute API: {error}")))?;
    Ok(Compute::At(client))
}
