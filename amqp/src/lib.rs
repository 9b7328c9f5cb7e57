//! Messages between the services' parts: remote procedure calls and notifications, in the
//! shape of oslo.messaging.
//!
//! **Promises.** [`Bus`] is the one trait; [`InProcess`] carries it inside one process,
//! [`RabbitMq`] over a broker, with peers that speak oslo.messaging. A cast never waits for its
//! receiver: it is a doorbell, and one that finds no room is dropped with a
//! log line. A call ends with an answer, the handler's error, or [`Error::Timeout`]. What a
//! notification tells has happened, and is told at least once.
//!
//! **Relies on.** Nothing that matters is only in a message: whoever casts has committed its
//! flow first, and the workers' sweep finds the flow when the doorbell was lost.
//!
//! **On a crash.** In one process all messages are gone; a broker keeps those that nobody has
//! received. Nothing is lost with them. Notifications lie in the database, in the [`Outbox`],
//! from the transaction that they tell of until a [`Postman`] has delivered them.

mod error;
mod in_process;
mod message;
mod outbox;
mod postman;
mod rabbit;

pub use error::{Error, RemoteFailure, Result};
pub use in_process::InProcess;
pub use message::{Message, Notification, Priority, RequestContext, Target};
pub use outbox::Outbox;
pub use postman::{Carrier, Postman};
pub use rabbit::{BrokerTls, RabbitMq, RabbitOptions, TransportUrl, TransportUrlError};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

/// `rpc_response_timeout` of oslo.messaging: how long a call waits unless told otherwise.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The way to the other services and to the listeners of notifications.
///
/// Topics and server names are those of Cinder (`cinder-volume`, `host@backend`, …).
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends without an answer: to the named server, else to one of the topic's servers in turn.
    ///
    /// `Ok` means handed over, not handled; a message without a receiver is no error.
    async fn cast(&self, target: &Target, message: Message) -> Result<()>;

    /// Sends without an answer to every server of the topic.
    async fn fanout(&self, topic: &str, message: Message) -> Result<()>;

    /// Sends and waits for the answer.
    ///
    /// Errors: `Timeout`, `NoServer`, `Busy` (nothing was sent), `Remote` (the handler failed).
    async fn call(&self, target: &Target, message: Message, timeout: Duration) -> Result<Value>;

    /// Receives for the topic, for the topic's server `server`, and the topic's fanouts, until
    /// the returned [`Serving`] is dropped.
    async fn serve(&self, topic: &str, server: &str, handler: Arc<dyn Handler>) -> Result<Serving>;

    /// Sends a notification to whoever listens; `Ok` when it is out of this process's hands. Who
    /// wants it to survive a failure puts it into the [`Outbox`] instead.
    ///
    /// Errors: `Unavailable`; the listeners may see it again when it is sent again.
    async fn notify(&self, notification: &Notification) -> Result<()>;
}

/// What a server does with what it receives. Messages may be handled at the same time and in
/// any order.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The answer (`Value::Null` for a cast). An unknown method is
    /// [`RemoteFailure::unknown_method`].
    async fn handle(&self, message: Message) -> std::result::Result<Value, RemoteFailure>;

    /// The newest version of the interface that is served, `major.minor`; messages for an older
    /// minor version are served too, those for another major one are not.
    fn version(&self) -> &str {
        "1.0"
    }
}

/// Hands a message to its handler, if it is for an interface that the handler serves.
async fn dispatch(
    handler: &dyn Handler,
    message: Message,
) -> std::result::Result<Value, RemoteFailure> {
    if message.method.starts_with('_') {
        return Err(RemoteFailure::unknown_method(&message.method));
    }
    if message.namespace.is_some() || !serves(handler.version(), &message.version) {
        return Err(RemoteFailure::unsupported_version(
            &message.version,
            &message.method,
        ));
    }
    handler.handle(message).await
}

/// Whether an interface of version `served` does what `asked` asks for.
fn serves(served: &str, asked: &str) -> bool {
    let parse = |text: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    match (parse(served), parse(asked)) {
        (Some(served), Some(asked)) => served.0 == asked.0 && asked.1 <= served.1,
        _ => false,
    }
}

/// A running server of a topic. Dropping it stops receiving; what is being handled goes on.
#[must_use = "dropping it stops receiving"]
pub struct Serving {
    stop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Serving {
    /// A server that `stop` ends.
    pub fn new(stop: impl FnOnce() + Send + Sync + 'static) -> Self {
        Serving {
            stop: Some(Box::new(stop)),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}
