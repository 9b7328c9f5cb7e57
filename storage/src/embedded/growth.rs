//! Room for changes: who may be admitted to the log, who waits, and when chunk files grow.

use std::ops::{AddAssign, SubAssign};

use super::buffer::UNIT_BYTES;
use super::disk::{Action, FileId, is_full};
use super::format::{CHUNK_UNITS, COUNTED_UNITS, MAX_UNITS};
use super::give_back::Kept;
use super::pages::Stop;
use super::records::CatalogueChange;
use super::request::{Change, Part};
use super::shard::{Shard, Tag, place};
use super::space::REGION_UNITS;
use super::tree::{entry_blocks, height_for};
use crate::{Error, Result};

/// Chunk files grow by at least and at most this many units.
const LEAST_GROWTH: u64 = COUNTED_UNITS;
const MOST_GROWTH: u64 = CHUNK_UNITS / 4;
pub(super) const REGION_BYTES: u64 = (REGION_UNITS * UNIT_BYTES) as u64;
/// Free units that the store tries to have, at most: 8 GiB.
const MOST_TARGET: u64 = 2 << 20;
/// Units kept for what gives space back.
const LEAST_RESERVE: u64 = 64;
const MOST_RESERVE: u64 = 2048;
/// Checkpoints that a change waits for before the store is called full.
const CHECKPOINTS_TO_WAIT: u64 = 3;

/// How the store gets more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    /// The chunk files grow to so many units in all.
    To(u64),
    /// Regions that were given back.
    Fill { first: usize, count: usize },
}

/// What an admitted change will still take: units for its data, and pages that the next checkpoint
/// has to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Promise {
    pub(super) units: u64,
    pages: u64,
}

impl AddAssign for Promise {
    fn add_assign(&mut self, more: Promise) {
        self.units += more.units;
        self.pages += more.pages;
    }
}

impl SubAssign for Promise {
    fn sub_assign(&mut self, less: Promise) {
        self.units -= less.units;
        self.pages -= less.pages;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Admit,
    Wait,
    Refuse,
}

impl Shard {
    /// Units that can be had now.
    pub(super) fn available(&self) -> u64 {
        self.state.trees.space.free() + self.log.open.left()
    }

    fn reserve(&self) -> u64 {
        let share = self.state.trees.space.total() / 32;
        share.clamp(LEAST_RESERVE, MOST_RESERVE)
    }

    /// What the next checkpoint will take.
    fn unsaved(&self) -> u64 {
        self.state.trees.pages.unsaved() as u64
    }

    /// Makes sure that the front of the queue has its space. False: the queue is empty, or its
    /// front has to wait.
    pub(super) fn admit(&mut self) -> bool {
        loop {
            let Some(mut change) = self.queue.pop_front() else {
                return false;
            };
            if change.promised.is_some() {
                self.queue.push_front(change);
                return true;
            }
            let promise = Promise {
                units: change.units(),
                pages: self.pages_of(&change),
            };
            let verdict = match self.has_room(&change, promise) {
                Ok(verdict) => verdict,
                Err(Stop::Missing(missing)) => {
                    self.load(missing);
                    Verdict::Wait
                }
                // Whoever wants to change it will be told so.
                Err(Stop::Damaged(..)) => Verdict::Admit,
            };
            match verdict {
                Verdict::Admit => {
                    change.promised = Some(promise);
                    self.promised += promise;
                    self.queue.push_front(change);
                    return true;
                }
                Verdict::Wait => {
                    change.waits_since.get_or_insert(self.checkpoint.number);
                    self.queue.push_front(change);
                    return false;
                }
                Verdict::Refuse => self.fail_change(change, Error::OutOfSpace),
            }
        }
    }

    /// The most pages that a change makes: those above all blocks that it writes, and above both
    /// ends of what it makes holes of.
    fn pages_of(&self, change: &Change) -> u64 {
        let (image, cut) = match change.then {
            Some(CatalogueChange::Resize { id, .. }) => (id, true),
            _ => (change.image, false),
        };
        let Ok((root, _)) = self.state.catalogue.tree(image, None) else {
            return 0;
        };
        let (mut first, mut end, mut written) = (u64::MAX, 0, 0);
        for part in &change.parts {
            let range = part.range();
            (first, end) = (first.min(range.0), end.max(range.1));
            if let Part::Data { .. } = part {
                written = written.max(range.1);
            }
        }
        let height = root.height.max(height_for(written));
        let levels = (1..=height).map(|level| {
            let step = entry_blocks(level);
            let above = |first: u64, end: u64| end.div_ceil(step).saturating_sub(first / step);
            let each = change.parts.iter().map(|part| match part.range() {
                (first, end) if part.units() > 0 => above(first, end),
                (first, end) => above(first, end).min(2),
            });
            each.sum::<u64>().min(above(first, end)) + u64::from(cut)
        });
        levels.sum()
    }

