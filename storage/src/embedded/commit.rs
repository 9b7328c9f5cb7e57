//! The commit thread. One commit: freeze the changes, make the block files durable, write the
//! changes into the catalogue in one durable transaction, publish. Calls go on meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase};

use super::engine::{CommitOrder, Engine};
use super::records::{FORMAT, Superblock, key};
use super::space::Group;
use super::state::{CATALOGUE, GROUPS, NODES, SHARES, State};
use super::table::{Changes, Table, redb_error};
use super::tree::Node;
use crate::{Error, Result};

/// How long a change stays in memory only.
const DELAY: Duration = Duration::from_secs(1);

/// Tells those who wait for commits that none will come.
struct FailOnPanic<'a>(&'a Engine);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a commit panicked");
        }
    }
}

impl Engine {
    /// Commits when asked to, or a second after a change, until told to stop.
    pub(super) fn run_commits(&self) {
        let _guard = FailOnPanic(self);
        while self.wait_for_order() {
            if let Err(error) = self.commit(false) {
                let why = match error {
                    Error::Unavailable(why) => why,
                    other => other.to_string(),
                };
                self.fail(&why);
                return;
            }
        }
    }

    /// False: stop.
    fn wait_for_order(&self) -> bool {
        let mut order = self.order();
        let mut deadline = None;
        while !order.stop && order.wanted <= self.progress.borrow().durable {
            let until = order
                .dirty
                .then(|| *deadline.get_or_insert_with(|| Instant::now() + DELAY));
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            order = match left {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let waited = self.ordered.wait_timeout(order, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.ordered.wait(order);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
        !order.stop
    }

    fn order(&self) -> MutexGuard<'_, CommitOrder> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything done so far durable. `clean`: nothing will be done after it.
    pub(super) fn commit(&self, clean: bool) -> Result<()> {
        let mut state = self.state()?;
        self.order().dirty = false;
        let generation = state.generation;
        state.generation += 1;
        if !state.dirty && !clean {
            drop(state);
            self.published(generation);
            return Ok(());
        }
        let frozen = state.freeze(clean);
        drop(state);
        self.files.sync().map_err(not_full)?;
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = database
            .as_ref()
            .ok_or_else(|| Error::Unavailable("it is closed".into()))?;
        frozen.write(database).map_err(not_full)?;
        self.state()?.publish(database)?;
        self.published(generation);
        Ok(())
    }

    fn published(&self, generation: u64) {
        self.progress
            .send_modify(|progress| progress.durable = generation);
        self.changed.notify_all();
        self.work.notify_one();
    }
}

/// A full disk while committing is not for the caller to handle: the commit is lost.
fn not_full(error: Error) -> Error {
    match error {
        Error::OutOfSpace => Error::Unavailable("the disk is full".into()),
        other => other,
    }
}

/// Changes on their way into the catalogue.
struct Frozen {
    catalogue: Arc<Changes<Vec<u8>, Vec<u8>>>,
    nodes: Arc<Changes<u64, Node>>,
    shares: Arc<Changes<u64, u32>>,
    groups: Arc<Changes<u64, Group>>,
}

impl Frozen {
    fn write(self, database: &Database) -> Result<()> {
        let mut transaction = database.begin_write().map_err(redb_error)?;
        // Saves redb's own free lists with each commit, so that no crash makes it read the whole
        // file at the next start.
        transaction.set_quick_repair(true);
        Table::apply(CATALOGUE, &self.catalogue, &transaction)?;
        Table::apply(NODES, &self.nodes, &transaction)?;
        Table::apply(SHARES, &self.shares, &transaction)?;
        Table::apply(GROUPS, &self.groups, &transaction)?;
        transaction.commit().map_err(redb_error)
    }
}

impl State {
    fn freeze(&mut self, clean: bool) -> Frozen {
        let superblock = Superblock {
            format: FORMAT,
            fsid: self.fsid.clone(),
            next_id: self.next_id,
            clean,
        };
        self.catalogue.set(b"V".to_vec(), superblock.to_bytes());
        let changed: BTreeSet<usize> = std::mem::take(&mut self.space.changed);
        for chunk in changed {
            if let Some(used) = self.space.chunks.get(chunk) {
                let key = key(b'C', &[chunk as u64]);
                self.catalogue.set(key, used.to_bytes());
            }
        }
        self.catalogue.keep();
        self.dirty = false;
        self.freed_by_commit = std::mem::take(&mut self.freed);
        Frozen {
            catalogue: self.catalogue.freeze(),
            nodes: self.nodes.freeze(),
            shares: self.shares.freeze(),
            groups: self.groups.freeze(),
        }
    }

    /// The commit is durable: read from it, and give back what it freed once nobody who began
    /// before reads it any more.
    pub(super) fn publish(&mut self, database: &Database) -> Result<()> {
        let transaction = database.begin_read().map_err(redb_error)?;
        self.catalogue.publish(&transaction)?;
        self.nodes.publish(&transaction)?;
        self.shares.publish(&transaction)?;
        self.groups.publish(&transaction)?;
        let freed = std::mem::take(&mut self.freed_by_commit);
        let reading = std::mem::replace(&mut self.reading, Arc::new(()));
        self.reclaim.push_back((reading, freed));
        Ok(())
    }
}
