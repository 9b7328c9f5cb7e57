//! Memory that direct I/O can use: it starts at a multiple of [`ALIGN_BYTES`].

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};

pub(crate) const ALIGN_BYTES: usize = 4096;
/// What is kept at most for the next use, unless said otherwise.
const MOST_BYTES: usize = 4 << 20;

/// An empty buffer with room for this many bytes, which are not touched if they are new. An engine
/// with a disk of its own writes long data in such memory from where it is; other data it copies.
pub fn aligned(capacity: usize) -> BytesMut {
    let capacity = capacity.next_multiple_of(ALIGN_BYTES);
    let mut buffer = BytesMut::with_capacity(capacity + ALIGN_BYTES);
    let skip = buffer.as_ptr().align_offset(ALIGN_BYTES);
    buffer.resize(skip, 0);
    buffer.advance(skip);
    buffer
}

pub(crate) fn is_aligned(data: &[u8]) -> bool {
    (data.as_ptr() as usize).is_multiple_of(ALIGN_BYTES)
}

/// Memory kept for the next use: giving it back to the system and taking it again costs as much as
/// filling it.
pub(crate) struct Spares {
    buffers: Vec<BytesMut>,
    bytes: usize,
    most_bytes: usize,
}

impl Default for Spares {
    fn default() -> Self {
        Spares::keeping(MOST_BYTES)
    }
}

impl Spares {
    pub(crate) fn keeping(most_bytes: usize) -> Self {
        Spares {
            buffers: Vec::new(),
            bytes: 0,
            most_bytes,
        }
    }

    /// As [`aligned`].
    pub(crate) fn take(&mut self, length: usize) -> BytesMut {
        let fitting = |buffer: &BytesMut| buffer.capacity() >= length;
        let Some(place) = self.buffers.iter().position(fitting) else {
            return aligned(length);
        };
        let buffer = self.buffers.swap_remove(place);
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps the memory of a payload that nobody else holds any more.
    pub(crate) fn give(&mut self, payload: Bytes) {
        if let Ok(buffer) = payload.try_into_mut() {
            self.give_back(buffer);
        }
    }

    /// Keeps the memory, if there is room.
    pub(crate) fn give_back(&mut self, mut buffer: BytesMut) {
        buffer.clear();
        let fits = is_aligned(&buffer) && buffer.capacity() > 0;
        if fits && self.bytes + buffer.capacity() <= self.most_bytes {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.buffers.clear();
        self.bytes = 0;
    }
}

/// Spares of several threads.
pub(crate) type SharedSpares = Arc<Mutex<Spares>>;

/// Data whose memory goes back to the spares.
pub(crate) struct Borrowed {
    data: BytesMut,
    home: SharedSpares,
}

impl Borrowed {
    pub(crate) fn bytes(data: BytesMut, home: &SharedSpares) -> Bytes {
        let home = Arc::clone(home);
        Bytes::from_owner(Borrowed { data, home })
    }
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        home.give_back(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_split_without_copy() {
        for capacity in [8191, 10_000, 100_000] {
            let mut buffer = aligned(capacity);
            assert!(buffer.capacity() >= capacity && is_aligned(&buffer));
            buffer.resize(8192, 7);
            let head = buffer.split_to(4096);
            assert!(is_aligned(&buffer));
            assert_eq!((head.len(), buffer.len()), (4096, 4096));
        }
    }

    #[test]
    fn memory_comes_back_unless_it_is_held_or_too_much() {
        let mut spares = Spares::default();
        let filled = |mut buffer: BytesMut| {
            buffer.resize(1 << 20, 1);
            buffer.freeze()
        };
        let payload = filled(spares.take(1 << 20));
        let memory = payload.as_ptr();
        let held = payload.clone();
        spares.give(payload);
        assert_eq!(spares.bytes, 0, "the engine still has it");
        spares.give(held);
        let again = spares.take(1 << 19);
        assert!(again.is_empty() && again.as_ptr() == memory && is_aligned(&again));
        for _ in 0..8 {
            spares.give(filled(aligned(1 << 20)));
        }
        assert!(spares.buffers.len() == 3 && spares.bytes <= MOST_BYTES);
        assert!(spares.take(2 << 20).capacity() >= 2 << 20);
    }

    #[test]
    fn borrowed_memory_goes_home() {
        let home: SharedSpares = Arc::default();
        let mut data = aligned(1 << 20);
        data.resize(1 << 20, 9);
        let bytes = Borrowed::bytes(data, &home);
        let part = bytes.slice(5..10);
        drop(bytes);
        assert_eq!(
            (part[..].to_vec(), home.lock().unwrap().bytes),
            (vec![9; 5], 0)
        );
        drop(part);
        assert!(home.lock().unwrap().bytes >= 1 << 20);
    }
}
