//! The trait that every engine implements. Sizes, offsets and lengths are in bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::{Error, Lanes, Result};

/// `pool/image`. Names are those of Cinder, Glance and Nova on Ceph (`volume-<id>`, …).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageSpec {
    pub pool: String,
    pub image: String,
}

impl ImageSpec {
    pub fn new(pool: impl Into<String>, image: impl Into<String>) -> Self {
        ImageSpec {
            pool: pool.into(),
            image: image.into(),
        }
    }

    /// The snapshot `name` of this image.
    pub fn at(&self, name: impl Into<String>) -> SnapshotSpec {
        SnapshotSpec {
            image: self.clone(),
            snapshot: name.into(),
        }
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.pool, self.image)
    }
}

/// `pool/image@snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotSpec {
    pub image: ImageSpec,
    pub snapshot: String,
}

impl fmt::Display for SnapshotSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.image, self.snapshot)
    }
}

/// What an image is, without reading its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    pub size_bytes: u64,
    /// The snapshot that this image was cloned from, until it is flattened.
    pub parent: Option<SnapshotSpec>,
    /// Oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub name: String,
    /// The image's size when the snapshot was made.
    pub size_bytes: u64,
    /// A protected snapshot cannot be removed; only a protected one can be cloned.
    pub protected: bool,
}

/// What a pool has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Bytes that images and snapshots keep, each shared byte once. 0 when the store is empty.
    pub used_bytes: u64,
}

/// What a range of an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    Data,
    Zero,
}

/// A range of an image; extents come in rising order and do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
    pub kind: ExtentKind,
}

/// What a diff covers: everything that changed from one point of an image to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// The older snapshot; `None`: from the empty image (a full diff, zero extents left out).
    pub from: Option<&'a str>,
    /// The newer snapshot; `None`: the head.
    pub to: Option<&'a str>,
}

