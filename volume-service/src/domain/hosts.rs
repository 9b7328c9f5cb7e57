//! What is on a host: volumes and snapshots by project.

use std::collections::BTreeMap;

use crate::db::hosts::{self, Holdings};
use crate::db::services;
use crate::{Error, Result, VolumeService};

/// What projects have on a manager (`host@backend`).
///
/// Errors: [`Error::NotFound`] unless a manager of this name is enabled.
pub async fn holdings(service: &VolumeService, host: &str) -> Result<BTreeMap<String, Holdings>> {
    let known = services::list(&service.database).await?;
    let serves = |one: &services::Service| {
        one.binary == services::VOLUME && one.host == host && !one.disabled
    };
    if !known.iter().any(serves) {
        return Err(Error::NotFound(format!("Host {host} could not be found.")));
    }
    Ok(hosts::holdings(&service.database, host).await?)
}
