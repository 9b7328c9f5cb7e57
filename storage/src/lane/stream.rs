//! Sockets on a lane.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::arm;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// What is known of one direction of a socket.
struct Half {
    /// A call may find something.
    ready: AtomicBool,
    /// The ring will tell when it becomes ready.
    armed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Half {
    fn new() -> Half {
        Half {
            ready: AtomicBool::new(true),
            armed: AtomicBool::new(false),
            waker: Mutex::new(None),
        }
    }

    fn waker(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct SocketState {
    socket: OwnedFd,
    reading: Half,
    writing: Half,
}

impl SocketState {
    pub fn number(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Read => &self.reading,
            Direction::Write => &self.writing,
        }
    }

    pub fn set_ready(&self, direction: Direction) {
        let half = self.half(direction);
        half.armed.store(false, Ordering::Relaxed);
        half.ready.store(true, Ordering::Relaxed);
        if let Some(waker) = half.waker().take() {
            waker.wake();
        }
    }

    fn poll_ready(
        self: &Arc<Self>,
        direction: Direction,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let half = self.half(direction);
        if half.ready.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        *half.waker() = Some(context.waker().clone());
        if !half.armed.swap(true, Ordering::Relaxed) {
            arm(self, direction)?;
        }
        Poll::Pending
    }

    /// Calls until the call says something else than that it would block.
    fn poll_call<T>(
        self: &Arc<Self>,
        direction: Direction,
        context: &mut Context<'_>,
        mut call: impl FnMut(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_ready(direction, context))?;
            match call(&self.socket) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => self.set_unready(direction),
                result => return Poll::Ready(result.map_err(io::Error::from)),
            }
        }
    }

    fn set_unready(&self, direction: Direction) {
        self.half(direction).ready.store(false, Ordering::Relaxed);
    }
}

/// A connected stream socket, which must be used on a lane. Closed when it is dropped.
pub(crate) struct LaneStream(Arc<SocketState>);

impl LaneStream {
    pub(crate) fn new(socket: OwnedFd) -> LaneStream {
        LaneStream(Arc::new(SocketState {
            socket,
            reading: Half::new(),
            writing: Half::new(),
        }))
    }
}

impl Drop for LaneStream {
    fn drop(&mut self) {
        // The ring keeps the descriptor as long as it waits for the socket: this ends the wait.
        let _ = shutdown(&self.0.socket, Shutdown::Both);
    }
}

impl AsyncRead for LaneStream {
    #[allow(unsafe_code)]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wanted = buffer.remaining();
        let received = self.0.poll_call(Direction::Read, context, |socket| {
            // SAFETY: what is written into the unfilled part by `recv` is data; nothing else is.
            let room = unsafe { buffer.unfilled_mut() };
            recv(socket, room, RecvFlags::DONTWAIT).map(|(_, length)| length)
        });
        let length = ready!(received)?;
        // SAFETY: `recv` has written so many bytes at the start of the unfilled part.
        unsafe { buffer.assume_init(length) };
        buffer.advance(length);
        if (1..wanted).contains(&length) {
            // There was no more. If more has come since, the ring says so at once.
            self.0.set_unready(Direction::Read);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.0.poll_call(Direction::Write, context, |socket| {
            sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), flags)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&self.0.socket, Shutdown::Write).map_err(io::Error::from))
    }
}
