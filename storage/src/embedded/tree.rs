//! The maps of images: radix trees of 256 entries a page that copy the path they change.
//!
//! **Promises.** A page or block that several parents share is counted ([`Space`]), and is never
//! changed: the first change below a shared page copies it and adds a reference to each of its
//! targets. So snapshots and clones only take a reference to a root. A call that answers
//! [`Stop`] has changed nothing.

use super::format::Unit;
use super::format::node::{FANOUT, Inner, Leaf, Node};
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

fn index_of(block: u64, level: u8) -> usize {
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

/// A page that was put there by [`Trees::writable`] a moment ago.
fn inner(pages: &mut Pages, page: u64) -> Option<&mut Inner> {
    match &mut pages.find(page)?.node {
        Node::Inner(inner) => Some(inner),
        Node::Leaf(_) => None,
    }
}

fn leaf(pages: &mut Pages, page: u64) -> Option<&mut Leaf> {
    match &mut pages.find(page)?.node {
        Node::Leaf(leaf) => Some(leaf),
        Node::Inner(_) => None,
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

    /// Lets go of a data unit.
    fn subtract_data(&mut self, unit: Unit) {
        if self.space.subtract(unit) {
            self.used -= 1;
        }
    }

    fn add_page(&mut self, page: u64) {
        if is_unsaved(page) {
            if let Some(page) = self.pages.find(page) {
                page.references += 1;
            }
        } else {
            self.space.add(page);
        }
    }

    /// One more owner of a tree.
    pub(crate) fn share(&mut self, root: &Root) {
        if root.page != 0 {
            self.add_page(root.page);
        }
    }

    /// One owner less; the work is done by and by in [`Trees::drop_one`].
    pub(crate) fn let_go(&mut self, root: &Root) {
        if root.page != 0 {
            self.drops.push(Dropped {
                page: root.page,
                crc: root.crc,
                level: root.height - 1,
            });
        }
    }

    /// A page in place of this one that may be changed. The page must be in memory.
    fn writable(&mut self, page: u64, level: u8) -> Result<u64, Stop> {
        let Some(found) = self.pages.find(page) else {
            return Err(confused(page));
        };
        if is_unsaved(page) {
            if found.references == 1 {
                return Ok(page);
            }
            found.references -= 1;
        } else if self.space.count(page) == 1 {
            self.space.subtract(page);
            return Ok(self.pages.renumber(page, None));
        } else {
            self.space.subtract(page);
        }
        let Some(found) = self.pages.find(page) else {
            return Err(confused(page));
        };
        let node = found.node.clone();
        for target in node.targets().iter().filter(|target| **target != 0) {
            match level {
                0 => self.space.add(*target),
                _ => self.add_page(*target),
            }
        }
        Ok(self.pages.add_unsaved(level, node))
    }

    fn writable_or_new(&mut self, page: u64, level: u8) -> Result<u64, Stop> {
        match page {
            0 => Ok(self.pages.add_unsaved(level, Node::empty(level))),
            _ => self.writable(page, level),
        }
    }

    fn reach_for(&mut self, root: &mut Root, blocks: u64) {
        let height = height_for(blocks);
        if root.page == 0 {
            root.height = height;
            return;
        }
        while root.height < height {
            let mut node = Node::empty(root.height);
            if let Node::Inner(inner) = &mut node {
                inner.pages[0] = root.page;
                inner.crcs[0] = root.crc;
                inner.mapped[0] = root.mapped;
            }
            root.page = self.pages.add_unsaved(root.height, node);
            root.height += 1;
        }
    }

    /// Maps blocks in a row to units in a row; the units are claimed, what was there is let go.
    pub(crate) fn map(
        &mut self,
        root: &mut Root,
        block: u64,
        unit: Unit,
        crcs: &[u32],
    ) -> Result<(), Stop> {
        let end = block + crcs.len() as u64;
        self.ready_all(root, block, end)?;
        let (mut block, mut unit, mut crcs) = (block, unit, crcs);
        while !crcs.is_empty() {
            let in_leaf = FANOUT - index_of(block, 0);
            let (now, later) = crcs.split_at(in_leaf.min(crcs.len()));
            self.map_in_leaf(root, block, unit, now)?;
            block += now.len() as u64;
            unit += now.len() as u64;
            crcs = later;
        }
        Ok(())
    }

    fn map_in_leaf(
        &mut self,
        root: &mut Root,
        block: u64,
        unit: Unit,
        crcs: &[u32],
    ) -> Result<(), Stop> {
        self.reach_for(root, block + 1);
        root.page = self.writable_or_new(root.page, root.height - 1)?;
        let mut path = [0u64; 8];
        let mut page = root.page;
        for level in (1..root.height).rev() {
            path[level as usize] = page;
            let index = index_of(block, level);
            let child = inner(&mut self.pages, page)
                .ok_or_else(|| confused(page))?
                .pages[index];
            let new = self.writable_or_new(child, level - 1)?;
            if new != child
                && let Some(inner) = inner(&mut self.pages, page)
            {
                inner.pages[index] = new;
            }
            page = new;
        }
        let mut old = [0u64; FANOUT];
        let start = index_of(block, 0);
        let leaf = leaf(&mut self.pages, page).ok_or_else(|| confused(page))?;
        for (at, crc) in crcs.iter().enumerate() {
            old[at] = std::mem::replace(&mut leaf.units[start + at], unit + at as u64);
            leaf.crcs[start + at] = *crc;
        }
        let mut added = 0;
        for (at, old) in old.iter().take(crcs.len()).enumerate() {
            self.space.claim(unit + at as u64, 1);
            match *old {
                0 => added += 1,
                old => self.subtract_data(old),
            }
        }
        self.used += crcs.len() as u64;
        if added > 0 {
            root.mapped += added;
            for level in 1..root.height {
                let page = path[level as usize];
                let inner = inner(&mut self.pages, page).ok_or_else(|| confused(page))?;
                inner.mapped[index_of(block, level)] += added;
            }
        }
        Ok(())
    }

    /// Makes holes of `first..end`.
    pub(crate) fn unmap(&mut self, root: &mut Root, first: u64, end: u64) -> Result<(), Stop> {
        self.ready(root, first, end)?;
        let end = end.min(root.reach());
        if first >= end || !self.any_mapped(root.top(), first, end)? {
            return Ok(());
        }
        if first == 0 && end == root.reach() {
            self.let_go(root);
            *root = Root::default();
            return Ok(());
        }
        root.page = self.writable(root.page, root.height - 1)?;
        let removed = self.unmap_below(root.page, root.height - 1, first, end)?;
        root.mapped -= removed;
        if root.mapped == 0 {
            self.let_go(root);
            *root = Root::default();
        }
        Ok(())
    }

    fn any_mapped(&mut self, at: Missing, first: u64, end: u64) -> Result<bool, Stop> {
        let step = entry_blocks(at.level);
        for index in first / step..=(end - 1) / step {
            let index = index as usize;
            let child = match self.pages.get(at)? {
                Node::Leaf(leaf) if leaf.units[index] != 0 => return Ok(true),
                Node::Leaf(_) => continue,
                Node::Inner(inner) if inner.pages[index] == 0 || inner.mapped[index] == 0 => {
                    continue;
                }
                Node::Inner(inner) => Missing {
                    unit: inner.pages[index],
                    crc: inner.crcs[index],
                    level: at.level - 1,
                },
            };
            let base = index as u64 * step;
            let (from, to) = (first.max(base) - base, end.min(base + step) - base);
            if (from, to) == (0, step) || self.any_mapped(child, from, to)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The page may be changed. Answers how many blocks were mapped.
    fn unmap_below(&mut self, page: u64, level: u8, first: u64, end: u64) -> Result<u64, Stop> {
        let step = entry_blocks(level);
        let mut removed = 0;
        if level == 0 {
            let leaf = leaf(&mut self.pages, page).ok_or_else(|| confused(page))?;
            let gone = first as usize..end as usize;
            let mut old = Vec::with_capacity(gone.len());
            for (unit, sum) in leaf.units[gone.clone()]
                .iter_mut()
                .zip(&mut leaf.crcs[gone])
            {
                old.push(std::mem::take(unit));
                *sum = 0;
            }
            for unit in old.into_iter().filter(|unit| *unit != 0) {
                removed += 1;
                self.subtract_data(unit);
            }
            return Ok(removed);
        }
        for index in first / step..=(end - 1) / step {
            let base = index * step;
            let index = index as usize;
            let found = inner(&mut self.pages, page).ok_or_else(|| confused(page))?;
            let child = Missing {
                unit: found.pages[index],
                crc: found.crcs[index],
                level: level - 1,
            };
            let mapped = found.mapped[index];
            if child.unit == 0 {
                continue;
            }
            let (from, to) = (first.max(base) - base, end.min(base + step) - base);
            let mut gone = mapped;
            let mut left = 0;
            if (from, to) != (0, step) {
                if !self.any_mapped(child, from, to)? {
                    continue;
                }
                left = self.writable(child.unit, child.level)?;
                if let Some(found) = inner(&mut self.pages, page) {
                    found.pages[index] = left;
                }
                gone = self.unmap_below(left, child.level, from, to)?;
            }
            if gone == mapped {
                let page = if left == 0 { child.unit } else { left };
                self.drops.push(Dropped {
                    page,
                    crc: child.crc,
                    level: child.level,
                });
                left = 0;
            }
            removed += gone;
            if let Some(found) = inner(&mut self.pages, page) {
                found.pages[index] = left;
                found.mapped[index] -= gone;
            }
        }
        Ok(removed)
    }

    /// Lets go of one dropped page. False: there is none.
    pub(crate) fn drop_one(&mut self) -> Result<bool, Stop> {
        let Some(dropped) = self.drops.last().copied() else {
            return Ok(false);
        };
        let Dropped { page, crc, level } = dropped;
        if is_unsaved(page) {
            let Some(found) = self.pages.find(page) else {
                return Err(confused(page));
            };
            if found.references > 1 {
                found.references -= 1;
                self.drops.pop();
                return Ok(true);
            }
        } else if self.space.count(page) != 1 {
            self.space.subtract(page);
            self.drops.pop();
            return Ok(true);
        } else {
            self.pages.get(Missing {
                unit: page,
                crc,
                level,
            })?;
        }
        self.drops.pop();
        let Some(found) = self.pages.remove(page) else {
            return Err(confused(page));
        };
        if !is_unsaved(page) {
            self.space.subtract(page);
        }
        match found.node {
            Node::Leaf(leaf) => {
                for unit in leaf.units.iter().filter(|unit| **unit != 0) {
                    self.subtract_data(*unit);
                }
            }
            Node::Inner(inner) => {
                let children = inner.pages.iter().zip(&inner.crcs);
                let children = children.filter(|(page, _)| **page != 0);
                self.drops.extend(children.map(|(page, crc)| Dropped {
                    page: *page,
                    crc: *crc,
                    level: level - 1,
                }));
            }
        }
        Ok(true)
    }
}
