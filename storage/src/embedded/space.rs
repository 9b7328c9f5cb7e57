//! Which blocks are in use: a count per block, kept in groups, and the search for free ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::blocks::{CHUNK_BLOCKS, Run, push_block};
use super::state::State;
use super::table::{Value, corrupt};
use crate::{Error, Result};

/// Blocks of a group.
pub(super) const GROUP_BLOCKS: u64 = 1024;
pub(super) const CHUNK_GROUPS: u64 = CHUNK_BLOCKS / GROUP_BLOCKS;
const WORDS: usize = GROUP_BLOCKS as usize / 64;
/// 1 PiB of chunk files.
const MAX_CHUNKS: usize = 1 << 20;

/// A bit per block of a group.
pub(super) type Bits = [u64; WORDS];

pub(super) fn bit(bits: &Bits, index: u64) -> bool {
    bits.get(index as usize / 64)
        .is_some_and(|word| word >> (index % 64) & 1 == 1)
}

pub(super) fn set_bit(bits: &mut Bits, index: u64, value: bool) {
    if let Some(word) = bits.get_mut(index as usize / 64) {
        let mask = 1 << (index % 64);
        *word = if value { *word | mask } else { *word & !mask };
    }
}

/// How many trees' leaves point to each block of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Group {
    /// No count is above 1.
    Bits(Box<Bits>),
    Counts(Box<[u32; GROUP_BLOCKS as usize]>),
}

impl Group {
    pub(super) fn empty() -> Self {
        Group::Bits(Box::new([0; WORDS]))
    }

    pub(super) fn count(&self, index: u64) -> u32 {
        match self {
            Group::Bits(bits) => u32::from(bit(bits, index)),
            Group::Counts(counts) => counts.get(index as usize).copied().unwrap_or(0),
        }
    }

    pub(super) fn set(&mut self, index: u64, count: u32) {
        if let Group::Bits(bits) = self {
            if count <= 1 {
                return set_bit(bits, index, count == 1);
            }
            let mut counts = Box::new([0; GROUP_BLOCKS as usize]);
            for (index, count) in counts.iter_mut().enumerate() {
                *count = u32::from(bit(bits, index as u64));
            }
            *self = Group::Counts(counts);
        }
        if let Group::Counts(counts) = self
            && let Some(slot) = counts.get_mut(index as usize)
        {
            *slot = count;
        }
    }

