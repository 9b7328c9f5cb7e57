//! What a task sees of its flow while it runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};

use database::{Database, now_us, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::flow::AnyOutput;
use crate::{Flow, Task, TaskError};

/// Least time between two writes of a flow's progress.
const PROGRESS_INTERVAL_US: i64 = 1_000_000;

/// What a flow is about. Fields that the request did not give are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowInfo {
    pub id: Uuid,
    /// [`Flow::KIND`].
    pub kind: String,
    pub queue: String,
    /// `volume`, `snapshot`, `backup`, `image`.
    pub resource_type: String,
    pub resource_id: String,
    pub request_id: String,
    pub project_id: String,
    pub user_id: String,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

/// Why a flow reverts: the task and its error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub task: String,
    #[serde(flatten)]
    pub error: TaskError,
}

/// One run of a flow: parameters, context and what the tasks before made.
pub struct Run<F: Flow> {
    pub ctx: Arc<F::Context>,
    pub params: F::Params,
    pub flow: FlowInfo,
    pub(crate) database: Database,
    pub(crate) lease: Arc<Lease>,
    pub(crate) outputs: HashMap<&'static str, AnyOutput>,
    pub(crate) failure: Option<Failure>,
    pub(crate) percent: AtomicU8,
    pub(crate) progress_at: AtomicI64,
}

impl<F: Flow> Run<F> {
    /// The output of an earlier task of this flow, as it was journaled.
    /// Errors: the task has not run, or was reverted.
    pub fn output<T: Task<F>>(&self) -> Result<&T::Output, TaskError> {
        let output = self
            .outputs
            .get(T::NAME)
            .and_then(|output| output.downcast_ref());
        output.ok_or_else(|| {
            TaskError::new(
                "Output",
                format!("task {} of {} has no output", T::NAME, F::KIND),
            )
        })
    }

    /// While the flow reverts: why. Also after a restart.
    pub fn failure(&self) -> Option<&TaskError> {
        self.failure.as_ref().map(|failure| &failure.error)
    }

    /// While the flow reverts: the name of the task that failed.
    pub fn failed_task(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.task.as_str())
    }

    /// True once the flow belongs to somebody else or the worker shuts down: long loops ask now
    /// and then, and return [`TaskError::interrupted`].
    pub fn is_lost(&self) -> bool {
        self.lease.must_stop()
    }

    /// A handle for `is_lost` that closures on other threads can own.
    pub fn lease(&self) -> LeaseWatch {
        LeaseWatch(self.lease.clone())
    }

    /// Tells how much of the flow is done, 0.0 to 1.0. Written at most once a second; a write
    /// that fails is dropped, for progress is not worth failing a flow.
    pub async fn progress(&self, fraction: f64) {
        let percent = (fraction.clamp(0.0, 1.0) * 100.0) as u8;
        let now = now_us();
        let due = now - self.progress_at.load(Ordering::Relaxed) >= PROGRESS_INTERVAL_US;
        if !due || self.percent.swap(percent, Ordering::Relaxed) == percent {
            return;
        }
        self.progress_at.store(now, Ordering::Relaxed);
        let sql = "UPDATE flows SET progress = ?, updated_at = ? \
                   WHERE id = ? AND owner = ? AND generation = ?";
        let values = params![
            percent,
            now,
            self.flow.id,
            &self.lease.owner,
            self.lease.generation
        ];
        if let Err(error) = self.database.execute(sql, values).await {
            tracing::debug!(flow = %self.flow.id, %error, "progress was not written");
        }
    }
}

/// Tells whether the run it came from must stop; cheap to clone, for other threads.
#[derive(Debug, Clone)]
pub struct LeaseWatch(Arc<Lease>);

impl LeaseWatch {
    /// As [`Run::is_lost`].
    pub fn is_lost(&self) -> bool {
        self.0.must_stop()
    }
}

/// The worker's claim on one flow.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) owner: String,
    /// The fencing token: every journal write names it.
    pub(crate) generation: i64,
    /// Microseconds since the epoch, as the database knows it.
    pub(crate) until: AtomicI64,
    pub(crate) lost: AtomicBool,
    /// Set once for all flows of a worker.
    pub(crate) stopping: Arc<AtomicBool>,
}

impl Lease {
    pub(crate) fn new(owner: &str, generation: i64, until: i64, stopping: Arc<AtomicBool>) -> Self {
        let (owner, lost) = (owner.to_owned(), AtomicBool::new(false));
        Lease {
            owner,
            generation,
            until: AtomicI64::new(until),
            lost,
            stopping,
        }
    }

    /// The flow is not ours any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) || self.until.load(Ordering::Relaxed) < now_us()
    }

    /// The worker shuts down.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn must_stop(&self) -> bool {
        self.is_stopping() || self.is_lost()
    }

    pub(crate) fn mark_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn renewed(&self, until: i64) {
        self.until.fetch_max(until, Ordering::Relaxed);
    }
}
