//! Orders for files.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Deferred;

/// What to do with a file. With direct I/O, buffers must be aligned;
/// a single one comes back at the end.
#[derive(Debug)]
pub(crate) enum FileAction {
    Write(BytesMut),
    /// Writes buffers one behind another.
    Gather(Vec<Bytes>),
    /// Reads this many bytes into the empty buffer.
    Read(BytesMut, usize),
    /// `fdatasync`
    Sync,
}

pub(crate) struct FileOrder {
    /// Comes back at the end.
    pub(crate) tag: u64,
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) action: FileAction,
    pub(crate) owner: Arc<dyn FileOwner>,
}

/// The end of an order.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) tag: u64,
    pub(crate) result: io::Result<()>,
    pub(crate) buffer: BytesMut,
}

/// Who has given an order.
pub(crate) trait FileOwner: Send + Sync {
    /// Takes the end of an order, and does not wait.
    fn done(&self, done: Done);
    /// What goes on then, once for all that came.
    fn waits(&self) -> Option<Arc<dyn Deferred>>;
}
