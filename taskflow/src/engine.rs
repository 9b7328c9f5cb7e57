//! One run of one flow: forward task by task, backward from the task that failed.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8};
use std::time::{Duration, Instant};

use database::now_us;
use futures_util::FutureExt;

use crate::claim::{Atom, Claim};
use crate::flow::{AnyTask, BoxTask};
use crate::journal::{AtomChange, Change, Fenced, Journal};
use crate::machine::{Environment, Point, Stop, Strike};
use crate::run::Failure;
use crate::{Ending, Flow, FlowEvent, Run, TaskError, What, state};

/// A pause of this length or longer gives the flow back until it is over.
const LONG_PAUSE_MS: u64 = 1_000;

/// Runs one flow under one claim.
pub(crate) struct Engine<F: Flow> {
    run: Run<F>,
    tasks: Vec<BoxTask<F>>,
    journal: Journal,
    environment: Environment,
    /// The task that runs or reverts.
    position: usize,
    /// Failed attempts of that task, in this direction.
    attempts: u32,
    reverting: bool,
    began: Instant,
}

/// Why a batch of records was not committed.
enum NotRecorded {
    Task { position: usize, error: TaskError },
    Stop(Stop),
}

impl From<Stop> for NotRecorded {
    fn from(stop: Stop) -> Self {
        NotRecorded::Stop(stop)
    }
}

impl<F: Flow> Engine<F> {
    pub(crate) fn new(
        context: Arc<F::Context>,
        params: F::Params,
        tasks: Vec<BoxTask<F>>,
        claim: &Claim,
        environment: Environment,
    ) -> Self {
        let journal = Journal {
            database: environment.database.clone(),
            flow_id: claim.info.id,
            lease: claim.lease.clone(),
            lease_us: environment.lease_us,
        };
        let run = Run {
            ctx: context,
            params,
            flow: claim.info.clone(),
            database: environment.database.clone(),
            lease: claim.lease.clone(),
            outputs: HashMap::new(),
            failure: claim.failure.clone(),
            percent: AtomicU8::new(0),
            progress_at: AtomicI64::new(0),
        };
        Engine {
            run,
            tasks,
            journal,
            environment,
            position: 0,
            attempts: 0,
            reverting: claim.reverting,
            began: Instant::now(),
        }
    }

    /// Runs the flow from where the journal says it is until it stops.
    pub(crate) async fn drive(mut self, atoms: &[Atom]) -> Stop {
        self.emit(What::Claimed {
            resumed: !atoms.is_empty(),
        });
        let stop = match self.restore(atoms) {
            Ok(()) => self.run_to_stop().await,
            Err(reason) => self.park(state::FAILURE, &reason).await,
        };
        self.report(&stop);
        stop
    }

    /// Takes the journal's word for what has happened. The error says why it cannot.
    fn restore(&mut self, atoms: &[Atom]) -> Result<(), String> {
        for (position, atom) in atoms.iter().enumerate() {
            let task = self.tasks.get(position).map(|task| &task.0);
            let task = task.filter(|task| task.name() == atom.name).ok_or_else(|| {
                format!("the journal names task {} at position {position}, {} has no such task there", atom.name, F::KIND)
            })?;
            if atom.state == state::REVERTED {
                break;
            }
            (self.position, self.attempts) = (position, atom.attempts);
            if let Some(json) = &atom.output {
                let output = task.decode(json);
                let output = output.map_err(|error| {
                    format!(
                        "the journaled output of task {} cannot be read: {error}",
                        atom.name
                    )
                })?;
                self.run.outputs.insert(task.name(), output);
            }
        }
        let Some(current) = atoms.get(self.position) else {
            return Ok(());
        };
        let expected = if self.reverting {
            state::REVERTING
        } else {
            state::RUNNING
        };
        if current.state != expected {
            return Err(format!(
                "task {} is {}, not {expected}",
                current.name, current.state
            ));
        }
        Ok(())
    }

    async fn run_to_stop(&mut self) -> Stop {
        loop {
            let step = if self.journal.lease.is_stopping() {
                self.give_back().await
            } else if self.reverting {
                self.backward().await
            } else {
                self.forward().await
            };
            if let Err(stop) = step {
                return stop;
            }
        }
    }

    fn task(&self, position: usize) -> &dyn AnyTask<F> {
        // Every position is that of a task: `restore` and `record` check against the list.
        self.tasks[position].0.as_ref()
    }

    /// Executes the current task and records it.
    async fn forward(&mut self) -> Result<(), Stop> {
        let task = self.task(self.position);
        self.emit(What::TaskStarted { task: task.name() });
        let executed = self.execute(task).await?;
        match executed {
            Ok(json) => self.record(json).await,
            Err(error) => self.failed(error).await,
        }
    }

