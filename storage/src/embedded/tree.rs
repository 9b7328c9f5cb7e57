//! The maps of images: radix trees of 256 entries a page. Where blocks are, and which pages a change
//! will need; [`super::mapping`] changes them.
//!
//! **Promises.** A page or block that several parents share is counted ([`Space`]), and is never
//! changed. So snapshots and clones only take a reference to a root.

use super::format::Unit;
use super::format::node::{FANOUT, Leaf, Node};
use super::pages::{Missing, Pages, Stop, is_unsaved};
use super::space::Space;

/// The top of a tree. Height 1: a leaf. Page 0: nothing is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Root {
    pub(crate) page: u64,
    pub(crate) crc: u32,
    pub(crate) height: u8,
    /// Blocks that are not holes.
    pub(crate) mapped: u64,
}

/// A reference to a page that is to be let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) page: u64,
    pub(crate) crc: u32,
    pub(crate) level: u8,
}

/// Blocks in a row that lie in a row on the disk. Unit 0: a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) unit: Unit,
    pub(crate) count: u64,
}

/// All trees, and the space they use.
pub(crate) struct Trees {
    pub(crate) pages: Pages,
    pub(crate) space: Space,
    /// Units that hold data of images, a shared one once.
    pub(crate) used: u64,
    pub(crate) drops: Vec<Dropped>,
}

/// Blocks below one entry of a page of this level.
pub(crate) fn entry_blocks(level: u8) -> u64 {
    1 << (8 * u32::from(level))
}

pub(super) fn index_of(block: u64, level: u8) -> usize {
    (block >> (8 * u32::from(level))) as usize & (FANOUT - 1)
}

/// The height of a tree that reaches this many blocks.
pub(crate) fn height_for(blocks: u64) -> u8 {
    let mut height = 1;
    while height < 7 && entry_blocks(height) < blocks {
        height += 1;
    }
    height
}

impl Root {
    pub(super) fn top(&self) -> Missing {
        Missing {
            unit: self.page,
            crc: self.crc,
            level: self.height.saturating_sub(1),
        }
    }

    pub(super) fn reach(&self) -> u64 {
        match self.page {
            0 => 0,
            _ => entry_blocks(self.height),
        }
    }
}

pub(super) fn confused(page: u64) -> Stop {
    Stop::Damaged(page, "a page of the wrong kind".into())
}

impl Trees {
    /// The leaf of a block. `None`: a hole.
    fn path(&mut self, root: &Root, block: u64) -> Result<Option<&Leaf>, Stop> {
        if block >= root.reach() {
            return Ok(None);
        }
        let mut at = root.top();
        loop {
            if at.level == 0 {
                return match self.pages.get(at)? {
                    Node::Leaf(leaf) => Ok(Some(leaf)),
                    Node::Inner(_) => Err(confused(at.unit)),
                };
            }
            let Node::Inner(inner) = self.pages.get(at)? else {
                return Err(confused(at.unit));
            };
            let index = index_of(block, at.level);
            at = Missing {
                unit: inner.pages[index],
                crc: inner.crcs[index],
                level: at.level - 1,
            };
            if at.unit == 0 {
                return Ok(None);
            }
        }
    }

    /// Where blocks are, with the CRC of each.
    pub(crate) fn look_up(
        &mut self,
        root: &Root,
        first: u64,
        count: u64,
    ) -> Result<(Vec<Piece>, Vec<u32>), Stop> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(1);
        let mut crcs = Vec::with_capacity(count as usize);
        let end = first + count;
        let mut block = first;
        let mut missing = Vec::new();
        while block < end {
            let leaf_end = (block | (FANOUT as u64 - 1)) + 1;
            let stop = leaf_end.min(end);
            match self.path(root, block) {
                Err(Stop::Missing(page)) => missing.extend(page),
                Err(damaged) => return Err(damaged),
                Ok(found) => {
                    for block in block..stop {
                        let index = index_of(block, 0);
                        let unit = found.map_or(0, |leaf| leaf.units[index]);
                        crcs.push(found.map_or(0, |leaf| leaf.crcs[index]));
                        match pieces.last_mut() {
                            Some(last) if last.unit == 0 && unit == 0 => last.count += 1,
                            Some(last) if last.unit != 0 && unit == last.unit + last.count => {
                                last.count += 1;
                            }
                            _ => pieces.push(Piece { unit, count: 1 }),
                        }
                    }
                }
            }
            block = stop;
        }
        match missing.is_empty() {
            true => Ok((pieces, crcs)),
            false => Err(Stop::Missing(missing)),
        }
    }

    /// Blocks of the range whose units nobody shares.
    pub(crate) fn owned(&mut self, root: &Root, first: u64, count: u64) -> Result<u64, Stop> {
        let (pieces, _) = self.look_up(root, first, count)?;
        let mut owned = 0;
        let mut block = first;
        for piece in pieces {
            for at in 0..piece.count {
                let alone = piece.unit != 0 && self.space.count(piece.unit + at) == 1;
                owned += u64::from(alone && !self.is_shared(root, block + at)?);
            }
            block += piece.count;
        }
        Ok(owned)
    }

    /// Whether a page on the way to the block has several parents.
    fn is_shared(&mut self, root: &Root, block: u64) -> Result<bool, Stop> {
        let mut at = root.top();
        while block < root.reach() && at.unit != 0 {
            let parents = match is_unsaved(at.unit) {
                true => self.pages.find(at.unit).map_or(0, |page| page.references),
                false => self.space.count(at.unit),
            };
            if parents > 1 {
                return Ok(true);
            }
            let Node::Inner(inner) = self.pages.get(at)? else {
                return Ok(false);
            };
            let index = index_of(block, at.level);
            at = Missing {
                unit: inner.pages[index],
                crc: inner.crcs[index],
                level: at.level - 1,
            };
        }
        Ok(false)
    }

    /// Whether a change of this range finds all pages that it needs.
    pub(crate) fn ready(&mut self, root: &Root, first: u64, end: u64) -> Result<(), Stop> {
        if first >= end || first >= root.reach() {
            return Ok(());
        }
        self.ready_below(root.top(), first, end.min(root.reach()))
    }

    /// As [`Trees::ready`] for blocks that are mapped one by one.
    pub(crate) fn ready_all(&mut self, root: &Root, first: u64, end: u64) -> Result<(), Stop> {
        let mut block = first;
        while block < end {
            self.ready(root, block, block + 1)?;
            block = (block | (FANOUT as u64 - 1)) + 1;
        }
        Ok(())
    }

    /// `first..end` is counted from the page's own first block, and lies in it.
    fn ready_below(&mut self, at: Missing, first: u64, end: u64) -> Result<(), Stop> {
        if at.level == 0 {
            return self.pages.get(at).map(|_| ());
        }
        let step = entry_blocks(at.level);
        let (left, right) = (first / step, (end - 1) / step);
        for index in [left, right].into_iter().skip(usize::from(left == right)) {
            let Node::Inner(inner) = self.pages.get(at)? else {
                return Err(confused(at.unit));
            };
            let child = Missing {
                unit: inner.pages[index as usize],
                crc: inner.crcs[index as usize],
                level: at.level - 1,
            };
            let (from, to) = (first.max(index * step), end.min((index + 1) * step));
            if child.unit == 0 {
                continue;
            }
            self.ready_below(child, from - index * step, to - index * step)?;
        }
        Ok(())
    }
}
