//! Creates: the best pool for a new volume, from the request's hints and the volume's type.

use std::collections::BTreeSet;

use database::{Tx, now_us};
use serde_json::Value;
use taskflow::Waiting;
use uuid::Uuid;

use super::request::Locality;
use super::{Candidate, Plan, Request, Scheduler, end, tell_no_backend};
use crate::Result;
use crate::compute::Compute;
use crate::db::placements::{self, Placement};
use crate::db::volumes::{self, Volume};
use crate::db::{Change, status, volume_types};
use crate::flows::{self, CreateVolumeParams, VolumeSource};
use crate::notices::Notices;

/// The filter that looks at the hint `local_to_instance`.
const LOCALITY_FILTER: &str = "InstanceLocalityFilter";

impl Scheduler {
    /// Moves a create to the pool that suits the volume best, or ends it when none does.
    pub(super) async fn schedule_create(
        &self,
        flow: &Waiting,
        candidates: &mut [Candidate],
    ) -> Result<bool> {
        let options = &self.service.options;
        let params: Result<CreateVolumeParams, _> = serde_json::from_str(&flow.params);
        // The compute service is asked before the transaction, which nobody shares.
        let local_to = match &params {
            Ok(params) => self.locality(params.volume_id).await?,
            Err(_) => Locality::Anywhere,
        };
        let mut tx = self.service.database.begin().await?;
        let Ok(params) = params else {
            return end(tx, flow, "UnknownParams", "not a volume to schedule").await;
        };
        let Some(volume) = volumes::get(&mut tx, params.volume_id).await? else {
            release_source(&mut tx, &params).await?;
            return end(tx, flow, "NotFound", "the volume is gone").await;
        };
        if volume.status != status::CREATING {
            release_source(&mut tx, &params).await?;
            return end(tx, flow, "WrongState", "the volume is not being created").await;
        }
        let mut placement = placements::get(&mut tx, volume.id)
            .await?
            .unwrap_or_default();
        let request = Request {
            local_to,
            ..request(&mut tx, &volume, &placement).await?
        };
        let Some(chosen) = Plan::of(options).best(candidates, &request) else {
            fail(&mut tx, &self.service.notices, flow, &volume).await?;
            release_source(&mut tx, &params).await?;
            return end(tx, flow, "NoValidBackend", "No valid backend was found").await;
        };
        let pool = chosen.pool.name.clone();
        let change = Change::volume(volume.id)
            .when(&[status::CREATING])
            .set("host = ?", pool.as_str())
            .set("service_uuid = ?", chosen.service_id)
            .set("availability_zone = ?", chosen.availability_zone.as_str())
            .set("scheduled_at = ?", now_us());
        change.apply(&mut tx).await?;
        placement.tried.push(pool.clone());
        let tries = u32::try_from(placement.tried.len()).unwrap_or(u32::MAX);
        placement.attempts_left = options.scheduler_max_attempts.saturating_sub(tries);
        placements::put(&mut tx, volume.id, &placement).await?;
        let handed_over = self
            .hand_over(tx, flow, &flows::volume_queue(&pool))
            .await?;
        if handed_over {
            chosen.consume(volume.size_gib);
        }
        Ok(handed_over)
    }
}

impl Scheduler {
    /// Where the server is that the volume is to be near, if the operator lets clients ask.
    async fn locality(&self, volume_id: Uuid) -> Result<Locality> {
        let filters = &self.service.options.scheduler_default_filters;
        if !filters.iter().any(|name| name == LOCALITY_FILTER) {
            return Ok(Locality::Anywhere);
        }
        let placement = placements::get(&self.service.database, volume_id).await?;
        let hints = placement
            .map(|placement| placement.hints)
            .unwrap_or_default();
        let Some(server_id) = hint_ids(hints.get("local_to_instance")).first().copied() else {
            return Ok(Locality::Anywhere);
        };
        let Compute::At(compute) = &self.service.compute else {
            return Ok(Locality::Nowhere);
        };
        Ok(match compute.host_of(server_id).await {
            Ok(Some(host)) => Locality::Host(host),
            Ok(None) => Locality::Nowhere,
            Err(error) => {
                tracing::warn!(server = %server_id, %error, "the host of a server is not known");
                Locality::Nowhere
            }
        })
    }
}

/// What the volume asks of its pool.
async fn request(tx: &mut Tx, volume: &Volume, placement: &Placement) -> Result<Request> {
    let hints = placement.hints.clone();
    let same = backends_of(tx, volume, hints.get("same_host")).await?;
    let different = backends_of(tx, volume, hints.get("different_host")).await?;
    let own_zone = || vec![volume.availability_zone.clone()];
    Ok(Request {
        size_gib: volume.size_gib,
        availability_zones: placement
            .availability_zones
            .clone()
            .unwrap_or_else(own_zone),
        extra_specs: volume_types::extra_specs(&mut *tx, volume.volume_type_id).await?,
        same_backends: same,
        other_backends: different.unwrap_or_default(),
        tried: placement.tried.clone(),
        exists_on: None,
        local_to: Locality::Anywhere,
        hints,
    })
}

/// The back-ends (`host@backend`) of the volumes that a hint names, as far as they are the
/// project's own. None without the hint.
async fn backends_of(
    tx: &mut Tx,
    volume: &Volume,
    hint: Option<&Value>,
) -> Result<Option<Vec<String>>> {
    let ids = hint_ids(hint);
    if ids.is_empty() {
        return Ok(None);
    }
    let named = volumes::get_many(tx, &ids).await?;
    let backends: BTreeSet<String> = named
        .iter()
        .filter(|named| named.project_id == volume.project_id)
        .filter_map(|named| named.host.as_deref()?.split('#').next())
        .map(str::to_owned)
        .collect();
    Ok(Some(backends.into_iter().collect()))
}

/// A hint is one id or a list of them; what is no id names nothing.
fn hint_ids(hint: Option<&Value>) -> Vec<Uuid> {
    let texts: Vec<&str> = match hint {
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    texts
        .into_iter()
        .filter_map(|text| Uuid::parse_str(text).ok())
        .collect()
}

/// The volume is in error, and its owner is told why.
async fn fail(tx: &mut Tx, notices: &Notices, flow: &Waiting, volume: &Volume) -> Result<()> {
    let change = Change::volume(volume.id)
        .when(&[status::CREATING])
        .status(status::ERROR);
    change.apply(tx).await?;
    placements::delete(tx, volume.id).await?;
    let reason = "No valid backend was found.";
    notices
        .not_scheduled(tx, volume.id, "create_volume", reason, &flow.info)
        .await?;
    tell_no_backend(tx, flow, volume).await
}

/// Lets go of a backup that the volume was to be restored from.
async fn release_source(tx: &mut Tx, params: &CreateVolumeParams) -> Result<()> {
    if let VolumeSource::Backup { backup_id, .. } = params.source {
        let change = Change::backup(backup_id)
            .when(&[status::RESTORING])
            .status(status::AVAILABLE);
        change.apply(tx).await?;
    }
    Ok(())
}
