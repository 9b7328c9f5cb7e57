//! The check: walks everything from the superblock down, reads it from the disk, and compares
//! all checksums and counts with what is really there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::buffer::{UNIT_BYTES, crc};
use super::disk::{Done, FileId};
use super::format::node::Node;
use super::format::superblock::{COPIES, Found, Superblock};
use super::format::{CHUNK_UNITS, SPACE_MAP_UNITS, Unit};
use super::pages::{Missing, is_unsaved};
use super::reading::{WRONG, describe, parse_page};
use super::shard::{Shard, place};
use super::space::MapUnit;
use super::tree::Root;
use crate::Result;

/// Errors that a report lists; the rest is only counted.
const MOST_ERRORS: usize = 1000;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub images: u64,
    pub snapshots: u64,
    /// Pages of trees, a shared one once.
    pub nodes: u64,
    /// Bytes of data that trees map, a shared one once.
    pub used_bytes: u64,
    pub error_count: u64,
    /// The first errors, one line each. Empty: the store is sound.
    pub errors: Vec<String>,
}

/// How a check goes about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Reads all data too.
    pub data: bool,
    /// Reads no more than this in a second.
    pub most_bytes_per_second: Option<u64>,
}

struct Walk<'a> {
    shard: &'a mut Shard,
    options: CheckOptions,
    progress: &'a AtomicU64,
    report: CheckReport,
    /// References found to each unit, up to 255; the rest.
    found: Vec<u8>,
    more: HashMap<Unit, u32>,
    /// Pages seen: references to unsaved ones, and blocks mapped below.
    unsaved: HashMap<u64, u32>,
    mapped: HashMap<u64, u64>,
    name: String,
    began: Instant,
    read_bytes: u64,
}

impl Shard {
    /// Blocks, and all requests with it. Needs a byte of memory for each 4 KiB of the store.
    pub(crate) fn check(
        &mut self,
        options: CheckOptions,
        progress: &AtomicU64,
    ) -> Result<CheckReport> {
        self.finish()?;
        let total = self.state.trees.space.total() as usize;
        let mut walk = Walk {
            shard: self,
            options,
            progress,
            report: CheckReport::default(),
            found: vec![0; total],
            more: HashMap::new(),
            unsaved: HashMap::new(),
            mapped: HashMap::new(),
            name: String::new(),
            began: Instant::now(),
            read_bytes: 0,
        };
        for text in std::mem::take(&mut walk.shard.mended) {
            walk.error(text);
        }
        let maps = 0..walk.shard.state.trees.space.maps.len();
        let mut wrong = walk.shard.wrong_in_files();
        wrong.extend(walk.shard.wrong_maps(maps));
        wrong.into_iter().for_each(|text| walk.error(text));
        walk.images();
        walk.catalogue();
        walk.counts();
        Ok(walk.report)
    }
}

