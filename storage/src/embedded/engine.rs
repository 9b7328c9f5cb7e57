//! What the store's calls, handles and threads share: the state under its lock, the block
//! files, and the ways to wait.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::{Semaphore, watch};

use super::blocks::BlockFiles;
use super::catalogue_file::{CatalogueFile, Reserve};
use super::state::State;
use crate::{Error, Result};

/// Changes kept in memory before a commit is started, and before writers wait for it.
const COMMIT_AT_BYTES: usize = 6 << 20;
const WAIT_AT_BYTES: usize = 12 << 20;
/// How long a write waits for the space of what was removed, and a look at the capacity.
const SPACE_WAIT: Duration = Duration::from_secs(10);
const CAPACITY_WAIT: Duration = Duration::from_secs(2);
/// Calls that run at once.
const PARALLEL_CALLS: usize = 32;

/// How far commits have come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) durable: u64,
    pub(super) failure: Option<String>,
}

/// What the commit thread waits for.
#[derive(Debug, Default)]
pub(super) struct CommitOrder {
    /// Commits up to this one are wanted now.
    pub(super) wanted: u64,
    /// Something changed: commit it within a second.
    pub(super) dirty: bool,
    pub(super) stop: bool,
}

pub(super) struct Engine {
    pub(super) folder: PathBuf,
    pub(super) limit_bytes: Option<u64>,
    pub(super) state: Mutex<State>,
    pub(super) files: BlockFiles,
    pub(super) database: Mutex<Option<Database>>,
    pub(super) catalogue_file: Arc<CatalogueFile>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) order: Mutex<CommitOrder>,
    pub(super) ordered: Condvar,
    /// With the state's lock: the janitor has work.
    pub(super) work: Condvar,
    /// With the state's lock: a commit is done, or space was given back.
    pub(super) changed: Condvar,
    pub(super) progress: watch::Sender<Progress>,
    /// Held shared by every call; alone when the store stops.
    pub(super) gate: RwLock<()>,
    pub(super) stopping: AtomicBool,
    pub(super) permits: Arc<Semaphore>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    /// The threads are to end.
    pub(super) ended: AtomicBool,
    /// The lock on the folder.
    pub(super) lock: Mutex<Option<std::fs::File>>,
}

pub(super) fn permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PARALLEL_CALLS))
}

fn closed() -> Error {
    Error::Unavailable("it is closed".into())
}

impl Engine {
    /// The state, unless the store has stopped.
    pub(super) fn state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self
            .state
            .lock()
            .map_err(|_| Error::Unavailable("a call failed halfway".into()))?;
        match &state.stopped {
            Some(why) => Err(Error::Unavailable(why.clone())),
            None => Ok(state),
        }
    }

    /// The state, once a commit has made room for more changes in memory.
    pub(super) fn state_with_room(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        while state.cost_bytes() > WAIT_AT_BYTES {
            self.want(state.generation);
            drop(self.wait(state, Duration::from_millis(100))?);
            state = self.state()?;
        }
        Ok(state)
    }

    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        at_most: Duration,
    ) -> Result<MutexGuard<'a, State>> {
        let waited = self.changed.wait_timeout(state, at_most);
        let (state, _) = waited.map_err(|_| Error::Unavailable("a call failed halfway".into()))?;
        Ok(state)
    }

    /// Asks for commits up to this one without waiting.
    pub(super) fn want(&self, generation: u64) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.wanted < generation {
            order.wanted = generation;
            self.ordered.notify_one();
        }
    }

    /// To be called after each change: starts the threads that finish it.
    pub(super) fn after_change(&self, mut state: MutexGuard<'_, State>) {
        state.dirty |= !state.freed.is_empty();
        if !state.drops.is_empty() {
            self.work.notify_one();
        }
        if state.cost_bytes() > COMMIT_AT_BYTES {
            self.want(state.generation);
        }
        if state.dirty {
            let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            if !order.dirty {
                order.dirty = true;
                self.ordered.notify_one();
            }
        }
    }

    /// Runs on a thread for blocking work, unless the store has stopped.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let engine = Arc::clone(self);
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.map_err(|_| closed())?;
        let run = move || {
            let _permit = permit;
            let _gate = engine.gate.read().unwrap_or_else(PoisonError::into_inner);
            if engine.stopping.load(Ordering::Acquire) {
                return Err(closed());
            }
            act(&engine)
        };
        let result = tokio::task::spawn_blocking(run).await;
        result.unwrap_or_else(|error| Err(Error::Unavailable(format!("a call failed: {error}"))))
    }

    /// Runs a change of the catalogue; it is durable when this returns.
    pub(super) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let change = move |engine: &Engine| {
            let mut state = engine.state_with_room()?;
            let value = state.transact(act)?;
            let generation = state.last_generation();
            engine.after_change(state);
            Ok((value, generation))
        };
        let (value, generation) = self.blocking(change).await?;
        self.durable(generation).await?;
        Ok(value)
    }

    /// Waits until a commit is durable. Calls that wait at the same time share commits.
    pub(super) async fn durable(&self, generation: u64) -> Result<()> {
        self.want(generation);
        let mut progress = self.progress.subscribe();
        let reached =
            |progress: &Progress| progress.durable >= generation || progress.failure.is_some();
        let progress = progress.wait_for(reached).await.map_err(|_| closed())?;
        if progress.durable >= generation {
            return Ok(());
        }
        let failure = progress.failure.clone().unwrap_or_default();
        Err(Error::Unavailable(failure))
    }

    /// Waits for the space of what was removed. False: there is none to come.
    pub(super) fn wait_for_space(&self) -> Result<bool> {
        self.settle(SPACE_WAIT)
    }

    /// As [`Engine::wait_for_space`], for as long as this.
    pub(super) fn settle(&self, at_most: Duration) -> Result<bool> {
        let until = Instant::now() + at_most;
        let mut state = self.state()?;
        let some = !state.is_settled();
        while !state.is_settled() && Instant::now() < until {
            self.want(state.last_generation());
            drop(self.wait(state, Duration::from_millis(20))?);
            state = self.state()?;
        }
        Ok(some)
    }

    /// Waits a moment until dropped trees are counted out of the space in use.
    pub(super) fn wait_for_drops(&self) -> Result<MutexGuard<'_, State>> {
        let until = Instant::now() + CAPACITY_WAIT;
        let mut state = self.state()?;
        while !state.drops.is_empty() && Instant::now() < until {
            drop(self.wait(state, Duration::from_millis(20))?);
            state = self.state()?;
        }
        Ok(state)
    }

    /// Nothing can be made durable any more: every call fails from now on.
    pub(super) fn fail(&self, why: &str) {
        tracing::error!(why, folder = %self.folder.display(), "the store has stopped");
        match self.state.lock() {
            Ok(mut state) => state.stop(why),
            Err(poisoned) => poisoned.into_inner().stop(why),
        }
        self.progress
            .send_modify(|progress| progress.failure = Some(why.to_owned()));
        self.changed.notify_all();
    }

    /// Lets calls that run come to their end, and no other begin.
    pub(super) fn shut_gate(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// An exclusive lock on the folder, held as long as the file is open.
pub(super) fn lock_folder(folder: &Path) -> Result<std::fs::File> {
    let not_writable = |error: std::io::Error| {
        Error::Unavailable(format!(
            "the folder {} cannot be written: {error}",
            folder.display()
        ))
    };
    std::fs::create_dir_all(folder).map_err(not_writable)?;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("lock"))
        .map_err(not_writable)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Unavailable(format!(
            "another process uses the store in {}",
            folder.display()
        ))),
        Err(error) => Err(not_writable(error.into())),
    }
}
