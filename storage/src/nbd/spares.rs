//! Memory of large payloads, kept for the next ones: giving it back to the system and taking it
//! again costs as much as filling it.

use bytes::{Bytes, BytesMut};

/// What a connection keeps while it is busy.
const MAX_BYTES: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Spares {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

impl Spares {
    /// An empty buffer with room for `length` bytes, which are not touched if they are new.
    pub fn take(&mut self, length: usize) -> BytesMut {
        let fitting = |buffer: &BytesMut| buffer.capacity() >= length;
        let Some(place) = self.buffers.iter().position(fitting) else {
            return BytesMut::with_capacity(length);
        };
        let buffer = self.buffers.swap_remove(place);
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps the memory of a payload that nobody else holds any more, if there is room.
    pub fn give(&mut self, payload: Bytes) {
        let Ok(mut buffer) = payload.try_into_mut() else {
            return;
        };
        buffer.clear();
        if self.bytes + buffer.capacity() <= MAX_BYTES {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }

    pub fn clear(&mut self) {
        *self = Spares::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(again.is_empty() && again.as_ptr() == memory);
        for _ in 0..8 {
            spares.give(filled(BytesMut::with_capacity(1 << 20)));
        }
        assert_eq!((spares.buffers.len(), spares.bytes), (4, MAX_BYTES));
        assert!(spares.take(2 << 20).capacity() >= 2 << 20);
    }
}
