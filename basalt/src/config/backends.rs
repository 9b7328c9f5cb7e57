//! From the sections that `enabled_backends` names to the back-ends of the volume service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storage::ImageStore;
use storage::ceph::{CephOptions, CephStore};
use volume_service::connection::Connection;
use volume_service::manager::{Backend, OverSubscription};
use volume_service::scheduler::expression;

use super::ceph::Reach;
use super::settings::required;
use super::{Config, ConfigError, ceph};

/// The driver of the embedded store.
const EMBEDDED_DRIVER: &str = "basalt";

/// The stores of this process: the node's, where anything lies in it, those that back-ends have
/// for themselves, and the Ceph clusters.
#[derive(Clone)]
pub struct Stores {
    pub node: Option<Arc<dyn ImageStore>>,
    /// By folder, as it is written.
    pub own: BTreeMap<PathBuf, OwnStore>,
    pub clusters: Vec<Cluster>,
}

/// A connected Ceph cluster.
#[derive(Clone)]
pub struct Cluster {
    pub options: CephOptions,
    pub store: CephStore,
    /// Host and port of each monitor.
    pub monitors: Vec<(String, u16)>,
}

/// The store of a back-end alone.
#[derive(Clone)]
pub struct OwnStore {
    pub store: Arc<dyn ImageStore>,
    /// Where its volumes are exported.
    pub nbd_socket: PathBuf,
}

impl Stores {
    /// The node's store, for the option whose value means it.
    pub fn node(
        &self,
        (section, option): (&str, &str),
    ) -> Result<&Arc<dyn ImageStore>, ConfigError> {
        self.node.as_ref().ok_or_else(|| {
            let reason = "means the node's own store, which is not open";
            ConfigError::option(section, option, reason)
        })
    }

    /// The store that a back-end has for itself.
    fn own(&self, config: &Config, backend: &str) -> Result<Option<&OwnStore>, ConfigError> {
        let Some(folder) = config.text(backend, "basalt_store_dir")? else {
            return Ok(None);
        };
        let own = self.own.get(Path::new(&folder)).ok_or_else(|| {
            let reason = "names a store that is not open";
            ConfigError::option(backend, "basalt_store_dir", reason)
        })?;
        Ok(Some(own))
    }

    /// The cluster that was connected for these options.
    pub fn cluster(&self, reach: &Reach) -> Result<&Cluster, ConfigError> {
        let mut clusters = self.clusters.iter();
        let found = clusters.find(|cluster| cluster.options == reach.options);
        found.ok_or_else(|| {
            let conf = reach.options.conf.clone().unwrap_or_default();
            let reason = format!("the cluster of {} is not connected", conf.display());
            ConfigError::option("DEFAULT", "enabled_backends", reason)
        })
    }

    /// A cluster's store whose new images have objects of so many MiB.
    pub fn cluster_store(
        &self,
        reach: &Reach,
        (section, option): (&str, &str),
        object_mib: u64,
    ) -> Result<CephStore, ConfigError> {
        let store = &self.cluster(reach)?.store;
        let sized = store.with_object_bytes(object_mib << 20);
        sized.map_err(|error| ConfigError::option(section, option, error.to_string()))
    }
}

