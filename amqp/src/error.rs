//! What can go wrong with a message, by what the sender can do.

use serde::{Deserialize, Serialize};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody serves the topic (or the named server of it) now; later may help.
    #[error("no server listens on {0}")]
    NoServer(String),
    /// The receiver has too much to do; nothing was sent, trying again is safe.
    #[error("the server of {0} takes no more messages now")]
    Busy(String),
    /// No answer came; whether the method ran is not known. `MessagingTimeout` of oslo.messaging.
    #[error("no answer from {target} to {method} within {timeout_ms} ms")]
    Timeout {
        target: String,
        method: String,
        timeout_ms: u128,
    },
    /// The way there is broken for now; whether the method ran is not known.
    #[error("the message broker cannot be reached: {0}")]
    Unavailable(String),
    /// The method ran and failed.
    #[error(transparent)]
    Remote(#[from] RemoteFailure),
}

/// A failure that travels back to the caller: the `failure` of an oslo.messaging reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{class}: {message}")]
pub struct RemoteFailure {
    /// The exception's class name, such as `VolumeNotFound`.
    pub class: String,
    pub message: String,
}

impl RemoteFailure {
    pub fn new(class: impl Into<String>, message: impl Into<String>) -> Self {
        RemoteFailure {
            class: class.into(),
            message: message.into(),
        }
    }

    /// The receiver has no such method: `NoSuchMethod` of oslo.messaging.
    pub fn unknown_method(method: &str) -> Self {
        Self::new(
            "NoSuchMethod",
            format!("Endpoint does not support RPC method {method}"),
        )
    }

    /// The receiver serves another version: `UnsupportedVersion` of oslo.messaging.
    pub fn unsupported_version(version: &str, method: &str) -> Self {
        Self::new(
            "UnsupportedVersion",
            format!("Endpoint does not support RPC version {version}. Attempted method: {method}"),
        )
    }
}
