//! The manager: what flows work with, the worker that runs them, and the reports to the
//! scheduler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use database::{Database, Tx};
use storage::{Capacity, ImageSpec, ImageStore};
use taskflow::{Doorbell, Queue, TaskError, Worker, WorkerBuilder};
use uuid::Uuid;

use crate::compute::Compute;
use crate::connection::Connection;
use crate::db::clusters;
use crate::db::connections;
use crate::db::services::{self, Capabilities};
use crate::db::volumes::{self, Volume};
use crate::flows::sweep::{GRACE, Sweeper};
use crate::keys::KeyManager;
use crate::notices::Notices;
use crate::{Options, flows, images};

/// How often heartbeat and capabilities are written (Cinder's `report_interval`).
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
const GIB: f64 = (1u64 << 30) as f64;

/// One entry of `enabled_backends`: a pool of a store.
#[derive(Clone)]
pub struct Backend {
    /// The section's name: `host@name#pool` names the pool.
    pub name: String,
    /// `volume_backend_name`, which volume types select by.
    pub volume_backend_name: String,
    pub store: Arc<dyn ImageStore>,
    /// `rbd_pool`
    pub pool: String,
    /// `rbd_max_clone_depth`: a clone of a clone of … this many times is flattened. 0: no clones.
    pub max_clone_depth: u32,
    /// `rbd_flatten_volume_from_snapshot`
    pub flatten_volume_from_snapshot: bool,
    pub reserved_percentage: u32,
    pub over_subscription: OverSubscription,
    /// `backend_availability_zone`; none: the node's.
    pub availability_zone: Option<String>,
    /// Whether it takes a volume, as an expression ([`crate::scheduler::expression`]).
    pub filter_function: Option<String>,
    /// How well it suits a volume, 0 to 100, as an expression.
    pub goodness_function: Option<String>,
    /// `deferred_deletion_purge_interval`: between two looks for what was left in the pool.
    pub sweep_interval: Duration,
    /// How clients reach the images; `None`: nobody can attach them.
    pub connection: Option<Connection>,
}

/// `max_over_subscription_ratio`
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OverSubscription {
    /// As many times the capacity as experience allows: 1 + promised / used.
    Auto,
    Ratio(f64),
}

impl OverSubscription {
    /// Cinder's default, and where `auto` begins.
    const DEFAULT_RATIO: f64 = 20.0;

    /// The ratio for a pool with so much used and promised, in GiB.
    fn ratio(self, used_gb: f64, provisioned_gb: f64) -> f64 {
        match self {
            OverSubscription::Ratio(ratio) => ratio,
            OverSubscription::Auto if used_gb > 0.0 => 1.0 + provisioned_gb / used_gb,
            OverSubscription::Auto => Self::DEFAULT_RATIO,
        }
    }
}

impl Default for OverSubscription {
    fn default() -> Self {
        OverSubscription::Ratio(Self::DEFAULT_RATIO)
    }
}

impl Backend {
    /// A backend with Cinder's defaults.
    pub fn new(name: &str, store: Arc<dyn ImageStore>, pool: &str) -> Self {
        Backend {
            name: name.to_owned(),
            volume_backend_name: name.to_owned(),
            store,
            pool: pool.to_owned(),
            max_clone_depth: 5,
            flatten_volume_from_snapshot: false,
            reserved_percentage: 0,
            over_subscription: OverSubscription::default(),
            availability_zone: None,
            filter_function: None,
            goodness_function: None,
            sweep_interval: Duration::from_secs(60),
            connection: None,
        }
    }
}

/// Where backups go.
#[derive(Clone)]
pub struct BackupTarget {
    pub store: Arc<dyn ImageStore>,
    /// `backup_ceph_pool`
    pub pool: String,
    /// `backup_ceph_max_snapshots`: how many backup snapshots a volume keeps; 0: all of them.
    pub max_snapshots: usize,
}

/// Which flows a manager runs: Cinder's `cinder-volume` and `cinder-backup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duties {
    pub volumes: bool,
    pub backups: bool,
}

impl Duties {
    pub const ALL: Self = Duties {
        volumes: true,
        backups: true,
    };

    /// The name by which the worker of a manager on `host` owns flows.
    pub fn owner(self, host: &str) -> String {
        match self.volumes {
            true => format!("volume-manager:{host}"),
            false => format!("volume-backup:{host}"),
        }
    }
}

