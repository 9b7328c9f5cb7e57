//! The allocator: one byte for each unit of the chunk files.
//!
//! **Promises.** A unit is handed out only when no durable checkpoint and no batch after it can
//! need what it holds: what is freed stays [`PENDING`] until a checkpoint that knows it as free
//! is durable, and the caller has said so with [`Space::release`].
//!
//! Units are handed out by regions of 1 MiB, the emptiest first, so that batches stay contiguous
//! without ever moving data: a fragmented store gets shorter runs, never stuck.

use std::collections::{HashMap, VecDeque};

use super::buffer::UNIT_BYTES;
use super::format::{CHUNK_UNITS, COUNTED_UNITS, SPACE_MAP_UNITS, Unit};

const FREE: u8 = 0;
/// More references than this are counted in [`Space::overflow`].
const MOST: u8 = 250;
const OVERFLOW: u8 = 251;
/// Handed out, not part of any tree yet. On the disk: free.
const RESERVED: u8 = 253;
/// Freed since the last durable checkpoint. On the disk: free.
const PENDING: u8 = 254;
/// In a region that was given back to the file system. On the disk: free.
const ABSENT: u8 = 255;

/// 1 MiB.
pub(crate) const REGION_UNITS: usize = 256;
/// How much less full a region must be on each round.
const THRESHOLD_STEP: u16 = 32;

/// Where the counts of [`COUNTED_UNITS`] units are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapUnit {
    /// [`MapUnit::NEVER`]: not saved yet, all are free.
    pub(crate) slot: u8,
    pub(crate) crc: u32,
}

impl MapUnit {
    pub(crate) const NEVER: u8 = 2;
    const NEW: MapUnit = MapUnit {
        slot: Self::NEVER,
        crc: 0,
    };

    /// Where slot `slot` of map unit `index` is.
    pub(crate) fn place(index: usize, slot: u8) -> Unit {
        let per_chunk = CHUNK_UNITS / COUNTED_UNITS;
        let (chunk, within) = (index as u64 / per_chunk, index as u64 % per_chunk);
        chunk * CHUNK_UNITS + u64::from(slot) * per_chunk + within
    }
}

/// Runs of units that somebody hands out from, one after another.
#[derive(Debug, Default)]
pub(crate) struct Open {
    runs: VecDeque<(Unit, u64)>,
    left: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Space {
    counts: Vec<u8>,
    free_in_region: Vec<u16>,
    free: u64,
    absent: u64,
    threshold: u16,
    cursor: usize,
    overflow: HashMap<Unit, u32>,
    pub(crate) maps: Vec<MapUnit>,
    changed: Vec<bool>,
    freed: Vec<Unit>,
}

impl Space {
    /// Units in all, used or not.
    pub(crate) fn total(&self) -> u64 {
        self.counts.len() as u64
    }

    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Units without room on the disk.
    pub(crate) fn absent(&self) -> u64 {
        self.absent
    }

    /// Units that the next checkpoint will set free.
    pub(crate) fn freed(&self) -> u64 {
        self.freed.len() as u64
    }

    /// Adds empty units up to `total`, a multiple of [`COUNTED_UNITS`].
    pub(crate) fn grow(&mut self, total: u64) {
        let from = self.total();
        self.counts.resize(total as usize, FREE);
        self.free_in_region
            .resize(total as usize / REGION_UNITS, REGION_UNITS as u16);
        self.free += total.saturating_sub(from);
        let maps = (total / COUNTED_UNITS) as usize;
        self.maps.resize(maps, MapUnit::NEW);
        self.changed.resize(maps, false);
        for chunk in from.div_ceil(CHUNK_UNITS)..total.div_ceil(CHUNK_UNITS) {
            let first = chunk * CHUNK_UNITS;
            (first..first + SPACE_MAP_UNITS).for_each(|unit| self.reserve(unit));
        }
        self.begin_round();
    }

    /// Sets the counts of a map unit, as they were saved. `None`: they cannot be.
    pub(crate) fn load(&mut self, index: usize, map: MapUnit, bytes: &[u8]) -> Option<()> {
        let start = index * COUNTED_UNITS as usize;
        let slots = self.counts.get_mut(start..start + bytes.len())?;
        let regions = self.free_in_region.get_mut(start / REGION_UNITS..)?;
        let each = bytes.chunks(REGION_UNITS);
        let each = each.zip(slots.chunks_mut(REGION_UNITS)).zip(regions);
        for ((saved, counts), free) in each {
            let used = saved.iter().filter(|count| **count != FREE).count();
            if used == 0 {
                continue;
            }
            let fit = saved.iter().zip(&*counts).all(|(saved, count)| {
                // What the format keeps for itself is free on the disk.
                *saved <= OVERFLOW && (*saved == FREE || *count == FREE)
            });
            if !fit {
                return None;
            }
            for (count, saved) in counts.iter_mut().zip(saved) {
                *count |= *saved;
            }
            self.free -= used as u64;
            *free -= used as u16;
        }
        *self.maps.get_mut(index)? = map;
        Some(())
    }

