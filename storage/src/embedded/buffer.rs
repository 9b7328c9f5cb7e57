//! The unit and its checksum.

use bytes::BytesMut;

pub(crate) use crate::aligned::aligned;

/// The unit of everything: of the map, of checksums, of space, of direct I/O.
pub(crate) const UNIT_BYTES: usize = crate::aligned::ALIGN_BYTES;

/// Fills up with zeroes to whole units.
pub(crate) fn pad(buffer: &mut BytesMut) {
    buffer.resize(buffer.len().next_multiple_of(UNIT_BYTES), 0);
}

/// CRC-32C, the one checksum of the store.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}
