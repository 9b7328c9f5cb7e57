//! The uploads that this process receives now: the place where a request hands its body to the
//! flow that stores it, and hears how the flow ended.
//!
//! A body cannot be journaled. A flow that finds no body here was begun by a process that died:
//! it reverts.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use taskflow::{FlowEvent, Listener, TaskError, What};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Image data on its way in.
pub type DataStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// How an upload ended.
pub type Outcome = Result<(), TaskError>;

/// What the flow takes from the request.
pub struct Source {
    pub data: DataStream,
    /// Bytes that the request announced, if it did.
    pub declared_bytes: Option<u64>,
    /// Resolves with an error when the request is gone.
    pub request_gone: oneshot::Receiver<()>,
}

struct Entry {
    source: Option<Source>,
    ended: Option<oneshot::Sender<Outcome>>,
}

/// The uploads of this process by flow id. Cheap to clone.
#[derive(Clone, Default)]
pub struct Uploads(Arc<Mutex<HashMap<Uuid, Entry>>>);

impl Uploads {
    /// Announces the body of the flow's upload. Dropping the ticket takes the body back.
    pub fn register(&self, flow_id: Uuid, data: DataStream, declared_bytes: Option<u64>) -> Ticket {
        let (alive, request_gone) = oneshot::channel();
        let (ended, outcome) = oneshot::channel();
        let source = Some(Source {
            data,
            declared_bytes,
            request_gone,
        });
        self.entries().insert(
            flow_id,
            Entry {
                source,
                ended: Some(ended),
            },
        );
        Ticket {
            uploads: self.clone(),
            flow_id,
            outcome,
            _alive: alive,
        }
    }

    /// The body, once; `None`: the request is not here (any more), or the flow took it before.
    pub fn take(&self, flow_id: Uuid) -> Option<Source> {
        self.entries().get_mut(&flow_id)?.source.take()
    }

    fn end(&self, flow_id: Uuid, outcome: Outcome) {
        let ended = self
            .entries()
            .get_mut(&flow_id)
            .and_then(|entry| entry.ended.take());
        if let Some(ended) = ended {
            // The request may be gone; then nobody wants to know.
            let _ = ended.send(outcome);
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Entry>> {
        // The map is whole after every statement, also where a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Uploads {
    fn on_event(&self, event: &FlowEvent<'_>) {
        let outcome = match event.what {
            What::Succeeded => Ok(()),
            What::Reverted { error } => Err(error
                .cloned()
                .unwrap_or_else(|| TaskError::new("Reverted", "the upload was reverted"))),
            What::Parked { reason } => Err(TaskError::new("Parked", reason)),
            What::Lost => Err(TaskError::new(
                "Lost",
                "another process took the upload over",
            )),
            What::Released => Err(TaskError::interrupted()),
            _ => return,
        };
        self.end(event.flow.id, outcome);
    }
}

/// The request's side of an upload.
pub struct Ticket {
    uploads: Uploads,
    flow_id: Uuid,
    outcome: oneshot::Receiver<Outcome>,
    /// Its drop tells the flow that the request is gone.
    _alive: oneshot::Sender<()>,
}

impl Ticket {
    /// Waits until the flow has ended.
    pub async fn outcome(&mut self) -> Outcome {
        let closed = |_| Err(TaskError::new("Lost", "the upload's flow is gone"));
        (&mut self.outcome).await.unwrap_or_else(closed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.uploads.entries().remove(&self.flow_id);
    }
}

/// Most bytes and time that are spent on reading data that nobody wants.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Reads what a refused client still sends, within bounds: a client that is cut off while it
/// sends does not see the answer.
pub async fn drain(data: &mut DataStream) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = data.next().await {
            bytes += piece.len();
            if bytes > DRAIN_BYTES {
                break;
            }
        }
    };
    // Whether the time was enough changes nothing.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}
