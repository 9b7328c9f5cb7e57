//! What can go wrong: in a task ([`TaskError`]) and around flows ([`Error`]).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The result of the calls around flows (insert, requeue, list, resume).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure outside a task, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or is away; its own error says whether to try again.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Parameters do not become JSON: a defect of the flow's `Params` type.
    #[error("the parameters of {kind} cannot be stored: {reason}")]
    Params { kind: &'static str, reason: String },
    /// No flow of this id; it may have been pruned.
    #[error("no flow {0}")]
    NotFound(Uuid),
    /// The flow is not in a state in which the operator may do this.
    #[error("flow {id} is {state}, not {wanted}")]
    WrongState {
        id: Uuid,
        state: String,
        wanted: &'static str,
    },
}

/// Why a task failed. It is journaled, so that a revert after a restart still knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{class}: {message}")]
pub struct TaskError {
    /// A name that code can compare, `OutOfSpace` for instance.
    pub class: String,
    /// For people; never holds secrets.
    pub message: String,
    /// Whether another attempt may succeed: [`crate::Retry::Times`] asks for it.
    pub retryable: bool,
}

impl TaskError {
    /// The task stopped because [`crate::Run::is_lost`] said so.
    pub const INTERRUPTED: &str = "Interrupted";
    /// The database is away: nothing can be recorded, so the flow stops and is taken up again.
    pub const DATABASE_UNAVAILABLE: &str = "DatabaseUnavailable";
    /// The task panicked.
    pub const PANIC: &str = "Panic";

    /// A failure that another attempt would meet again.
    pub fn new(class: impl Into<String>, message: impl Into<String>) -> Self {
        TaskError {
            class: class.into(),
            message: message.into(),
            retryable: false,
        }
    }

    /// A failure that may pass: the task's [`crate::Retry`] applies.
    pub fn retryable(class: impl Into<String>, message: impl Into<String>) -> Self {
        TaskError {
            class: class.into(),
            message: message.into(),
            retryable: true,
        }
    }

    /// What a long task returns when [`crate::Run::is_lost`] turns true: the flow stops without
    /// a revert and the task is executed again by whoever takes the flow up.
    pub fn interrupted() -> Self {
        TaskError::new(Self::INTERRUPTED, "the flow was interrupted")
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.class == Self::INTERRUPTED
    }

    pub(crate) fn is_database_unavailable(&self) -> bool {
        self.class == Self::DATABASE_UNAVAILABLE
    }

    pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        TaskError::new(
            Self::PANIC,
            text.unwrap_or_else(|| "the task panicked".to_owned()),
        )
    }
}

impl From<database::Error> for TaskError {
    fn from(error: database::Error) -> Self {
        match error {
            database::Error::Unavailable(_) => {
                TaskError::retryable(Self::DATABASE_UNAVAILABLE, error.to_string())
            }
            _ => TaskError::new("Database", error.to_string()),
        }
    }
}

impl From<Error> for TaskError {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(inner) => inner.into(),
            other => TaskError::new("Flow", other.to_string()),
        }
    }
}