impl Walk<'_> {
    fn error(&mut self, text: impl Into<String>) {
        self.report.error_count += 1;
        if self.report.errors.len() < MOST_ERRORS {
            self.report.errors.push(text.into());
        }
    }

    fn expect(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.error(text());
        }
    }

    fn read(
        &mut self,
        file: FileId,
        offset: u64,
        length: usize,
    ) -> std::io::Result<bytes::BytesMut> {
        self.read_bytes += length as u64;
        if let Some(most) = self.options.most_bytes_per_second {
            let due = Duration::from_secs_f64(self.read_bytes as f64 / most.max(1) as f64);
            std::thread::sleep(due.saturating_sub(self.began.elapsed()));
        }
        self.shard.disk.read_now(file, offset, length)
    }

    fn images(&mut self) {
        let images = &self.shard.state.catalogue.images;
        let mut ids: Vec<u64> = images.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(image) = self.shard.state.catalogue.images.get(&id) else {
                continue;
            };
            let roots: Vec<(Option<u64>, Root)> = image
                .snapshots
                .iter()
                .map(|(number, snapshot)| (Some(*number), snapshot.root))
                .chain([(None, image.root)])
                .collect();
            if !image.is_hidden() {
                self.report.images += 1;
                self.report.snapshots += roots.len() as u64 - 1;
            }
            for (snapshot, root) in roots {
                self.name = self.shard.state.catalogue.shown_name(id, snapshot);
                self.root(&root);
            }
        }
        self.name = "what was removed".into();
        for dropped in self.shard.state.trees.drops.clone() {
            let page = Missing {
                unit: dropped.page,
                crc: dropped.crc,
                level: dropped.level,
            };
            self.page(page, 0);
        }
    }

    fn root(&mut self, root: &Root) {
        if root.page == 0 {
            let name = self.name.clone();
            self.expect(root.mapped == 0, || {
                format!("{name} maps blocks without a tree")
            });
            return;
        }
        let mapped = self.page(root.top(), 0);
        let name = self.name.clone();
        self.expect(mapped == root.mapped, || {
            format!("{name} maps {mapped} blocks, not {}", root.mapped)
        });
    }

    /// One more reference. True: it is the first.
    fn count(&mut self, unit: Unit) -> bool {
        match self.found.get_mut(unit as usize) {
            None => {
                self.error(format!("{}: unit {unit} is beyond the files", self.name));
                false
            }
            Some(255) => {
                *self.more.entry(unit).or_default() += 1;
                false
            }
            Some(count) => {
                *count += 1;
                *count == 1
            }
        }
    }

    /// Counts one more reference to a page; answers the blocks mapped below it.
    fn page(&mut self, page: Missing, base: u64) -> u64 {
        let first = match is_unsaved(page.unit) {
            true => {
                let count = self.unsaved.entry(page.unit).or_default();
                *count += 1;
                *count == 1
            }
            false => self.count(page.unit),
        };
        if !first {
            return self.mapped.get(&page.unit).copied().unwrap_or(0);
        }
        self.report.nodes += 1;
        let mapped = match self.node(page) {
            Ok(node) => self.below(&node, page.level, base),
            Err(why) => {
                let text = format!("{}: {}", self.name, describe(page.unit, &why));
                self.error(text);
                0
            }
        };
        self.mapped.insert(page.unit, mapped);
        mapped
    }

    fn node(&mut self, page: Missing) -> Result<Node, String> {
        if is_unsaved(page.unit) {
            let found = self.shard.state.trees.pages.find(page.unit);
            return found
                .map(|found| found.node.clone())
                .ok_or("it is not there".into());
        }
        let (file, offset) = place(page.unit);
        let (result, buffer) = match self.read(file, offset, UNIT_BYTES) {
            Ok(buffer) => (Ok(()), buffer),
            Err(error) => (Err(error), bytes::BytesMut::new()),
        };
        let done = Done {
            tag: 0,
            result,
            buffer,
        };
        parse_page(page, done, self.shard.state.trees.space.total())
    }

    fn below(&mut self, node: &Node, level: u8, base: u64) -> u64 {
        let inner = match node {
            Node::Leaf(leaf) => return self.leaf(&leaf.units, &leaf.crcs, base),
            Node::Inner(inner) => inner,
        };
        let mut all = 0;
        for (index, unit) in inner.pages.iter().enumerate() {
            if *unit == 0 {
                continue;
            }
            let child = Missing {
                unit: *unit,
                crc: inner.crcs[index],
                level: level - 1,
            };
            let base = base + index as u64 * super::tree::entry_blocks(level);
            let mapped = self.page(child, base);
            let wanted = inner.mapped[index];
            let name = self.name.clone();
            self.expect(mapped == wanted, || {
                format!("{name}: {mapped} blocks from block {base} on, not {wanted}")
            });
            all += mapped;
        }
        all
    }

    fn leaf(&mut self, units: &[Unit], crcs: &[u32], base: u64) -> u64 {
        let mut mapped = 0;
        let mut run: Vec<(Unit, u32, u64)> = Vec::new();
        for (index, (unit, sum)) in units.iter().zip(crcs).enumerate() {
            if *unit == 0 {
                continue;
            }
            mapped += 1;
            if !self.count(*unit) {
                continue;
            }
            self.report.used_bytes += UNIT_BYTES as u64;
            if run.last().is_some_and(|(last, ..)| last + 1 != *unit) {
                self.data(&run);
                run.clear();
            }
            run.push((*unit, *sum, base + index as u64));
        }
        self.data(&run);
        self.progress
            .store(self.report.used_bytes, Ordering::Relaxed);
        mapped
    }

    fn data(&mut self, run: &[(Unit, u32, u64)]) {
        let Some((first, ..)) = run.first().filter(|_| self.options.data) else {
            return;
        };
        let (file, offset) = place(*first);
        let bytes = match self.read(file, offset, run.len() * UNIT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                let text = format!("{}: {}", self.name, describe(*first, &error.to_string()));
                return self.error(text);
            }
        };
        for ((unit, sum, block), bytes) in run.iter().zip(bytes.chunks(UNIT_BYTES)) {
            let (name, offset) = (self.name.clone(), block * UNIT_BYTES as u64);
            self.expect(crc(bytes) == *sum, || {
                format!("{name} at byte {offset}: {}", describe(*unit, WRONG))
            });
        }
    }

    fn catalogue(&mut self) {
        let catalogue = &self.shard.state.catalogue;
        let mut wrong = Vec::new();
        for ((pool, name), id) in &catalogue.names {
            let known = catalogue.images.get(id);
            let same =
                known.is_some_and(|image| image.spec.pool == *pool && image.spec.image == *name);
            if !same || !catalogue.pools.contains(pool) {
                wrong.push(format!("the name {pool}/{name} does not lead to its image"));
            }
        }
        for (id, image) in &catalogue.images {
            if let Some((parent, snapshot)) = image.parent {
                let tree = catalogue.tree(parent, Some(snapshot));
                let linked = catalogue.children.get(&(parent, snapshot));
                if tree.is_err() || !linked.is_some_and(|children| children.contains(id)) {
                    wrong.push(format!("the parent of {} is missing", image.spec));
                }
            }
        }
        for (name, id) in &catalogue.objects {
            if !catalogue.images.contains_key(id) {
                wrong.push(format!("the object {name:?} has no data"));
            }
        }
        wrong.into_iter().for_each(|text| self.error(text));
    }

    fn counts(&mut self) {
        let mut wrong = 0;
        let mut example = None;
        let mut claimed = 0;
        for unit in 0..self.found.len() as u64 {
            let found =
                u32::from(self.found[unit as usize]) + self.more.get(&unit).copied().unwrap_or(0);
            let counted = self.shard.state.trees.space.count(unit);
            claimed += u64::from(counted > 0);
            if counted != found {
                wrong += 1;
                example.get_or_insert((unit, counted, found));
            }
        }
        if let Some((unit, counted, found)) = example {
            let text =
                format!("{wrong} units are counted wrong, as unit {unit}: {counted}, not {found}");
            self.error(text);
        }
        let pages = self.unsaved.clone();
        for (page, found) in pages {
            let page = self.shard.state.trees.pages.find(page);
            let counted = page.map_or(0, |page| page.references);
            self.expect(counted == found, || {
                format!("a page is counted {counted} times, not {found}")
            });
        }
        let (used, counted) = (
            self.report.used_bytes,
            self.shard.state.trees.used * UNIT_BYTES as u64,
        );
        self.expect(used == counted, || {
            format!("{counted} bytes are counted as used, not {used}")
        });
        let kept = self.shard.kept_units() + claimed;
        let total = self.shard.state.trees.space.total();
        self.expect(kept == total, || {
            format!("{kept} of {total} units are accounted for")
        });
    }
}

