//! Opening and closing the store, and how calls reach its shard.
//!
//! Whoever calls does the work itself, under the shard's lock and without waiting in it: takes
//! the request, builds a batch, hands it to the disk. The disk rings a bell when it is done, and
//! one task answers it. So a request at rest costs no thread but the caller's.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

use super::buffer::UNIT_BYTES;
use super::check::{CheckOptions, CheckReport};
use super::disk::real::{IoEngine, RealDisk};
use super::request::{Answer, Reply, Request};
use super::shard::{Settings, Shard};
use crate::{Error, Result};

/// How often the shard looks after itself.
const TICK: Duration = Duration::from_secs(1);

/// How long an opening waits for the process before to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Folders above the store's that may have been made with it.
const MADE_FOLDERS: usize = 3;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The most that images may keep; `None`: what the file system has.
    pub capacity_limit_bytes: Option<u64>,
    /// Memory for the maps of images. Twice as much holds the map of twice as much data; what
    /// does not fit is read from the disk again.
    pub map_cache_bytes: usize,
    /// Free space that is kept for writes to come, beside half as much as is in use, rather than
    /// given back to the file system.
    pub spare_bytes: u64,
    pub io: IoEngine,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            capacity_limit_bytes: None,
            map_cache_bytes: 256 << 20,
            spare_bytes: 64 << 20,
            io: IoEngine::Auto,
        }
    }
}

/// What handles and calls share.
pub(super) struct Shared {
    shard: Mutex<Shard>,
    /// There is work that waits for nothing.
    more: Notify,
    closed: AtomicBool,
    /// The lock on the folder.
    lock: Mutex<Option<File>>,
    pub(super) limit_bytes: Option<u64>,
}

/// A store in a folder of this machine. One process may have it open.
///
/// Space that writes and removals freed is used again after the next checkpoint, at most seconds
/// later. When the store is full, writes answer `OutOfSpace`; removing works on a reserve.
///
/// Dropping it without [`close`](crate::ImageStore::close) is like a crash: what was not flushed
/// may be gone.
pub struct EmbeddedStore {
    pub(super) shared: Arc<Shared>,
    pub(super) fsid: String,
}

fn closed() -> Error {
    Error::Unavailable("it is closed".into())
}

impl EmbeddedStore {
    /// Opens the store in a folder, or makes it. Blocks; must be called within a tokio runtime,
    /// which then carries the store.
    ///
    /// Errors: `Unavailable` (the folder cannot be written, another process uses it), `Corrupt`
    /// (the store is damaged), `Invalid` (made by another version), `OutOfSpace`.
    pub fn open(folder: &Path, options: EmbeddedOptions) -> Result<Arc<EmbeddedStore>> {
        let lock = lock_folder(folder)?;
        if folder.join("catalogue.redb").exists() {
            return Err(Error::Invalid(format!(
                "the folder {} holds a store of the first form (catalogue.redb), which this \
                 version does not read; its data is untouched",
                folder.display()
            )));
        }
        let runtime = tokio::runtime::Handle::try_current();
        let runtime = runtime.map_err(|error| Error::Unavailable(error.to_string()))?;
        let failed = |error: std::io::Error| {
            Error::Unavailable(format!("the folder {}: {error}", folder.display()))
        };
        let disk = RealDisk::open(folder, options.io, Some(&lock)).map_err(failed)?;
        let bell = disk.bell().map_err(failed)?;
        let settings = Settings {
            limit_units: options
                .capacity_limit_bytes
                .map(|bytes| bytes / UNIT_BYTES as u64),
            map_cache_bytes: options.map_cache_bytes,
            spare_units: options.spare_bytes / UNIT_BYTES as u64,
        };
        let fsid = uuid::Uuid::new_v4().into_bytes();
        let shard = Shard::open(Box::new(disk), settings, fsid)?;
        let fsid = uuid::Uuid::from_bytes(shard.fsid).to_string();
        let shared = Arc::new(Shared {
            shard: Mutex::new(shard),
            more: Notify::new(),
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
            limit_bytes: options.capacity_limit_bytes,
        });
        runtime.spawn(answer_bell(Arc::downgrade(&shared), bell));
        Ok(Arc::new(EmbeddedStore { shared, fsid }))
    }

