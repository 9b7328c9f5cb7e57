//! Space goes back to the file system: regions of 1 MiB in which nothing is in use.
//!
//! **Promises.** A region is given back only when a durable checkpoint says that it has no room of
//! its own, so that no start hands its units out before they have room again: a write that finds
//! the disk full would stop the store. Until then it can be taken back into use at once.

use super::disk::Action;
use super::growth::REGION_BYTES;
use super::shard::{Shard, Tag, place};
use super::space::REGION_UNITS;

/// Regions that are given back at one go: 1 GiB, and at most so much a second.
const MOST_REGIONS: u64 = 1024;
/// It is not worth a checkpoint for less.
const LEAST_REGIONS: u64 = 16;

/// Regions on their way back to the file system.
#[derive(Debug)]
pub(super) struct GivingBack {
    /// The first region, and how many.
    runs: Vec<(usize, usize)>,
    /// The checkpoint that says so.
    checkpoint: u64,
    /// Runs that the file system has been asked for; 0: none yet.
    left: usize,
    /// … and that it did not take.
    failed: usize,
}

/// What became of regions that were on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// They are in use again.
    Units,
    /// They are gone in a moment.
    Soon,
    Nothing,
}

impl Shard {
    /// Whether the file system is being asked.
    pub(super) fn is_giving_back(&self) -> bool {
        let giving = self.giving_back.as_ref();
        giving.is_some_and(|giving| giving.left > 0)
    }

    /// Once in a while: takes regions out of use, if there are many more than writes will need,
    /// or if others on the file system have used up what is kept free for them.
    pub(super) fn give_back(&mut self) {
        let busy = self.giving_back.is_some() || self.growing.is_some() || self.keeps_all;
        if busy || self.stopped.is_some() {
            return;
        }
        let wanted = self.wanted_units();
        let free = self.state.trees.space.free();
        let short = self.disk.room().is_ok_and(|(free, _)| free == 0);
        let kept = match short {
            true => wanted + wanted / 4,
            false => 2 * wanted + self.settings.spare_units,
        };
        let regions = free.saturating_sub(kept) / REGION_UNITS as u64;
        if regions < LEAST_REGIONS {
            return;
        }
        let runs = self
            .state
            .trees
            .space
            .retire(regions.min(MOST_REGIONS) as usize);
        if runs.is_empty() {
            return;
        }
        // One that is running does not know of them.
        let running = u64::from(self.checkpoint.is_running());
        self.giving_back = Some(GivingBack {
            runs,
            checkpoint: self.checkpoint.number + 1 + running,
            left: 0,
            failed: 0,
        });
        self.checkpoint.due = true;
        self.checkpoint.wanted = true;
        self.again = true;
    }

    /// A start: what was to be given back may not be gone yet.
    pub(super) fn give_back_again(&mut self) {
        let runs = self.state.trees.space.absent_runs();
        if !runs.is_empty() {
            self.giving_back = Some(GivingBack {
                runs,
                checkpoint: self.checkpoint.number,
                left: 0,
                failed: 0,
            });
            self.give_back_saved();
        }
    }

    /// A checkpoint is durable: the file system may have what it says is not in use.
    pub(super) fn give_back_saved(&mut self) {
        let Some(mut giving) = self.giving_back.take() else {
            return;
        };
        if giving.left == 0 && giving.checkpoint <= self.checkpoint.number {
            giving.left = giving.runs.len();
            for (first, count) in giving.runs.clone() {
                let (file, offset) = place((first * REGION_UNITS) as u64);
                let action = Action::GiveBack(count as u64 * REGION_BYTES);
                self.order(Tag::GiveBack, file, offset, action);
            }
        }
        self.giving_back = Some(giving);
    }

    pub(super) fn finish_giving_back(&mut self, result: std::io::Result<()>) {
        let Some(giving) = &mut self.giving_back else {
            return;
        };
        if let Err(error) = result {
            tracing::info!(%error, "space is not given back to the file system");
            giving.failed += 1;
            self.keeps_all = true;
        }
        giving.left -= 1;
        if giving.left > 0 {
            return;
        }
        if let Some(giving) = self.giving_back.take()
            && giving.failed == giving.runs.len()
        {
            // The file system cannot do it: all of them have their room.
            for (first, count) in giving.runs {
                self.state.trees.space.restore(first, count);
            }
        }
        self.again = true;
    }

    /// Somebody needs units.
    pub(super) fn keep_what_is_not_given_back(&mut self) -> Kept {
        let Some(giving) = self.giving_back.take() else {
            return Kept::Nothing;
        };
        if giving.left > 0 {
            self.giving_back = Some(giving);
            return Kept::Soon;
        }
        for (first, count) in giving.runs {
            self.state.trees.space.restore(first, count);
        }
        self.again = true;
        Kept::Units
    }
}