impl Shard {
    /// Both copies of the superblock's slot in use, and the checkpoint file that they point to.
    pub(super) fn wrong_in_files(&mut self) -> Vec<String> {
        let length = COPIES as usize * UNIT_BYTES;
        let bytes = match self.disk.read_now(FileId::Superblock, 0, length) {
            Ok(bytes) => bytes,
            Err(error) => return vec![format!("superblock: {error}")],
        };
        let number = self.checkpoint.number;
        let copies = bytes.chunks(UNIT_BYTES).enumerate();
        let mut wrong = Vec::new();
        // The other slot is not in use.
        for (copy, bytes) in copies.filter(|(copy, _)| *copy as u64 / 2 == number & 1) {
            match Superblock::from_bytes(bytes) {
                Found::Sound(found) if found.checkpoint == number => {
                    wrong.extend(self.wrong_in_state(&found));
                }
                _ => wrong.push(format!("superblock at byte {}: {WRONG}", copy * UNIT_BYTES)),
            }
        }
        wrong.dedup();
        wrong
    }

    fn wrong_in_state(&mut self, superblock: &Superblock) -> Option<String> {
        let file = FileId::Checkpoint(superblock.slot());
        let length = superblock.state_bytes as usize;
        let read = self
            .disk
            .read_now(file, 0, length.next_multiple_of(UNIT_BYTES));
        let sound =
            read.is_ok_and(|bytes| bytes.get(..length).map(crc) == Some(superblock.state_crc));
        (!sound).then(|| format!("{}: {WRONG}", file.name()))
    }

    /// Space maps that are not as they were saved.
    pub(super) fn wrong_maps(&mut self, maps: std::ops::Range<usize>) -> Vec<String> {
        let mut wrong = Vec::new();
        for index in maps {
            let Some(map) = self.state.trees.space.maps.get(index).copied() else {
                break;
            };
            if map.slot == MapUnit::NEVER {
                continue;
            }
            let unit = MapUnit::place(index, map.slot);
            let (file, offset) = place(unit);
            let read = self.disk.read_now(file, offset, UNIT_BYTES);
            if !read.is_ok_and(|bytes| crc(&bytes) == map.crc) {
                wrong.push(describe(unit, "the space map is damaged"));
            }
        }
        wrong
    }

    /// Units that are free or will be soon.
    pub(super) fn free_units(&self) -> u64 {
        let releasing = self.to_release.iter().map(|(_, units)| units.len() as u64);
        self.available() + self.state.trees.space.freed() + releasing.sum::<u64>()
    }

    /// Units that are free, or kept for a known reason, without those of trees.
    fn kept_units(&self) -> u64 {
        let space = &self.state.trees.space;
        let chunks = space.total().div_ceil(CHUNK_UNITS);
        let log = self.log.headers.len() as u64 + self.log.next_units;
        self.free_units() + space.absent() + log + chunks * SPACE_MAP_UNITS
    }
}