    /// Waits until what was removed is counted out of the space in use.
    pub async fn settle(&self) -> Result<()> {
        self.shared.ask(Request::Settle).await
    }

    /// Reads the whole store from the disk and compares all checksums, counts and links. Other
    /// calls wait meanwhile. `checked_bytes` counts up to
    /// [`Capacity::used_bytes`](crate::Capacity::used_bytes).
    pub async fn check(
        &self,
        options: CheckOptions,
        checked_bytes: Arc<AtomicU64>,
    ) -> Result<CheckReport> {
        let shared = Arc::clone(&self.shared);
        let check = move || shared.with(|shard| shard.check(options, &checked_bytes))?;
        let checked = tokio::task::spawn_blocking(check).await;
        checked.unwrap_or_else(|error| Err(Error::Unavailable(format!("a call failed: {error}"))))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.shut("it is closed");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        // A panic in the shard leaves it halfway through something: it must not go on.
        self.shard.lock().unwrap_or_else(|poisoned| {
            let mut shard = poisoned.into_inner();
            shard.fail("a call failed halfway");
            shard
        })
    }

    /// Looks at or changes the shard, and does what follows from it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Shard) -> T) -> Result<T> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        Ok(self.act(act))
    }

    fn act<T>(&self, act: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = self.lock();
        let value = act(&mut shard);
        let more = shard.pump();
        let answers = shard.take_answers();
        drop(shard);
        if more {
            self.more.notify_one();
        }
        answers.into_iter().for_each(Answer::send);
        value
    }

    /// Submits a request and waits for its answer.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let request = request(reply);
        self.with(|shard| shard.submit(request))?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Ends all use; what is under way comes to its end first.
    fn shut(&self, why: &str) {
        self.closed.store(true, Ordering::Release);
        self.act(|shard| {
            shard.stop(why);
            shard.drain();
            shard.disk.leave();
        });
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Saves everything and ends all use. Blocks.
    pub(super) fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let saved = self.act(|shard| {
            shard.check_running()?;
            shard.finish()?;
            let (reply, mut answer) = oneshot::channel();
            shard.want_checkpoint(true, Some(reply));
            shard.finish()?;
            shard.take_answers().into_iter().for_each(Answer::send);
            answer.try_recv().unwrap_or(Ok(()))
        });
        self.shut("it is closed");
        saved
    }
}

/// Lets the shard go on whenever the disk has done something.
async fn answer_bell(shared: Weak<Shared>, bell: OwnedFd) {
    let bell = match register(bell) {
        Ok(bell) => bell,
        Err(error) => {
            if let Some(shared) = shared.upgrade() {
                shared.shut(&format!("the disk's answers cannot be heard: {error}"));
            }
            return;
        }
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(alive) = shared.upgrade() {
        let mut ticked = false;
        tokio::select! {
            ready = bell.readable() => if let Ok(mut ready) = ready {
                // Before the look at the answers: what comes after rings again.
                let _ = rustix::io::read(bell.get_ref(), &mut [0u8; 8]);
                ready.clear_ready();
            },
            () = alive.more.notified() => {}
            _ = ticks.tick() => ticked = true,
        }
        if alive.closed.load(Ordering::Acquire) {
            return;
        }
        alive.act(|shard| {
            if ticked {
                shard.tick();
            }
        });
    }
}

#[allow(unsafe_code)]
fn register(bell: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and stays so until the registration ends.
    let registered = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// An exclusive lock on the folder, held as long as the file is open.
fn lock_folder(folder: &Path) -> Result<File> {
    let not_writable = |error: std::io::Error| {
        Error::Unavailable(format!(
            "the folder {} cannot be written: {error}",
            folder.display()
        ))
    };
    make_folder(folder).map_err(not_writable)?;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("lock"))
        .map_err(not_writable)?;
    // A process that was killed keeps it until its last writes have ended.
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                std::thread::sleep(LOCK_WAIT / 100);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = format!("another process uses the store in {}", folder.display());
                return Err(Error::Unavailable(text));
            }
            Err(error) => return Err(not_writable(error.into())),
        }
    }
}

/// The folder, and its name, durably.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    let above = folder.canonicalize()?;
    for parent in above.ancestors().skip(1).take(MADE_FOLDERS) {
        // One that may not be read was not made here.
        if let Ok(parent) = File::open(parent) {
            parent.sync_all()?;
        }
    }
    Ok(())
}