    pub(crate) fn load_overflow(&mut self, unit: Unit, count: u32) {
        self.overflow.insert(unit, count);
    }

    pub(crate) fn overflow(&self) -> &HashMap<Unit, u32> {
        &self.overflow
    }

    /// The map units that changed since they were last saved.
    pub(crate) fn take_changed(&mut self) -> Vec<usize> {
        let changed = self.changed.iter_mut().enumerate();
        let changed =
            changed.filter_map(|(index, changed)| std::mem::take(changed).then_some(index));
        changed.collect()
    }

    /// What is saved of a map unit.
    pub(crate) fn map_bytes(&self, index: usize) -> [u8; UNIT_BYTES] {
        let counts = self.counts.iter().skip(index * UNIT_BYTES);
        let mut bytes = [FREE; UNIT_BYTES];
        for (byte, count) in bytes.iter_mut().zip(counts) {
            *byte = if *count >= RESERVED { FREE } else { *count };
        }
        bytes
    }

    /// References to a unit.
    pub(crate) fn count(&self, unit: Unit) -> u32 {
        match self.counts.get(unit as usize).copied() {
            None | Some(FREE | RESERVED | PENDING | ABSENT) => 0,
            Some(OVERFLOW) => self.overflow.get(&unit).copied().unwrap_or(0),
            Some(count) => count.into(),
        }
    }

    /// Whether a batch can have used the unit since the checkpoint, and none before it has.
    pub(crate) fn is_claimable(&self, unit: Unit) -> bool {
        let count = self.counts.get(unit as usize);
        matches!(count, Some(&(FREE | ABSENT)))
    }

    fn mark(&mut self, unit: Unit) {
        self.changed[(unit / COUNTED_UNITS) as usize] = true;
    }

    /// Takes a certain free unit out of use, until it is claimed or released.
    pub(crate) fn reserve(&mut self, unit: Unit) {
        if self.counts.get(unit as usize) == Some(&ABSENT) {
            // It was filled after the checkpoint that knows it as absent.
            self.restore(unit as usize / REGION_UNITS, 1);
        }
        if let Some(count) = self.counts.get_mut(unit as usize)
            && *count == FREE
        {
            *count = RESERVED;
            self.free -= 1;
            self.free_in_region[unit as usize / REGION_UNITS] -= 1;
        }
    }

    /// The unit now has `count` references.
    pub(crate) fn claim(&mut self, unit: Unit, count: u32) {
        self.reserve(unit);
        self.mark(unit);
        self.set(unit, count);
    }

    fn set(&mut self, unit: Unit, count: u32) {
        let slot = &mut self.counts[unit as usize];
        if count > MOST.into() {
            *slot = OVERFLOW;
            self.overflow.insert(unit, count);
        } else {
            if *slot == OVERFLOW {
                self.overflow.remove(&unit);
            }
            *slot = count as u8;
        }
    }

    /// One more reference.
    #[inline]
    pub(crate) fn add(&mut self, unit: Unit) {
        self.mark(unit);
        match &mut self.counts[unit as usize] {
            count @ 1..MOST => *count += 1,
            _ => self.set(unit, self.count(unit) + 1),
        }
    }

    /// One reference less. True: it was the last.
    #[inline]
    pub(crate) fn subtract(&mut self, unit: Unit) -> bool {
        self.mark(unit);
        match &mut self.counts[unit as usize] {
            count @ 2..=MOST => {
                *count -= 1;
                false
            }
            count @ 1 => {
                *count = PENDING;
                self.freed.push(unit);
                true
            }
            _ => {
                self.set(unit, self.count(unit).saturating_sub(1));
                false
            }
        }
    }

    /// A reserved unit that nobody took: it may still be read until the next checkpoint.
    pub(crate) fn set_aside(&mut self, unit: Unit) {
        if self.counts.get(unit as usize) == Some(&RESERVED) {
            self.counts[unit as usize] = PENDING;
            self.freed.push(unit);
        }
    }

    /// What was freed until now: to be released when a checkpoint from now on is durable.
    pub(crate) fn take_freed(&mut self) -> Vec<Unit> {
        std::mem::take(&mut self.freed)
    }