    fn has_room(&mut self, change: &Change, promise: Promise) -> Result<Verdict, Stop> {
        let units = promise.units;
        if let Some(limit) = self.settings.limit_units {
            let used = self.state.trees.used + self.promised.units;
            if units > 0 && used + units > limit {
                let fits = self.log.in_flight.is_empty()
                    && used + units <= limit + self.replaced(change)?;
                if !fits {
                    let drops = !self.state.trees.drops.is_empty();
                    return Ok(match drops || !self.log.in_flight.is_empty() {
                        true => Verdict::Wait,
                        false => Verdict::Refuse,
                    });
                }
            }
        }
        // A header for each batch, and a few for what comes between.
        let reserve = match change.frees() {
            true => self.unsaved() + 16,
            false => self.unsaved() + self.reserve() + 16,
        };
        let pages = self.promised.pages + promise.pages;
        let needed = self.promised.units + units + units / 256 + pages + reserve;
        if needed <= self.available() {
            return Ok(Verdict::Admit);
        }
        if self.growing.is_some() || self.grow() || self.is_giving_back() {
            return Ok(Verdict::Wait);
        }
        let waited = change
            .waits_since
            .map_or(0, |since| self.checkpoint.number - since);
        let hope = waited < CHECKPOINTS_TO_WAIT
            && !self.checkpoint.cannot_grow
            && (self.state.trees.space.freed() > 0
                || !self.log.headers.is_empty()
                || !self.to_release.is_empty()
                || self.checkpoint.is_running());
        if hope || !self.state.trees.drops.is_empty() || !self.log.in_flight.is_empty() {
            // One that cannot be made is not waited for.
            self.checkpoint.wanted |= !self.checkpoint.cannot_grow;
            return Ok(Verdict::Wait);
        }
        Ok(Verdict::Refuse)
    }

    /// Units that the change sets free where it writes.
    fn replaced(&mut self, change: &Change) -> Result<u64, Stop> {
        let Ok((root, _)) = self.state.catalogue.tree(change.image, None) else {
            return Ok(0);
        };
        let mut replaced = 0;
        for part in &change.parts {
            if let Part::Data { block, crcs, .. } = part {
                let trees = &mut self.state.trees;
                replaced += trees.owned(&root, *block, crcs.len() as u64)?;
            }
        }
        Ok(replaced)
    }

    /// Free units that writes will soon need.
    pub(super) fn wanted_units(&self) -> u64 {
        let trees = &self.state.trees;
        let freed = trees.space.freed();
        let target = (trees.used / 2 + freed).clamp(LEAST_GROWTH / 2, MOST_TARGET);
        match self.settings.limit_units {
            Some(limit) => target.min(limit / 2 + LEAST_GROWTH / 2),
            None => target,
        }
    }

    /// Grows ahead of need, so that writes seldom wait for it.
    pub(super) fn grow_if_wanted(&mut self) {
        if self.available() < self.wanted_units() && self.stopped.is_none() {
            self.grow();
        }
    }

    /// Starts to grow. False: there is no room, or it is being done already.
    pub(super) fn grow(&mut self) -> bool {
        if self.growing.is_some() || self.cannot_grow {
            return false;
        }
        match self.keep_what_is_not_given_back() {
            Kept::Units => return true,
            // What is on its way out must be gone first.
            Kept::Soon => return false,
            Kept::Nothing => {}
        }
        if self.state.trees.space.absent() > 0 {
            return self.fill_absent();
        }
        let total = self.state.trees.space.total();
        let step = total.clamp(LEAST_GROWTH, MOST_GROWTH);
        let chunk_end = (total / CHUNK_UNITS + 1) * CHUNK_UNITS;
        let mut to = (total + step).min(chunk_end).min(MAX_UNITS);
        let room = self.disk.room().map_or(0, |(free, _)| free) / UNIT_BYTES as u64;
        if to - total > room {
            to = total + room / LEAST_GROWTH * LEAST_GROWTH;
        }
        if to <= total {
            self.cannot_grow = true;
            return false;
        }
        self.growing = Some(Growth::To(to));
        let chunk = (total / CHUNK_UNITS) as u32;
        let bytes = (to - u64::from(chunk) * CHUNK_UNITS) * UNIT_BYTES as u64;
        self.order(Tag::Grow, FileId::Chunk(chunk), 0, Action::Grow(bytes));
        true
    }

    /// Regions that were given back get room again before the files grow longer.
    fn fill_absent(&mut self) -> bool {
        let runs = self.state.trees.space.absent_runs();
        let room = self.disk.room().map_or(0, |(free, _)| free) / REGION_BYTES;
        let most = (MOST_GROWTH / REGION_UNITS as u64).min(room) as usize;
        let Some((first, count)) = runs.first().filter(|_| most > 0).copied() else {
            self.cannot_grow = true;
            return false;
        };
        let count = count.min(most);
        self.growing = Some(Growth::Fill { first, count });
        let (file, offset) = place((first * REGION_UNITS) as u64);
        let bytes = count as u64 * REGION_BYTES;
        self.order(Tag::Grow, file, offset, Action::Fill(bytes));
        true
    }

    pub(super) fn finish_growing(&mut self, result: std::io::Result<()>) {
        let growth = self.growing.take();
        let space = &mut self.state.trees.space;
        match (result, growth) {
            (Ok(()), Some(Growth::To(total))) => space.grow(total),
            (Ok(()), Some(Growth::Fill { first, count })) => space.restore(first, count),
            (Ok(()), None) => {}
            (Err(error), _) if is_full(&error) => {
                tracing::warn!(%error, "the store cannot grow");
                self.cannot_grow = true;
            }
            // A sync is part of it: its error may be about data that was written before.
            (Err(error), _) => self.fail(&format!("growing a chunk file failed: {error}")),
        }
        self.again = true;
    }
}
