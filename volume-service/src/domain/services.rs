//! Services and zones: who is up, and which zones there are.

use std::collections::BTreeMap;

use crate::db::services::{self, BACKUP, Service, VOLUME};
use crate::{Error, Result, VolumeService};

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

/// The backup service that takes a job: enabled, up, and of the zone if one is asked for.
pub async fn choose_backup_service(service: &VolumeService, zone: Option<&str>) -> Result<Service> {
    let down_time_s = service.options.service_down_time_s;
    let usable = |known: &Service| {
        known.binary == BACKUP
            && !known.disabled
            && known.is_up(down_time_s)
            && zone.is_none_or(|zone| known.availability_zone == zone)
    };
    let mut known = services::list(&service.database)
        .await?
        .into_iter()
        .filter(usable);
    known
        .next()
        .ok_or_else(|| Error::Unavailable(format!("Service {BACKUP} could not be found.")))
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
