//! What the engine needs of a disk. All of its logic stands above this trait and does nothing on
//! its own account: it is as deterministic as the order of the answers.
//!
//! A write that was answered may still be lost, torn (at 512 bytes) or reordered by a power loss,
//! until a [`Action::Sync`] that was submitted after the answer has been answered itself.

#[cfg(feature = "eliding-disk")]
pub(super) mod eliding;
pub(super) mod pool;
pub(super) mod real;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod simulated;

use std::io;

use bytes::{Bytes, BytesMut};

pub(crate) use crate::lane::Done;

/// A file of the store's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FileId {
    /// `superblock`
    Superblock,
    /// `checkpoint.0`, `checkpoint.1`
    Checkpoint(u8),
    /// `chunks/00000` …
    Chunk(u32),
}

impl FileId {
    pub(crate) fn name(self) -> String {
        match self {
            FileId::Superblock => "superblock".into(),
            FileId::Checkpoint(slot) => format!("checkpoint.{slot}"),
            FileId::Chunk(number) => format!("chunks/{number:05}"),
        }
    }
}

/// What to do. Buffers are aligned and whole units long; a single one comes back with the answer.
#[derive(Debug)]
pub(crate) enum Action {
    Write(BytesMut),
    /// Writes buffers one behind another.
    Gather(Vec<Bytes>),
    /// Reads this many bytes into the empty buffer.
    Read(BytesMut, usize),
    /// What was written and answered before is durable when this is answered.
    Sync,
    /// Makes the file this long, with zeroes on the disk at the new end, durably. An error that
    /// [`is_full`] has changed nothing; after any other, nothing is known of what was written to
    /// the file and not synced.
    Grow(u64),
    /// So many bytes, which were given back, get room again, with zeroes; otherwise as
    /// [`Action::Grow`].
    Fill(u64),
    /// Gives the room of so many bytes back to the file system; the file stays as long as it is.
    GiveBack(u64),
}

/// Whether there was no room, and nothing else is wrong.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(
        error.kind(),
        E::StorageFull | E::QuotaExceeded | E::FileTooLarge
    )
}

#[derive(Debug)]
pub(crate) struct Io {
    /// Comes back with the answer.
    pub(crate) tag: u64,
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) action: Action,
}

pub(crate) trait Disk: Send {
    /// Takes an order; it may be started only with [`Disk::kick`].
    fn submit(&mut self, io: Io);
    fn kick(&mut self);
    /// The answers that have come, in any order.
    fn reap(&mut self, done: &mut Vec<Done>);
    /// Blocks until [`Disk::reap`] has something, unless nothing is under way.
    fn wait(&mut self);
    fn under_way(&self) -> usize;
    /// 0 for a file that is not there.
    fn length(&self, file: FileId) -> io::Result<u64>;
    /// Blocks. Errors: `UnexpectedEof` behind the end.
    fn read_now(&mut self, file: FileId, offset: u64, length: usize) -> io::Result<BytesMut>;
    /// Bytes by which files can still grow, and the size of the whole file system.
    fn room(&self) -> io::Result<(u64, u64)>;
    /// Nothing is under way any more: lets go of what keeps others from the folder.
    fn leave(&mut self) {}
}
