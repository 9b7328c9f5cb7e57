//! Buffers for direct I/O: they start at a multiple of [`UNIT_BYTES`] in memory.

use bytes::{Buf, BytesMut};

/// The unit of everything: of the map, of checksums, of space, of direct I/O.
pub(crate) const UNIT_BYTES: usize = 4096;

/// An empty buffer with room for this many bytes, aligned.
pub(crate) fn aligned(capacity: usize) -> BytesMut {
    let capacity = capacity.next_multiple_of(UNIT_BYTES);
    let mut buffer = BytesMut::with_capacity(capacity + UNIT_BYTES);
    let skip = buffer.as_ptr().align_offset(UNIT_BYTES);
    buffer.resize(skip, 0);
    buffer.advance(skip);
    buffer
}

/// Fills up with zeroes to whole units.
pub(crate) fn pad(buffer: &mut BytesMut) {
    buffer.resize(buffer.len().next_multiple_of(UNIT_BYTES), 0);
}

/// CRC-32C, the one checksum of the store.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_split_without_copy() {
        for capacity in [8191, 10_000, 100_000] {
            let mut buffer = aligned(capacity);
            assert!(buffer.capacity() >= capacity);
            assert_eq!(buffer.as_ptr() as usize % UNIT_BYTES, 0);
            buffer.resize(8192, 7);
            pad(&mut buffer);
            let head = buffer.split_to(4096);
            assert_eq!(buffer.as_ptr() as usize % UNIT_BYTES, 0);
            assert_eq!((head.len(), buffer.len()), (4096, 4096));
        }
    }
}