    async fn execute(&self, task: &dyn AnyTask<F>) -> Result<Result<String, TaskError>, Stop> {
        if let Err(error) = self.probe(Point::BeforeExecute, task.name())? {
            return Ok(Err(error));
        }
        let executed = caught(task.execute(&self.run)).await;
        let struck = self.probe(Point::AfterExecute, task.name())?;
        Ok(executed.and_then(|json| struck.map(|()| json)))
    }

    /// Records the current task and as many record-only tasks behind it as succeed, and starts
    /// the next one, in one transaction.
    async fn record(&mut self, json: String) -> Result<(), Stop> {
        let following = self.tasks.iter().skip(self.position + 1);
        let mut reach = self.position + 1 + following.take_while(|t| t.0.record_only()).count();
        loop {
            let recorded = self.record_batch(&json, reach).await;
            if recorded.is_err() {
                for task in &self.tasks[self.position..] {
                    self.run.outputs.remove(task.0.name());
                }
            }
            match recorded {
                Ok(()) if reach == self.tasks.len() => return Err(Stop::Ended),
                Ok(()) => {
                    (self.position, self.attempts) = (reach, 0);
                    return Ok(());
                }
                Err(NotRecorded::Stop(stop)) => return Err(stop),
                Err(NotRecorded::Task { position, error }) if position == self.position => {
                    return self.failed(error).await;
                }
                // The one that failed gets a turn of its own.
                Err(NotRecorded::Task { position, .. }) => reach = position,
            }
        }
    }

    /// Records the tasks from the current one up to `reach`.
    async fn record_batch(&mut self, json: &str, reach: usize) -> Result<(), NotRecorded> {
        let ends = reach == self.tasks.len();
        let change = if ends {
            Change::End(state::SUCCESS)
        } else {
            Change::Keep
        };
        let mut fenced = self.journal.begin(change).await?;
        self.record_one(self.position, json, &mut fenced).await?;
        let done = AtomChange {
            state: state::SUCCESS,
            output: Some(json),
            attempts: self.attempts,
            failure: None,
        };
        fenced.atom(self.position, done).await?;
        for position in self.position + 1..reach {
            let task = self.task(position);
            let json = self.execute(task).await?;
            let json = json.map_err(|error| NotRecorded::Task { position, error })?;
            let name = task.name();
            self.record_one(position, &json, &mut fenced).await?;
            fenced.done_at_once(position, name, &json).await?;
        }
        if ends {
            self.witness(Ending::Succeeded, &mut fenced).await?;
        } else {
            fenced.start(reach, self.task(reach).name()).await?;
        }
        self.journal.commit(fenced).await?;
        for position in self.position..reach {
            let name = self.task(position).name();
            self.emit(What::TaskDone { task: name });
            let _ = self.probe(Point::Committed, name)?;
        }
        Ok(())
    }

    async fn record_one(
        &mut self,
        position: usize,
        json: &str,
        fenced: &mut Fenced,
    ) -> Result<(), NotRecorded> {
        let refused = |error| NotRecorded::Task { position, error };
        let task = self.tasks[position].0.as_ref();
        let output = task
            .decode(json)
            .map_err(|reason| refused(TaskError::new("Output", reason)))?;
        let recorded = caught(task.record(&self.run, &output, &mut fenced.tx)).await;
        recorded.map_err(refused)?;
        let name = task.name();
        self.run.outputs.insert(name, output);
        self.probe(Point::Recorded, name)?.map_err(refused)
    }

    /// The current task failed going forward: again, or backward from here.
    async fn failed(&mut self, error: TaskError) -> Result<(), Stop> {
        self.stop_for(&error).await?;
        self.attempts = self.attempts.saturating_add(1);
        let task = self.task(self.position);
        if let Some(delay_ms) = task.retry().next_delay_ms(self.attempts, error.retryable) {
            return self.pause(state::RUNNING, &error, delay_ms).await;
        }
        let name = task.name();
        let failure = Failure {
            task: name.to_owned(),
            error,
        };
        let mut fenced = self.journal.begin(Change::Revert(&failure)).await?;
        let reverting = AtomChange {
            state: state::REVERTING,
            failure: Some(&failure.error),
            ..AtomChange::default()
        };
        fenced.atom(self.position, reverting).await?;
        self.journal.commit(fenced).await?;
        self.emit(What::TaskFailed {
            task: name,
            error: &failure.error,
        });
        let info = &self.run.flow;
        tracing::warn!(
            flow = %info.id, kind = F::KIND, request_id = info.request_id, task = name,
            error = %failure.error, "task failed, the flow reverts"
        );
        self.run.failure = Some(failure);
        (self.reverting, self.attempts) = (true, 0);
        Ok(())
    }