/// A store of images. Every call that changes something is durable when it returns `Ok`.
///
/// Calls are safe to repeat after a crash: the second `create` of the same image answers
/// [`Error::Exists`], the second `remove` [`Error::NotFound`], and the caller decides.
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// The identity of the store, a UUID: the `fsid` of `rbd://fsid/pool/image/snapshot`.
    fn fsid(&self) -> &str;

    /// Whether [`ImageStore::flatten`] copies no data and returns in constant time.
    fn flattens_instantly(&self) -> bool;

    /// Threads on which connections to this store are served best.
    fn lanes(&self) -> Option<&Lanes> {
        None
    }

    /// Whether a crash in the middle of [`create`](ImageStore::create),
    /// [`clone_image`](ImageStore::clone_image) or
    /// [`create_snapshot`](ImageStore::create_snapshot) leaves nothing at all. Where it may leave a
    /// part, whoever repeats the call removes what is there and begins anew.
    fn makes_images_atomically(&self) -> bool {
        true
    }

    /// Whether clients of an image keep to the limits of rate in its metadata
    /// (`conf_rbd_qos_iops_limit` …).
    fn limits_rates(&self) -> bool {
        false
    }

    /// Prepares the image for several clients that write to it at the same time, or for one alone
    /// again. Idempotent.
    async fn share_writes(&self, image: &ImageSpec, shared: bool) -> Result<()> {
        let _ = (image, shared);
        Ok(())
    }

    /// What there is room for in a pool. Engines whose pools share all room answer the store's.
    async fn capacity(&self, pool: &str) -> Result<Capacity>;

    /// Makes the pool unless it is there. Where pools are the operator's to make, `NotFound` says
    /// how.
    async fn ensure_pool(&self, pool: &str) -> Result<()>;
    async fn pools(&self) -> Result<Vec<String>>;

    /// An image of zeroes. Errors: `Exists`, `NotFound` (pool), `Invalid` (size or name).
    async fn create(&self, image: &ImageSpec, size_bytes: u64) -> Result<()>;
    /// Image names of the pool, sorted.
    async fn images(&self, pool: &str) -> Result<Vec<String>>;
    async fn info(&self, image: &ImageSpec) -> Result<ImageInfo>;
    /// Bytes of data that the head maps, shared with snapshots, parent or clones or not.
    async fn used_bytes(&self, image: &ImageSpec) -> Result<u64>;
    /// Errors: `HasSnapshots`, `Busy` (open for writing elsewhere).
    async fn remove(&self, image: &ImageSpec) -> Result<()>;
    /// Tries again what [`remove`](ImageStore::remove) had to leave in a pool: on Ceph the trash
    /// holds images whose time has not come, or whose clones lived. Answers what went.
    async fn purge(&self, pool: &str) -> Result<Vec<String>> {
        let _ = pool;
        Ok(Vec::new())
    }
    /// Within the pool; clones and snapshots follow. Errors: `Exists`.
    async fn rename(&self, image: &ImageSpec, name: &str) -> Result<()>;
    /// Growing adds zeroes; shrinking drops what lies behind, and it reads as zero if grown again.
    async fn resize(&self, image: &ImageSpec, size_bytes: u64) -> Result<()>;

    /// Opens the head for reading and writing, or a snapshot for reading.
    async fn open(&self, image: &ImageSpec, snapshot: Option<&str>)
    -> Result<Arc<dyn ImageHandle>>;

    /// What has reached the head when this is called is in the snapshot, flushed or not.
    async fn create_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()>;
    /// Within the image; clones follow. Errors: `Exists`.
    async fn rename_snapshot(&self, snapshot: &SnapshotSpec, name: &str) -> Result<()>;
    /// Idempotent.
    async fn protect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()>;
    /// Idempotent. Errors: `Busy` with the clones.
    async fn unprotect_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()>;
    /// Errors: `Busy` while protected.
    async fn remove_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()>;
    /// The head becomes the snapshot again, size included.
    async fn roll_back(&self, snapshot: &SnapshotSpec) -> Result<()>;

    /// A COW clone of a protected snapshot, in the same or another pool, of the snapshot's size.
    async fn clone_image(&self, parent: &SnapshotSpec, child: &ImageSpec) -> Result<()>;
    /// The clones of a snapshot that are not flattened.
    async fn children(&self, snapshot: &SnapshotSpec) -> Result<Vec<ImageSpec>>;
    /// Makes the image independent of its parent. Does nothing where there is none.
    async fn flatten(&self, image: &ImageSpec) -> Result<()>;

    /// The extents that differ, found without reading data. With `from`, what became zero is
    /// `Zero`; without, only `Data` extents come. Blocks whose content was rewritten with the
    /// same bytes may be in it. At most `limit` extents from `start_bytes` on, so that a caller
    /// pages through an image of any size; an empty answer is the end.
    async fn diff(
        &self,
        image: &ImageSpec,
        change: Change<'_>,
        start_bytes: u64,
        limit: usize,
    ) -> Result<Vec<Extent>>;

    /// Metadata of an image: small strings by key.
    async fn set_metadata(&self, image: &ImageSpec, key: &str, value: &str) -> Result<()>;
    async fn metadata(&self, image: &ImageSpec) -> Result<Vec<(String, String)>>;
    /// Errors: `NotFound` for a missing key.
    async fn remove_metadata(&self, image: &ImageSpec, key: &str) -> Result<()>;

    /// A small named object of a pool beside the images (`backup.<id>.meta`); replaces.
    async fn put_object(&self, pool: &str, name: &str, data: Bytes) -> Result<()>;
    async fn object(&self, pool: &str, name: &str) -> Result<Bytes>;
    async fn remove_object(&self, pool: &str, name: &str) -> Result<()>;
    /// Object names of the pool, sorted.
    async fn objects(&self, pool: &str) -> Result<Vec<String>>;

    /// Makes everything durable and refuses further calls with `Unavailable`.
    async fn close(&self) -> Result<()>;
}

