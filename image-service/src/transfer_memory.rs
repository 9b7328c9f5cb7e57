//! The memory that image data passes through on its way in and out of this process: how much all
//! transfers together may hold, and buffers that are used again.
//!
//! Every transfer may hold one small piece whatever the others do, so that none of them stands
//! still for a slow one; what it holds beyond that, in large pieces, comes out of a share that all
//! of them have together. So a client that sends or takes nothing costs a small piece, and a
//! transfer that nobody competes with moves large ones.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use storage::aligned_buffer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Data moves in pieces of at most this many bytes.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// Pieces that all transfers have together: one alone keeps the network, the hashes and the disk
/// busy with six.
const SHARED_PIECES: usize = 8;
/// The piece that is each transfer's own: as short as the store still likes to write.
const OWN_PIECE_BYTES: usize = 256 << 10;
/// Buffers of each size that wait for the next piece.
const SPARE_BUFFERS: usize = SHARED_PIECES;

/// What the transfers of one process share. Cheap to clone.
#[derive(Clone)]
pub struct TransferMemory(Arc<Shared>);

struct Shared {
    room: Arc<Semaphore>,
    spares: Mutex<Vec<BytesMut>>,
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
        let (permit, bytes) = tokio::select! {
            biased;
            own = own => (own, OWN_PIECE_BYTES),
            shared = shared => (shared, PIECE_BYTES_MAX),
        };
        Room {
            bytes,
            // Neither semaphore is ever closed.
            _permit: permit.ok(),
        }
    }

    /// An empty buffer for one piece; waits for room.
    pub async fn buffer(&self) -> Buffer {
        let room = self.room().await;
        let spare = self.shared.spare(room.bytes);
        Buffer {
            data: spare.unwrap_or_else(|| aligned_buffer(room.bytes)),
            shared: Arc::clone(&self.shared),
            room,
        }
    }
}

impl Shared {
    fn spares(&self) -> std::sync::MutexGuard<'_, Vec<BytesMut>> {
        // Whole after every statement, also where a holder panicked.
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of this size that was used before.
    fn spare(&self, bytes: usize) -> Option<BytesMut> {
        let mut spares = self.spares();
        let fits = |spare: &BytesMut| size_of(spare) == bytes;
        let at = spares.iter().rposition(fits)?;
        Some(spares.swap_remove(at))
    }

    fn give_back(&self, mut data: BytesMut) {
        data.clear();
        let bytes = size_of(&data);
        let mut spares = self.spares();
        let kept = spares.iter().filter(|spare| size_of(spare) == bytes);
        if kept.count() < SPARE_BUFFERS {
            spares.push(data);
        }
    }
}

/// Of which of the two sizes an empty buffer is.
fn size_of(buffer: &BytesMut) -> usize {
    match buffer.capacity() {
        PIECE_BYTES_MAX.. => PIECE_BYTES_MAX,
        _ => OWN_PIECE_BYTES,
    }
}

/// The right to hold one piece.
pub struct Room {
    bytes: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// The most that the piece may have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

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

/// Room for one piece, and the memory, which a store can write from without copying it.
pub struct Buffer {
    data: BytesMut,
    shared: Arc<Shared>,
    room: Room,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// The most that it can take in all.
    pub fn room_bytes(&self) -> usize {
        self.room.bytes()
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
        self.shared.give_back(std::mem::take(&mut self.data));
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
        let mut bytes = 0;
        while let Some(buffer) = greedy.buffer().now_or_never() {
            bytes += buffer.room_bytes();
            held.push(buffer.freeze());
            assert!(held.len() <= 1 + SHARED_PIECES);
        }
        assert_eq!(held.len(), 1 + SHARED_PIECES);
        assert_eq!(bytes, OWN_PIECE_BYTES + SHARED_PIECES * PIECE_BYTES_MAX);
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
        let mut used = Vec::new();
        for round in 0..3 {
            let mut pieces = Vec::new();
            // The own one, and then a shared one.
            for bytes in [OWN_PIECE_BYTES, PIECE_BYTES_MAX] {
                let mut buffer = transfer.buffer().await;
                assert_eq!((buffer.len(), buffer.room_bytes()), (0, bytes));
                buffer.extend(&vec![round; bytes]);
                let piece = buffer.freeze();
                assert!(piece.len() == bytes && piece[bytes - 1] == round);
                assert!((piece.as_ptr() as usize).is_multiple_of(4096));
                pieces.push(piece);
            }
            let now: Vec<usize> = pieces.iter().map(|piece| piece.as_ptr() as usize).collect();
            assert!(used.is_empty() || used == now);
            used = now;
        }
        let room = transfer.room().await;
        assert_eq!(room.hold(Bytes::from_static(b"x")), "x");
    }
}
