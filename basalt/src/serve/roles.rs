//! What a process does.

use crate::config::backends::{self, Uses};
use crate::config::{Config, ConfigError, Settings};
use crate::error::{Error, Result};

/// A part of the service that can run in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    VolumeApi,
    VolumeScheduler,
    VolumeManager,
    VolumeBackup,
    ImageApi,
}

/// The roles of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub volume_api: bool,
    pub scheduler: bool,
    pub manager: bool,
    pub backup: bool,
    pub image_api: bool,
}

impl Roles {
    /// No role named: all of them.
    pub fn of(named: &[Role]) -> Self {
        let has = |role| named.is_empty() || named.contains(&role);
        Roles {
            volume_api: has(Role::VolumeApi),
            scheduler: has(Role::VolumeScheduler),
            manager: has(Role::VolumeManager),
            backup: has(Role::VolumeBackup),
            image_api: has(Role::ImageApi),
        }
    }

    /// The stores that these roles open.
    pub fn uses(self) -> Uses {
        Uses {
            volumes: self.manager || self.backup,
            images: self.image_api,
        }
    }

    /// Whether any role of the volume service is in this process.
    pub fn has_volumes(self) -> bool {
        self.volume_api || self.scheduler || self.manager || self.backup
    }

    /// Whether all of them are.
    fn has_all_of_volumes(self) -> bool {
        self.volume_api && self.scheduler && self.manager && self.backup
    }

    /// Errors: roles that reach the others by what processes cannot share.
    pub fn check(self, config: &Config, settings: &Settings) -> Result<()> {
        if self.has_all_of_volumes() || !self.has_volumes() {
            return Ok(());
        }
        let missing = |section: &str, option: &str| {
            let reason =
                "must be set where the roles of the volume service run in several processes";
            Err(ConfigError::option(section, option, reason).into())
        };
        if settings.database_url.is_none() {
            return missing("database", "connection");
        }
        if settings.rabbit.is_none() {
            return missing("DEFAULT", "transport_url");
        }
        let volumes = Uses {
            volumes: true,
            images: false,
        };
        let in_folders = backends::use_node_store(config, volumes)?
            || !backends::store_folders(config, volumes)?.is_empty();
        if self.manager != self.backup && in_folders {
            let reason = "volume-manager and volume-backup run in one process unless volumes and \
                          backups are in Ceph: an embedded store belongs to one process";
            return Err(Error::Usage(reason.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(named: &[Role], pairs: &[(&str, &str)]) -> Result<(), String> {
        let pairs = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let config = Config::load(&[], pairs).unwrap();
        let settings = Settings::of(&config).unwrap();
        let roles = Roles::of(named).check(&config, &settings);
        roles.map_err(|error| error.to_string())
    }

    const SHARED: [(&str, &str); 2] = [
        ("OS_DATABASE__CONNECTION", "postgresql://u:p@h/d"),
        ("OS_DEFAULT__TRANSPORT_URL", "rabbit://u:p@h/"),
    ];

    #[test]
    fn all_roles_need_nothing() {
        assert!(checked(&[], &[]).is_ok());
        assert!(checked(&[Role::ImageApi], &[]).is_ok());
        let all = Roles::of(&[]);
        assert!(all.volume_api && all.scheduler && all.manager && all.backup && all.image_api);
        let image = Roles::of(&[Role::ImageApi]);
        assert!(image.image_api && !image.volume_api && !image.uses().volumes);
    }

    #[test]
    fn roles_apart_need_a_database_and_a_broker() {
        for left_out in 0..SHARED.len() {
            let mut pairs = SHARED.to_vec();
            let (name, _) = pairs.remove(left_out);
            let option = name.rsplit("__").next().unwrap_or_default().to_lowercase();
            let error = checked(&[Role::VolumeApi], &pairs).unwrap_err();
            assert!(error.contains(&option), "{error}");
        }
        assert!(checked(&[Role::VolumeApi], &SHARED).is_ok());
        assert!(checked(&[Role::VolumeManager, Role::VolumeBackup], &SHARED).is_ok());
    }

    #[test]
    fn an_embedded_store_keeps_managers_and_backups_together() {
        let error = checked(&[Role::VolumeBackup], &SHARED).unwrap_err();
        assert!(
            error.contains("volume-manager and volume-backup"),
            "{error}"
        );
        let in_ceph = [
            ("OS_DEFAULT__ENABLED_BACKENDS", "rbd"),
            ("OS_RBD__VOLUME_DRIVER", crate::config::ceph::RBD_DRIVER),
            ("OS_DEFAULT__BACKUP_CEPH_CONF", "/etc/ceph/ceph.conf"),
        ];
        let pairs = [&SHARED[..], &in_ceph].concat();
        assert!(checked(&[Role::VolumeBackup], &pairs).is_ok());
    }
}
