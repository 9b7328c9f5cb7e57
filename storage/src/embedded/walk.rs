//! Walking trees: what is mapped, and what differs between two trees. Pages that both share are
//! passed over, so the work is in proportion to the difference.

use super::buffer::UNIT_BYTES;
use super::format::Unit;
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

/// A page of one of the two trees. Unit 0: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    page: Missing,
}

impl Side {
    fn of(root: &Root) -> Self {
        Side { page: root.top() }
    }
}

/// What a side has in the entries of a page.
struct Entries {
    units: [Unit; FANOUT],
    crcs: [u32; FANOUT],
    /// Of what they point to.
    level: u8,
}

impl Entries {
    fn side(&self, index: usize) -> Side {
        Side {
            page: Missing {
                unit: self.units[index],
                crc: self.crcs[index],
                level: self.level,
            },
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
        let (older, newer) = both(trees, sides, level)?;
        let first = (self.position / unit).saturating_sub(base) / step;
        for index in first as usize..FANOUT {
            let block = base + index as u64 * step;
            if self.full || block >= end {
                return Ok(());
            }
            let stop = (block + step) * unit;
            if older.units[index] == newer.units[index] {
                self.pass(ExtentKind::Zero, stop, false);
            } else if level == 0 {
                match newer.units[index] {
                    0 => self.pass(ExtentKind::Zero, stop, self.listing == Listing::Changes),
                    _ => self.pass(ExtentKind::Data, stop, true),
                }
            } else {
                let sides = (older.side(index), newer.side(index));
                let below = self.compare(trees, sides, level - 1, block, end);
                below.map_err(|stop| ahead(trees, stop, (&older, &newer), index))?;
            }
        }
        Ok(())
    }
}

/// What both sides have; where pages are missing, those of both.
fn both(trees: &mut Trees, sides: (Side, Side), level: u8) -> Result<(Entries, Entries), Stop> {
    match (
        entries(trees, sides.0, level),
        entries(trees, sides.1, level),
    ) {
        (Ok(older), Ok(newer)) => Ok((older, newer)),
        (Err(Stop::Missing(older)), Err(Stop::Missing(newer))) => {
            Err(Stop::Missing([older, newer].concat()))
        }
        (Err(stop), _) | (_, Err(stop)) => Err(stop),
    }
}

/// What a side has in a page of this level; a lower tree is the first entry.
fn entries(trees: &mut Trees, side: Side, level: u8) -> Result<Entries, Stop> {
    let page = side.page;
    let mut entries = Entries {
        units: [0; FANOUT],
        crcs: [0; FANOUT],
        level: level.saturating_sub(1),
    };
    if page.unit == 0 {
        return Ok(entries);
    }
    if page.level < level {
        (entries.units[0], entries.crcs[0]) = (page.unit, page.crc);
        entries.level = page.level;
        return Ok(entries);
    }
    (entries.units, entries.crcs) = match trees.pages.get(page)? {
        Node::Leaf(leaf) => (leaf.units, leaf.crcs),
        Node::Inner(inner) => (inner.pages, inner.crcs),
    };
    Ok(entries)
}

/// Adds the pages that will be missing next, of those behind entry `index`.
fn ahead(trees: &Trees, stop: Stop, (older, newer): (&Entries, &Entries), index: usize) -> Stop {
    let Stop::Missing(mut missing) = stop else {
        return stop;
    };
    for index in index + 1..FANOUT {
        if missing.len() >= READ_AHEAD {
            break;
        }
        if older.units[index] == newer.units[index] {
            continue;
        }
        let wanted = [older.side(index).page, newer.side(index).page].into_iter();
        missing.extend(wanted.filter(|page| page.unit != 0 && !trees.pages.contains(page.unit)));
    }
    Stop::Missing(missing)
}
