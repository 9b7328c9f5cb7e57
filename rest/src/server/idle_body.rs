//! A request body that ends with an error when the client sends nothing for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Waits so long for each piece; the time in which nobody asks for one does not count.
pub(super) struct IdleBody {
    inner: Incoming,
    most: Duration,
    /// Since the piece is waited for.
    waiting: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl IdleBody {
    pub fn new(inner: Incoming, most: Duration) -> Self {
        Self {
            inner,
            most,
            waiting: Box::pin(sleep(most)),
            is_waiting: false,
        }
    }
}

impl Body for IdleBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.is_waiting = false;
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
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
