//! Chooses the pool of volumes that name no host: filters, then the weigher.
//!
//! Flows without a host wait in the queue [`SCHEDULER_QUEUE`]. The scheduler reads them when it
//! is rung (and now and then), writes the chosen host into the volume's row and moves the flow to
//! that manager's queue, in one transaction. Several schedulers may run: the move is conditional.

mod filters;
mod groups;

use std::sync::Arc;
use std::time::Duration;

use database::{Tx, now_us};
use taskflow::{TaskError, Waiting};
use tokio::sync::Notify;

use crate::db::messages::{self, Action, Detail, NewMessage, Resource};
use crate::db::services::{self, Pool, Service};
use crate::db::volumes::Volume;
use crate::db::{self, Change, status, volume_types};
use crate::flows::{self, CreateVolumeParams, VolumeSource};
use crate::{Result, SCHEDULER_QUEUE, VolumeService};

pub use filters::{Candidate, Wish, choose};
pub use groups::choose_for_group;

/// How long the scheduler waits for a ring before it looks by itself.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the scheduler reports (Cinder's `report_interval`).
const REPORT: Duration = Duration::from_secs(10);
/// Flows that are scheduled on one look at the pools.
const BATCH: u32 = 64;

/// The scheduler role. [`Scheduler::wake`] is its doorbell.
#[derive(Clone)]
pub struct Scheduler {
    service: Arc<VolumeService>,
    bell: Arc<Notify>,
}

impl Scheduler {
    /// A scheduler that `bell` wakes.
    pub fn new(service: Arc<VolumeService>, bell: Arc<Notify>) -> Self {
        Scheduler { service, bell }
    }

    /// There may be work. Never blocks.
    pub fn wake(&self) {
        self.bell.notify_one();
    }

    /// Schedules, and reports that it does, until `shutdown` resolves.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        tokio::pin!(shutdown);
        let mut reports = tokio::time::interval(REPORT);
        loop {
            let more = match self.schedule_waiting().await {
                Ok(count) => count > 0,
                Err(error) => {
                    tracing::error!(%error, "scheduling failed");
                    false
                }
            };
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                _ = reports.tick() => self.report().await,
                () = std::future::ready(()), if more => {}
                () = self.bell.notified() => {}
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }

    /// Writes the heartbeat, and drops messages that have expired.
    async fn report(&self) {
        let options = &self.service.options;
        let written = async {
            let mut tx = self.service.database.begin().await?;
            let zone = &options.storage_availability_zone;
            services::heartbeat(&mut tx, services::SCHEDULER, &options.host, zone).await?;
            messages::delete_expired(&mut tx).await?;
            tx.commit().await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "the scheduler's heartbeat was not written");
        }
    }

    /// Handles the flows that wait now; returns how many left the queue.
    pub async fn schedule_waiting(&self) -> Result<usize> {
        let waiting = taskflow::waiting(&self.service.database, SCHEDULER_QUEUE, BATCH).await?;
        if waiting.is_empty() {
            return Ok(0);
        }
        let services = services::list(&self.service.database).await?;
        let down_time_s = self.service.options.service_down_time_s;
        let pools = services::pools(&self.service.database).await?;
        let mut candidates = usable(down_time_s, pools, &services);
        let mut moved = 0;
        for flow in &waiting {
            if self.schedule(flow, &mut candidates).await? {
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// Moves one flow to the pool that suits it best, or ends it when none does.
    async fn schedule(&self, flow: &Waiting, candidates: &mut [Candidate]) -> Result<bool> {
        let params: Result<CreateVolumeParams, _> = serde_json::from_str(&flow.params);
        let mut tx = self.service.database.begin().await?;
        let Ok(params) = params else {
            let error = TaskError::new("UnknownParams", "not a volume to schedule");
            let rejected = taskflow::reject(&mut tx, flow.info.id, SCHEDULER_QUEUE, &error).await?;
            tx.commit().await?;
            return Ok(rejected);
        };
        let Some(volume) = db::volumes::get(&mut tx, params.volume_id).await? else {
            return reject(tx, flow, &params, "NotFound", "the volume is gone").await;
        };
        if volume.status != status::CREATING {
            return reject(
                tx,
                flow,
                &params,
                "WrongState",
                "the volume is not being created",
            )
            .await;
        }
        let wish = Wish {
            size_gib: volume.size_gib,
            availability_zone: volume.availability_zone.clone(),
            extra_specs: volume_types::extra_specs(&mut tx, volume.volume_type_id).await?,
        };
        let Some(chosen) = choose(candidates, &wish) else {
            fail(&mut tx, flow, &volume).await?;
            return reject(
                tx,
                flow,
                &params,
                "NoValidBackend",
                "No valid backend was found",
            )
            .await;
        };
        let queue = flows::volume_queue(&chosen.pool.name);
        let change = Change::volume(volume.id)
            .when(&[status::CREATING])
            .set("host = ?", chosen.pool.name.as_str())
            .set("service_uuid = ?", chosen.service_id)
            .set("scheduled_at = ?", now_us());
        change.apply(&mut tx).await?;
        if !taskflow::requeue(&mut tx, flow.info.id, SCHEDULER_QUEUE, &queue).await? {
            return Ok(false);
        }
        tx.commit().await?;
        chosen.consume(volume.size_gib);
        self.service.doorbell.ring(&queue);
        Ok(true)
    }
}

/// The pools whose service is enabled and up.
fn usable(down_time_s: u32, pools: Vec<Pool>, services: &[Service]) -> Vec<Candidate> {
    let candidate = |pool: Pool| {
        let service = services.iter().find(|service| {
            service.binary == services::VOLUME && service.host == pool.service_host
        })?;
        let up = !service.disabled
            && service.is_up(down_time_s)
            && pool.capabilities.backend_state == "up";
        up.then(|| Candidate {
            pool,
            service_id: service.id,
            availability_zone: service.availability_zone.clone(),
        })
    };
    pools.into_iter().filter_map(candidate).collect()
}

/// The volume is in error, and its owner is told why.
async fn fail(tx: &mut Tx, flow: &Waiting, volume: &Volume) -> Result<()> {
    tracing::warn!(volume = %volume.id, request_id = %flow.info.request_id, "no valid backend was found");
    Change::volume(volume.id)
        .when(&[status::CREATING])
        .status(status::ERROR)
        .apply(tx)
        .await?;
    let message = NewMessage {
        project_id: &volume.project_id,
        request_id: Some(&flow.info.request_id),
        resource: Resource::Volume,
        resource_id: volume.id,
        action: Action::ScheduleAllocateVolume,
        detail: Detail::NoBackendAvailable,
    };
    messages::insert(tx, message).await?;
    Ok(())
}

/// Ends the flow and lets go of a backup it was to restore from.
async fn reject(
    mut tx: Tx,
    flow: &Waiting,
    params: &CreateVolumeParams,
    class: &str,
    text: &str,
) -> Result<bool> {
    if let VolumeSource::Backup { backup_id, .. } = params.source {
        Change::backup(backup_id)
            .when(&[status::RESTORING])
            .status(status::AVAILABLE)
            .apply(&mut tx)
            .await?;
    }
    let error = TaskError::new(class, text);
    let rejected = taskflow::reject(&mut tx, flow.info.id, SCHEDULER_QUEUE, &error).await?;
    tx.commit().await?;
    Ok(rejected)
}
