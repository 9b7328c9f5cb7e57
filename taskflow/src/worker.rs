//! The worker: claims flows of its queues, runs them, renews its leases, hands over at the end.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use database::{Database, now_us, params};
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::claim::{self, Claimed, Claimer};
use crate::machine::{Environment, KindOf, Stop};
use crate::run::Lease;
use crate::{Doorbell, Fence, Flow, Listener, Queue, Witness, prune, queue};

/// First and longest pause after a database failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Runs the flows of its queues. Several workers, in one process or many, may serve one queue.
pub struct Worker<C> {
    shared: Arc<Shared<C>>,
    settings: Settings,
}

/// What the worker and its running flows share.
struct Shared<C> {
    claimer: Claimer<C>,
    environment: Environment,
    doorbell: Doorbell,
    fence: Option<Arc<dyn Fence>>,
    /// The claims of the flows that run now.
    active: Mutex<HashMap<Uuid, Arc<Lease>>>,
    /// Names of the worker's own queues and of those that it inherits at present.
    queues: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Settings {
    queues: Vec<Queue>,
    concurrency: usize,
    sweep: Duration,
    grace: Duration,
    keep: prune::Keep,
}

/// Collects what a [`Worker`] needs.
pub struct WorkerBuilder<C> {
    claimer: Claimer<C>,
    settings: Settings,
    doorbell: Doorbell,
    fence: Option<Arc<dyn Fence>>,
    listeners: Vec<Arc<dyn Listener>>,
}

impl<C: Send + Sync + 'static> Worker<C> {
    /// A worker that claims flows of `queues` as `owner`. The owner's name stays the same when
    /// the process restarts (`volume-manager:host1`) and no two running workers share it: a
    /// worker that starts takes over at once what its name holds.
    pub fn builder<Q: Into<Queue>>(
        database: Database,
        context: Arc<C>,
        owner: impl Into<String>,
        queues: impl IntoIterator<Item = Q>,
    ) -> WorkerBuilder<C> {
        let claimer = Claimer {
            database,
            context,
            kinds: HashMap::new(),
            owner: owner.into(),
            lease_us: 30_000_000,
            stopping: Arc::new(AtomicBool::new(false)),
            witness: None,
        };
        let settings = Settings {
            queues: queues.into_iter().map(Into::into).collect(),
            concurrency: 64,
            sweep: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            keep: prune::Keep {
                days: 7,
                newest: 10_000,
            },
        };
        WorkerBuilder {
            claimer,
            settings,
            doorbell: Doorbell::new(),
            fence: None,
            listeners: Vec::new(),
        }
    }

    /// The bell that wakes this worker.
    pub fn doorbell(&self) -> Doorbell {
        self.shared.doorbell.clone()
    }

    /// As [`Doorbell::wake`].
    pub fn wake(&self) {
        self.shared.doorbell.wake();
    }

