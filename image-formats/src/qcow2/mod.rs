//! qcow2, versions 2 and 3 (QEMU's `docs/interop/qcow2`): reading as a stream of extents, and
//! writing in one sequential pass.

mod decompress;
mod header;
mod layout;
mod mapping;
mod piece;
mod reader;
mod writer;

use bytes::Bytes;

pub(crate) use header::Header;
pub use reader::Qcow2Reader;
pub use writer::Qcow2Writer;

/// The longest [`DiskExtent::Data`] that a reader yields and the longest piece that a writer
/// yields, in bytes.
pub const MAX_PIECE_BYTES: usize = 4 * 1024 * 1024;

/// Entries of L1 and L2 tables carry this bit when the cluster is not shared.
const COPIED: u64 = 1 << 63;
/// Where entries of L1 and standard entries of L2 tables keep the host offset.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// A range of the virtual disk. Extents come in rising order without gaps and end at the
/// virtual size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskExtent {
    /// At most [`MAX_PIECE_BYTES`] bytes.
    Data { offset: u64, data: Bytes },
    /// At most 1 GiB.
    Zero { offset: u64, length: u64 },
}