    pub(super) fn used(&self) -> Bits {
        match self {
            Group::Bits(bits) => **bits,
            Group::Counts(counts) => {
                let mut bits = [0; WORDS];
                for (word, counts) in bits.iter_mut().zip(counts.chunks_exact(64)) {
                    let used = counts.iter().enumerate();
                    *word = used.fold(0, |word, (at, count)| word | u64::from(*count > 0) << at);
                }
                bits
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used() == [0; WORDS]
    }
}

/// Layout: width u8; width 0: 1024 bits; width 1 or 4: 1024 counts of that many bytes.
/// Little-endian.
impl Value for Group {
    fn encode(&self, out: &mut Vec<u8>) {
        let counts = match self {
            Group::Bits(bits) => {
                out.push(0);
                return out.extend(bits.iter().flat_map(|word| word.to_le_bytes()));
            }
            Group::Counts(counts) => counts,
        };
        match counts.iter().max() {
            Some(0 | 1) | None => Group::Bits(Box::new(self.used())).encode(out),
            Some(2..=255) => {
                out.push(1);
                out.extend(counts.iter().map(|count| *count as u8));
            }
            Some(_) => {
                out.push(4);
                out.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (width, rest) = bytes.split_first()?;
        let mut counts = Box::new([0; GROUP_BLOCKS as usize]);
        match (*width, rest.len()) {
            (0, 128) => {
                let mut bits = Box::new([0; WORDS]);
                for (word, bytes) in bits.iter_mut().zip(rest.chunks_exact(8)) {
                    *word = u64::from_le_bytes(bytes.try_into().ok()?);
                }
                return Some(Group::Bits(bits));
            }
            (1, 1024) => {
                for (count, byte) in counts.iter_mut().zip(rest) {
                    *count = u32::from(*byte);
                }
            }
            (4, 4096) => {
                for (count, bytes) in counts.iter_mut().zip(rest.chunks_exact(4)) {
                    *count = u32::from_le_bytes(bytes.try_into().ok()?);
                }
            }
            _ => return None,
        }
        Some(Group::Counts(counts))
    }

    fn cost_bytes(&self) -> usize {
        match self {
            Group::Bits(_) => 128,
            Group::Counts(_) => 4096,
        }
    }
}

/// Used blocks per group of one chunk file: layout 256 u16, little-endian.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ChunkUse(pub(super) Vec<u16>);

impl ChunkUse {
    pub(super) fn empty() -> Self {
        ChunkUse(vec![0; CHUNK_GROUPS as usize])
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|used| used.to_le_bytes()).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pairs, []) = bytes.as_chunks::<2>() else {
            return None;
        };
        let used: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        (used.len() == CHUNK_GROUPS as usize).then_some(ChunkUse(used))
    }

    pub(super) fn blocks(&self) -> u64 {
        self.0.iter().map(|used| u64::from(*used)).sum()
    }
}

/// The state of the allocator beside the groups.
pub(super) struct Space {
    pub(super) chunks: Vec<ChunkUse>,
    /// Chunks whose numbers are not in the catalogue yet.
    pub(super) changed: BTreeSet<usize>,
    pub(super) used_blocks: u64,
    /// Allocated, but not in a tree yet.
    pub(super) in_flight: u64,
    /// Blocks that the groups count as free and that are not to be taken: in flight, or freed
    /// and not given back yet.
    pub(super) busy: HashMap<u64, Bits>,
    pub(super) limit_blocks: u64,
    /// Where the last search ended.
    cursor: u64,
}

impl Space {
    pub(super) fn new(chunks: Vec<ChunkUse>, limit_blocks: u64) -> Self {
        let used_blocks = chunks.iter().map(ChunkUse::blocks).sum();
        let mut space = Space {
            chunks,
            changed: BTreeSet::new(),
            used_blocks,
            in_flight: 0,
            busy: HashMap::new(),
            limit_blocks,
            cursor: 0,
        };
        // Number 0 stands for "no block" in the trees.
        space.set_busy(0, true);
        space
    }

    pub(super) fn set_busy(&mut self, block: u64, busy: bool) {
        let group = block / GROUP_BLOCKS;
        let bits = self.busy.entry(group).or_insert([0; WORDS]);
        set_bit(bits, block % GROUP_BLOCKS, busy);
        if *bits == [0; WORDS] {
            self.busy.remove(&group);
        }
    }

    pub(super) fn busy_bits(&self, group: u64) -> Bits {
        self.busy.get(&group).copied().unwrap_or([0; WORDS])
    }

    /// These blocks of a group are not busy any more.
    pub(super) fn release(&mut self, group: u64, bits: &Bits) {
        if let Some(busy) = self.busy.get_mut(&group) {
            for (busy, bits) in busy.iter_mut().zip(bits) {
                *busy &= !bits;
            }
            if *busy == [0; WORDS] {
                self.busy.remove(&group);
            }
        }
    }

    fn groups(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK_GROUPS
    }

    fn used_of(&self, group: u64) -> u64 {
        let chunk = self.chunks.get((group / CHUNK_GROUPS) as usize);
        chunk
            .and_then(|chunk| chunk.0.get((group % CHUNK_GROUPS) as usize))
            .map_or(GROUP_BLOCKS, |used| u64::from(*used))
    }

    /// Nothing of the chunk is in use or about to be.
    pub(super) fn chunk_is_idle(&self, chunk: u64) -> bool {
        let first = chunk * CHUNK_GROUPS;
        let busy = |group: &u64| {
            let only_zero = *group == 0
                && self
                    .busy_bits(0)
                    .iter()
                    .map(|word| word.count_ones())
                    .sum::<u32>()
                    == 1;
            self.busy.contains_key(group) && !only_zero
        };
        self.chunks
            .get(chunk as usize)
            .is_some_and(|used| used.blocks() == 0)
            && !(first..first + CHUNK_GROUPS).any(|group| busy(&group))
    }

    /// A call succeeded that changed how many blocks of a group are in use.
    fn adjust(&mut self, group: u64, change: i64) {
        let chunk = (group / CHUNK_GROUPS) as usize;
        let used = self
            .chunks
            .get_mut(chunk)
            .and_then(|chunk| chunk.0.get_mut((group % CHUNK_GROUPS) as usize));
        if let Some(used) = used {
            *used = (i64::from(*used) + change).clamp(0, GROUP_BLOCKS as i64) as u16;
            self.used_blocks = self.used_blocks.saturating_add_signed(change);
            self.changed.insert(chunk);
        }
    }
}

/// What the counts of a call's blocks come to; in force once the call has succeeded.
#[derive(Default)]
pub(super) struct Settled {
    /// Group and how many of its blocks more or less are in use.
    changes: Vec<(u64, i64)>,
    taken: Vec<u64>,
    pub(super) freed: Vec<u64>,
}

impl State {
    fn group(&mut self, group: u64) -> Result<Arc<Group>> {
        let found = self.groups.get(&group)?;
        Ok(found.unwrap_or_else(|| Arc::new(Group::empty())))
    }

    /// Bits of a group's blocks that can be taken.
    pub(super) fn free_bits(&mut self, group: u64) -> Result<Bits> {
        let used = self.group(group)?.used();
        let mut free = self.space.busy_bits(group);
        for (free, used) in free.iter_mut().zip(used) {
            *free = !(*free | used);
        }
        Ok(free)
    }

    /// Holds these freed blocks of a group and all of its free ones, so that nobody takes them
    /// until they are released: next to each other they are given back in fewer pieces.
    pub(super) fn hold_free(&mut self, group: u64, freed: &[u64]) -> Result<Bits> {
        let mut held = self.free_bits(group)?;
        for block in freed {
            set_bit(&mut held, block % GROUP_BLOCKS, true);
        }
        let busy = self.space.busy.entry(group).or_insert([0; WORDS]);
        for (busy, held) in busy.iter_mut().zip(held) {
            *busy |= held;
        }
        Ok(held)
    }

    /// Takes `count` blocks, next to each other as far as possible. They are in flight until
    /// [`State::landed`], and then in a tree or among the freed.
    pub(super) fn allocate(&mut self, count: u64) -> Result<Vec<Run>> {
        let wanted = self.space.used_blocks + self.space.in_flight + count;
        if self.low_on_space() || wanted > self.space.limit_blocks {
            return Err(Error::OutOfSpace);
        }
        let mut runs = Vec::new();
        let mut missing = count;
        let (start, groups) = (self.space.cursor, self.space.groups());
        let first_group = start / GROUP_BLOCKS;
        // The group of the cursor comes twice: its end first, its beginning last.
        for step in 0..=groups {
            if missing == 0 || groups == 0 {
                break;
            }
            let group = (first_group + step) % groups;
            let within = start % GROUP_BLOCKS;
            let range = match step {
                0 => within..GROUP_BLOCKS,
                step if step == groups => 0..within,
                _ => 0..GROUP_BLOCKS,
            };
            missing -= self.take(group, range, missing, &mut runs)?;
        }
        while missing > 0 {
            if self.space.chunks.len() >= MAX_CHUNKS {
                return Err(Error::OutOfSpace);
            }
            let group = self.space.groups();
            self.space.changed.insert(self.space.chunks.len());
            self.space.chunks.push(ChunkUse::empty());
            for group in group..group + CHUNK_GROUPS {
                missing -= self.take(group, 0..GROUP_BLOCKS, missing, &mut runs)?;
            }
        }
        for run in &runs {
            for block in run.start..run.start + run.count {
                self.space.set_busy(block, true);
            }
        }
        if let Some(last) = runs.last() {
            let groups = self.space.groups().max(1);
            self.space.cursor = (last.start + last.count) % (groups * GROUP_BLOCKS);
        }
        self.space.in_flight += count;
        Ok(runs)
    }

    /// Finds up to `most` free blocks of a range of a group; answers how many.
    fn take(
        &mut self,
        group: u64,
        range: std::ops::Range<u64>,
        most: u64,
        runs: &mut Vec<Run>,
    ) -> Result<u64> {
        if most == 0 || self.space.used_of(group) >= GROUP_BLOCKS {
            return Ok(0);
        }
        let free = self.free_bits(group)?;
        let mut found = 0;
        for index in range.filter(|index| bit(&free, *index)).take(most as usize) {
            push_block(runs, group * GROUP_BLOCKS + index);
            found += 1;
        }
        Ok(found)
    }

    /// Blocks in flight have landed in a tree (`Ok` of the call), or nowhere: then they are
    /// given back like freed ones, as data may have reached the file.
    pub(super) fn landed(&mut self, runs: &[Run], in_a_tree: bool) {
        for run in runs {
            self.space.in_flight = self.space.in_flight.saturating_sub(run.count);
            if !in_a_tree {
                self.freed.extend(run.start..run.start + run.count);
            }
        }
    }

    /// Brings the counts of the current call's gained and lost blocks into the groups.
    pub(super) fn settle_counts(&mut self) -> Result<Settled> {
        let gained = std::mem::take(&mut self.call.gained).into_iter();
        let lost = std::mem::take(&mut self.call.lost).into_iter();
        let mut changes: Vec<(u64, i64)> = gained.map(|block| (block, 1)).collect();
        changes.extend(lost.map(|block| (block, -1)));
        changes.sort_unstable();
        let mut settled = Settled::default();
        for changes in changes.chunk_by(|a, b| a.0 / GROUP_BLOCKS == b.0 / GROUP_BLOCKS) {
            let Some((block, _)) = changes.first() else {
                continue;
            };
            self.settle_group(block / GROUP_BLOCKS, changes, &mut settled)?;
        }
        Ok(settled)
    }

    fn settle_group(
        &mut self,
        number: u64,
        changes: &[(u64, i64)],
        settled: &mut Settled,
    ) -> Result<()> {
        if number >= self.space.groups() {
            return Err(corrupt(format!("block group {number} does not exist")));
        }
        let mut group = (*self.group(number)?).clone();
        let mut used = 0;
        for changes in changes.chunk_by(|a, b| a.0 == b.0) {
            let Some((block, _)) = changes.first() else {
                continue;
            };
            let change: i64 = changes.iter().map(|(_, change)| change).sum();
            let before = group.count(block % GROUP_BLOCKS);
            let after = u32::try_from(i64::from(before) + change)
                .map_err(|_| corrupt(format!("block {block} was counted {before} times only")))?;
            group.set(block % GROUP_BLOCKS, after);
            if before == 0 && after > 0 {
                used += 1;
                settled.taken.push(*block);
            } else if before > 0 && after == 0 {
                used -= 1;
                settled.freed.push(*block);
            }
        }
        settled.changes.push((number, used));
        let value = (!group.is_empty()).then(|| Arc::new(group));
        self.groups.put(number, value);
        Ok(())
    }

    /// Puts settled counts in force.
    pub(super) fn apply_settled(&mut self, settled: Settled) {
        for (group, change) in settled.changes {
            self.space.adjust(group, change);
        }
        for block in settled.taken {
            self.space.set_busy(block, false);
        }
        for block in &settled.freed {
            self.space.set_busy(*block, true);
        }
        self.freed.extend(settled.freed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_group_comes_back(counts in prop::collection::vec((0u64..1024, prop_oneof![0u32..3, 200u32..300, any::<u32>()]), 0..300)) {
            let mut group = Group::empty();
            let mut plain = [0u32; 1024];
            for (index, count) in counts {
                group.set(index, count);
                plain[index as usize] = count;
            }
            let mut bytes = Vec::new();
            group.encode(&mut bytes);
            let again = Group::decode(&bytes).unwrap();
            for (index, count) in (0..).zip(plain) {
                prop_assert_eq!(group.count(index), count);
                prop_assert_eq!(again.count(index), count);
                prop_assert_eq!(bit(&again.used(), index), count > 0);
            }
        }

        #[test]
        fn any_bytes_are_a_group_or_none(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = (Group::decode(&bytes), ChunkUse::from_bytes(&bytes));
        }
    }
}
