//! Backups of volumes as rbd diffs in a pool: names, chains, metadata (Cinder's Ceph layout).
//!
//! A chain is one full backup and the incrementals on it. All of them share a *base* image in
//! the backup pool, named after the full one; each backup is one snapshot of the base. The
//! snapshot of the same name on the volume's own image is what the next incremental starts from.

pub(crate) mod chain;
mod metadata;
pub mod record;

pub use chain::{
    BackupSnapshot, Candidate, ServiceMetadata, base_name, choose_parent, is_backup_snapshot,
};
pub use metadata::{VolumeMetadata, metadata_object};