    pub(crate) fn release(&mut self, units: Vec<Unit>) {
        for unit in units {
            self.counts[unit as usize] = FREE;
            self.free += 1;
            self.free_in_region[unit as usize / REGION_UNITS] += 1;
        }
        self.begin_round();
    }

    fn is_absent(&self, region: usize) -> bool {
        self.counts.get(region * REGION_UNITS) == Some(&ABSENT)
    }

    /// Takes up to `most` regions that are wholly free out of use, the last first; answers runs of
    /// them: the first region, and how many. None lies across two chunk files, whose first regions
    /// hold space maps.
    pub(crate) fn retire(&mut self, most: usize) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let mut left = most;
        for region in (0..self.free_in_region.len()).rev() {
            if left == 0 {
                break;
            }
            if usize::from(self.free_in_region[region]) < REGION_UNITS {
                continue;
            }
            self.retire_region(region);
            left -= 1;
            match runs.last_mut() {
                Some((first, count)) if *first == region + 1 => {
                    *first = region;
                    *count += 1;
                }
                _ => runs.push((region, 1)),
            }
        }
        runs
    }

    fn retire_region(&mut self, region: usize) {
        let first = region * REGION_UNITS;
        self.counts[first..first + REGION_UNITS].fill(ABSENT);
        self.free_in_region[region] = 0;
        self.free -= REGION_UNITS as u64;
        self.absent += REGION_UNITS as u64;
    }

    /// Absent regions have room again.
    pub(crate) fn restore(&mut self, first: usize, count: usize) {
        for region in first..first + count {
            if self.is_absent(region) {
                let start = region * REGION_UNITS;
                self.counts[start..start + REGION_UNITS].fill(FREE);
                self.free_in_region[region] = REGION_UNITS as u16;
                self.free += REGION_UNITS as u64;
                self.absent -= REGION_UNITS as u64;
            }
        }
        self.begin_round();
    }

    /// Runs of absent regions, in order.
    pub(crate) fn absent_runs(&self) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        if self.absent == 0 {
            return runs;
        }
        for region in (0..self.free_in_region.len()).filter(|region| self.is_absent(*region)) {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == region => *count += 1,
                _ => runs.push((region, 1)),
            }
        }
        runs
    }

    /// As it was saved. `None`: there is something in it, or it is not there.
    pub(crate) fn load_absent(&mut self, first: usize, count: usize) -> Option<()> {
        let end = first.checked_add(count)?;
        let free = self.free_in_region.get(first..end)?;
        if free.iter().any(|free| usize::from(*free) < REGION_UNITS) {
            return None;
        }
        (first..end).for_each(|region| self.retire_region(region));
        Some(())
    }

    fn begin_round(&mut self) {
        self.threshold = REGION_UNITS as u16;
    }

    /// Up to `most` units in one run. `None`: the store is full.
    pub(crate) fn take(&mut self, open: &mut Open, most: u64) -> Option<(Unit, u64)> {
        if open.runs.is_empty() {
            self.refill(open)?;
        }
        let run = open.runs.front_mut()?;
        let taken = (run.0, run.1.min(most));
        run.0 += taken.1;
        run.1 -= taken.1;
        if run.1 == 0 {
            open.runs.pop_front();
        }
        open.left -= taken.1;
        Some(taken)
    }

    /// Exactly these units next to each other.
    pub(crate) fn take_contiguous(&mut self, units: u64) -> Option<Unit> {
        let mut start = 0;
        for unit in 0..self.counts.len() {
            if self.counts[unit] != FREE {
                start = unit + 1;
            } else if (unit + 1 - start) as u64 == units {
                (start..=unit).for_each(|unit| self.reserve(unit as Unit));
                return Some(start as Unit);
            }
        }
        None
    }

    /// The run that comes next, if it starts at this unit.
    pub(crate) fn take_at(&mut self, open: &mut Open, unit: Unit, units: u64) -> bool {
        match open.runs.front().copied() {
            Some((start, length)) if start == unit && length >= units => {
                self.take(open, units).is_some()
            }
            _ => false,
        }
    }

    fn refill(&mut self, open: &mut Open) -> Option<()> {
        let region = self.next_region()?;
        let first = region * REGION_UNITS;
        let mut run: Option<(Unit, u64)> = None;
        for unit in first..first + REGION_UNITS {
            if self.counts[unit] != FREE {
                open.runs.extend(run.take());
                continue;
            }
            self.counts[unit] = RESERVED;
            run = Some(run.map_or((unit as Unit, 1), |(start, length)| (start, length + 1)));
        }
        open.runs.extend(run);
        let taken = u64::from(std::mem::take(&mut self.free_in_region[region]));
        self.free -= taken;
        open.left += taken;
        Some(())
    }

    fn next_region(&mut self) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        loop {
            let threshold = self.threshold;
            let wanted = |free: &u16| *free >= threshold;
            let after = self.free_in_region.get(self.cursor..).unwrap_or_default();
            if let Some(found) = after.iter().position(wanted) {
                self.cursor += found + 1;
                return Some(self.cursor - 1);
            }
            self.cursor = 0;
            if let Some(found) = self.free_in_region.iter().position(wanted) {
                self.cursor = found + 1;
                return Some(found);
            }
            if self.threshold == 1 {
                return None;
            }
            self.threshold = self.threshold.saturating_sub(THRESHOLD_STEP).max(1);
        }
    }

    /// Gives back what is left.
    pub(crate) fn close(&mut self, open: &mut Open) {
        let units = open
            .runs
            .drain(..)
            .flat_map(|(start, length)| start..start + length);
        let units = units.collect();
        open.left = 0;
        self.release(units);
    }
}

