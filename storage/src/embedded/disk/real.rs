//! Files of a folder, through the lanes or, where io_uring is not allowed, a pool of threads.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::pool::Pool;
use super::{Action, Disk, Done, FileId, Io};
use crate::embedded::buffer::aligned;
use crate::lane::{self, Deferred, FileAction, FileOrder, FileOwner, Lanes};

/// File system space that chunk files never use up, for checkpoint files, the database and whatever
/// else lives there: a share of it, within these bounds.
const KEPT_FREE_SHARE: u64 = 64;
const LEAST_KEPT_FREE_BYTES: u64 = 64 << 20;
const MOST_KEPT_FREE_BYTES: u64 = 1 << 30;
/// Zeroes are written in pieces of this size.
const ZERO_BYTES: usize = 1 << 20;
/// How long one wait for an answer takes at most.
const WAIT: Duration = Duration::from_millis(1);

/// How to reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoEngine {
    /// io_uring where it is allowed, else threads.
    #[default]
    Auto,
    /// Blocking reads and writes on a pool of threads.
    Threads,
    /// As `Auto`, but blocks full of [`ELIDED_BYTE`](super::eliding::ELIDED_BYTE) are not kept:
    /// for measurements of images that are larger than the disk.
    #[cfg(feature = "eliding-disk")]
    Eliding,
}

/// Ends of orders that nobody has looked at.
pub(crate) struct Answers {
    done: Mutex<Vec<Done>>,
    came: Condvar,
    /// Somebody blocks until one comes.
    awaited: AtomicUsize,
    /// Who goes on when they have come.
    reader: OnceLock<Weak<dyn Deferred>>,
}

impl Answers {
    fn new() -> Self {
        Answers {
            done: Mutex::default(),
            came: Condvar::new(),
            awaited: AtomicUsize::new(0),
            reader: OnceLock::new(),
        }
    }