    /// Reverts the current task and records that.
    async fn backward(&mut self) -> Result<(), Stop> {
        let reverted = self.revert().await?;
        let reverted = match reverted {
            Ok(()) => self.record_revert().await?,
            Err(error) => Err(error),
        };
        if let Err(error) = reverted {
            return self.revert_failed(error).await;
        }
        let name = self.task(self.position).name();
        self.emit(What::TaskReverted { task: name });
        let _ = self.probe(Point::RevertCommitted, name)?;
        self.run.outputs.remove(name);
        if self.position == 0 {
            return Err(Stop::Ended);
        }
        (self.position, self.attempts) = (self.position - 1, 0);
        Ok(())
    }

    async fn revert(&self) -> Result<Result<(), TaskError>, Stop> {
        let task = self.task(self.position);
        if let Err(error) = self.probe(Point::BeforeRevert, task.name())? {
            return Ok(Err(error));
        }
        let output = self.run.outputs.get(task.name());
        let reverted = caught(task.revert(&self.run, output)).await;
        let struck = self.probe(Point::AfterRevert, task.name())?;
        Ok(reverted.and(struck))
    }

    async fn record_revert(&self) -> Result<Result<(), TaskError>, Stop> {
        let task = self.task(self.position);
        let ends = self.position == 0;
        let change = if ends {
            Change::End(state::REVERTED)
        } else {
            Change::Keep
        };
        let mut fenced = self.journal.begin(change).await?;
        let output = self.run.outputs.get(task.name());
        let recorded = caught(task.record_revert(&self.run, output, &mut fenced.tx)).await;
        let struck = self.probe(Point::RevertRecorded, task.name())?;
        if let Err(error) = recorded.and(struck) {
            return Ok(Err(error));
        }
        let reverted = AtomChange {
            state: state::REVERTED,
            ..AtomChange::default()
        };
        fenced.atom(self.position, reverted).await?;
        if let Some(before) = self.position.checked_sub(1) {
            let next = AtomChange {
                state: state::REVERTING,
                ..AtomChange::default()
            };
            fenced.atom(before, next).await?;
        } else {
            self.witness(Ending::Reverted, &mut fenced).await?;
        }
        self.journal.commit(fenced).await?;
        Ok(Ok(()))
    }

    /// The current task failed going backward: again, or wait for the operator.
    async fn revert_failed(&mut self, error: TaskError) -> Result<(), Stop> {
        self.stop_for(&error).await?;
        self.attempts = self.attempts.saturating_add(1);
        let task = self.task(self.position);
        if let Some(delay_ms) = task.revert_retry().next_delay_ms(self.attempts, true) {
            return self.pause(state::REVERTING, &error, delay_ms).await;
        }
        let reason = format!("the revert of task {} failed: {error}", task.name());
        Err(self.park(state::REVERT_FAILURE, &reason).await)
    }

    /// Some errors say nothing about the task.
    async fn stop_for(&self, error: &TaskError) -> Result<(), Stop> {
        if error.is_database_unavailable() {
            return Err(Stop::Journal(database::Error::Unavailable(
                error.message.clone(),
            )));
        }
        if error.is_interrupted() {
            return self.give_back().await;
        }
        Ok(())
    }

    /// Hands the flow over as it is. Always stops.
    async fn give_back(&self) -> Result<(), Stop> {
        if self.journal.lease.is_lost() {
            return Err(Stop::Lost);
        }
        let pause_ms = if self.journal.lease.is_stopping() {
            0
        } else {
            LONG_PAUSE_MS
        };
        self.journal
            .change(Change::Release {
                not_before: after(pause_ms),
            })
            .await?;
        Err(Stop::Released)
    }

