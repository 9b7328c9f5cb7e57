//! Walking trees: what is mapped, and what differs between two trees. Pages that both share are
//! passed over, so the work is in proportion to the difference.

use super::buffer::UNIT_BYTES;
use super::format::node::{FANOUT, Node};
use super::pages::{Missing, Stop};
use super::tree::{Root, Trees, entry_blocks};
use crate::store::ExtentList;
use crate::{Extent, ExtentKind};

/// Pages that are asked for at once.
const READ_AHEAD: usize = 64;

/// What to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    /// What is mapped or not, without gaps.
    Extents,
    /// What is mapped.
    Data,
    /// What differs from the older tree.
    Changes,
}

/// A walk from a block on; it keeps its place when pages are missing.
pub(crate) struct Walk {
    listing: Listing,
    /// Nothing is listed before this byte, nor from `end_bytes` on.
    position: u64,
    end_bytes: u64,
    list: ExtentList,
    full: bool,
}

/// One of the two trees, at some level: only its first entry there may be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    page: Missing,
}

const NOTHING: Side = Side {
    page: Missing {
        unit: 0,
        crc: 0,
        level: 0,
    },
};

impl Side {
    fn of(root: &Root) -> Self {
        match root.page {
            0 => NOTHING,
            _ => Side { page: root.top() },
        }
    }
}

impl Walk {
    pub(crate) fn new(listing: Listing, start_bytes: u64, end_bytes: u64, limit: usize) -> Self {
        Walk {
            listing,
            position: start_bytes,
            end_bytes,
            list: ExtentList::new(limit),
            full: false,
        }
    }

    /// The byte from which on nothing is known yet.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn into_extents(self) -> Vec<Extent> {
        self.list.into_vec()
    }

    /// Goes on; `Ok` when done. Both trees must be the ones it began with, or changed since.
    pub(crate) fn go_on(
        &mut self,
        trees: &mut Trees,
        older: &Root,
        newer: &Root,
    ) -> Result<(), Stop> {
        let blocks = self.end_bytes.div_ceil(UNIT_BYTES as u64);
        let height = older.height.max(newer.height);
        let sides = (Side::of(older), Side::of(newer));
        if height > 0 && self.position < self.end_bytes {
            let reach = older.reach().max(newer.reach()).min(blocks);
            self.compare(trees, sides, height - 1, 0, reach)?;
        }
        if !self.full {
            self.pass(ExtentKind::Zero, self.end_bytes, false);
        }
        Ok(())
    }

    /// What lies up to `end` is of this kind.
    fn pass(&mut self, kind: ExtentKind, end: u64, listed: bool) {
        let end = end.min(self.end_bytes);
        if self.full || end <= self.position {
            return;
        }
        let listed = listed || self.listing == Listing::Extents;
        if listed && !self.list.push(self.position, end - self.position, kind) {
            self.full = true;
            return;
        }
        self.position = end;
    }

    /// Compares what both have in the page of this level that starts at block `base`.
    fn compare(
        &mut self,
        trees: &mut Trees,
        sides: (Side, Side),
        level: u8,
        base: u64,
        end: u64,
    ) -> Result<(), Stop> {
        let step = entry_blocks(level);
        let unit = UNIT_BYTES as u64;
        let first = (self.position / unit).saturating_sub(base) / step;
        for index in first..FANOUT as u64 {
            let block = base + index * step;
            if self.full || block >= end {
                return Ok(());
            }
            let entry = |trees: &mut Trees, side: Side| entry(trees, side, level, index as usize);
            let found = entry(trees, sides.0).and_then(|older| Ok((older, entry(trees, sides.1)?)));
            let (older, newer) = match found {
                Ok(found) => found,
                Err(stop) => return Err(ahead(trees, stop, sides, level, index)),
            };
            let stop = (block + step) * unit;
            if older.page.unit == newer.page.unit {
                self.pass(ExtentKind::Zero, stop, false);
            } else if level == 0 {
                match newer.page.unit {
                    0 => self.pass(ExtentKind::Zero, stop, self.listing == Listing::Changes),
                    _ => self.pass(ExtentKind::Data, stop, true),
                }
            } else if let Err(stop) = self.compare(trees, (older, newer), level - 1, block, end) {
                return Err(ahead(trees, stop, sides, level, index));
            }
        }
        Ok(())
    }
}

/// What a side has in entry `index` of a page of this level; a lower tree is the first entry.
fn entry(trees: &mut Trees, side: Side, level: u8, index: usize) -> Result<Side, Stop> {
    let page = side.page;
    if page.unit == 0 {
        return Ok(NOTHING);
    }
    if page.level < level {
        return Ok(if index == 0 { side } else { NOTHING });
    }
    let (unit, crc) = match trees.pages.get(page)? {
        Node::Leaf(leaf) => (leaf.units[index], leaf.crcs[index]),
        Node::Inner(inner) => (inner.pages[index], inner.crcs[index]),
    };
    let level = level.saturating_sub(1);
    if unit == 0 {
        return Ok(NOTHING);
    }
    Ok(Side {
        page: Missing { unit, crc, level },
    })
}

/// Adds the pages that will be missing next.
fn ahead(trees: &mut Trees, stop: Stop, sides: (Side, Side), level: u8, index: u64) -> Stop {
    let Stop::Missing(mut missing) = stop else {
        return stop;
    };
    if level == 0 || missing.len() >= READ_AHEAD {
        return Stop::Missing(missing);
    }
    for index in index as usize + 1..FANOUT {
        let (Ok(older), Ok(newer)) = (
            entry(trees, sides.0, level, index),
            entry(trees, sides.1, level, index),
        ) else {
            break;
        };
        if older == newer || missing.len() >= READ_AHEAD {
            continue;
        }
        let wanted = [older.page, newer.page].into_iter();
        missing.extend(wanted.filter(|page| page.unit != 0 && !trees.pages.contains(page.unit)));
    }
    Stop::Missing(missing)
}
