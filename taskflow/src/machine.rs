//! Between worker and engine: what a flow looks like once its type is forgotten.

use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use database::Database;

use crate::claim::Claim;
use crate::engine::Engine;
use crate::flow::BoxTask;
use crate::{Flow, Listener, TaskError, Witness};

/// Why the engine stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// `SUCCESS` or `REVERTED`.
    Ended,
    /// Waits for the operator.
    Parked,
    /// Somebody else has the flow, or it is gone.
    Lost,
    /// Given back; any worker may take it up.
    Released,
    /// The journal could not be written: nothing further may run.
    Journal(database::Error),
    /// A probe said so (tests).
    Crashed,
}

impl From<database::Error> for Stop {
    fn from(error: database::Error) -> Self {
        Stop::Journal(error)
    }
}

/// What the engine needs besides the flow.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) database: Database,
    pub(crate) lease_us: i64,
    pub(crate) listeners: Arc<[Arc<dyn Listener>]>,
    pub(crate) witness: Option<Arc<dyn Witness>>,
    /// Tests inject faults here.
    pub(crate) probe: Option<Arc<dyn Probe>>,
}

/// A place in the life of a task where a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    BeforeExecute,
    AfterExecute,
    /// `record` is done, the transaction is open.
    Recorded,
    /// The transaction with the task's success is durable.
    Committed,
    BeforeRevert,
    AfterRevert,
    /// `record_revert` is done, the transaction is open.
    RevertRecorded,
    RevertCommitted,
}

/// Decides what strikes.
pub(crate) trait Probe: Send + Sync {
    fn strike(&self, point: Point, task: &str) -> Strike;
}

pub(crate) enum Strike {
    Nothing,
    Fail(TaskError),
    Crash,
}

/// Makes machines of one kind of flow.
pub(crate) trait Kind<C>: Send + Sync {
    /// The error says why the flow cannot run.
    fn open(&self, context: Arc<C>, params: &str) -> Result<Box<dyn Machine>, String>;
}

/// A flow whose parameters have been read.
#[async_trait]
pub(crate) trait Machine: Send {
    fn first_task(&self) -> &'static str;
    /// Runs the flow until it stops.
    async fn drive(self: Box<Self>, claim: Claim, environment: Environment) -> Stop;
}

pub(crate) struct KindOf<F>(pub(crate) PhantomData<fn() -> F>);

impl<F: Flow> Kind<F::Context> for KindOf<F> {
    fn open(&self, context: Arc<F::Context>, params: &str) -> Result<Box<dyn Machine>, String> {
        let params: F::Params = serde_json::from_str(params)
            .map_err(|error| format!("the parameters of {} cannot be read: {error}", F::KIND))?;
        let tasks = std::panic::catch_unwind(AssertUnwindSafe(|| F::tasks(&params)));
        let tasks = tasks.map_err(|payload| TaskError::panicked(&*payload).to_string())?;
        let names: Vec<_> = tasks.iter().map(|task| task.0.name()).collect();
        let first_task = *names
            .first()
            .ok_or_else(|| format!("{} has no tasks", F::KIND))?;
        if let Some(twice) = names
            .iter()
            .enumerate()
            .find(|(at, name)| names[..*at].contains(name))
        {
            return Err(format!("{} has two tasks {}", F::KIND, twice.1));
        }
        Ok(Box::new(Opened::<F> {
            context,
            params,
            tasks,
            first_task,
        }))
    }
}

struct Opened<F: Flow> {
    context: Arc<F::Context>,
    params: F::Params,
    tasks: Vec<BoxTask<F>>,
    first_task: &'static str,
}

#[async_trait]
impl<F: Flow> Machine for Opened<F> {
    fn first_task(&self) -> &'static str {
        self.first_task
    }

    async fn drive(self: Box<Self>, claim: Claim, environment: Environment) -> Stop {
        let engine = Engine::new(self.context, self.params, self.tasks, &claim, environment);
        engine.drive(&claim.atoms).await
    }
}