    /// Journals a failed attempt and waits for the next: here, or given back for a long pause.
    async fn pause(
        &self,
        state: &'static str,
        error: &TaskError,
        delay_ms: u64,
    ) -> Result<(), Stop> {
        let delay_ms = if self.environment.probe.is_some() {
            0
        } else {
            delay_ms
        };
        let long = delay_ms >= LONG_PAUSE_MS;
        let release = Change::Release {
            not_before: after(delay_ms),
        };
        let change = if long { release } else { Change::Keep };
        let mut fenced = self.journal.begin(change).await?;
        let (attempts, failure) = (self.attempts, Some(error));
        fenced
            .atom(
                self.position,
                AtomChange {
                    state,
                    output: None,
                    failure,
                    attempts,
                },
            )
            .await?;
        self.journal.commit(fenced).await?;
        let (task, delay) = (
            self.task(self.position).name(),
            Duration::from_millis(delay_ms),
        );
        self.emit(What::TaskRetried { task, error, delay });
        tracing::info!(flow = %self.run.flow.id, kind = F::KIND, task, %error, delay_ms, "another attempt follows");
        if long {
            return Err(Stop::Released);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Leaves the flow to the operator; the flow's own hook writes in the same transaction.
    async fn park(&self, parked: &'static str, reason: &str) -> Stop {
        let with_hook = self.write_parked(parked, reason, true).await;
        let written = match with_hook {
            Ok(true) => Ok(()),
            Ok(false) => self.write_parked(parked, reason, false).await.map(|_| ()),
            Err(stop) => Err(stop),
        };
        if let Err(stop) = written {
            return stop;
        }
        self.emit(What::Parked { reason });
        let info = &self.run.flow;
        tracing::error!(
            flow = %info.id, kind = F::KIND, request_id = info.request_id, state = parked, reason,
            "flow is parked until an operator resumes it"
        );
        Stop::Parked
    }

    /// False: the hook failed and nothing was written.
    async fn write_parked(
        &self,
        parked: &'static str,
        reason: &str,
        hook: bool,
    ) -> Result<bool, Stop> {
        let mut fenced = self
            .journal
            .begin(Change::Park {
                state: parked,
                reason,
            })
            .await?;
        if parked == state::REVERT_FAILURE {
            let failed = AtomChange {
                state: state::REVERT_FAILURE,
                attempts: self.attempts,
                ..AtomChange::default()
            };
            fenced.atom(self.position, failed).await?;
        }
        if hook && let Err(error) = caught(F::parked(&self.run, &mut fenced.tx)).await {
            tracing::error!(flow = %self.run.flow.id, kind = F::KIND, %error, "the parked hook failed");
            return Ok(false);
        }
        self.witness(Ending::Parked, &mut fenced).await?;
        self.journal.commit(fenced).await?;
        Ok(true)
    }

    /// Lets the witness write down how the flow ends.
    async fn witness(&self, ending: Ending, fenced: &mut Fenced) -> Result<(), Stop> {
        if let Some(witness) = &self.environment.witness {
            let told = witness.ended(&self.run.flow, ending, &mut fenced.tx);
            told.await?;
        }
        Ok(())
    }

    /// What the test harness wants to happen here.
    fn probe(&self, point: Point, task: &str) -> Result<Result<(), TaskError>, Stop> {
        let Some(probe) = &self.environment.probe else {
            return Ok(Ok(()));
        };
        match probe.strike(point, task) {
            Strike::Nothing => Ok(Ok(())),
            Strike::Fail(error) => Ok(Err(error)),
            Strike::Crash => Err(Stop::Crashed),
        }
    }

    fn emit(&self, what: What<'_>) {
        let event = FlowEvent {
            flow: &self.run.flow,
            elapsed: self.began.elapsed(),
            what,
        };
        for listener in self.environment.listeners.iter() {
            listener.on_event(&event);
        }
    }

    /// The one line that each run leaves in the log, and the last event.
    fn report(&self, stop: &Stop) {
        let ended = match (stop, self.reverting) {
            (Stop::Ended, false) => state::SUCCESS,
            (Stop::Ended, true) => state::REVERTED,
            (Stop::Lost, _) => "lost",
            (Stop::Released, _) => "released",
            // Logged where they are handled.
            (Stop::Parked | Stop::Journal(_) | Stop::Crashed, _) => return,
        };
        match (stop, self.reverting) {
            (Stop::Ended, false) => self.emit(What::Succeeded),
            (Stop::Ended, true) => self.emit(What::Reverted {
                error: self.run.failure(),
            }),
            (Stop::Lost, _) => self.emit(What::Lost),
            _ => self.emit(What::Released),
        }
        let info = &self.run.flow;
        tracing::info!(
            flow = %info.id, kind = F::KIND, request_id = info.request_id,
            resource = info.resource_id, duration_ms = self.began.elapsed().as_millis() as u64,
            "flow {ended}"
        );
    }
}

/// A panic is a failure like any other.
async fn caught<T>(
    work: impl Future<Output = Result<T, TaskError>> + Send,
) -> Result<T, TaskError> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.unwrap_or_else(|payload| Err(TaskError::panicked(&*payload)))
}

/// Now and `delay_ms`, in microseconds since the epoch.
fn after(delay_ms: u64) -> i64 {
    now_us().saturating_add(
        i64::try_from(delay_ms)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000),
    )
}
