//! Looks at trees, some leaves at a time, beside everything else that goes on: what the scrub, the
//! account of usage and the defragmentation are made of.
//!
//! **Promises.** What one look answers was so at one moment. Between two looks everything may
//! change; a look goes on from a block, and holds nothing back meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use super::format::Unit;
use super::format::node::{FANOUT, Leaf, Node};
use super::pages::{Missing, Stop, is_unsaved};
use super::request::{Answer, Blocks, Read, ReadTo, Reply, Request};
use super::shard::Shard;
use super::tree::{Piece, Root, Trees, entry_blocks};

/// Leaves of one look.
const LEAVES_AT_ONCE: usize = 32;
/// Pages of one look, leaves or not.
const PAGES_AT_ONCE: usize = 256;

/// Pages that looks have passed, by unit.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    fn contains(&self, unit: Unit) -> bool {
        let word = self.0.get((unit / 64) as usize).copied().unwrap_or(0);
        word & 1 << (unit % 64) != 0
    }

    fn insert(&mut self, unit: Unit) {
        let index = (unit / 64) as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        self.0[index] |= 1 << (unit % 64);
    }
}

/// What to pass over.
#[derive(Debug, Clone)]
pub(crate) enum Pass {
    /// Pages with several parents: nothing below them is one tree's alone.
    Shared,
    /// Saved pages that were passed before.
    Seen(Arc<Mutex<Seen>>),
}

/// A look at a tree.
pub(crate) struct Scan {
    pub(crate) image: u64,
    pub(crate) snapshot: Option<u64>,
    /// Where to go on.
    pub(crate) block: u64,
    pub(crate) pass: Pass,
    pub(crate) found: Scanned,
    pub(crate) reply: Reply<Scanned>,
}

/// A mapped block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) block: u64,
    pub(crate) unit: Unit,
    pub(crate) crc: u32,
    /// Nobody else maps the unit.
    pub(crate) alone: bool,
}

/// What a look has found.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) entries: Vec<Entry>,
    /// Saved pages: unit, CRC, first block.
    pub(crate) pages: Vec<(Unit, u32, u64)>,
    /// Pages that cannot be read: unit, first block, why.
    pub(crate) damaged: Vec<(Unit, u64, String)>,
    /// Where to go on; `None`: that was all.
    pub(crate) next: Option<u64>,
}

impl Shard {
    pub(super) fn start_scan(&mut self, mut scan: Scan) {
        let root = match self.state.catalogue.tree(scan.image, scan.snapshot) {
            Ok((root, _)) => root,
            Err(error) => return self.answers.push(Answer::Scanned(scan.reply, Err(error))),
        };
        match self.state.trees.scan(&root, &mut scan) {
            Ok(()) => {
                let found = std::mem::take(&mut scan.found);
                self.answers.push(Answer::Scanned(scan.reply, Ok(found)));
            }
            Err(missing) => {
                self.load(missing);
                self.stalled.push(Request::Scan(scan));
            }
        }
    }

    /// Reads units as they are, whatever they hold.
    pub(super) fn read_units(&mut self, unit: Unit, count: u64, reply: Reply<Blocks>) {
        let read = Read {
            image: 0,
            snapshot: None,
            block: 0,
            count,
            to: ReadTo::Caller(reply),
        };
        self.read_pieces(read, vec![Piece { unit, count }], Vec::new());
    }
}

impl Trees {
    fn scan(&mut self, root: &Root, scan: &mut Scan) -> Result<(), Vec<Missing>> {
        let (mut leaves, mut pages) = (0, 0);
        while leaves < LEAVES_AT_ONCE && pages < PAGES_AT_ONCE {
            if scan.block >= root.reach() {
                scan.found.next = None;
                return Ok(());
            }
            leaves += usize::from(self.scan_path(root, scan)?);
            pages += 1;
        }
        scan.found.next = Some(scan.block);
        Ok(())
    }

    /// Goes down to the block, and on to the block behind what was found or passed over. True: it
    /// was a leaf.
    fn scan_path(&mut self, root: &Root, scan: &mut Scan) -> Result<bool, Vec<Missing>> {
        let mut at = root.top();
        let mut begun: Vec<(Missing, u64)> = Vec::new();
        loop {
            let span = entry_blocks(at.level + 1);
            let base = scan.block / span * span;
            if at.unit == 0 || self.passes_over(at, scan, base) {
                scan.go_on(begun, base + span);
                return Ok(false);
            }
            let index = (scan.block - base) / entry_blocks(at.level);
            let child = match self.pages.get(at) {
                Err(Stop::Missing(missing)) => return Err(missing),
                Err(Stop::Damaged(unit, why)) => {
                    scan.found.damaged.push((unit, base, why));
                    scan.go_on(begun, base + span);
                    return Ok(false);
                }
                Ok(Node::Leaf(leaf)) => {
                    scan.found.add_leaf(leaf, base, scan.block);
                    None
                }
                Ok(Node::Inner(inner)) => Some(Missing {
                    unit: inner.pages[index as usize],
                    crc: inner.crcs[index as usize],
                    level: at.level.saturating_sub(1),
                }),
            };
            if scan.block == base && !is_unsaved(at.unit) {
                begun.push((at, base));
            }
            let Some(child) = child else {
                self.mark_alone(scan);
                scan.go_on(begun, base + span);
                return Ok(true);
            };
            at = child;
        }
    }

    fn passes_over(&mut self, at: Missing, scan: &Scan, base: u64) -> bool {
        match &scan.pass {
            Pass::Shared => {
                let parents = match is_unsaved(at.unit) {
                    true => self.pages.find(at.unit).map_or(0, |page| page.references),
                    false => self.space.count(at.unit),
                };
                parents > 1
            }
            // Only at its first block: later ones are a look that goes on.
            Pass::Seen(seen) => {
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                scan.block == base && !is_unsaved(at.unit) && seen.contains(at.unit)
            }
        }
    }

    fn mark_alone(&self, scan: &mut Scan) {
        let entries = scan.found.entries.iter_mut().rev();
        for entry in entries.take_while(|entry| entry.block >= scan.block) {
            entry.alone = self.space.count(entry.unit) == 1;
        }
    }
}

impl Scan {
    fn go_on(&mut self, begun: Vec<(Missing, u64)>, block: u64) {
        if let Pass::Seen(seen) = &self.pass {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            begun.iter().for_each(|(page, _)| seen.insert(page.unit));
        }
        let pages = begun.into_iter();
        let pages = pages.map(|(page, base)| (page.unit, page.crc, base));
        self.found.pages.extend(pages);
        self.block = block;
    }
}

impl Scanned {
    fn add_leaf(&mut self, leaf: &Leaf, base: u64, from: u64) {
        for index in (from - base) as usize..FANOUT {
            if leaf.units[index] != 0 {
                self.entries.push(Entry {
                    block: base + index as u64,
                    unit: leaf.units[index],
                    crc: leaf.crcs[index],
                    alone: false,
                });
            }
        }
    }
}
