//! Block images cut into objects: pools, images, snapshots, COW clones, diffs.
//!
//! **Promises.** Everything goes through the trait [`ImageStore`], whatever the engine. A
//! snapshot or a clone copies no data. When [`ImageHandle::flush`] or a call that changes the
//! catalogue (create, snapshot, clone, remove …) has returned `Ok`, a power loss cannot take it
//! back. A read returns what was written or an error, never something else.
//!
//! **Relies on.** A file system that honours `fdatasync`. One process per embedded store.
//!
//! **On a crash.** The store opens in the state of the last flush or catalogue change, or of a
//! later write; nothing needs a repair step, and no space is lost.

pub mod ceph;
pub mod conformance;
pub mod diff_stream;
pub mod embedded;
pub mod memory;
pub mod nbd;
pub mod testing;

mod aligned;
mod error;
mod lane;
mod store;

pub use aligned::aligned as aligned_buffer;
pub use error::{Error, Result};
pub use lane::Lanes;
pub use store::{
    Capacity, Change, Extent, ExtentKind, ImageHandle, ImageInfo, ImageSpec, ImageStore,
    MAX_IMAGE_BYTES, MAX_METADATA_BYTES, MAX_OBJECT_BYTES, MAX_READ_BYTES, SnapshotInfo,
    SnapshotSpec,
};
