//! Disk image formats: what a file really is, reading disks out of raw, qcow2, VMDK, VHD, VHDX and
//! VDI files as a stream, writing qcow2 and VMDK, and unpacking gzip and zip.
//!
//! **Promises.** No input makes this crate panic, hang or use memory in proportion to what the
//! input claims. [`Inspector`] keeps at most about 1.2 MiB of an upload of any size.
//! [`Qcow2Reader`] holds one page of the L1 table, one L2 table (at most 2 MiB) and one piece of
//! data (at most 4 MiB, and the source bytes it came from); [`DiskReader`] is within that for every
//! format. It opens nothing but the source it was
//! given: an image that names a backing file or a data file is refused, and so is one with features
//! it does not know. It never yields anything behind the virtual size. How large a virtual size
//! is acceptable is the caller's decision: a small file may legally describe a huge disk.
//!
//! **Relies on.** A [`ByteSource`] whose bytes do not change while it is read, and a tokio
//! runtime (clusters are decompressed on its blocking threads).
//!
//! **On a crash.** Nothing is kept outside memory; the caller starts the stream again.
//!
//! The qcow2 reader is our own, not the crate `imago`, because imago 0.2.6 refuses every image
//! with an incompatible feature other than an external data file: zstd-compressed images,
//! extended L2 entries (subclusters) and images that were not closed cleanly cannot be read. It
//! also reads one compressed cluster per request and brings a writable block layer with it, of
//! which a sequential read needs nothing.

mod archive;
mod data_map;
mod detect;
mod disk;
mod endian;
mod error;
mod format;
mod inspect;
mod qcow2;
mod source;
mod vmdk_writer;

pub use archive::{ARCHIVE_DETECT_BYTES, Archive};
pub use data_map::DataMap;
pub use detect::{DETECT_BYTES, Detected, detect};
pub use disk::DiskReader;
pub use error::{Error, Result};
pub use format::Format;
pub use inspect::{Inspection, Inspector, Unsafe};
pub use qcow2::{DiskExtent, MAX_PIECE_BYTES, Qcow2Reader, Qcow2Writer};
pub use source::{ByteSource, FileSource};
pub use vmdk_writer::VmdkWriter;