    /// Runs until `shutdown` resolves; then claims nothing more, tells running tasks to stop
    /// ([`crate::Run::is_lost`]), and returns when every flow was handed over: at the end of
    /// its task, or after the grace period by dropping it. A task must therefore not leave work
    /// on other threads behind when it is dropped for longer than the process lives.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        tokio::select! {
            biased;
            () = self.work(shutdown) => {}
            () = self.renew() => {}
            () = prune::run(&self.shared.claimer.database, self.settings.keep) => {}
        }
    }

    async fn work(&self, shutdown: impl Future<Output = ()> + Send) {
        tokio::pin!(shutdown);
        let mut rings = self.shared.doorbell.listen();
        let mut flows = JoinSet::new();
        let mut next_sweep = Instant::now();
        let mut failures = 0;
        // What an earlier process of this name left is ours until a sweep has found all of it.
        let mut own = true;
        loop {
            let full = flows.len() >= self.settings.concurrency;
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = flows.join_next() => {}
                _ = rings.changed(), if !full => {}
                () = tokio::time::sleep_until(next_sweep), if !full => {}
            }
            while flows.try_join_next().is_some() {}
            let free = self.settings.concurrency.saturating_sub(flows.len());
            let sweep = Instant::now() >= next_sweep;
            if free == 0 || (failures > 0 && !sweep) {
                continue;
            }
            match self.claim(free, sweep, own).await {
                Ok((claimed, all)) => {
                    for one in claimed {
                        self.spawn(&mut flows, one);
                    }
                    (failures, own) = (0, own && !all);
                    if sweep {
                        next_sweep = Instant::now() + self.settings.sweep;
                    }
                }
                Err(error) => {
                    tracing::warn!(owner = self.shared.claimer.owner, %error, "no flow can be claimed");
                    next_sweep = Instant::now() + backoff(failures);
                    failures += 1;
                }
            }
        }
        self.hand_over(flows).await;
    }

    /// Claims at most `free` flows. True: a sweep saw all that was interrupted.
    async fn claim(
        &self,
        free: usize,
        sweep: bool,
        own: bool,
    ) -> Result<(Vec<Claimed>, bool), database::Error> {
        let Shared { claimer, .. } = &*self.shared;
        let (database, queues) = (&claimer.database, self.shared.queues().clone());
        let mut found = Vec::new();
        if sweep {
            let limit = self.settings.concurrency;
            found = claim::interrupted(database, &queues, &claimer.owner, own, limit).await?;
            // What runs here and now is not interrupted.
            let active = self.shared.active();
            found.retain(|candidate| !active.contains_key(&candidate.id()));
        }
        let all = sweep && found.len() < free;
        if found.len() < free {
            found.extend(claim::pending(database, &queues, free - found.len()).await?);
        }
        found.truncate(free);
        Ok((claimer.take(found, own).await?, all))
    }

    fn spawn(&self, flows: &mut JoinSet<()>, claimed: Claimed) {
        let shared = self.shared.clone();
        shared
            .active()
            .insert(claimed.claim.info.id, claimed.claim.lease.clone());
        flows.spawn(async move {
            let id = claimed.claim.info.id;
            let ran = AssertUnwindSafe(shared.run_flow(id, claimed))
                .catch_unwind()
                .await;
            if ran.is_err() {
                // The engine catches what tasks do; this is a defect, or a listener's. The
                // lease runs out and the flow is taken up again.
                tracing::error!(flow = %id, "the run of a flow ended abruptly");
            }
            shared.active().remove(&id);
            // Others may have waited for its locks.
            shared.doorbell.wake();
        });
    }

    /// Says that this worker lives, and finds out what others have left to it. What cannot be
    /// found out now stays as it was.
    async fn attend(&self) {
        let Claimer {
            database,
            owner,
            lease_us,
            ..
        } = &self.shared.claimer;
        let own = &self.settings.queues;
        match queue::attend(database, owner, own, *lease_us).await {
            Ok(inherited) => {
                let own = own.iter().map(|queue| queue.name.clone());
                let mut queues = self.shared.queues();
                let before = std::mem::replace(&mut *queues, own.chain(inherited).collect());
                if *queues != before {
                    tracing::warn!(owner, queues = ?*queues, "serves these queues now");
                }
            }
            Err(error) => tracing::warn!(owner, %error, "this worker could not say that it lives"),
        }
    }

    /// Attends, and renews the leases of what runs, three times as often as they run out.
    async fn renew(&self) {
        let lease_us = self.shared.claimer.lease_us;
        let pause = Duration::from_micros(u64::try_from(lease_us / 3).unwrap_or(1).max(1));
        loop {
            self.attend().await;
            tokio::time::sleep(pause).await;
            let active: Vec<_> = self
                .shared
                .active()
                .iter()
                .map(|(id, lease)| (*id, lease.clone()))
                .collect();
            if !active.is_empty()
                && let Err(error) = self.renew_all(&active, lease_us).await
            {
                tracing::warn!(owner = self.shared.claimer.owner, %error, "leases were not renewed");
            }
        }
    }

    async fn renew_all(
        &self,
        active: &[(Uuid, Arc<Lease>)],
        lease_us: i64,
    ) -> Result<(), database::Error> {
        let mut tx = self.shared.claimer.database.begin().await?;
        let until = now_us().saturating_add(lease_us);
        let sql = "UPDATE flows SET lease_until = ? WHERE id = ? AND owner = ? AND generation = ?";
        let mut lost = Vec::new();
        for (id, lease) in active {
            let values = params![until, id, &lease.owner, lease.generation];
            if tx.execute(sql, values).await? == 0 {
                lost.push(lease);
            }
        }
        tx.commit().await?;
        active.iter().for_each(|(_, lease)| lease.renewed(until));
        lost.into_iter().for_each(|lease| lease.mark_lost());
        Ok(())
    }

    async fn hand_over(&self, mut flows: JoinSet<()>) {
        self.shared.claimer.stopping.store(true, Ordering::Relaxed);
        let grace = tokio::time::sleep(self.settings.grace);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                joined = flows.join_next() => if joined.is_none() { break },
                () = &mut grace => {
                    flows.shutdown().await;
                    break;
                }
            }
        }
        let left: Vec<_> = self.shared.active().drain().collect();
        for (id, lease) in left {
            let sql = "UPDATE flows SET owner = NULL, lease_until = NULL, updated_at = ? \
                       WHERE id = ? AND owner = ? AND generation = ?";
            let values = params![now_us(), id, &lease.owner, lease.generation];
            match self.shared.claimer.database.execute(sql, values).await {
                Ok(_) => tracing::info!(flow = %id, "flow was cut off and handed over"),
                Err(error) => tracing::warn!(flow = %id, %error, "flow waits for its lease to end"),
            }
        }
    }
}

