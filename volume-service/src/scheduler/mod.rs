//! Chooses the pools of volumes: filters, then weighers, a file each.
//!
//! Flows that need a pool (creates without a source, retypes, migrations) wait in the queue
//! [`SCHEDULER_QUEUE`]. The scheduler reads them when it is rung (and now and then), writes what
//! it chose into the volume's rows and moves the flow to a manager's queue, in one transaction.
//! Several schedulers may run: the move is conditional. A create that fails on a pool comes back
//! here, up to `scheduler_max_attempts` times, and goes to another.

mod candidate;
mod choice;
mod create;
pub mod expression;
mod extra_specs;
pub mod filters;
mod groups;
mod relocate;
mod request;
pub mod weighers;

use std::sync::Arc;
use std::time::Duration;

use database::Tx;
use taskflow::{Flow, TaskError, Waiting};
use tokio::sync::Notify;

use crate::db::messages::{self, Action, Detail, NewMessage, Resource};
use crate::db::volumes::Volume;
use crate::db::{clusters, services, volumes};
use crate::flows::{CreateVolume, MigrateVolume, RetypeVolume};
use crate::{Result, SCHEDULER_QUEUE, VolumeService};

pub use candidate::Candidate;
pub use choice::Plan;
pub use groups::choose_for_group;
pub use request::{Request, ZONES_SPEC, zones_of_type};

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
        let mut candidates = candidates(&self.service).await?;
        let mut moved = 0;
        for flow in &waiting {
            if self.schedule(flow, &mut candidates).await? {
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// Moves one flow to the manager that is to run it, or ends it.
    async fn schedule(&self, flow: &Waiting, candidates: &mut [Candidate]) -> Result<bool> {
        let kind = flow.info.kind.as_str();
        if kind == CreateVolume::KIND {
            return self.schedule_create(flow, candidates).await;
        }
        if kind == RetypeVolume::KIND {
            return self.schedule_retype(flow, candidates).await;
        }
        if kind == MigrateVolume::KIND {
            return self.schedule_migrate(flow, candidates).await;
        }
        let tx = self.service.database.begin().await?;
        end(tx, flow, "UnknownFlow", "not a flow to schedule").await
    }

    /// Moves the flow to a manager's queue and rings there.
    async fn hand_over(&self, mut tx: Tx, flow: &Waiting, queue: &str) -> Result<bool> {
        if !taskflow::requeue(&mut tx, flow.info.id, SCHEDULER_QUEUE, queue).await? {
            return Ok(false);
        }
        tx.commit().await?;
        self.service.doorbell.ring(queue);
        Ok(true)
    }
}

/// The pools of services that are enabled and up, as are their clusters.
pub async fn candidates(service: &VolumeService) -> Result<Vec<Candidate>> {
    let database = &service.database;
    let known = services::list(database).await?;
    let disabled: Vec<String> = clusters::list(database)
        .await?
        .into_iter()
        .filter(|cluster| cluster.disabled)
        .map(|cluster| cluster.name)
        .collect();
    let counts = volumes::count_by_host(database).await?;
    let down_time_s = service.options.service_down_time_s;
    let usable = |pool: services::Pool| {
        let manager = known
            .iter()
            .find(|known| known.binary == services::VOLUME && known.host == pool.service_host)?;
        let in_disabled_cluster = manager
            .cluster_name
            .as_ref()
            .is_some_and(|cluster| disabled.contains(cluster));
        let up = !manager.disabled
            && !in_disabled_cluster
            && manager.is_up(down_time_s)
            && pool.capabilities.backend_state == "up";
        up.then(|| Candidate {
            volumes: counts.get(&pool.name).copied().unwrap_or(0),
            service_id: manager.id,
            availability_zone: manager.availability_zone.clone(),
            pool,
        })
    };
    let pools = services::pools(database).await?;
    Ok(pools.into_iter().filter_map(usable).collect())
}

/// Tells the volume's owner that no pool was found.
async fn tell_no_backend(tx: &mut Tx, flow: &Waiting, volume: &Volume) -> Result<()> {
    tracing::warn!(volume = %volume.id, request_id = %flow.info.request_id, "no valid backend was found");
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

/// Ends the flow, together with what else the transaction holds.
async fn end(mut tx: Tx, flow: &Waiting, class: &str, text: &str) -> Result<bool> {
    let error = TaskError::new(class, text);
    let ended = taskflow::reject(&mut tx, flow.info.id, SCHEDULER_QUEUE, &error).await?;
    tx.commit().await?;
    Ok(ended)
}