    pub(crate) fn set_reader(&self, reader: Weak<dyn Deferred>) {
        // There is one.
        let _ = self.reader.set(reader);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until there is an answer, or for some time.
    pub(crate) fn wait(&self) {
        if !self.lock().is_empty() || lane::attend(WAIT) {
            return;
        }
        self.awaited.fetch_add(1, Ordering::SeqCst);
        let done = self.lock();
        if done.is_empty() {
            let _ = self.came.wait_timeout(done, WAIT);
        }
        self.awaited.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FileOwner for Answers {
    fn done(&self, done: Done) {
        self.lock().push(done);
        if self.awaited.load(Ordering::SeqCst) > 0 {
            self.came.notify_all();
        }
    }

    fn waits(&self) -> Option<Arc<dyn Deferred>> {
        Some(self.reader.get()?.upgrade()? as Arc<dyn Deferred>)
    }
}

/// Who carries orders out.
enum Workers {
    Lanes(Arc<Lanes>),
    Pool(Pool),
}

pub(crate) struct RealDisk {
    folder: PathBuf,
    files: HashMap<FileId, Arc<File>>,
    workers: Workers,
    answers: Arc<Answers>,
    /// Not handed over yet.
    orders: Vec<FileOrder>,
    under_way: usize,
}

impl RealDisk {
    pub(crate) fn open(folder: &Path, lanes: Option<Arc<Lanes>>) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("chunks"))?;
        Ok(RealDisk {
            folder: folder.to_owned(),
            files: HashMap::new(),
            workers: match lanes {
                Some(lanes) => Workers::Lanes(lanes),
                None => Workers::Pool(Pool::new()?),
            },
            answers: Arc::new(Answers::new()),
            orders: Vec::new(),
            under_way: 0,
        })
    }

    pub(crate) fn answers(&self) -> Arc<Answers> {
        Arc::clone(&self.answers)
    }

    /// Without taking space.
    #[cfg(feature = "eliding-disk")]
    pub(super) fn set_length(&mut self, id: FileId, to: u64) -> io::Result<()> {
        self.file(id)?.set_len(to)
    }

    fn file(&mut self, id: FileId) -> io::Result<Arc<File>> {
        if let Some(file) = self.files.get(&id) {
            return Ok(Arc::clone(file));
        }
        let path = self.folder.join(id.name());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let direct = OFlags::DIRECT.bits() as i32;
        let file = match options.clone().custom_flags(direct).open(&path) {
            // The file system knows no direct I/O.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.open(&path)?,
            other => other?,
        };
        let file = Arc::new(file);
        self.files.insert(id, Arc::clone(&file));
        Ok(file)
    }

    /// Changes the room that a file has, on a thread of its own.
    fn make_room(&mut self, io: Io, file: Arc<File>) {
        let (answers, folder) = (Arc::clone(&self.answers), self.folder.clone());
        let tag = io.tag;
        let work = move || {
            let result = match io.action {
                Action::Grow(to) => grow(&file, &folder, io.file, to),
                Action::Fill(length) => fill(&file, io.file, io.offset, length),
                Action::GiveBack(length) => give_back(&file, io.offset, length),
                Action::Write(_) | Action::Gather(_) | Action::Read(..) | Action::Sync => {
                    Err(io::ErrorKind::Unsupported.into())
                }
            };
            answers.done(Done {
                tag,
                result,
                buffer: BytesMut::new(),
            });
            if let Some(reader) = answers.waits() {
                reader.go_on();
            }
        };
        if let Err(error) = std::thread::Builder::new()
            .name("store-room".into())
            .spawn(work)
        {
            self.answers.done(failed(tag, error));
        }
    }
}

fn failed(tag: u64, error: io::Error) -> Done {
    Done {
        tag,
        result: Err(error),
        buffer: BytesMut::new(),
    }
}

/// What is kept free of a file system with so many bytes.
fn kept_free_bytes(all_bytes: u64) -> u64 {
    (all_bytes / KEPT_FREE_SHARE).clamp(LEAST_KEPT_FREE_BYTES, MOST_KEPT_FREE_BYTES)
}

fn grow(file: &File, folder: &Path, id: FileId, to: u64) -> io::Result<()> {
    let from = file.metadata()?.len();
    if to > from {
        fill(file, id, from, to - from)?;
    }
    let path = folder.join(id.name());
    let parent = path.parent().unwrap_or(folder);
    File::open(parent)?.sync_all()
}

/// Space first, so that a full disk shows before anything changes; then zeroes, so that later
/// writes convert no extents.
fn fill(file: &File, id: FileId, from: u64, length: u64) -> io::Result<()> {
    let room = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    let kept_bytes = match id {
        FileId::Chunk(_) => kept_free_bytes(bytes(room.f_blocks)),
        // What gives space back needs these.
        FileId::Checkpoint(_) | FileId::Superblock => 0,
    };
    if bytes(room.f_bavail) < length + kept_bytes {
        return Err(io::ErrorKind::StorageFull.into());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, from, length) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let to = from + length;
    let mut zeroes = aligned(ZERO_BYTES);
    zeroes.resize(ZERO_BYTES, 0);
    let mut at = from;
    while at < to {
        let length = (to - at).min(ZERO_BYTES as u64);
        let (piece, _) = zeroes.split_at(length as usize);
        file.write_all_at(piece, at)?;
        at += length;
    }
    // Full here is no full disk: the error may be about data that was written before.
    file.sync_all().map_err(io::Error::other)
}

/// As it is not in use, nothing depends on when this is durable.
fn give_back(file: &File, from: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, from, length)?)
}

impl Disk for RealDisk {
    fn submit(&mut self, io: Io) {
        self.under_way += 1;
        let file = match self.file(io.file) {
            Ok(file) => file,
            // Found with the next answer, or at the next tick.
            Err(error) => return self.answers.done(failed(io.tag, error)),
        };
        let action = match io.action {
            Action::Grow(_) | Action::Fill(_) | Action::GiveBack(_) => {
                return self.make_room(io, file);
            }
            Action::Write(buffer) => FileAction::Write(buffer),
            Action::Gather(buffers) => FileAction::Gather(buffers),
            Action::Read(buffer, length) => FileAction::Read(buffer, length),
            Action::Sync => FileAction::Sync,
        };
        self.orders.push(FileOrder {
            tag: io.tag,
            file,
            offset: io.offset,
            action,
            owner: Arc::clone(&self.answers) as Arc<dyn FileOwner>,
        });
    }