/// An open image or snapshot. Dropping it closes it.
///
/// Reads and writes of any offset and length inside the image; concurrent calls are allowed,
/// overlapping concurrent writes land in some order. A resize shows at once in [`size_bytes`].
///
/// [`size_bytes`]: ImageHandle::size_bytes
#[async_trait]
pub trait ImageHandle: Send + Sync + 'static {
    fn size_bytes(&self) -> u64;
    fn read_only(&self) -> bool;
    /// Exactly `length` bytes; `Invalid` when the range passes the end or [`MAX_READ_BYTES`].
    async fn read(&self, offset: u64, length: usize) -> Result<Bytes>;
    /// Reads several ranges at the same time; the answers come in their order. Each is as one of
    /// [`read`](ImageHandle::read), and all of them are in memory when this returns.
    async fn read_each(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let read = |range: &Range<u64>| self.read(range.start, length_of(range));
        try_join_all(ranges.iter().map(read)).await
    }
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;
    /// The range reads as zero and its space is given back.
    async fn discard(&self, offset: u64, length: u64) -> Result<()>;
    /// The range reads as zero.
    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.discard(offset, length).await
    }
    /// Everything written before is durable.
    async fn flush(&self) -> Result<()>;
    /// Data and zero extents that cover the range from its start, for block status: whole, or,
    /// with `limit` extents reached, as far as they go.
    async fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>>;
}

/// The longest single read, so that no request can ask for unbounded memory.
pub const MAX_READ_BYTES: usize = 64 << 20;
/// The largest image: 1 EiB.
pub const MAX_IMAGE_BYTES: u64 = 1 << 60;
/// The largest small object, see [`ImageStore::put_object`].
pub const MAX_OBJECT_BYTES: usize = 16 << 20;
/// The longest metadata value.
pub const MAX_METADATA_BYTES: usize = 64 << 10;

/// Checks an image, pool, snapshot, object or key name: 1 to 255 bytes, no `/`, `@` or control characters.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let bad = |c: char| c == '/' || c == '@' || c.is_control();
    if name.is_empty() || name.len() > 255 || name.contains(bad) {
        return Err(Error::Invalid(format!(
            "{what} name {name:?} is not allowed"
        )));
    }
    Ok(())
}

/// Checks an image's size.
pub(crate) fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes > MAX_IMAGE_BYTES {
        return Err(Error::Invalid(format!(
            "size {size_bytes} is more than the largest image, {MAX_IMAGE_BYTES} bytes"
        )));
    }
    Ok(())
}

/// Checks that a range lies inside an image; answers its end.
pub(crate) fn check_range(offset: u64, length: u64, size_bytes: u64) -> Result<u64> {
    match offset.checked_add(length) {
        Some(end) if end <= size_bytes => Ok(end),
        _ => Err(Error::Invalid(format!(
            "{length} bytes at offset {offset} pass the end of the image, {size_bytes} bytes"
        ))),
    }
}

/// Checks the range of a read.
pub(crate) fn check_read(offset: u64, length: usize, size_bytes: u64) -> Result<u64> {
    if length > MAX_READ_BYTES {
        return Err(Error::Invalid(format!(
            "a read of {length} bytes is more than {MAX_READ_BYTES}"
        )));
    }
    check_range(offset, length as u64, size_bytes)
}

/// Bytes of a range; one that ends before it begins has none.
pub(crate) fn length_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

/// Checks the length of a small object or a metadata value.
pub(crate) fn check_length(what: &str, length: usize, most: usize) -> Result<()> {
    if length > most {
        return Err(Error::Invalid(format!(
            "{what} of {length} bytes is more than {most}"
        )));
    }
    Ok(())
}

/// Checks the page size of [`ImageStore::diff`] and [`ImageHandle::extents`].
pub(crate) fn check_limit(limit: usize) -> Result<()> {
    if limit == 0 {
        return Err(Error::Invalid("a limit of 0 extents".into()));
    }
    Ok(())
}

/// Collects neighbouring pieces of the same kind as one extent, up to a limit.
pub(crate) struct ExtentList {
    extents: Vec<Extent>,
    limit: usize,
}

impl ExtentList {
    pub(crate) fn new(limit: usize) -> Self {
        ExtentList {
            extents: Vec::new(),
            limit,
        }
    }

    /// Adds a piece behind all others. False: the list is full, and the piece is not in it.
    pub(crate) fn push(&mut self, offset: u64, length: u64, kind: ExtentKind) -> bool {
        if length == 0 {
            return true;
        }
        if let Some(last) = self.extents.last_mut()
            && last.kind == kind
            && last.offset + last.length == offset
        {
            last.length += length;
            return true;
        }
        if self.extents.len() >= self.limit {
            return false;
        }
        self.extents.push(Extent {
            offset,
            length,
            kind,
        });
        true
    }

    pub(crate) fn into_vec(self) -> Vec<Extent> {
        self.extents
    }
}