/// The names in `enabled_backends`, each once.
pub(super) fn names(config: &Config) -> Result<Vec<String>, ConfigError> {
    let refused = |reason: String| ConfigError::option("DEFAULT", "enabled_backends", reason);
    let mut names = config.list("DEFAULT", "enabled_backends")?;
    if names.is_empty() {
        return Err(refused("names no backend".to_owned()));
    }
    for name in &names {
        if name.contains(['@', '#', ':', '/']) || name.contains(char::is_whitespace) {
            let reason = format!("{name:?} must not have a blank, @, #, : or /");
            return Err(refused(reason));
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// What a process works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Volumes and their backups.
    pub volumes: bool,
    pub images: bool,
}

impl Uses {
    #[cfg(test)]
    const ALL: Self = Uses {
        volumes: true,
        images: true,
    };
}

/// The folders of the stores that back-ends have for themselves, as they are written.
pub fn store_folders(config: &Config, uses: Uses) -> Result<Vec<PathBuf>, ConfigError> {
    let mut folders = Vec::new();
    let names = if uses.volumes {
        names(config)?
    } else {
        Vec::new()
    };
    for name in names {
        if let Some(folder) = config.text(&name, "basalt_store_dir")? {
            folders.push(PathBuf::from(folder));
        }
    }
    folders.sort();
    folders.dedup();
    Ok(folders)
}

/// Whether anything of this lies in the node's own store.
pub fn use_node_store(config: &Config, uses: Uses) -> Result<bool, ConfigError> {
    if uses.images && !ceph::has_all_images(config)? {
        return Ok(true);
    }
    if !uses.volumes {
        return Ok(false);
    }
    for name in names(config)? {
        let has_own = config.text(&name, "basalt_store_dir")?.is_some();
        if !has_own && ceph::of_backend(config, &name)?.is_none() {
            return Ok(true);
        }
    }
    Ok(ceph::of_backups(config)?.is_none())
}

/// One back-end for each name in `enabled_backends`.
pub fn volume_backends(config: &Config, stores: &Stores) -> Result<Vec<Backend>, ConfigError> {
    names(config)?
        .iter()
        .map(|name| volume_backend(config, name, stores))
        .collect()
}

fn volume_backend(config: &Config, name: &str, stores: &Stores) -> Result<Backend, ConfigError> {
    let driver = required(config, name, "volume_driver")?;
    if ![EMBEDDED_DRIVER, ceph::RBD_DRIVER].contains(&driver.as_str()) {
        let reason = format!(
            "{driver:?} is not supported, use {EMBEDDED_DRIVER} or {}",
            ceph::RBD_DRIVER
        );
        return Err(ConfigError::option(name, "volume_driver", reason));
    }
    let shown_name = config.text(name, "volume_backend_name")?;
    let (store, connection) = place(config, name, stores)?;
    Ok(Backend {
        name: name.to_owned(),
        volume_backend_name: shown_name.unwrap_or_else(|| name.to_owned()),
        store,
        pool: required(config, name, "rbd_pool")?,
        max_clone_depth: config.integer(name, "rbd_max_clone_depth")?,
        flatten_volume_from_snapshot: config.boolean(name, "rbd_flatten_volume_from_snapshot")?,
        reserved_percentage: config.integer(name, "reserved_percentage")?,
        over_subscription: over_subscription(config, name)?,
        availability_zone: config.text(name, "backend_availability_zone")?,
        filter_function: function(config, name, "filter_function")?,
        goodness_function: function(config, name, "goodness_function")?,
        sweep_interval: Duration::from_secs(
            config.integer(name, "deferred_deletion_purge_interval")?,
        ),
        connection,
    })
}

/// Where a back-end's volumes lie, and how clients reach them unless it is the node's way.
fn place(config: &Config, name: &str, stores: &Stores) -> Result<Place, ConfigError> {
    if let Some(reach) = ceph::of_backend(config, name)? {
        let option = "rbd_store_chunk_size";
        let object_mib: u64 = config.integer(name, option)?;
        let mut store = stores.cluster_store(&reach, (name, option), object_mib)?;
        if let Some(delay) = deferral(config, name)? {
            store = store.deferring_deletion(delay);
        }
        let connection = rbd_connection(config, name, stores.cluster(&reach)?)?;
        return Ok((Arc::new(store), Some(connection)));
    }
    let own = stores.own(config, name)?;
    let store = match own {
        Some(own) => &own.store,
        None => stores.node((name, "volume_driver"))?,
    };
    Ok((
        Arc::clone(store),
        own.map(|own| nbd_connection(&own.nbd_socket)),
    ))
}

/// How long a back-end's removed images stay in the trash; `None`: they do not go there.
pub fn deferral(config: &Config, name: &str) -> Result<Option<Duration>, ConfigError> {
    if !config.boolean(name, "enable_deferred_deletion")? {
        return Ok(None);
    }
    let delay_s = config.integer(name, "deferred_deletion_delay")?;
    Ok(Some(Duration::from_secs(delay_s)))
}

type Place = (Arc<dyn ImageStore>, Option<Connection>);

/// Clients talk to the cluster themselves.
fn rbd_connection(
    config: &Config,
    name: &str,
    cluster: &Cluster,
) -> Result<Connection, ConfigError> {
    let secret_uuid = config.text(name, "rbd_secret_uuid")?;
    let monitors = &cluster.monitors;
    Ok(Connection::Rbd {
        cluster_name: cluster.options.cluster_name.clone(),
        hosts: monitors.iter().map(|(host, _)| host.clone()).collect(),
        ports: monitors.iter().map(|(_, port)| *port).collect(),
        auth_username: config.text(name, "rbd_user")?,
        secret_uuid: secret_uuid.unwrap_or_else(|| cluster.store.fsid().to_owned()),
    })
}

/// The Unix socket of a store, for clients on this machine.
fn nbd_connection(socket: &Path) -> Connection {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    Connection::Nbd {
        socket: Some(socket.to_string_lossy().into_owned()),
        address: None,
        tls: false,
    }
}

fn over_subscription(config: &Config, backend: &str) -> Result<OverSubscription, ConfigError> {
    let option = "max_over_subscription_ratio";
    let text = required(config, backend, option)?;
    if text == "auto" {
        return Ok(OverSubscription::Auto);
    }
    match text.parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio >= 1.0 => Ok(OverSubscription::Ratio(ratio)),
        _ => {
            let reason = format!("{text:?} is neither auto nor a number of at least 1");
            Err(ConfigError::option(backend, option, reason))
        }
    }
}

/// An expression over volume and back-end.
fn function(config: &Config, backend: &str, option: &str) -> Result<Option<String>, ConfigError> {
    let text = config.text(backend, option)?;
    if let Some(text) = &text {
        expression::check(text).map_err(|reason| ConfigError::option(backend, option, reason))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let pairs = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Config::load(&[], pairs).unwrap()
    }

    fn store() -> Arc<dyn ImageStore> {
        Arc::new(storage::memory::MemoryStore::new())
    }

    fn stores() -> Stores {
        Stores {
            node: Some(store()),
            own: [(
                "second".into(),
                OwnStore {
                    store: store(),
                    nbd_socket: "second/nbd.sock".into(),
                },
            )]
            .into(),
            clusters: Vec::new(),
        }
    }

    #[test]
    fn nothing_configured_is_one_backend() {
        let stores = stores();
        let backends = volume_backends(&config(&[]), &stores).unwrap();
        let expected = Backend::new("basalt", store(), "volumes");
        assert_eq!(backends.len(), 1);
        assert_eq!(backends[0].name, expected.name);
        assert_eq!(backends[0].max_clone_depth, expected.max_clone_depth);
        assert_eq!(backends[0].over_subscription, expected.over_subscription);
        let node = stores.node.as_ref().unwrap();
        assert_eq!(backends[0].store.fsid(), node.fsid());
        assert_eq!(
            backends[0].volume_backend_name,
            expected.volume_backend_name
        );
        assert!(store_folders(&config(&[]), Uses::ALL).unwrap().is_empty());
    }

    #[test]
    fn backends_have_sections_of_their_own() {
        let config = config(&[
            ("OS_DEFAULT__ENABLED_BACKENDS", "slow,fast,slow"),
            ("OS_FAST__RBD_POOL", "nvme"),
            ("OS_FAST__GOODNESS_FUNCTION", "volume.size < 9 ? 90 : 10"),
            ("OS_SLOW__VOLUME_BACKEND_NAME", "tape"),
            ("OS_SLOW__BASALT_STORE_DIR", "second"),
            ("OS_SLOW__BACKEND_AVAILABILITY_ZONE", "cellar"),
            ("OS_SLOW__MAX_OVER_SUBSCRIPTION_RATIO", "auto"),
            ("OS_BACKEND_DEFAULTS__RBD_MAX_CLONE_DEPTH", "3"),
        ]);
        assert_eq!(
            store_folders(&config, Uses::ALL).unwrap(),
            [PathBuf::from("second")]
        );
        let stores = stores();
        let backends = volume_backends(&config, &stores).unwrap();
        let shown: Vec<_> = backends
            .iter()
            .map(|one| {
                (
                    one.name.as_str(),
                    one.pool.as_str(),
                    one.volume_backend_name.as_str(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [("fast", "nvme", "fast"), ("slow", "volumes", "tape")]
        );
        assert!(backends.iter().all(|one| one.max_clone_depth == 3));
        let [fast, slow] = &backends[..] else {
            panic!("two backends")
        };
        let node = stores.node.as_ref().unwrap();
        assert_eq!(fast.store.fsid(), node.fsid());
        assert_ne!(slow.store.fsid(), node.fsid());
        assert_eq!(slow.over_subscription, OverSubscription::Auto);
        assert_eq!(slow.availability_zone.as_deref(), Some("cellar"));
        assert!(fast.goodness_function.is_some());
        assert!(fast.connection.is_none() && slow.connection.is_some());
    }

    #[test]
    fn the_nodes_store_is_left_out_where_nothing_lies_in_it() {
        let in_ceph = [
            ("OS_DEFAULT__ENABLED_BACKENDS", "rbd"),
            ("OS_RBD__VOLUME_DRIVER", ceph::RBD_DRIVER),
            ("OS_DEFAULT__BACKUP_CEPH_CONF", "/etc/ceph/ceph.conf"),
            (
                "OS_GLANCE_STORE__RBD_STORE_CEPH_CONF",
                "/etc/ceph/ceph.conf",
            ),
        ];
        assert!(!use_node_store(&config(&in_ceph), Uses::ALL).unwrap());
        assert!(use_node_store(&config(&[]), Uses::ALL).unwrap());
        for left_out in 0..in_ceph.len() {
            let mut others = in_ceph.to_vec();
            others.remove(left_out);
            assert!(
                use_node_store(&config(&others), Uses::ALL).unwrap(),
                "{left_out}"
            );
        }
        let more = [
            &in_ceph[..],
            &[
                ("OS_IMAGE_API__ENABLED_BACKENDS", "near:rbd,web:http"),
                ("OS_NEAR__RBD_STORE_CEPH_CONF", "/etc/ceph/ceph.conf"),
            ],
        ];
        assert!(!use_node_store(&config(&more.concat()), Uses::ALL).unwrap());
        // A store's section falls back on [glance_store].
        assert!(!use_node_store(&config(&more.concat()[..5]), Uses::ALL).unwrap());
        let nowhere = [&in_ceph[..3], &more[1][..1]].concat();
        assert!(use_node_store(&config(&nowhere), Uses::ALL).unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (name, text, option) in [
            (
                "OS_BACKEND_DEFAULTS__VOLUME_DRIVER",
                "cinder.volume.drivers.lvm.LVMVolumeDriver",
                "[basalt] volume_driver",
            ),
            (
                "OS_DEFAULT__ENABLED_BACKENDS",
                "",
                "[DEFAULT] enabled_backends",
            ),
            (
                "OS_DEFAULT__ENABLED_BACKENDS",
                "a b",
                "[DEFAULT] enabled_backends",
            ),
            (
                "OS_BASALT__FILTER_FUNCTION",
                "volume.size <",
                "[basalt] filter_function",
            ),
            (
                "OS_BASALT__MAX_OVER_SUBSCRIPTION_RATIO",
                "0.5",
                "[basalt] max_over_subscription_ratio",
            ),
            (
                "OS_BASALT__BASALT_STORE_DIR",
                "elsewhere",
                "[basalt] basalt_store_dir",
            ),
        ] {
            let error = volume_backends(&config(&[(name, text)]), &stores())
                .err()
                .unwrap();
            assert!(error.to_string().contains(option), "{error}");
        }
    }
}
