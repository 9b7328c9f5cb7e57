//! The memory that image data passes through on its way in and out of this process: how much all
//! transfers together may hold, and buffers that are used again.
//!
//! Every transfer may hold one piece whatever the others do, so that none of them stands still for
//! a slow one; what it holds beyond that comes out of a share that all of them have together.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Data moves in pieces of at most this many bytes.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// Pieces that all transfers have together, beside the one that is each one's own.
const SHARED_PIECES: usize = 16;
/// Buffers that wait for the next piece.
const SPARE_BUFFERS: usize = SHARED_PIECES;

/// What the transfers of one process share. Cheap to clone.
#[derive(Clone)]
pub struct TransferMemory(Arc<Shared>);

struct Shared {
    room: Arc<Semaphore>,
    spares: Mutex<Vec<Vec<u8>>>,
}

impl Default for TransferMemory {
    fn default() -> Self {
        TransferMemory(Arc::new(Shared {
            room: Arc::new(Semaphore::new(SHARED_PIECES)),
            spares: Mutex::default(),
        }))
    }
}

impl TransferMemory {
    pub fn transfer(&self) -> Transfer {
        Transfer {
            shared: Arc::clone(&self.0),
            own: Arc::new(Semaphore::new(1)),
        }
    }
}

/// One upload's or one download's part. Cheap to clone.
#[derive(Clone)]
pub struct Transfer {
    shared: Arc<Shared>,
    own: Arc<Semaphore>,
}

impl Transfer {
    /// Room for one piece more; waits for it. One that is asked for after another is had after it
    /// as well only if the first is waited for first.
    pub async fn room(&self) -> Room {
        let own = Arc::clone(&self.own).acquire_owned();
        let shared = Arc::clone(&self.shared.room).acquire_owned();
        let permit = tokio::select! {
            biased;
            own = own => own,
            shared = shared => shared,
        };
        // Neither semaphore is ever closed.
        Room(permit.ok())
    }

    /// An empty buffer for one piece; waits for room.
    pub async fn buffer(&self) -> Buffer {
        let room = self.room().await;
        let spare = self.shared.spares().pop();
        Buffer {
            data: spare.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES_MAX)),
            shared: Arc::clone(&self.shared),
            _room: room,
        }
    }
}

impl Shared {
    fn spares(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        // Whole after every statement, also where a holder panicked.
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to hold one piece.
pub struct Room(#[allow(dead_code)] Option<OwnedSemaphorePermit>);

impl Room {
    /// Ties the room to a piece that is in memory already: it comes back with the last use of it.
    pub fn hold(self, piece: Bytes) -> Bytes {
        Bytes::from_owner(Held { piece, _room: self })
    }
}

struct Held {
    piece: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

/// Room for one piece, and the memory.
pub struct Buffer {
    data: Vec<u8>,
    shared: Arc<Shared>,
    _room: Room,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.data.len()
    }

    pub fn extend(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
    }

    /// The piece. Room and memory come back with the last use of it.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        let mut spares = self.shared.spares();
        if spares.len() < SPARE_BUFFERS && data.capacity() == PIECE_BYTES_MAX {
            spares.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn all_transfers_together_hold_no_more_than_one_each_and_the_share() {
        let memory = TransferMemory::default();
        let (greedy, other) = (memory.transfer(), memory.transfer());
        let mut held = Vec::new();
        while let Some(buffer) = greedy.buffer().now_or_never() {
            held.push(buffer.freeze());
            assert!(held.len() <= 1 + SHARED_PIECES);
        }
        assert_eq!(held.len(), 1 + SHARED_PIECES);
        // What is another's own is not taken by anybody.
        let own = other.buffer().now_or_never();
        assert!(own.is_some());
        assert!(other.buffer().now_or_never().is_none());
        // A clone of a piece keeps its room.
        let piece = held.pop().unwrap();
        let kept = piece.clone();
        drop(piece);
        assert!(other.buffer().now_or_never().is_none());
        drop(kept);
        assert!(other.buffer().now_or_never().is_some());
    }

    #[tokio::test]
    async fn memory_is_used_again_and_empty() {
        let transfer = TransferMemory::default().transfer();
        let mut buffer = transfer.buffer().await;
        buffer.extend(b"abc");
        let piece = buffer.freeze();
        assert_eq!(piece, "abc");
        let at = piece.as_ptr();
        drop(piece);
        let buffer = transfer.buffer().await;
        assert_eq!((buffer.len(), buffer.data.as_ptr()), (0, at));
        let room = transfer.room().await;
        assert_eq!(room.hold(Bytes::from_static(b"x")), "x");
    }
}
