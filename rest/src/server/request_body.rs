//! The body of a request: it ends with an error when the client sends nothing for a while, and
//! what the handler did not read of it is read after the handler, so that the connection can
//! carry the next request.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

/// More is not read for the sake of a connection.
const MOST_UNREAD_BYTES: usize = 64 << 10;
/// Nor waited for longer: the answer waits as long.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(1);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What became of a body.
#[derive(Default)]
enum State {
    /// Somebody has it.
    #[default]
    Held,
    Ended,
    Dropped(Incoming),
}

/// Tells, when the handler has answered, what became of its request's body.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<Mutex<State>>);

impl Unread {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has_ended(&self) -> bool {
        matches!(*self.state(), State::Ended)
    }

    /// Reads what the handler left, if that is little and there soon. False: the connection
    /// cannot be used again.
    pub async fn read_out(self) -> bool {
        let body = match std::mem::take(&mut *self.state()) {
            State::Held => return false,
            State::Ended => return true,
            State::Dropped(body) => body,
        };
        let is_little = |bytes: u64| bytes <= MOST_UNREAD_BYTES as u64;
        if !body.size_hint().upper().is_none_or(is_little) {
            return false;
        }
        let reading = tokio::time::timeout(UNREAD_TIMEOUT, read(body)).await;
        reading.unwrap_or(false)
    }
}

async fn read(mut body: Incoming) -> bool {
    let mut read_bytes = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        read_bytes = read_bytes.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if read_bytes > MOST_UNREAD_BYTES {
            return false;
        }
    }
    true
}

/// Waits so long for each piece; the time in which nobody asks for one does not count.
pub(super) struct RequestBody {
    /// `None` only while it is dropped.
    inner: Option<Incoming>,
    most: Duration,
    /// Since the piece is waited for.
    waiting: Pin<Box<Sleep>>,
    is_waiting: bool,
    has_ended: bool,
    unread: Unread,
}

impl RequestBody {
    pub fn new(inner: Incoming, most: Duration, unread: Unread) -> Self {
        Self {
            inner: Some(inner),
            most,
            waiting: Box::pin(sleep(most)),
            is_waiting: false,
            has_ended: false,
            unread,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            this.is_waiting = false;
            this.has_ended = frame.is_none();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if !this.is_waiting {
            this.is_waiting = true;
            this.waiting.as_mut().reset(Instant::now() + this.most);
        }
        match this.waiting.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Some(Err("the client sent nothing for too long".into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let ended = self.has_ended || self.is_end_stream();
        let left = self.inner.take().filter(|_| !ended);
        *self.unread.state() = left.map_or(State::Ended, State::Dropped);
    }
}
