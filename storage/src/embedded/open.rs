//! Opening and closing the store.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, ReadableDatabase, TableDefinition};
use tokio::sync::watch;

use super::blocks::{BLOCK_BYTES, BlockFiles};
use super::catalogue_file::{Backend, CatalogueFile, Reserve};
use super::engine::{CommitOrder, Engine, Progress, lock_folder, permits};
use super::records::{FORMAT, Superblock};
use super::space::{ChunkUse, Space};
use super::state::{CATALOGUE, Call, GROUPS, NODES, SHARES, State};
use super::table::{Table, corrupt, redb_error};
use crate::{Error, Result};

/// Memory that redb may use.
const CACHE_BYTES: usize = 12 << 20;
/// How long closing waits for freed space to be given back; what is left follows at the next start.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedOptions {
    /// The most that images may keep; `None`: what the file system has.
    pub capacity_limit_bytes: Option<u64>,
    /// Lets [`EmbeddedStore::lose_power`] work, at the price of slower writes. For tests.
    pub simulate_power_loss: bool,
}

/// A store in a folder of this machine. One process may have it open.
///
/// Blocks that writes and removals freed go back to the file system about a second later. When
/// the disk is full, writes answer `OutOfSpace`; removing works on a reserve of 16 MiB.
///
/// Dropping it without [`close`](crate::ImageStore::close) is like a crash: what was not flushed
/// may be gone.
pub struct EmbeddedStore {
    pub(super) engine: Arc<Engine>,
    pub(super) fsid: String,
}

impl EmbeddedStore {
    /// Opens the store in a folder, or makes it. Blocks; a store that was not closed needs no
    /// more time than another one.
    ///
    /// Errors: `Unavailable` (the folder cannot be written, another process uses it), `Corrupt`
    /// (the catalogue is damaged), `Invalid` (made by a newer version).
    pub fn open(folder: &Path, options: EmbeddedOptions) -> Result<Arc<EmbeddedStore>> {
        let lock = lock_folder(folder)?;
        let (engine, clean) = open_engine(folder, lock, &options)?;
        let fsid = engine.state()?.fsid.clone();
        let engine = Arc::new(engine);
        // From here on the catalogue says that the store is in use.
        engine.state()?.dirty = true;
        engine.commit(false)?;
        let threads = [
            spawn("store-commit", &engine, |engine| engine.run_commits())?,
            spawn("store-janitor", &engine, move |engine| {
                engine.run_janitor(!clean)
            })?,
        ];
        let store = EmbeddedStore { engine, fsid };
        store.engine.keep_threads(threads.into());
        Ok(Arc::new(store))
    }

    /// Waits until the space of everything removed is given back to the file system, 10 s at
    /// most. It is without that, too, a little later.
    pub async fn settle(&self) -> Result<()> {
        let settle = |engine: &Engine| engine.wait_for_space().map(|_| ());
        self.engine.blocking(settle).await
    }

    /// Stops as a power loss would: of what was written since the last sync, `hit` picks what is
    /// gone. Needs [`EmbeddedOptions::simulate_power_loss`]. For tests.
    pub fn lose_power(&self, mut hit: impl FnMut() -> bool) {
        self.engine.stop();
        self.engine.files.lose_unsynced(&mut hit);
        self.engine.catalogue_file.lose_unsynced(&mut hit);
    }
}

impl Engine {
    /// Ends everything at once, as a crash would. Handles that are still open then fail.
    pub(super) fn stop(&self) {
        self.shut_gate();
        self.catalogue_file.die();
        self.end_threads();
        self.let_go("it is closed");
    }

    /// The orderly end; `Ok` also when the store was closed before.
    pub(super) fn close_now(&self) -> Result<()> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            return Ok(());
        }
        drop(lock);
        self.shut_gate();
        let result = self.settle(CLOSE_WAIT);
        self.end_threads();
        let result = result.and_then(|_| {
            let clean = self.state()?.space_is_given_back();
            self.commit(clean)
        });
        if result.is_err() {
            self.catalogue_file.die();
        }
        self.let_go("it is closed");
        result
    }

    fn keep_threads(&self, threads: Vec<JoinHandle<()>>) {
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
    }

    fn end_threads(&self) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.stop = true;
        drop(order);
        self.ordered.notify_all();
        self.ended.store(true, Ordering::Release);
        // With the lock, so that the janitor is either before its check or waiting.
        drop(self.state.lock());
        self.work.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }

    /// Closes the catalogue's file and gives up the lock on the folder.
    fn let_go(&self, why: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stop(why);
        drop(state);
        self.progress
            .send_modify(|progress| progress.failure = Some(why.to_owned()));
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        drop(database.take());
        drop(database);
        self.catalogue_file.die();
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(lock.take());
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.engine.stop();
    }
}