impl<C: Send + Sync + 'static> Shared<C> {
    fn active(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Lease>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, Vec<String>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a flow; while its journal cannot be written, waits and takes it up again from what
    /// the journal says.
    async fn run_flow(&self, id: Uuid, mut claimed: Claimed) {
        if let (Some(before), Some(fence)) = (&claimed.taken_from, &self.fence) {
            tracing::warn!(flow = %id, from = before, "takes over a flow");
            fence.shut_out(before).await;
        }
        let mut failures = 0;
        loop {
            let (generation, environment) =
                (claimed.claim.lease.generation, self.environment.clone());
            let Stop::Journal(error) = claimed.machine.drive(claimed.claim, environment).await
            else {
                return;
            };
            tracing::warn!(flow = %id, %error, "the journal of the flow cannot be written");
            match self.claim_again(id, generation, &mut failures).await {
                Some(again) => claimed = again,
                None => return,
            }
            self.active().insert(id, claimed.claim.lease.clone());
        }
    }

    /// Claims a flow anew that is still ours. `None`: it is not, or the worker stops.
    async fn claim_again(&self, id: Uuid, generation: i64, failures: &mut u32) -> Option<Claimed> {
        loop {
            tokio::time::sleep(backoff(*failures)).await;
            *failures = failures.saturating_add(1);
            if self.claimer.stopping.load(Ordering::Relaxed) {
                return None;
            }
            let again = async {
                let found = claim::by_id(&self.claimer.database, id).await?;
                let ours = found.filter(|candidate| candidate.generation() == generation);
                self.claimer.take(ours.into_iter().collect(), true).await
            };
            match again.await {
                Ok(taken) => return taken.into_iter().next(),
                Err(error) => {
                    tracing::warn!(flow = %id, %error, "the flow cannot be taken up again")
                }
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF
        .0
        .saturating_mul(1 << failures.min(10))
        .min(BACKOFF.1)
}

impl<C: Send + Sync + 'static> WorkerBuilder<C> {
    /// Registers a kind of flow. A flow of a kind that is not registered parks as `FAILURE`.
    pub fn flow<F: Flow<Context = C>>(mut self) -> Self {
        self.claimer
            .kinds
            .insert(F::KIND, Box::new(KindOf::<F>(PhantomData)));
        self
    }

    /// Listens to this bell instead of one of its own.
    pub fn doorbell(mut self, doorbell: Doorbell) -> Self {
        self.doorbell = doorbell;
        self
    }

    /// Hears the events of every flow.
    pub fn listener(mut self, listener: Arc<dyn Listener>) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Shuts out the workers whose flows this one takes over.
    pub fn fence(mut self, fence: Arc<dyn Fence>) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Writes down, with the journal, that flows begin and end.
    pub fn witness(mut self, witness: Arc<dyn Witness>) -> Self {
        self.claimer.witness = Some(witness);
        self
    }

    /// How many flows run at once; default 64.
    pub fn concurrency(mut self, flows: usize) -> Self {
        self.settings.concurrency = flows.max(1);
        self
    }

    /// How long a worker that is silent keeps its flows; default 30 s. The clocks of all
    /// workers' hosts must agree to a fraction of it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.claimer.lease_us = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        self
    }

    /// How often an idle worker looks for work without a ring; default 1 s.
    pub fn sweep_ms(mut self, sweep_ms: u64) -> Self {
        self.settings.sweep = Duration::from_millis(sweep_ms.max(1));
        self
    }

    /// How long running tasks may go on after the shutdown began; default 10 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How much history to keep: flows that ended longer ago than `days`, or that are not among
    /// the `newest` ended ones, are pruned. Default 7 and 10,000.
    pub fn keep(mut self, days: u32, newest: u32) -> Self {
        self.settings.keep = prune::Keep { days, newest };
        self
    }

    pub fn build(self) -> Worker<C> {
        let environment = Environment {
            database: self.claimer.database.clone(),
            lease_us: self.claimer.lease_us,
            listeners: self.listeners.into(),
            witness: self.claimer.witness.clone(),
            probe: None,
        };
        let own = self.settings.queues.iter();
        let shared = Shared {
            claimer: self.claimer,
            environment,
            doorbell: self.doorbell,
            fence: self.fence,
            active: Mutex::new(HashMap::new()),
            queues: Mutex::new(own.map(|queue| queue.name.clone()).collect()),
        };
        Worker {
            shared: Arc::new(shared),
            settings: self.settings,
        }
    }
}
