//! Opening and closing the store, and how calls reach its shard.
//!
//! Whoever calls does the work itself, under the shard's lock and without waiting in it: takes
//! the request, builds a batch, hands it to the disk. Whoever hears of its end goes on. On a lane
//! both happen once a round, for all requests and all ends that have come: what many connections
//! and deep queues ask for goes into one batch.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::buffer::UNIT_BYTES;
use super::check::{CheckOptions, CheckReport};
use super::disk::Disk;
use super::disk::real::{Answers, IoEngine, RealDisk};
use super::request::{Answer, Reply, Request};
use super::shard::{Settings, Shard};
use crate::aligned::SharedSpares;
use crate::lane::{self, Deferred, Lanes};
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
    /// Requests that the shard has not seen.
    inbox: Mutex<Vec<Request>>,
    answers: Arc<Answers>,
    /// Memory of long reads.
    pub(super) spares: SharedSpares,
    pub(super) lanes: Option<Arc<Lanes>>,
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

/// What a request came to.
pub(super) async fn answered<T>(answer: oneshot::Receiver<Result<T>>) -> Result<T> {
    answer.await.unwrap_or_else(|_| Err(closed()))
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
        let lanes = match options.io {
            IoEngine::Threads => None,
            _ => Lanes::start(Some(&lock)).ok().map(Arc::new),
        };
        let disk = RealDisk::open(folder, lanes.clone()).map_err(failed)?;
        let answers = disk.answers();
        let settings = Settings {
            limit_units: options
                .capacity_limit_bytes
                .map(|bytes| bytes / UNIT_BYTES as u64),
            map_cache_bytes: options.map_cache_bytes,
            spare_units: options.spare_bytes / UNIT_BYTES as u64,
        };
        let fsid = uuid::Uuid::new_v4().into_bytes();
        let disk: Box<dyn Disk> = match options.io {
            #[cfg(feature = "eliding-disk")]
            IoEngine::Eliding => Box::new(super::disk::eliding::ElidingDisk::new(disk)),
            _ => Box::new(disk),
        };
        let shard = Shard::open(disk, settings, fsid)?;
        let fsid = uuid::Uuid::from_bytes(shard.fsid).to_string();
        let shared = Arc::new(Shared {
            spares: Arc::clone(&shard.spares),
            shard: Mutex::new(shard),
            inbox: Mutex::default(),
            answers: Arc::clone(&answers),
            lanes,
            more: Notify::new(),
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
            limit_bytes: options.capacity_limit_bytes,
        });
        let reader: Weak<Shared> = Arc::downgrade(&shared);
        answers.set_reader(reader.clone());
        runtime.spawn(tend(reader));
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
        lane::lock(&self.shard).unwrap_or_else(|poisoned| {
            let mut shard = poisoned.into_inner();
            shard.fail("a call failed halfway");
            shard
        })
    }

    fn inbox(&self) -> MutexGuard<'_, Vec<Request>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
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
        let requests = std::mem::take(&mut *self.inbox());
        for request in requests {
            shard.submit(request);
        }
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

    /// Submits requests together: the disk gets all that they order in one go.
    pub(super) fn submit(
        self: &Arc<Self>,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        self.inbox().extend(requests);
        if !lane::defer(self) {
            self.go_on();
        }
        Ok(())
    }

    /// Submits a request and waits for its answer.
    pub(super) async fn ask<T>(
        self: &Arc<Self>,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.submit([request(reply)])?;
        answered(answer).await
    }

    /// Ends all use; what is under way comes to its end first.
    fn shut(&self, why: &str) {
        self.closed.store(true, Ordering::Release);
        self.act(|shard| shard.stop(why));
        while self.act(|shard| shard.disk.under_way()) > 0 {
            self.answers.wait();
        }
        self.act(|shard| shard.disk.leave());
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Saves everything and ends all use. Blocks.
    pub(super) fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let saved = self.save();
        self.shut("it is closed");
        saved
    }

    /// Finishes what has begun, and makes the last checkpoint. Blocks.
    fn save(&self) -> Result<()> {
        self.finish()?;
        let (reply, mut answer) = oneshot::channel();
        self.act(|shard| shard.want_checkpoint(true, Some(reply)));
        self.finish()?;
        answer.try_recv().unwrap_or(Ok(()))
    }

    fn finish(&self) -> Result<()> {
        let finished = |shard: &mut Shard| {
            shard.check_running()?;
            Ok(shard.is_finished())
        };
        while !self.act(finished)? {
            self.answers.wait();
        }
        Ok(())
    }
}

impl Deferred for Shared {
    fn go_on(&self) {
        self.act(|_| ());
    }
}

/// Lets the shard look after itself, and do what waits for nothing.
async fn tend(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(alive) = shared.upgrade() {
        let mut ticked = false;
        tokio::select! {
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
