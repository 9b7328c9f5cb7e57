//! Retypes and migrations: whether a volume may stay where it is, and where it goes else.

use database::Tx;
use taskflow::Waiting;

use super::{Candidate, Plan, Request, Scheduler, end, tell_no_backend, zones_of_type};
use crate::Result;
use crate::db::placements::{self, Placement};
use crate::db::volumes::{self, Volume};
use crate::db::{status, volume_types};
use crate::flows::{self, MigrateVolumeParams, MigrationPolicy, Recryption, RetypeVolumeParams};

impl Scheduler {
    /// A retype stays where the volume is, if that pool suits the new type; else it goes to the
    /// best one, if the client lets it.
    pub(super) async fn schedule_retype(
        &self,
        flow: &Waiting,
        candidates: &mut [Candidate],
    ) -> Result<bool> {
        let params: Result<RetypeVolumeParams, _> = serde_json::from_str(&flow.params);
        let mut tx = self.service.database.begin().await?;
        let Ok(params) = params else {
            return end(tx, flow, "UnknownParams", "not a volume to retype").await;
        };
        let Some((volume, host, mut placement)) =
            moving(&mut tx, params.volume_id, status::RETYPING).await?
        else {
            return end(tx, flow, "WrongState", "the volume is not being retyped").await;
        };
        let extra_specs = volume_types::extra_specs(&mut tx, params.new_type_id).await?;
        let own_zone = || vec![volume.availability_zone.clone()];
        let request = Request {
            availability_zones: zones_of_type(&extra_specs).unwrap_or_else(own_zone),
            extra_specs,
            ..request(&volume, &host)
        };
        let ranked = Plan::of(&self.service.options).ranked(candidates, &request);
        let passing: Vec<&Candidate> = ranked
            .iter()
            .filter_map(|index| candidates.get(*index))
            .collect();
        let stays = passing.iter().any(|candidate| candidate.pool.name == host);
        let target = passing.first().map(|best| best.pool.name.clone());
        placement.target_host = match target {
            _ if stays => None,
            Some(target) if params.policy == MigrationPolicy::OnDemand => Some(target),
            _ => {
                flows::retype_failed(&mut tx, volume.id, false).await?;
                tell_no_backend(&mut tx, flow, &volume).await?;
                let ended = end(tx, flow, "NoValidBackend", "No valid backend was found").await?;
                self.forget_key(params.recryption).await;
                return Ok(ended);
            }
        };
        placements::put(&mut tx, volume.id, &placement).await?;
        self.hand_over(tx, flow, &flows::volume_queue(&host)).await
    }

    /// The key of a retype that does not happen.
    async fn forget_key(&self, recryption: Recryption) {
        let Some(key_id) = recryption.new_key() else {
            return;
        };
        if let Err(error) = self.service.keys.delete_as_service(key_id).await {
            tracing::warn!(key = %key_id, %error, "a key that is not needed any more stays");
        }
    }

    /// A migration goes where the client says, if that pool can take the volume.
    pub(super) async fn schedule_migrate(
        &self,
        flow: &Waiting,
        candidates: &mut [Candidate],
    ) -> Result<bool> {
        let params: Result<MigrateVolumeParams, _> = serde_json::from_str(&flow.params);
        let mut tx = self.service.database.begin().await?;
        let Ok(params) = params else {
            return end(tx, flow, "UnknownParams", "not a volume to migrate").await;
        };
        let Some((volume, host, mut placement)) = moving(&mut tx, params.volume_id, "").await?
        else {
            return end(tx, flow, "NotFound", "the volume is gone").await;
        };
        let wanted = placement.target_host.clone().unwrap_or_default();
        let request = Request {
            extra_specs: volume_types::extra_specs(&mut tx, volume.volume_type_id).await?,
            ..request(&volume, &host)
        };
        let ranked = Plan::of(&self.service.options).ranked(candidates, &request);
        let target = ranked
            .iter()
            .filter_map(|index| candidates.get(*index))
            .find(|candidate| candidate.is_on(&wanted) && candidate.pool.name != host);
        let Some(target) = target else {
            flows::migration_failed(&mut tx, volume.id).await?;
            tell_no_backend(&mut tx, flow, &volume).await?;
            return end(tx, flow, "NoValidBackend", "No valid backend was found").await;
        };
        placement.target_host = Some(target.pool.name.clone());
        placements::put(&mut tx, volume.id, &placement).await?;
        self.hand_over(tx, flow, &flows::volume_queue(&host)).await
    }
}

/// The volume, its pool, and where it is to go. None: it is not in `expected` (empty: any) any
/// more.
async fn moving(
    tx: &mut Tx,
    volume_id: uuid::Uuid,
    expected: &str,
) -> Result<Option<(Volume, String, Placement)>> {
    let volume = volumes::get(&mut *tx, volume_id).await?;
    let Some(volume) = volume.filter(|one| expected.is_empty() || one.status == expected) else {
        placements::delete(tx, volume_id).await?;
        return Ok(None);
    };
    let placement = placements::get(tx, volume_id).await?.unwrap_or_default();
    Ok(volume.host.clone().map(|host| (volume, host, placement)))
}

/// What the volume asks of a pool, apart from its type.
fn request(volume: &Volume, host: &str) -> Request {
    Request {
        size_gib: volume.size_gib,
        availability_zones: vec![volume.availability_zone.clone()],
        exists_on: Some(host.to_owned()),
        ..Request::default()
    }
}