/// What every flow of this service works with.
pub struct Manager {
    pub database: Database,
    pub duties: Duties,
    /// The first part of `host@backend#pool`.
    pub host: String,
    /// The hosts of a cluster have the same back-ends, and go on with each other's flows.
    pub cluster: Option<String>,
    pub availability_zone: String,
    /// The limits for what flows find out only in the store.
    pub options: Options,
    /// By [`Backend::name`].
    pub backends: BTreeMap<String, Backend>,
    pub backups: BackupTarget,
    pub images: images::Client,
    /// Told of what happens to volumes that servers have.
    pub compute: Compute,
    /// Told of what flows do.
    pub notices: Notices,
    /// Has the keys of encrypted volumes.
    pub keys: KeyManager,
}

/// The image that holds a volume.
pub(crate) struct Placement<'a> {
    pub backend: &'a Backend,
    pub image: ImageSpec,
}

impl Placement<'_> {
    pub fn store(&self) -> &dyn ImageStore {
        self.backend.store.as_ref()
    }
}

/// `volume_name_template`
pub fn volume_image_name(volume_id: Uuid) -> String {
    format!("volume-{volume_id}")
}

/// The id in an image's name: that of its volume, or the volume's `name_id`.
pub fn volume_id_of_image(name: &str) -> Option<Uuid> {
    Uuid::parse_str(name.strip_prefix("volume-")?).ok()
}

/// The snapshot that has this name in the image.
pub fn snapshot_id_of_name(name: &str) -> Option<Uuid> {
    Uuid::parse_str(name.strip_prefix("snapshot-")?).ok()
}

/// `snapshot_name_template`
pub fn snapshot_name(snapshot_id: Uuid) -> String {
    format!("snapshot-{snapshot_id}")
}

impl Manager {
    /// The queues whose flows this manager runs.
    fn queues(&self) -> Vec<Queue> {
        let queue = |name: String, part: &str| match &self.cluster {
            Some(cluster) => Queue::of_group(name, format!("{cluster}@{part}")),
            None => Queue::from(name),
        };
        let volumes = self.backends.values().map(|backend| {
            let name = flows::volume_queue(&self.pool_name(backend));
            queue(name, &backend.name)
        });
        let volumes = volumes.filter(|_| self.duties.volumes);
        // No back-end is called so: a colon has no place in their names.
        let backups = || queue(flows::backup_queue(&self.host), ":backups");
        volumes.chain(self.duties.backups.then(backups)).collect()
    }

    /// Makes the pools that are not there yet.
    pub async fn prepare(&self) -> storage::Result<()> {
        for backend in self.backends.values() {
            backend.store.ensure_pool(&backend.pool).await?;
        }
        self.backups.store.ensure_pool(&self.backups.pool).await
    }

    /// A worker for all flows of this manager; `concurrency` bounds those that run at once.
    pub fn worker(
        self: &Arc<Self>,
        concurrency: usize,
        doorbell: Doorbell,
    ) -> WorkerBuilder<Manager> {
        let (owner, queues) = (self.duties.owner(&self.host), self.queues());
        let builder = Worker::builder(self.database.clone(), self.clone(), owner, queues);
        let builder = flows::register(builder)
            .concurrency(concurrency)
            .doorbell(doorbell);
        if self.notices.is_wanted() {
            return builder.witness(Arc::new(self.notices.clone()));
        }
        builder
    }

