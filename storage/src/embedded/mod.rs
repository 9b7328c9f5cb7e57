//! The engine `embedded`: images in a folder of one machine.
//!
//! ```text
//! DIR/lock            held by the one process that uses the store
//! DIR/catalogue.redb  names, snapshots, trees, counts of blocks; every value with a CRC-32C
//! DIR/reserve         room for the catalogue when the disk is full
//! DIR/blocks/N.blk    4 KiB blocks, sparse, 1 GiB per file
//! ```
//!
//! A write goes to free blocks, never over old ones, and then into the image's tree ([`tree`]).
//! Changes of trees and catalogue gather in memory, above what is committed ([`table`]), and
//! become durable together ([`commit`]): first the block files, then one transaction of the
//! catalogue. So the file of the catalogue always describes blocks that are durable, and after a
//! crash it is the store. Freed blocks are taken again only when the commit that freed them is
//! durable and nobody reads them ([`janitor`]).
//!
//! All 4 KiB blocks of zeroes are left out. Every read checks the CRC-32C of each block.

mod blocks;
mod catalogue;
mod catalogue_file;
mod check;
mod commit;
mod engine;
mod handle;
mod images;
mod janitor;
mod open;
mod records;
mod space;
mod state;
mod table;
mod tree;

pub use check::CheckReport;
pub use open::{EmbeddedOptions, EmbeddedStore};
