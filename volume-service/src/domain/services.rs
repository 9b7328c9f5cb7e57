//! Services and zones: who is up, and which zones there are.

use std::collections::BTreeMap;

use database::Tx;
use rest::RequestContext;

use super::types;

use crate::db::services::{self, Service, VOLUME};
use crate::db::volume_types;
use crate::{Error, Result, VolumeService, scheduler};

/// Every zone with whether anything in it takes volumes.
pub async fn zones(service: &VolumeService) -> Result<BTreeMap<String, bool>> {
    let mut zones = BTreeMap::from([(service.options.storage_availability_zone.clone(), true)]);
    for known in services::list(&service.database)
        .await?
        .into_iter()
        .filter(|known| known.binary == VOLUME)
    {
        let available = zones.entry(known.availability_zone).or_insert(false);
        *available |= !known.disabled;
    }
    Ok(zones)
}

/// The zone if it is there; otherwise the default one where the operator allows that, or none.
pub async fn existing_zone(service: &VolumeService, zone: &str) -> Result<Option<String>> {
    if zones(service).await?.contains_key(zone) {
        return Ok(Some(zone.to_owned()));
    }
    let options = &service.options;
    let fallback = options.allow_availability_zone_fallback;
    Ok(fallback.then(|| options.default_zone().to_owned()))
}

/// Which managers an operator means.
#[derive(Debug, Clone, Copy)]
pub enum Managers<'a> {
    /// `host@backend`
    Host(&'a str),
    /// `cluster@backend`
    Cluster(&'a str),
}

/// Freezes or thaws managers: a frozen one takes no volumes and lets none be changed.
///
/// Errors: [`Error::Invalid`] when there are none, or all of them are so already.
pub async fn set_frozen(
    service: &VolumeService,
    managers: Managers<'_>,
    frozen: bool,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let mut changed = false;
    for manager in managers_of(&mut tx, managers).await? {
        changed |= services::set_frozen(&mut tx, &manager.host, frozen).await?;
    }
    if !changed {
        let expected = if frozen { "False" } else { "True" };
        return Err(Error::invalid_input(format!(
            "frozen must be {expected} on at least one of the services."
        )));
    }
    Ok(tx.commit().await?)
}

/// Sends managers to another site of theirs. None has one: no driver here replicates.
///
/// Errors: always [`Error::Invalid`], as from a driver without replication.
pub async fn failover(service: &VolumeService, managers: Managers<'_>) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let hosts: Vec<String> = managers_of(&mut tx, managers)
        .await?
        .into_iter()
        .map(|manager| manager.host)
        .collect();
    Err(Error::invalid_input(format!(
        "replication_status in {} must be enabled or failed-over to failover, and is not-capable.",
        hosts.join(", ")
    )))
}

async fn managers_of(tx: &mut Tx, managers: Managers<'_>) -> Result<Vec<Service>> {
    let (found, asked) = match managers {
        Managers::Host(host) => (
            filter_managers(tx, |one| one.host == host).await?,
            ("host", host),
        ),
        Managers::Cluster(name) => {
            let in_cluster = |one: &Service| one.cluster_name.as_deref() == Some(name);
            (filter_managers(tx, in_cluster).await?, ("cluster", name))
        }
    };
    if found.is_empty() {
        let (what, name) = asked;
        return Err(Error::invalid_input(format!(
            "No service found with {what}={name}"
        )));
    }
    Ok(found)
}

async fn filter_managers(tx: &mut Tx, wanted: impl Fn(&Service) -> bool) -> Result<Vec<Service>> {
    let mut known = services::list(tx).await?;
    known.retain(|one| one.binary == VOLUME && wanted(one));
    Ok(known)
}

/// Refuses changes to what is on a frozen back-end. `host`: `host@backend#pool`.
pub async fn check_not_frozen(tx: &mut Tx, host: Option<&str>) -> Result<()> {
    if let Some(host) = host
        && services::is_frozen(tx, host).await?
    {
        return Err(Error::invalid_input(
            "Modification operations are not allowed on frozen storage backends.",
        ));
    }
    Ok(())
}

/// Enables or disables a service.
pub async fn set_disabled(
    service: &VolumeService,
    binary: &str,
    host: &str,
    disabled: bool,
    reason: Option<&str>,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !services::set_disabled(&mut tx, binary, host, disabled, reason).await? {
        return Err(Error::NotFound(format!(
            "Service {binary} could not be found on host {host}."
        )));
    }
    Ok(tx.commit().await?)
}

/// The names of the pools that meet the extra specs of a type, given by id or name.
pub async fn pools_for_type(
    service: &VolumeService,
    context: &RequestContext,
    volume_type: &str,
) -> Result<Vec<String>> {
    let volume_type = types::find(service, context, volume_type).await?;
    let extra_specs = volume_types::extra_specs(&service.database, volume_type.id).await?;
    let request = scheduler::Request {
        extra_specs,
        ..scheduler::Request::default()
    };
    let plan = scheduler::Plan::of(&service.options);
    let candidates = scheduler::candidates(service).await?;
    Ok(candidates
        .iter()
        .filter(|candidate| plan.passes(candidate, &request))
        .map(|candidate| candidate.pool.name.clone())
        .collect())
}
