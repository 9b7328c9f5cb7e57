//! Replies that wait for the socket: small ones are gathered, large data is sent from where it is.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Data up to this size is copied behind its header: cheaper than a piece of its own.
const COPY_BYTES: usize = 8 * 1024;
/// Pieces in one call.
const PIECES: usize = 64;

#[derive(Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    /// What stands behind the pieces.
    tail: BytesMut,
    piece_bytes: usize,
    unflushed: bool,
}

impl Outbox {
    /// Where headers are put.
    pub fn small(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Puts data behind everything.
    pub fn data(&mut self, data: Bytes) {
        if data.len() <= COPY_BYTES {
            self.tail.extend_from_slice(&data);
            return;
        }
        self.seal();
        self.piece_bytes += data.len();
        self.pieces.push_back(data);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.piece_bytes + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes() == 0 && !self.unflushed
    }

    pub fn clear(&mut self) {
        *self = Outbox::default();
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.piece_bytes += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Sends as much as the socket takes, in as few calls as possible; adds to `sent` what went.
    pub fn poll_send<W: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        writer: &mut W,
        sent: &mut u64,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.seal();
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            let length = ready!(Pin::new(&mut *writer).poll_write_vectored(context, slices))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += length as u64;
            self.advance(length);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut length: usize) {
        self.piece_bytes = self.piece_bytes.saturating_sub(length);
        while let Some(first) = self.pieces.front_mut() {
            if length < first.len() {
                first.advance(length);
                return;
            }
            length -= first.len();
            self.pieces.pop_front();
        }
    }
}
