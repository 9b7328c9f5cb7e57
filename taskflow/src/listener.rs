//! Events of a flow, for logs, notifications and metrics.

use std::time::Duration;

use crate::{FlowInfo, TaskError};

/// Hears what happens to flows. Called on the worker's threads: it must not block.
pub trait Listener: Send + Sync + 'static {
    fn on_event(&self, event: &FlowEvent<'_>);
}

/// One event of one flow.
#[derive(Debug, Clone, Copy)]
pub struct FlowEvent<'a> {
    pub flow: &'a FlowInfo,
    /// Since this worker took the flow up.
    pub elapsed: Duration,
    pub what: What<'a>,
}

/// What happened. Committed facts only, except `TaskStarted`.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// A worker took the flow up; `resumed` where it had run before.
    Claimed {
        resumed: bool,
    },
    TaskStarted {
        task: &'a str,
    },
    TaskDone {
        task: &'a str,
    },
    /// The task will be executed again after `delay`.
    TaskRetried {
        task: &'a str,
        error: &'a TaskError,
        delay: Duration,
    },
    /// The flow reverts from this task backwards.
    TaskFailed {
        task: &'a str,
        error: &'a TaskError,
    },
    TaskReverted {
        task: &'a str,
    },
    /// The flow ended as asked.
    Succeeded,
    /// The flow ended and left nothing.
    Reverted {
        error: Option<&'a TaskError>,
    },
    /// The flow waits for the operator.
    Parked {
        reason: &'a str,
    },
    /// Another worker has the flow.
    Lost,
    /// The flow was handed back: shutdown, or a pause before the next attempt.
    Released,
}
