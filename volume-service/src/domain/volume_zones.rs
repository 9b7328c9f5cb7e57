//! The availability zones that a new volume may be in.

use super::services;
use super::volume_source::Found;
use crate::db::volume_types::ExtraSpecs;
use crate::{Error, Result, VolumeService, scheduler};

/// Where a new volume may be.
pub(super) struct Zones {
    /// The zone of the row, until the scheduler has chosen.
    pub own: String,
    /// Several that the type allows, where neither client nor source names one.
    pub of_type: Option<Vec<String>>,
}

/// The zone that client, source and type leave, or the zones that the type allows.
pub(super) async fn choose(
    service: &VolumeService,
    asked: Option<&str>,
    source: &Found,
    specs: &ExtraSpecs,
) -> Result<Zones> {
    let Some(allowed) = scheduler::zones_of_type(specs) else {
        let own = choose_one(service, asked, source).await?;
        return Ok(Zones { own, of_type: None });
    };
    if asked.is_none() && source.zone().is_none() {
        let known = services::zones(service).await?;
        let usable: Vec<String> = allowed
            .into_iter()
            .filter(|zone| known.contains_key(zone))
            .collect();
        let default = service.options.default_zone();
        let own = usable.iter().find(|zone| *zone == default);
        let own = own.or(usable.first()).cloned().ok_or_else(|| {
            let text = "Volume type is only supported in zones that do not exist.";
            Error::invalid_input(text)
        })?;
        return Ok(Zones {
            own,
            of_type: Some(usable),
        });
    }
    let own = choose_one(service, asked, source).await?;
    if !allowed.contains(&own) {
        return Err(Error::invalid_input(format!(
            "Volume and volume type are in different availability zones: '{own}' is not among \
             the zones of the volume type."
        )));
    }
    Ok(Zones { own, of_type: None })
}

/// The zone asked for, else the source's, else the default one; it must exist.
async fn choose_one(
    service: &VolumeService,
    asked: Option<&str>,
    source: &Found,
) -> Result<String> {
    let source_zone = source.zone();
    let options = &service.options;
    let zone = asked
        .or(source_zone.map(|(zone, _)| zone))
        .unwrap_or(options.default_zone());
    let zone = services::existing_zone(service, zone)
        .await?
        .ok_or_else(|| Error::Invalid(format!("Availability zone '{zone}' is invalid.")))?;
    match source_zone {
        Some((source_zone, what)) if options.cloned_volume_same_az && source_zone != zone => {
            Err(Error::invalid_input(format!(
                "Volume must be in the same availability zone as the {what}"
            )))
        }
        _ => Ok(zone),
    }
}