fn spawn(
    name: &str,
    engine: &Arc<Engine>,
    run: impl FnOnce(&Engine) + Send + 'static,
) -> Result<JoinHandle<()>> {
    let engine = Arc::clone(engine);
    let thread = std::thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(move || run(&engine));
    thread.map_err(|error| Error::Unavailable(format!("starting a thread: {error}")))
}

/// Answers the engine and whether the store was closed in order.
fn open_engine(folder: &Path, lock: File, options: &EmbeddedOptions) -> Result<(Engine, bool)> {
    let failed = |error: std::io::Error| {
        Error::Unavailable(format!("the folder {}: {error}", folder.display()))
    };
    let reserve = Arc::new(Reserve::open(&folder.join("reserve")).map_err(failed)?);
    let file = CatalogueFile::open(
        &folder.join("catalogue.redb"),
        Arc::clone(&reserve),
        options.simulate_power_loss,
    );
    let catalogue_file = Arc::new(file.map_err(failed)?);
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(Backend(Arc::clone(&catalogue_file)))
        .map_err(redb_error)?;
    let (mut state, clean) = load(&database, options)?;
    state.on_reserve = Arc::clone(&reserve.given_up);
    let chunks = state.space.chunks.len() as u64;
    let files = BlockFiles::open(folder.join("blocks"), chunks, options.simulate_power_loss)?;
    // The names in the folder themselves.
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(failed)?;
    let engine = Engine {
        folder: folder.to_owned(),
        limit_bytes: options.capacity_limit_bytes,
        state: Mutex::new(state),
        files,
        database: Mutex::new(Some(database)),
        catalogue_file,
        reserve,
        order: Mutex::new(CommitOrder::default()),
        ordered: Condvar::new(),
        work: Condvar::new(),
        changed: Condvar::new(),
        progress: watch::Sender::new(Progress::default()),
        gate: RwLock::new(()),
        stopping: false.into(),
        permits: permits(),
        threads: Mutex::default(),
        ended: false.into(),
        lock: Mutex::new(Some(lock)),
    };
    Ok((engine, clean))
}

fn make_tables(database: &Database) -> Result<()> {
    let there = database.begin_read().map_err(redb_error)?;
    if there.list_tables().map_err(redb_error)?.count() > 0 {
        return Ok(());
    }
    let mut transaction = database.begin_write().map_err(redb_error)?;
    transaction.set_quick_repair(true);
    for name in [CATALOGUE, NODES, SHARES, GROUPS] {
        let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(name);
        transaction.open_table(definition).map_err(redb_error)?;
    }
    transaction.commit().map_err(redb_error)
}

fn load(database: &Database, options: &EmbeddedOptions) -> Result<(State, bool)> {
    make_tables(database)?;
    let mut catalogue: Table<Vec<u8>, Vec<u8>> = Table::new(CATALOGUE);
    catalogue.publish(&database.begin_read().map_err(redb_error)?)?;
    let superblock = match catalogue.get(&b"V".to_vec())? {
        Some(bytes) => {
            let parsed = Superblock::from_bytes(&bytes);
            parsed.ok_or_else(|| corrupt("the superblock"))?
        }
        None => Superblock {
            format: FORMAT,
            fsid: uuid::Uuid::new_v4().to_string(),
            next_id: 0,
            clean: true,
        },
    };
    if superblock.format != FORMAT {
        let text = format!("the store has format {}, not {FORMAT}", superblock.format);
        return Err(Error::Invalid(text));
    }
    let limit_bytes = options.capacity_limit_bytes.unwrap_or(u64::MAX);
    let mut state = State {
        stopped: None,
        catalogue,
        nodes: Table::new(NODES),
        shares: Table::new(SHARES),
        groups: Table::new(GROUPS),
        fsid: superblock.fsid,
        next_id: superblock.next_id,
        space: Space::new(Vec::new(), limit_bytes / BLOCK_BYTES),
        call: Call::default(),
        drops: Vec::new(),
        generation: 1,
        dirty: false,
        freed: Vec::new(),
        freed_by_commit: Vec::new(),
        reclaim: Default::default(),
        reclaiming: false,
        swept: superblock.clean,
        reading: Arc::new(()),
        heads: Default::default(),
        open_snapshots: Default::default(),
        on_reserve: Default::default(),
    };
    state.publish(database)?;
    let chunks = state.scan(b"C")?.into_iter().map(|(_, value)| {
        ChunkUse::from_bytes(&value).ok_or_else(|| corrupt("the use of a chunk"))
    });
    let chunks = chunks.collect::<Result<Vec<_>>>()?;
    state.space = Space::new(chunks, limit_bytes / BLOCK_BYTES);
    state.drops = state.load_drops()?;
    Ok((state, superblock.clean))
}
