//! Changes of the maps, by copying the path they change.
//!
//! **Promises.** The first change below a shared page copies it and adds a reference to each of its
//! targets. A page that nobody shares is changed where it is in memory, and gets a new place with the
//! next checkpoint. A call that answers [`Stop`] has changed nothing.

use super::format::Unit;
use super::format::node::{FANOUT, Inner, Leaf, Node};
use super::pages::{Missing, Pages, Slot, Stop, is_unsaved};
use super::tree::{Dropped, Root, Trees, confused, entry_blocks, height_for, index_of};

/// The pages above a block, by level: the leaf first.
type Path = [Slot; 7];

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

impl Trees {
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
        if index_of(block, 0) + crcs.len() <= FANOUT
            && let Some(path) = self.own_path(root, block)
        {
            return self.put(root, &path, (block, unit), crcs);
        }
        let end = block + crcs.len() as u64;
        self.ready_all(root, block, end)?;
        let (mut block, mut unit, mut crcs) = (block, unit, crcs);
        while !crcs.is_empty() {
            let in_leaf = FANOUT - index_of(block, 0);
            let (now, later) = crcs.split_at(in_leaf.min(crcs.len()));
            let path = self.make_own_path(root, block)?;
            self.put(root, &path, (block, unit), now)?;
            block += now.len() as u64;
            unit += now.len() as u64;
            crcs = later;
        }
        Ok(())
    }

    /// The pages above a block, if all of them may be changed as they are: they changed since the
    /// last checkpoint, and nobody shares them. So it is with most writes.
    fn own_path(&mut self, root: &Root, block: u64) -> Option<Path> {
        if block >= root.reach() {
            return None;
        }
        let mut path = Path::default();
        let mut number = root.page;
        for level in (0..root.height).rev() {
            let slot = self.pages.slot(number)?;
            let page = self.pages.at(slot)?;
            if !is_unsaved(number) || page.references != 1 {
                return None;
            }
            path[level as usize] = slot;
            if let Node::Inner(inner) = &page.node {
                number = inner.pages[index_of(block, level)];
            }
        }
        Some(path)
    }

    /// Makes it so that the pages above a block may be changed. They must be in memory.
    fn make_own_path(&mut self, root: &mut Root, block: u64) -> Result<Path, Stop> {
        self.reach_for(root, block + 1);
        root.page = self.writable_or_new(root.page, root.height - 1)?;
        let mut path = Path::default();
        let mut page = root.page;
        for level in (0..root.height).rev() {
            let slot = self.pages.slot(page).ok_or_else(|| confused(page))?;
            path[level as usize] = slot;
            if level == 0 {
                break;
            }
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
        Ok(path)
    }

    /// Maps blocks of one leaf, whose path may be changed.
    fn put(
        &mut self,
        root: &mut Root,
        path: &Path,
        (block, unit): (u64, Unit),
        crcs: &[u32],
    ) -> Result<(), Stop> {
        let Some(Node::Leaf(leaf)) = self.pages.at(path[0]).map(|page| &mut page.node) else {
            return Err(confused(root.page));
        };
        let mut added = 0;
        let places = leaf.units.iter_mut().zip(&mut leaf.crcs);
        let places = places.skip(index_of(block, 0)).zip(unit..);
        for (((place, sum), unit), crc) in places.zip(crcs) {
            self.space.claim(unit, 1);
            *sum = *crc;
            match std::mem::replace(place, unit) {
                0 => added += 1,
                old if self.space.subtract(old) => self.used -= 1,
                _ => {}
            }
        }
        self.used += crcs.len() as u64;
        if added > 0 {
            root.mapped += added;
            for level in 1..root.height {
                let page = self.pages.at(path[level as usize]);
                if let Some(Node::Inner(inner)) = page.map(|page| &mut page.node) {
                    inner.mapped[index_of(block, level)] += added;
                }
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

    /// Of the dropped pages that come next, those that must be read before they are taken apart.
    pub(crate) fn missing_drops(&self, among: usize) -> Vec<Missing> {
        let next = self.drops.iter().rev().take(among);
        let missing = next.filter(|dropped| {
            let page = dropped.page;
            let last = !is_unsaved(page) && self.space.count(page) == 1;
            last && !self.pages.contains(page)
        });
        let missing = missing.map(|dropped| Missing {
            unit: dropped.page,
            crc: dropped.crc,
            level: dropped.level,
        });
        missing.collect()
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