impl Open {
    /// Units that can be taken without looking for more.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        let mut space = Space::default();
        space.grow(2 * COUNTED_UNITS);
        space
    }

    #[test]
    fn units_are_handed_out_once_and_in_runs() {
        let mut space = space();
        let all = space.free();
        assert_eq!(all, 2 * COUNTED_UNITS - SPACE_MAP_UNITS);
        let mut open = Open::default();
        let mut seen = std::collections::HashSet::new();
        while let Some((start, length)) = space.take(&mut open, 100) {
            assert!((start..start + length).all(|unit| seen.insert(unit)));
        }
        assert_eq!(seen.len() as u64, all);
        assert!((0..SPACE_MAP_UNITS).all(|unit| !seen.contains(&unit)));
    }

    #[test]
    fn freed_units_come_back_only_when_released() {
        let mut space = space();
        let mut open = Open::default();
        let (unit, _) = space.take(&mut open, 1).unwrap();
        space.claim(unit, 1);
        for _ in 0..600 {
            space.add(unit);
        }
        assert_eq!(space.count(unit), 601);
        for _ in 0..600 {
            assert!(!space.subtract(unit));
        }
        assert!(space.overflow().is_empty());
        assert!(space.subtract(unit));
        space.close(&mut open);
        let free = space.free();
        assert!(!space.is_claimable(unit));
        let freed = space.take_freed();
        assert_eq!(freed, [unit]);
        space.release(freed);
        assert_eq!(space.free(), free + 1);
    }

    #[test]
    fn what_is_saved_comes_back() {
        let mut space = space();
        let mut open = Open::default();
        let (unit, _) = space.take(&mut open, 3).unwrap();
        space.claim(unit, 1);
        space.claim(unit + 1, 300);
        let index = (unit / COUNTED_UNITS) as usize;
        assert_eq!(space.take_changed(), [index]);
        let bytes = space.map_bytes(index);
        let mut copy = self::space();
        copy.load(index, MapUnit { slot: 1, crc: 5 }, &bytes)
            .unwrap();
        copy.load_overflow(unit + 1, 300);
        assert_eq!([0, 1, 2].map(|at| copy.count(unit + at)), [1, 300, 0]);
        assert_eq!(copy.free(), self::space().free() - 2);
    }

    #[test]
    fn regions_that_were_given_back_are_not_handed_out() {
        let mut space = space();
        let all = space.free();
        let mut open = Open::default();
        let (unit, _) = space.take(&mut open, 1).unwrap();
        space.claim(unit, 1);
        space.close(&mut open);
        let runs = space.retire(20);
        assert_eq!(runs.iter().map(|(_, count)| count).sum::<usize>(), 20);
        assert_eq!(
            space.absent_runs().iter().map(|run| run.1).sum::<usize>(),
            20
        );
        let first = runs[0].0 * REGION_UNITS;
        assert!(space.is_claimable(first as Unit));
        let mut left = all - 1 - 20 * REGION_UNITS as u64;
        assert_eq!(space.free(), left);
        while let Some((start, length)) = space.take(&mut open, 256) {
            let region = start as usize / REGION_UNITS;
            assert!(
                !runs
                    .iter()
                    .any(|(first, count)| (*first..first + count).contains(&region))
            );
            left -= length;
        }
        assert_eq!(left, 0);
        let (first, count) = runs[0];
        space.restore(first, count);
        assert_eq!(space.free(), (count * REGION_UNITS) as u64);
        // What a batch has used is there.
        let mut copy = self::space();
        copy.load_absent(20, 3).unwrap();
        copy.reserve(21 * REGION_UNITS as u64 + 5);
        assert_eq!(copy.absent_runs(), [(20, 1), (22, 1)]);
        assert!(copy.load_absent(0, 1).is_none());
    }
}
