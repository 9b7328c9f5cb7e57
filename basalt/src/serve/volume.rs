//! The volume API, the scheduler, and the manager with its worker: the roles of Cinder.

use std::collections::BTreeMap;
use std::sync::Arc;

use amqp::Serving;
use taskflow::{Doorbell, Fence};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use volume_service::VolumeService;
use volume_service::compute::{self, Compute};
use volume_service::connection::Connection;
use volume_service::images;
use volume_service::keys::{self, KeyManager};
use volume_service::manager::{Duties, Manager};
use volume_service::notices::Notices;
use volume_service::scheduler::Scheduler;

use super::listen::Bound;
use super::roles::Roles;
use super::{Node, bells, end, half, look_after, serve_http};
use crate::config::settings::AuthStrategy;
use crate::config::{ConfigError, backends, services};
use crate::error::{Error, Result};
use crate::logging;

/// Flows that run at once.
const FLOWS_AT_ONCE: usize = 16;

/// The running roles of the volume service.
pub struct Volumes {
    tasks: Vec<JoinHandle<()>>,
    _serving: Vec<Serving>,
}

/// The name by which the worker of these roles owns flows.
pub fn owner(host: &str, roles: Roles) -> Option<String> {
    duties(roles).map(|duties| duties.owner(host))
}

fn duties(roles: Roles) -> Option<Duties> {
    let duties = Duties {
        volumes: roles.manager,
        backups: roles.backup,
    };
    (duties.volumes || duties.backups).then_some(duties)
}

/// Starts the roles; `stop` ends them. `bound` is the API's socket, `image_url` the image API of
/// this process, `connection` the way to the volumes of its store.
pub async fn start(
    node: &Node,
    roles: Roles,
    bound: Option<Bound>,
    image_url: Option<&str>,
    connection: &Connection,
    stop: &CancellationToken,
) -> Result<Volumes> {
    let mut volumes = Volumes {
        tasks: Vec::new(),
        _serving: Vec::new(),
    };
    let neighbours = Neighbours::of(node, image_url)?;
    // The scheduler must know the pools before the first request.
    if let Some(duties) = duties(roles) {
        volumes
            .start_manager(node, duties, &neighbours, connection, stop)
            .await?;
    }
    if roles.scheduler || bound.is_some() {
        let service = Arc::new(service(node, neighbours)?);
        service.bootstrap().await.map_err(failed)?;
        volumes.tasks.push(look_after(node, &service.policy, stop)?);
        if roles.scheduler {
            volumes.start_scheduler(node, &service, stop).await?;
        }
        if let Some(bound) = bound {
            let router = volume_service::api::router(service, node.identity.clone());
            volumes.tasks.push(serve_http(node, bound, router, stop));
        }
    }
    Ok(volumes)
}

/// The other services that the volume service talks to.
#[derive(Clone)]
struct Neighbours {
    images: images::Client,
    compute: Compute,
    keys: KeyManager,
}

impl Neighbours {
    fn of(node: &Node, image_url: Option<&str>) -> Result<Self> {
        Ok(Neighbours {
            images: image_client(node, image_url)?,
            compute: compute(node)?,
            keys: keys(node)?,
        })
    }
}

impl Volumes {
    async fn start_manager(
        &mut self,
        node: &Node,
        duties: Duties,
        neighbours: &Neighbours,
        connection: &Connection,
        stop: &CancellationToken,
    ) -> Result<()> {
        let manager = Arc::new(manager(node, duties, neighbours.clone(), connection)?);
        manager.prepare().await?;
        manager.report().await?;
        let bell = Doorbell::new();
        let mut worker = manager
            .worker(FLOWS_AT_ONCE, bell.clone())
            .lease(node.settings.lease)
            .grace(half(node.settings.grace));
        if let Some(clients) = &node.clients {
            worker = worker.fence(Arc::clone(clients) as Arc<dyn Fence>);
        }
        let serving = bells::of_manager(node.bus.as_ref(), &manager, bell).await?;
        self._serving.extend(serving);
        let stopped = || stop.clone().cancelled_owned();
        self.tasks.push(tokio::spawn(worker.build().run(stopped())));
        let (reporting, stop_report) = (Arc::clone(&manager), stopped());
        let report = async move { reporting.report_until(stop_report).await };
        self.tasks.push(tokio::spawn(report));
        let stop_sweep = stopped();
        let sweep = async move { manager.sweep_until(stop_sweep).await };
        self.tasks.push(tokio::spawn(sweep));
        Ok(())
    }

    async fn start_scheduler(
        &mut self,
        node: &Node,
        service: &Arc<VolumeService>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let bell = Arc::new(Notify::new());
        let scheduler = Scheduler::new(Arc::clone(service), Arc::clone(&bell));
        let serving = bells::of_scheduler(node.bus.as_ref(), &node.settings.host, bell);
        self._serving.push(serving.await?);
        let running = scheduler.run(stop.clone().cancelled_owned());
        self.tasks.push(tokio::spawn(running));
        Ok(())
    }
}

impl Volumes {
    /// Waits until requests have ended and flows were handed over.
    pub async fn end(self) {
        end(self.tasks).await;
    }
}

fn service(node: &Node, neighbours: Neighbours) -> Result<VolumeService> {
    let options = services::volume_options(&node.config)?;
    let notices = notices(node, &options.host);
    let doorbell = Arc::new(bells::BusDoorbell::new(Arc::clone(&node.bus)));
    let database = node.database.clone();
    let mut service = VolumeService::new(database, options, neighbours.images, doorbell);
    service.compute = neighbours.compute;
    service.notices = notices;
    service.keys = neighbours.keys;
    service.managers = Arc::new(bells::BusManagers::new(Arc::clone(&node.bus)));
    Ok(service.with_logs(logging::levels()))
}

fn notices(node: &Node, host: &str) -> Notices {
    let exchange = &node.settings.notifications.volume_exchange;
    Notices::new(node.outbox.of_exchange(exchange), host)
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
    duties: Duties,
    neighbours: Neighbours,
    connection: &Connection,
) -> Result<Manager> {
    let options = services::volume_options(&node.config)?;
    let backends = backends::volume_backends(&node.config, &node.stores)?;
    let backends = backends.into_iter().map(|mut backend| {
        backend.connection.get_or_insert_with(|| connection.clone());
        (backend.name.clone(), backend)
    });
    Ok(Manager {
        database: node.database.clone(),
        duties,
        host: options.host.clone(),
        cluster: node.config.text("DEFAULT", "cluster")?,
        availability_zone: options.storage_availability_zone.clone(),
        notices: notices(node, &options.host),
        options,
        backends: backends.collect::<BTreeMap<_, _>>(),
        backups: services::backup_target(&node.config, &node.stores)?,
        images: neighbours.images,
        compute: neighbours.compute,
        keys: neighbours.keys,
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
