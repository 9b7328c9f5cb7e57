//! The janitor thread: takes dropped trees apart in small steps, gives freed blocks back to the
//! file system, and after a crash finds space that no image keeps.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::blocks::{CHUNK_BLOCKS, Run, push_block};
use super::engine::Engine;
use super::space::{Bits, GROUP_BLOCKS, bit};
use super::state::State;
use crate::Result;

/// Groups of blocks that are given back under one hold of the lock.
const GROUPS_AT_ONCE: usize = 64;

impl Engine {
    /// Works until the store stops. `sweep`: the store was not closed.
    pub(super) fn run_janitor(&self, sweep: bool) {
        let chunks = match self.state() {
            Ok(state) if sweep => state.space.chunks.len() as u64,
            _ => 0,
        };
        let mut unswept = 0..chunks;
        let mut within = 0;
        let mut chunk = unswept.next();
        loop {
            let Ok(mut state) = self.state() else {
                return;
            };
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            // Drops first: neighbours that go together are given back in one piece.
            if !state.drops.is_empty() {
                self.drop_one(state);
            } else if state.reclaimable() {
                self.reclaim(state);
            } else if let Some(number) = chunk {
                drop(state);
                match self.sweep(number, within) {
                    Ok(Some(next)) if next < CHUNK_BLOCKS => within = next,
                    result => {
                        log(
                            result.map(|_| ()),
                            "space that no image keeps was not found",
                        );
                        (chunk, within) = (unswept.next(), 0);
                    }
                }
            } else {
                state.swept = true;
                // A batch that is still there waits for a reader, who does not tell when done.
                let most = match state.reclaim.is_empty() {
                    true => Duration::from_secs(3600),
                    false => Duration::from_millis(2),
                };
                if self.work.wait_timeout(state, most).is_err() {
                    return;
                }
            }
        }
    }

    /// Gives back what commits freed and nobody reads any more.
    fn reclaim(&self, mut state: MutexGuard<'_, State>) {
        let mut freed = Vec::new();
        while state.reclaimable() {
            let batch = state.reclaim.pop_front();
            freed.extend(batch.into_iter().flat_map(|(_, blocks)| blocks));
        }
        state.reclaiming = true;
        drop(state);
        freed.sort_unstable();
        let group_of = |block: &u64| block / GROUP_BLOCKS;
        let groups: Vec<&[u64]> = freed.chunk_by(|a, b| group_of(a) == group_of(b)).collect();
        for groups in groups.chunks(GROUPS_AT_ONCE) {
            if let Err(error) = self.reclaim_groups(groups) {
                // They stay busy until the next start.
                tracing::warn!(%error, "freed blocks keep their space");
            }
        }
        let Ok(mut state) = self.state() else {
            return;
        };
        state.reclaiming = false;
        let mut chunks: Vec<u64> = freed.iter().map(|block| block / CHUNK_BLOCKS).collect();
        chunks.dedup();
        for chunk in chunks {
            if state.space.chunk_is_idle(chunk) {
                log(self.files.truncate(chunk), "a chunk file was not emptied");
            }
        }
        self.reserve.refill();
        drop(state);
        self.changed.notify_all();
    }

    fn reclaim_groups(&self, groups: &[&[u64]]) -> Result<()> {
        let mut held: Vec<(u64, Bits)> = Vec::new();
        let mut state = self.state()?;
        for blocks in groups {
            if let Some(first) = blocks.first() {
                let group = first / GROUP_BLOCKS;
                held.push((group, state.hold_free(group, blocks)?));
            }
        }
        drop(state);
        let freed = |run: &Run| {
            let place = |group: &&&[u64]| group.last().is_some_and(|last| *last >= run.start);
            let blocks = groups.iter().find(place);
            blocks.is_some_and(|blocks| {
                let at = blocks.partition_point(|block| *block < run.start);
                blocks
                    .get(at)
                    .is_some_and(|block| *block < run.start + run.count)
            })
        };
        self.give_back(&held, freed)
    }

    /// Gives those runs of blocks that are held back to the file system, and lets them be taken.
    fn give_back(&self, held: &[(u64, Bits)], wanted: impl Fn(&Run) -> bool) -> Result<()> {
        let mut runs = Vec::new();
        for (group, bits) in held {
            for index in (0..GROUP_BLOCKS).filter(|index| bit(bits, *index)) {
                push_block(&mut runs, group * GROUP_BLOCKS + index);
            }
        }
        for run in runs.iter().filter(|run| wanted(run)) {
            log(self.files.punch(*run), "freed blocks keep their space");
        }
        let mut state = self.state()?;
        for (group, bits) in held {
            state.space.release(*group, bits);
        }
        Ok(())
    }

    fn drop_one(&self, mut state: MutexGuard<'_, State>) {
        let Some(dropped) = state.drops.pop() else {
            return;
        };
        // A damaged node stays in the catalogue's queue, for a check to find.
        let result = state.transact(|state| state.finish_drop(dropped));
        log(result, "a dropped node keeps its space");
        let settled = state.drops.is_empty();
        let full = self.after_change_is_full(state);
        if settled {
            self.changed.notify_all();
        }
        if full {
            drop(self.state_with_room());
        }
        std::thread::yield_now();
    }

    fn after_change_is_full(&self, state: MutexGuard<'_, State>) -> bool {
        let full = state.cost_bytes() > (8 << 20);
        self.after_change(state);
        full
    }

    /// Frees the space of unused blocks in the next group of a chunk file that keeps any;
    /// answers where to go on, `None` at the end.
    fn sweep(&self, chunk: u64, within: u64) -> Result<Option<u64>> {
        let Some(stored) = self.files.next_stored(chunk, within)? else {
            return Ok(None);
        };
        let within = stored - stored % GROUP_BLOCKS;
        let group = (chunk * CHUNK_BLOCKS + within) / GROUP_BLOCKS;
        let held = self.state()?.hold_free(group, &[])?;
        self.give_back(&[(group, held)], |_| true)?;
        Ok(Some(within + GROUP_BLOCKS))
    }
}

impl State {
    /// Nobody reads any more what the oldest commit freed.
    fn reclaimable(&self) -> bool {
        let oldest = self.reclaim.front();
        oldest.is_some_and(|(reading, _)| Arc::strong_count(reading) == 1)
    }
}

fn log(result: Result<()>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}
