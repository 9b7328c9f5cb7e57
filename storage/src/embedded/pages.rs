//! The pages of the trees in memory, up to a limit.
//!
//! A page on the disk is known by its unit. A page that is not there yet, new or changed since
//! the last checkpoint, has a number with the bit [`UNSAVED`] and stays in memory until the next.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::format::Unit;
use super::format::node::Node;

/// Marks the numbers of pages that are in memory only.
pub(crate) const UNSAVED: u64 = 1 << 47;
/// The least that the cache may hold.
const LEAST_PAGES: usize = 2048;
/// About what a page takes in memory.
const PAGE_BYTES: usize = 5 << 10;

pub(crate) fn is_unsaved(page: u64) -> bool {
    page & UNSAVED != 0
}

/// Keys are numbers already: one multiplication spreads them.
#[derive(Default, Clone, Copy)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0.rotate_left(8));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

pub(crate) type NumberMap<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

pub(crate) struct Page {
    pub(crate) number: u64,
    pub(crate) level: u8,
    /// Parents of an unsaved page. Those of a saved one are counted with the space.
    pub(crate) references: u32,
    touched: bool,
    pub(crate) node: Node,
}

/// Where a page is in memory, until it is removed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slot(u32);

/// A page that must be read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) unit: Unit,
    pub(crate) crc: u32,
    pub(crate) level: u8,
}

/// Why something about a tree cannot go on now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    Missing(Vec<Missing>),
    /// A page that cannot be read, and why.
    Damaged(Unit, String),
}

pub(crate) struct Pages {
    slots: Vec<Option<Page>>,
    free: Vec<u32>,
    index: NumberMap<u32>,
    unsaved: usize,
    next_unsaved: u64,
    most: usize,
    hand: usize,
    damaged: NumberMap<String>,
}

impl Pages {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Pages {
            slots: Vec::new(),
            free: Vec::new(),
            index: NumberMap::default(),
            unsaved: 0,
            next_unsaved: 1,
            most: (limit_bytes / PAGE_BYTES).max(LEAST_PAGES),
            hand: 0,
            damaged: NumberMap::default(),
        }
    }

    pub(crate) fn unsaved(&self) -> usize {
        self.unsaved
    }

    /// Unsaved pages fill so much of the memory that they should be saved.
    pub(crate) fn wants_saving(&self) -> bool {
        self.unsaved * 2 > self.most
    }

    #[inline]
    pub(crate) fn find(&mut self, number: u64) -> Option<&mut Page> {
        let slot = self.slot(number)?;
        self.at(slot)
    }

    #[inline]
    pub(crate) fn slot(&self, number: u64) -> Option<Slot> {
        self.index.get(&number).copied().map(Slot)
    }

    #[inline]
    pub(crate) fn at(&mut self, slot: Slot) -> Option<&mut Page> {
        let page = self.slots.get_mut(slot.0 as usize)?.as_mut()?;
        page.touched = true;
        Some(page)
    }

    #[inline]
    pub(crate) fn get(&mut self, missing: Missing) -> Result<&Node, Stop> {
        let Some(slot) = self.index.get(&missing.unit) else {
            return Err(self.stop(missing));
        };
        match &mut self.slots[*slot as usize] {
            Some(page) => {
                page.touched = true;
                Ok(&page.node)
            }
            None => Err(Stop::Missing(vec![missing])),
        }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.index.contains_key(&number)
    }

    fn stop(&self, missing: Missing) -> Stop {
        match self.damaged.get(&missing.unit) {
            Some(why) => Stop::Damaged(missing.unit, why.clone()),
            None => Stop::Missing(vec![missing]),
        }
    }

    pub(crate) fn set_damaged(&mut self, unit: Unit, why: String) {
        self.damaged.insert(unit, why);
    }

    fn put(&mut self, page: Page) {
        let number = page.number;
        self.unsaved += usize::from(is_unsaved(number));
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        self.slots[slot as usize] = Some(page);
        self.index.insert(number, slot);
    }

    /// Adds a page that was read.
    pub(crate) fn add_saved(&mut self, unit: Unit, level: u8, node: Node) {
        self.remove(unit);
        self.put(Page {
            number: unit,
            level,
            references: 0,
            touched: true,
            node,
        });
    }

    /// Adds a new page with one parent.
    pub(crate) fn add_unsaved(&mut self, level: u8, node: Node) -> u64 {
        let number = self.new_number();
        self.put(Page {
            number,
            level,
            references: 1,
            touched: true,
            node,
        });
        number
    }

    fn new_number(&mut self) -> u64 {
        self.next_unsaved += 1;
        UNSAVED | (self.next_unsaved - 1)
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Page> {
        let slot = self.index.remove(&number)?;
        self.free.push(slot);
        self.unsaved -= usize::from(is_unsaved(number));
        self.slots.get_mut(slot as usize)?.take()
    }

    /// The page becomes another one, without a copy: saved, or unsaved with one parent.
    pub(crate) fn renumber(&mut self, from: u64, to: Option<Unit>) -> u64 {
        let number = match to {
            Some(unit) => {
                self.remove(unit);
                // Another page was damaged there.
                self.damaged.remove(&unit);
                unit
            }
            None => self.new_number(),
        };
        let Some(slot) = self.index.remove(&from) else {
            return number;
        };
        if let Some(page) = &mut self.slots[slot as usize] {
            page.number = number;
            page.references = u32::from(to.is_none());
        }
        self.index.insert(number, slot);
        self.unsaved -= usize::from(is_unsaved(from));
        self.unsaved += usize::from(is_unsaved(number));
        number
    }

    /// The unsaved pages, by level.
    pub(crate) fn unsaved_by_level(&self) -> Vec<Vec<u64>> {
        let mut levels: Vec<Vec<u64>> = Vec::new();
        let pages = self.slots.iter().flatten();
        for page in pages.filter(|page| is_unsaved(page.number)) {
            let level = page.level as usize;
            if levels.len() <= level {
                levels.resize(level + 1, Vec::new());
            }
            levels[level].push(page.number);
        }
        // In the order they came to be: the order on the disk of what was written in order.
        levels.iter_mut().for_each(|pages| pages.sort_unstable());
        levels
    }

    /// Lets go of saved pages that were not used lately, down to the limit.
    pub(crate) fn evict(&mut self) {
        let mut looked = 0;
        while self.index.len() > self.most && looked < 2 * self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            looked += 1;
            let Some(page) = &mut self.slots[self.hand] else {
                continue;
            };
            if is_unsaved(page.number) || std::mem::take(&mut page.touched) {
                continue;
            }
            let number = page.number;
            self.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A damaged page was let go, and its unit given to another one.
    #[test]
    fn damage_ends_with_the_page() {
        let mut pages = Pages::new(0);
        let wanted = Missing {
            unit: 900,
            crc: 1,
            level: 0,
        };
        pages.set_damaged(900, "gone".into());
        assert!(matches!(pages.get(wanted), Err(Stop::Damaged(900, _))));
        let new = pages.add_unsaved(0, Node::empty(0));
        pages.renumber(new, Some(900));
        assert!(pages.get(wanted).is_ok());
        pages.remove(900);
        assert_eq!(pages.get(wanted), Err(Stop::Missing(vec![wanted])));
    }
}