    fn kick(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        match &self.workers {
            Workers::Lanes(lanes) => lanes.carry_out(&mut self.orders),
            Workers::Pool(pool) => pool.carry_out(&mut self.orders),
        }
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        let before = done.len();
        done.append(&mut self.answers.lock());
        self.under_way -= done.len() - before;
    }

    fn wait(&mut self) {
        self.kick();
        while self.under_way > 0 && self.answers.lock().is_empty() {
            self.answers.wait();
        }
    }

    fn under_way(&self) -> usize {
        self.under_way
    }

    fn length(&self, file: FileId) -> io::Result<u64> {
        match std::fs::metadata(self.folder.join(file.name())) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn read_now(&mut self, file: FileId, offset: u64, length: usize) -> io::Result<BytesMut> {
        let file = self.file(file)?;
        let mut buffer = aligned(length);
        buffer.resize(length, 0);
        file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    }

    fn room(&self) -> io::Result<(u64, u64)> {
        let room = rustix::fs::statvfs(&self.folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
        let all = bytes(room.f_blocks);
        let free = bytes(room.f_bavail).saturating_sub(kept_free_bytes(all));
        Ok((free, all))
    }

    fn leave(&mut self) {
        if let Workers::Lanes(lanes) = &self.workers {
            lanes.let_go();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, Instant};

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    /// The kernel may still be writing what a killed process asked for: the folder is not free
    /// before that has ended.
    #[tokio::test]
    async fn the_lock_lives_as_long_as_writes_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = File::create(&path).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let lanes = Lanes::start(Some(&lock)).unwrap();
        let mut disk = RealDisk::open(folder.path(), Some(Arc::new(lanes))).unwrap();
        drop(lock);
        let other = File::open(&path).unwrap();
        let taken = || flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok();
        assert!(!taken());
        disk.leave();
        let end = Instant::now() + Duration::from_secs(20);
        while !taken() {
            assert!(Instant::now() < end, "the lock is still held");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn carry_out(disk: &mut RealDisk, io: Io) -> io::Result<()> {
        disk.submit(io);
        let mut done = Vec::new();
        while done.is_empty() {
            disk.wait();
            disk.reap(&mut done);
        }
        done.pop().unwrap().result
    }

    #[test]
    fn room_is_given_back_and_filled_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::open(folder.path(), None).unwrap();
        let order = |offset, action| Io {
            tag: 1,
            file: FileId::Chunk(0),
            offset,
            action,
        };
        carry_out(&mut disk, order(0, Action::Grow(8 << 20))).unwrap();
        let data = || {
            let mut data = aligned(4096);
            data.resize(4096, 7);
            data
        };
        for at in [1 << 20, 5 << 20] {
            carry_out(&mut disk, order(at, Action::Write(data()))).unwrap();
        }
        let path = folder.path().join("chunks/00000");
        let blocks = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let whole = blocks();
        assert!(whole >= 8 << 20);
        carry_out(&mut disk, order(4 << 20, Action::GiveBack(3 << 20))).unwrap();
        assert_eq!(blocks(), whole - (3 << 20));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 << 20);
        carry_out(&mut disk, order(4 << 20, Action::Fill(3 << 20))).unwrap();
        assert_eq!(blocks(), whole);
        assert_eq!(
            disk.read_now(FileId::Chunk(0), 1 << 20, 4096).unwrap(),
            data()
        );
        let gone = disk.read_now(FileId::Chunk(0), 5 << 20, 4096).unwrap();
        assert!(gone.iter().all(|byte| *byte == 0));
    }
}
