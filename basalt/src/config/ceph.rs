//! Which parts of the configuration lie in a Ceph cluster, and how to reach it.
//!
//! A volume back-end lies in Ceph when its driver is Cinder's RBD driver; an image store and the
//! backups when their configuration of Ceph is named, because otherwise the embedded store is
//! where they lie. Parts that reach a cluster in the same way share a connection.

use std::path::PathBuf;
use std::time::Duration;

use storage::ceph::CephOptions;

use super::backends::Uses;
use super::options::IMAGE_STORE;
use super::settings::required;
use super::{Config, ConfigError, backends};

/// Cinder's name of the driver.
pub const RBD_DRIVER: &str = "cinder.volume.drivers.rbd.RBDDriver";

/// How to reach a cluster, and how patiently at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub options: CephOptions,
    pub retries: u32,
    pub interval: Duration,
}

/// The cluster of a volume back-end; `None`: the embedded store.
pub fn of_backend(config: &Config, backend: &str) -> Result<Option<Reach>, ConfigError> {
    if required(config, backend, "volume_driver")? != RBD_DRIVER {
        return Ok(None);
    }
    let options = CephOptions {
        cluster_name: required(config, backend, "rbd_cluster_name")?,
        conf: config.text(backend, "rbd_ceph_conf")?.map(PathBuf::from),
        connect_timeout: timeout(config, backend)?,
        concurrent_flattens: config.integer(backend, "rbd_concurrent_flatten_operations")?,
        ..with_user(config.text(backend, "rbd_user")?)
    };
    Ok(Some(Reach {
        options,
        retries: config.integer(backend, "rados_connection_retries")?,
        interval: Duration::from_secs(config.integer(backend, "rados_connection_interval")?),
    }))
}

/// The cluster of an image store's section.
pub fn of_image_store(config: &Config, section: &str) -> Result<Option<Reach>, ConfigError> {
    let Some(conf) = config.text(section, "rbd_store_ceph_conf")? else {
        return Ok(None);
    };
    Ok(Some(Reach::with_defaults(CephOptions {
        conf: Some(conf.into()),
        connect_timeout: timeout(config, section)?,
        ..with_user(config.text(section, "rbd_store_user")?)
    })))
}

/// The cluster of the backups.
pub fn of_backups(config: &Config) -> Result<Option<Reach>, ConfigError> {
    let Some(conf) = config.text("DEFAULT", "backup_ceph_conf")? else {
        return Ok(None);
    };
    Ok(Some(Reach::with_defaults(CephOptions {
        conf: Some(conf.into()),
        ..with_user(config.text("DEFAULT", "backup_ceph_user")?)
    })))
}

/// Every cluster that a process reaches, each once.
pub fn all(config: &Config, uses: Uses) -> Result<Vec<Reach>, ConfigError> {
    let mut found: Vec<Reach> = Vec::new();
    let mut add = |reach: Option<Reach>| {
        if let Some(reach) = reach
            && !found.iter().any(|one| one.options == reach.options)
        {
            found.push(reach);
        }
    };
    if uses.volumes {
        for backend in backends::names(config)? {
            add(of_backend(config, &backend)?);
        }
        add(of_backups(config)?);
    }
    if uses.images {
        for section in image_sections(config)? {
            add(of_image_store(config, &section)?);
        }
    }
    Ok(found)
}

/// Whether every image store lies in a cluster.
pub fn has_all_images(config: &Config) -> Result<bool, ConfigError> {
    let sections = image_sections(config)?;
    for section in &sections {
        if of_image_store(config, section)?.is_none() {
            return Ok(false);
        }
    }
    Ok(!sections.is_empty())
}

/// The sections of the image stores: one without an id, or those of `enabled_backends`.
fn image_sections(config: &Config) -> Result<Vec<String>, ConfigError> {
    let items = config.list("image_api", "enabled_backends")?;
    if items.is_empty() {
        return Ok(vec![IMAGE_STORE.to_owned()]);
    }
    let ids = items.iter().filter_map(|item| item.split_once(':'));
    let rbd = ids.filter(|(_, kind)| kind.trim() == "rbd");
    Ok(rbd.map(|(id, _)| id.trim().to_owned()).collect())
}

impl Reach {
    /// With Cinder's defaults of patience.
    fn with_defaults(options: CephOptions) -> Self {
        Reach {
            options,
            retries: 3,
            interval: Duration::from_secs(5),
        }
    }
}

fn with_user(user: Option<String>) -> CephOptions {
    let defaults = CephOptions::default();
    CephOptions {
        user: user.unwrap_or(defaults.user.clone()),
        ..defaults
    }
}

/// Cinder: below 1 is the default.
fn timeout(config: &Config, section: &str) -> Result<Duration, ConfigError> {
    let seconds: i64 = config.integer(section, "rados_connect_timeout")?;
    Ok(match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => CephOptions::default().connect_timeout,
    })
}
