//! The engine `embedded`: images in a folder of one machine, as a log of batches in chunk files.
//!
//! ```text
//! DIR/lock           held by the one process that uses the store
//! DIR/superblock     two slots of two copies: the last checkpoint, and where the log begins
//! DIR/checkpoint.N   catalogue, roots and space of a checkpoint, in turn
//! DIR/chunks/NNNNN   1 GiB each, grown in steps: data, log headers, pages of trees, space maps
//! ```
//!
//! `docs/store-format.md` draws every byte and argues why each crash point is safe.
//!
//! | File | Is |
//! |---|---|
//! | [`open`], [`handle`], [`images`] | the trait's calls, and how they reach the shard |
//! | [`shard`], [`request`], [`changes`], [`reading`], [`growth`], [`give_back`] | the machine that carries them out |
//! | [`batching`], [`runs`], [`log`] | how changes become long writes, and take effect |
//! | [`checkpoint`], [`recovery`], [`replay`] | what is saved now and then, and how a start goes on from it |
//! | [`catalogue`], [`plans`], [`records`], [`apply`] | pools, images, snapshots, clones; calls, and the records that carry them out |
//! | [`tree`], [`mapping`], [`walk`], [`pages`] | the maps of images, their changes, and their cache |
//! | [`space`] | which units are in use, and how often |
//! | [`check`] | whether all of that is so |
//! | [`scan`], [`scrub`], [`usage`], [`defragment`] | long walks beside everything else |
//! | [`format`], [`disk`], [`buffer`] | bytes, files, memory |

#![allow(rustdoc::private_intra_doc_links)]

mod apply;
mod batching;
mod buffer;
mod catalogue;
mod changes;
mod check;
mod checkpoint;
mod defragment;
mod disk;
mod format;
mod give_back;
mod growth;
mod handle;
mod images;
mod log;
mod mapping;
mod open;
mod pages;
mod plans;
mod reading;
mod records;
mod recovery;
mod replay;
mod request;
mod runs;
mod scan;
mod scrub;
mod shard;
mod space;
mod tree;
mod usage;
mod walk;

#[cfg(test)]
mod crash;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use check::{CheckOptions, CheckReport};
pub use defragment::{DefragmentOptions, DefragmentReport};
#[cfg(feature = "eliding-disk")]
pub use disk::eliding::ELIDED_BYTE;
pub use disk::real::IoEngine;
pub use open::{EmbeddedOptions, EmbeddedStore};
pub use scrub::{Progress, ScrubOptions, ScrubReport};
pub use usage::Usage;