    /// Reports heartbeat and capabilities at once and every 10 s, until `shutdown` resolves.
    pub async fn report_until(&self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            if let Err(error) = self.report().await {
                tracing::warn!(%error, "the manager's report was not written");
            }
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(REPORT_INTERVAL) => {}
            }
        }
    }

    /// Sweeps every pool as often as its back-end says, until `shutdown` resolves.
    pub async fn sweep_until(&self, shutdown: impl Future<Output = ()> + Send) {
        if !self.duties.volumes {
            return;
        }
        let sweeps = self.backends.values().map(|backend| async move {
            let mut sweeper = Sweeper::new(GRACE);
            loop {
                tokio::time::sleep(backend.sweep_interval).await;
                let store = backend.store.as_ref();
                match sweeper.sweep(&self.database, store, &backend.pool).await {
                    Ok(gone) if gone.is_empty() => {}
                    Ok(gone) => tracing::info!(backend = %backend.name, ?gone, "swept"),
                    Err(error) => {
                        tracing::warn!(backend = %backend.name, %error, "the sweep will go on later");
                    }
                }
            }
        });
        tokio::select! {
            () = shutdown => {}
            _ = futures_util::future::join_all(sweeps) => {}
        }
    }

    /// Writes heartbeat and capabilities of every pool.
    pub async fn report(&self) -> database::Result<()> {
        let mut reports = Vec::new();
        let backends = self.backends.values();
        for backend in backends.filter(|_| self.duties.volumes) {
            let pool_name = self.pool_name(backend);
            let allocated_gib = volumes::allocated_gib(&self.database, &pool_name).await?;
            let capacity = backend.store.capacity(&backend.pool).await;
            if let Err(error) = &capacity {
                tracing::warn!(backend = %backend.name, %error, "the backend is down");
            }
            reports.push((
                backend,
                pool_name,
                capabilities(backend, capacity.ok(), allocated_gib),
            ));
        }
        let mut tx = self.database.begin().await?;
        for (backend, pool_name, capabilities) in reports {
            self.report_backend(&mut tx, backend, &pool_name, &capabilities)
                .await?;
        }
        if self.duties.backups {
            let zone = &self.availability_zone;
            services::heartbeat(&mut tx, services::BACKUP, &self.host, zone).await?;
            services::set_store(&mut tx, &self.host, self.backups.store.fsid()).await?;
        }
        tx.commit().await
    }

    async fn report_backend(
        &self,
        tx: &mut Tx,
        backend: &Backend,
        pool_name: &str,
        capabilities: &Capabilities,
    ) -> database::Result<()> {
        let host = format!("{}@{}", self.host, backend.name);
        let zone = backend
            .availability_zone
            .as_ref()
            .unwrap_or(&self.availability_zone);
        services::heartbeat(tx, services::VOLUME, &host, zone).await?;
        let cluster = self
            .cluster
            .as_ref()
            .map(|cluster| format!("{cluster}@{}", backend.name));
        if let Some(cluster) = &cluster {
            clusters::ensure(tx, cluster, services::VOLUME).await?;
        }
        services::set_cluster(tx, services::VOLUME, &host, cluster.as_deref()).await?;
        services::report_pool(tx, pool_name, capabilities).await?;
        if let Some(connection) = &backend.connection {
            connections::report(tx, pool_name, connection).await?;
        }
        services::forget_pools(tx, &host, &[pool_name.to_owned()]).await
    }

    /// `host@backend#pool`
    pub(crate) fn pool_name(&self, backend: &Backend) -> String {
        format!("{}@{}#{}", self.host, backend.name, backend.pool)
    }

    /// The live volume `id`.
    pub(crate) async fn volume(&self, id: Uuid) -> Result<Volume, TaskError> {
        let volume = volumes::get(&self.database, id).await?;
        volume.ok_or_else(|| {
            TaskError::new("VolumeNotFound", format!("volume {id} could not be found"))
        })
    }

    /// Where the image of `volume` is, or is to be.
    pub(crate) fn place(&self, volume: &Volume) -> Result<Placement<'_>, TaskError> {
        self.place_on(
            volume.host.as_deref().unwrap_or_default(),
            volume.image_id(),
        )
    }

    /// Where the image of this id ([`Volume::image_id`]) would be on `host` (`host@backend#pool`).
    pub(crate) fn place_on(&self, host: &str, image_id: Uuid) -> Result<Placement<'_>, TaskError> {
        let (backend, pool) = self.backend_and_pool(Some(host))?;
        Ok(Placement {
            backend,
            image: ImageSpec::new(pool, volume_image_name(image_id)),
        })
    }

    /// The backend of a `host@backend#pool`.
    pub(crate) fn backend(&self, host: Option<&str>) -> Result<&Backend, TaskError> {
        Ok(self.backend_and_pool(host)?.0)
    }

    fn backend_and_pool<'a>(
        &self,
        host: Option<&'a str>,
    ) -> Result<(&Backend, &'a str), TaskError> {
        let host = host.unwrap_or_default();
        let parsed = host
            .split_once('@')
            .and_then(|(_, rest)| rest.split_once('#'));
        let backend = parsed.and_then(|(backend, pool)| Some((self.backends.get(backend)?, pool)));
        backend.ok_or_else(|| {
            TaskError::new(
                "UnknownBackend",
                format!("{host:?} is no backend of this manager"),
            )
        })
    }

    /// [`Manager::place`] of the volume `id`; `None` when the volume is gone or was never scheduled.
    pub(crate) async fn place_if_any(&self, id: Uuid) -> Result<Option<Placement<'_>>, TaskError> {
        match volumes::get(&self.database, id).await? {
            Some(volume) if volume.host.is_some() => self.place(&volume).map(Some),
            _ => Ok(None),
        }
    }
}

