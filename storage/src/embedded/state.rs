//! Everything the engine knows, under one lock: the catalogue's tables with their uncommitted
//! changes, the allocator, and which images are open.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::handle::Head;
use super::space::{Group, Space};
use super::table::Table;
use super::tree::Node;
use crate::{Error, Result};

/// Names of the catalogue's tables in its file.
pub(super) const CATALOGUE: &str = "catalogue";
pub(super) const NODES: &str = "nodes";
pub(super) const SHARES: &str = "shares";
pub(super) const GROUPS: &str = "groups";

/// A node that nothing points to any more and that is still to be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) sequence: u64,
    pub(super) node: u64,
    pub(super) level: u8,
}

/// What the current call has done so far, beside its changes to the tables.
#[derive(Default)]
pub(super) struct Call {
    pub(super) gained: Vec<u64>,
    pub(super) lost: Vec<u64>,
    pub(super) dropped: Vec<Dropped>,
    pub(super) freed_leaves: u32,
}

/// Held while stored blocks are read: those freed meanwhile are not given back before.
pub(super) type ReadToken = Arc<()>;

pub(super) struct State {
    /// Why nothing can be done any more.
    pub(super) stopped: Option<String>,
    pub(super) catalogue: Table<Vec<u8>, Vec<u8>>,
    pub(super) nodes: Table<u64, Node>,
    pub(super) shares: Table<u64, u32>,
    pub(super) groups: Table<u64, Group>,
    pub(super) fsid: String,
    pub(super) next_id: u64,
    pub(super) space: Space,
    pub(super) call: Call,
    /// Nodes to take apart, the next one last.
    pub(super) drops: Vec<Dropped>,
    /// The commit that will hold what changes now.
    pub(super) generation: u64,
    /// Something changed since the last freeze.
    pub(super) dirty: bool,
    /// Blocks freed since the last freeze, by the commit that runs, and by commits that are
    /// durable, in order.
    pub(super) freed: Vec<u64>,
    pub(super) freed_by_commit: Vec<u64>,
    pub(super) reclaim: VecDeque<(ReadToken, Vec<u64>)>,
    /// Blocks that are being given back right now.
    pub(super) reclaiming: bool,
    /// The block files hold no space that nothing keeps, beside those.
    pub(super) swept: bool,
    pub(super) reading: ReadToken,
    pub(super) heads: HashMap<u64, Arc<Head>>,
    pub(super) open_snapshots: HashMap<(u64, u64), Weak<()>>,
    /// Set by the catalogue's file when it lives on its reserve.
    pub(super) on_reserve: Arc<AtomicBool>,
}

impl State {
    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn low_on_space(&self) -> bool {
        self.on_reserve.load(Ordering::Acquire)
    }

    /// Refuses what adds to the catalogue while the disk is full.
    pub(super) fn require_space(&self) -> Result<()> {
        if self.low_on_space() {
            return Err(Error::OutOfSpace);
        }
        Ok(())
    }

    /// Runs a call: all of its changes, or on an error none.
    pub(super) fn transact<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let next_id = self.next_id;
        let result = act(self).and_then(|value| Ok((value, self.settle_counts()?)));
        let call = std::mem::take(&mut self.call);
        match result {
            Ok((value, settled)) => {
                let changed = [
                    self.catalogue.keep(),
                    self.nodes.keep(),
                    self.shares.keep(),
                    self.groups.keep(),
                ];
                self.dirty |= changed.contains(&true);
                self.drops.extend(call.dropped);
                self.apply_settled(settled);
                Ok(value)
            }
            Err(error) => {
                self.catalogue.revert();
                self.nodes.revert();
                self.shares.revert();
                self.groups.revert();
                self.next_id = next_id;
                Err(error)
            }
        }
    }

    /// The commit that makes everything done so far durable.
    pub(super) fn last_generation(&self) -> u64 {
        if self.dirty {
            self.generation
        } else {
            self.generation.saturating_sub(1)
        }
    }

    /// Memory that uncommitted changes take, about.
    pub(super) fn cost_bytes(&self) -> usize {
        self.catalogue.cost_bytes()
            + self.nodes.cost_bytes()
            + self.shares.cost_bytes()
            + self.groups.cost_bytes()
    }

    /// Space of removed images and snapshots is all given back.
    pub(super) fn is_settled(&self) -> bool {
        self.drops.is_empty() && self.freed_is_given_back()
    }

    /// No block file holds space that nothing keeps.
    pub(super) fn space_is_given_back(&self) -> bool {
        self.swept && self.freed_is_given_back()
    }

    fn freed_is_given_back(&self) -> bool {
        self.freed.is_empty()
            && self.freed_by_commit.is_empty()
            && self.reclaim.is_empty()
            && !self.reclaiming
    }

    /// Lets go of the catalogue's file, after which every call fails.
    pub(super) fn stop(&mut self, why: &str) {
        self.stopped.get_or_insert_with(|| why.to_owned());
        self.catalogue.detach();
        self.nodes.detach();
        self.shares.detach();
        self.groups.detach();
    }
}
