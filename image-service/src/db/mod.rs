//! The image tables: a file per table family. Writes happen in a caller's transaction.

pub mod disk_snapshots;
pub mod images;
pub mod imports;
pub mod list;
pub mod locations;
pub mod members;
pub mod metadef_items;
pub mod metadefs;
pub mod properties;
pub mod staging;
pub mod tasks;
pub mod usage;