/// The report of one pool. `capacity`: `None` when the store does not answer.
fn capabilities(backend: &Backend, capacity: Option<Capacity>, allocated_gib: u64) -> Capabilities {
    let gib = |bytes: u64| (bytes as f64 / GIB * 100.0).floor() / 100.0;
    let (total_bytes, free_bytes) = capacity.map_or((0, 0), |capacity| {
        (capacity.total_bytes, capacity.free_bytes)
    });
    let allocated_gb = allocated_gib as f64;
    let used_gb = gib(total_bytes.saturating_sub(free_bytes));
    Capabilities {
        volume_backend_name: backend.volume_backend_name.clone(),
        pool_name: backend.pool.clone(),
        vendor_name: "Basalt".to_owned(),
        driver_version: env!("CARGO_PKG_VERSION").to_owned(),
        storage_protocol: match &backend.connection {
            Some(Connection::Rbd { .. }) => "ceph".to_owned(),
            _ => "nbd".to_owned(),
        },
        total_capacity_gb: gib(total_bytes),
        free_capacity_gb: gib(free_bytes),
        allocated_capacity_gb: allocated_gb,
        provisioned_capacity_gb: allocated_gb,
        reserved_percentage: backend.reserved_percentage,
        max_over_subscription_ratio: backend.over_subscription.ratio(used_gb, allocated_gb),
        thin_provisioning_support: true,
        thick_provisioning_support: false,
        multiattach: true,
        online_extend_support: true,
        qos_support: backend.store.limits_rates(),
        replication_enabled: false,
        backend_state: if capacity.is_some() { "up" } else { "down" }.to_owned(),
        location_info: format!("{}:{}", backend.store.fsid(), backend.pool),
        filter_function: backend.filter_function.clone(),
        goodness_function: backend.goodness_function.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::flows::testbed::{HOST, World};
    use crate::flows::{CreateVolume, CreateVolumeParams, Requester, VolumeSource};

    #[tokio::test]
    async fn the_worker_runs_what_is_in_its_queues() {
        let world = World::new().await;
        let volume_id = world.volume_row(1, None).await;
        let params = CreateVolumeParams {
            volume_id,
            size_gib: 1,
            source: VolumeSource::Empty,
            encryption: None,
        };
        let by = Requester {
            request_id: "r".into(),
            project_id: "p".into(),
            user_id: "u".into(),
        };
        world
            .insert(CreateVolume::new_flow(&params, &flows::volume_queue(HOST), &by).unwrap())
            .await;
        let worker = world.manager.worker(4, Doorbell::new()).build();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(worker.run(async move {
            let _ = stopped.await;
        }));
        while world
            .column("volumes", volume_id, "status")
            .await
            .as_deref()
            != Some("available")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send(()).unwrap();
        running.await.unwrap();
    }

    #[test]
    fn auto_promises_what_experience_allows() {
        assert_eq!(OverSubscription::Ratio(3.0).ratio(5.0, 50.0), 3.0);
        assert_eq!(OverSubscription::Auto.ratio(0.0, 50.0), 20.0);
        assert_eq!(OverSubscription::Auto.ratio(10.0, 50.0), 6.0);
        assert_eq!(OverSubscription::Auto.ratio(10.0, 0.0), 1.0);
    }

    #[tokio::test]
    async fn services_and_pools_are_reported() {
        let world = World::new().await;
        world.volume_row(7, None).await;
        world.manager.report().await.unwrap();
        world.manager.report().await.unwrap();
        let known = services::list(&world.database).await.unwrap();
        let known: Vec<_> = known
            .iter()
            .map(|service| (service.binary.as_str(), service.host.as_str()))
            .collect();
        assert_eq!(
            known,
            [
                (services::BACKUP, "host"),
                (services::VOLUME, "host@memory")
            ]
        );
        let pools = services::pools(&world.database).await.unwrap();
        assert_eq!(pools.len(), 1);
        assert_eq!(
            (
                pools[0].name.as_str(),
                pools[0].capabilities.allocated_capacity_gb
            ),
            (HOST, 7.0)
        );
        assert_eq!(pools[0].capabilities.backend_state, "up");
        world.store.close().await.unwrap();
        world.manager.report().await.unwrap();
        let pools = services::pools(&world.database).await.unwrap();
        assert_eq!(pools[0].capabilities.backend_state, "down");
    }
}
