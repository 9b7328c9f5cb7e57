//! Files of a folder, through io_uring or, where that is not allowed, a pool of threads.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::pool::Pool;
use super::uring::Ring;
use super::{Action, Disk, Done, FileId, Io};
use crate::embedded::buffer::aligned;

/// File system space that chunk files never use up, for checkpoint files, the database and whatever
/// else lives there: a share of it, within these bounds.
const KEPT_FREE_SHARE: u64 = 64;
const LEAST_KEPT_FREE_BYTES: u64 = 64 << 20;
const MOST_KEPT_FREE_BYTES: u64 = 1 << 30;
/// Zeroes are written in pieces of this size.
const ZERO_BYTES: usize = 1 << 20;

/// How to reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoEngine {
    /// io_uring where it is allowed, else threads.
    #[default]
    Auto,
    /// Blocking reads and writes on a pool of threads.
    Threads,
}

/// Answers that other threads leave, and the bell that tells of any answer.
pub(super) struct Answers {
    done: Mutex<Vec<Done>>,
    bell: OwnedFd,
}

impl Answers {
    pub(super) fn push(&self, done: Done) {
        self.lock().push(done);
        // Fails only when the counter is full, and then the bell is ringing.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Backend {
    Ring(Box<Ring>),
    Pool(Pool),
}

pub(crate) struct RealDisk {
    folder: PathBuf,
    files: HashMap<FileId, Arc<File>>,
    backend: Backend,
    answers: Arc<Answers>,
    /// Growing files, and what the pool does.
    elsewhere: usize,
}

impl RealDisk {
    /// The lock, if any, is held as long as writes are under way, even when the process is gone:
    /// the kernel ends them on its own.
    pub(crate) fn open(folder: &Path, engine: IoEngine, lock: Option<&File>) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("chunks"))?;
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let ring = match engine {
            IoEngine::Auto => Ring::new(bell.as_fd(), lock.map(AsFd::as_fd)).ok(),
            IoEngine::Threads => None,
        };
        let answers = Arc::new(Answers {
            done: Mutex::new(Vec::new()),
            bell,
        });
        let backend = match ring {
            Some(ring) => Backend::Ring(Box::new(ring)),
            None => Backend::Pool(Pool::new(&answers)?),
        };
        Ok(RealDisk {
            folder: folder.to_owned(),
            files: HashMap::new(),
            backend,
            answers,
            elsewhere: 0,
        })
    }

    /// Becomes readable when there are answers.
    pub(crate) fn bell(&self) -> io::Result<OwnedFd> {
        self.answers.bell.try_clone()
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
        self.elsewhere += 1;
        let tag = io.tag;
        let work = move || {
            let result = match io.action {
                Action::Grow(to) => grow(&file, &folder, io.file, to),
                Action::Fill(length) => fill(&file, io.file, io.offset, length),
                Action::GiveBack(length) => give_back(&file, io.offset, length),
                Action::Write(_) | Action::Read(..) | Action::Sync => {
                    Err(io::ErrorKind::Unsupported.into())
                }
            };
            answers.push(Done {
                tag,
                result,
                buffer: BytesMut::new(),
            });
        };
        if let Err(error) = std::thread::Builder::new()
            .name("store-room".into())
            .spawn(work)
        {
            self.answers.push(failed(tag, error));
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
        let file = match self.file(io.file) {
            Ok(file) => file,
            Err(error) => {
                self.elsewhere += 1;
                return self.answers.push(failed(io.tag, error));
            }
        };
        if let Action::Grow(_) | Action::Fill(_) | Action::GiveBack(_) = io.action {
            return self.make_room(io, file);
        }
        match &mut self.backend {
            Backend::Ring(ring) => ring.submit(io, file),
            Backend::Pool(pool) => {
                self.elsewhere += 1;
                pool.submit(io, file);
            }
        }
    }

    fn kick(&mut self) {
        if let Backend::Ring(ring) = &mut self.backend {
            ring.kick();
        }
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        if self.elsewhere > 0 {
            let mut others = self.answers.lock();
            self.elsewhere -= others.len();
            done.append(&mut others);
        }
        if let Backend::Ring(ring) = &mut self.backend {
            ring.reap(done);
        }
    }

    fn wait(&mut self) {
        self.kick();
        while self.under_way() > 0 && self.answers.lock().is_empty() {
            if let Backend::Ring(ring) = &mut self.backend
                && ring.has_answers()
            {
                return;
            }
            // The bell may have been heard by another thread already: look again soon.
            let most = Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let mut bell = [PollFd::new(&self.answers.bell, PollFlags::IN)];
            let _ = poll(&mut bell, Some(&most));
            let _ = rustix::io::read(&self.answers.bell, &mut [0u8; 8]);
        }
    }

    fn under_way(&self) -> usize {
        match &self.backend {
            Backend::Ring(ring) => ring.under_way() + self.elsewhere,
            Backend::Pool(_) => self.elsewhere,
        }
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
        if let Backend::Ring(ring) = &mut self.backend {
            ring.leave();
        }
    }
}

impl Drop for RealDisk {
    fn drop(&mut self) {
        // Growing threads hold what they need; the ring waits for its own.
        if let Backend::Pool(pool) = &mut self.backend {
            pool.stop();
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
    #[test]
    fn the_lock_lives_as_long_as_writes_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = File::create(&path).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let mut disk = RealDisk::open(folder.path(), IoEngine::Auto, Some(&lock)).unwrap();
        let is_ring = matches!(disk.backend, Backend::Ring(_));
        drop(lock);
        let other = File::open(&path).unwrap();
        let taken = || flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok();
        assert_eq!(taken(), !is_ring);
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
        let mut disk = RealDisk::open(folder.path(), IoEngine::Auto, None).unwrap();
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
