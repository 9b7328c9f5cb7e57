//! Changes on their way to the log: which may go on, which wait for pages or locked blocks, and what
//! has to be read first.
//!
//! **Promises.** Blocks whose old content a change needs are locked from the reading to the change's
//! effect: nothing else changes them meanwhile. One call about the catalogue is carried out at a
//! time: the next sees what it did.

use bytes::BytesMut;

use super::pages::Stop;
use super::records::{CatalogueChange, Record};
use super::request::{Change, Part, Patch, Plan, Read, ReadTo, Request};
use super::shard::Shard;
use crate::{Error, Result};

/// A patch whose edges are on their way.
pub(super) struct PatchJob {
    pub(super) patch: Patch,
    locks: Vec<(u64, u64)>,
    /// The changes before it that must have taken effect.
    after: u64,
    edges: Vec<(u64, BytesMut)>,
    left: usize,
    started: bool,
    failure: Option<Error>,
}

impl Shard {
    fn meets_lock(&self, image: u64, first: u64, end: u64) -> bool {
        let mut locked = self.locked.iter();
        locked.any(|(of, block)| *of == image && (first..end).contains(block))
    }

    fn must_park(&self, change: &Change) -> bool {
        if self.locked.is_empty() || !change.locks.is_empty() {
            return false;
        }
        let whole = match &change.then {
            Some(CatalogueChange::RollBack { id, .. } | CatalogueChange::Resize { id, .. }) => {
                self.meets_lock(*id, 0, u64::MAX)
            }
            _ => false,
        };
        let meets = |part: &Part| {
            let (first, end) = part.range();
            self.meets_lock(change.image, first, end)
        };
        whole || change.parts.iter().any(meets)
    }

    pub(super) fn start_change(&mut self, change: Change) {
        if self.must_park(&change) {
            return self.parked.push_back(Request::Change(change));
        }
        match self.change_is_ready(&change) {
            Ok(()) => {
                self.queued_changes += 1;
                self.queue.push_back(change);
            }
            Err(Stop::Missing(missing)) => {
                self.load(missing);
                self.stalled.push(Request::Change(change));
            }
            Err(Stop::Damaged(unit, why)) => {
                let block = change.parts.last().map_or(0, |part| part.range().0);
                let error = self.damaged(change.image, None, block, unit, &why);
                self.queued_changes += 1;
                self.fail_change(change, error);
            }
        }
    }

    fn change_is_ready(&mut self, change: &Change) -> Result<(), Stop> {
        if change.image != 0 {
            let Ok((root, _)) = self.state.catalogue.tree(change.image, None) else {
                return Ok(());
            };
            for part in &change.parts {
                let (first, end) = part.range();
                match part {
                    Part::Data { .. } => self.state.trees.ready_all(&root, first, end)?,
                    Part::Zero { .. } => self.state.trees.ready(&root, first, end)?,
                }
            }
        }
        match &change.then {
            Some(then) => self.state.ready(&Record::Change(then.clone())),
            None => Ok(()),
        }
    }

    /// The change does not happen, or what is left of it.
    pub(super) fn fail_change(&mut self, change: Change, error: Error) {
        self.promised -= change.promised.unwrap_or_default();
        self.finished_changes += 1;
        self.planning &= change.then.is_none();
        self.unlock(&change.locks);
        self.answer(change.reply, Err(error));
        self.again = true;
    }

    pub(super) fn unlock(&mut self, locks: &[(u64, u64)]) {
        for lock in locks {
            self.locked.remove(lock);
        }
        self.again |= !locks.is_empty();
    }

    pub(super) fn start_patch(&mut self, patch: Patch) {
        let (first, end) = patch.blocks();
        let whole = patch.then.is_some() && self.meets_lock(patch.image, 0, u64::MAX);
        if whole || self.meets_lock(patch.image, first, end) {
            return self.parked.push_back(Request::Patch(patch));
        }
        let locks: Vec<_> = patch
            .edges()
            .into_iter()
            .map(|block| (patch.image, block))
            .collect();
        self.locked.extend(&locks);
        let job = PatchJob {
            locks,
            patch,
            after: self.queued_changes,
            edges: Vec::new(),
            left: 0,
            started: false,
            failure: None,
        };
        self.next_patch += 1;
        self.patches.insert(self.next_patch, job);
    }

    pub(super) fn go_on_with_patches(&mut self) {
        if self.patches.is_empty() {
            return;
        }
        let finished = self.finished_changes;
        let waiting = self.patches.iter_mut();
        let ready = waiting.filter(|(_, job)| !job.started && job.after <= finished);
        let mut reads = Vec::new();
        for (number, job) in ready {
            job.started = true;
            job.left = job.locks.len();
            for (edge, (image, block)) in job.locks.iter().enumerate() {
                reads.push(Read {
                    image: *image,
                    snapshot: None,
                    block: *block,
                    count: 1,
                    to: ReadTo::Patch(*number, edge),
                });
                job.edges.push((*block, BytesMut::new()));
            }
        }
        for read in reads {
            self.start_read(read);
        }
    }

    pub(super) fn finish_edge(&mut self, number: u64, edge: usize, result: Result<BytesMut>) {
        let Some(job) = self.patches.get_mut(&number) else {
            return;
        };
        job.left -= 1;
        match (result, job.edges.get_mut(edge)) {
            (Ok(data), Some((_, bytes))) => *bytes = data,
            (Ok(_), None) => {}
            (Err(error), _) => job.failure = Some(error),
        }
        if job.left > 0 {
            return;
        }
        let Some(job) = self.patches.remove(&number) else {
            return;
        };
        let mut parts = match &job.failure {
            None => job.patch.parts(&job.edges),
            Some(_) => Vec::new(),
        };
        parts.reverse();
        let change = Change {
            image: job.patch.image,
            parts,
            then: job.patch.then,
            reply: job.patch.reply,
            durable: job.patch.durable,
            locks: job.locks,
            promised: None,
            waits_since: None,
        };
        match job.failure {
            None => self.start_change(change),
            Some(error) => {
                self.queued_changes += 1;
                self.fail_change(change, error);
            }
        }
    }

    /// Carries out one call about the catalogue at a time: the next sees what it did.
    pub(super) fn go_on_with_plans(&mut self) {
        while !self.planning
            && let Some(call) = self.plans.pop_front()
        {
            match (call.plan)(&mut self.state.catalogue) {
                Err(error) => self.answer(Some(call.reply), Err(error)),
                Ok(Plan::Nothing) => self.syncs.waiting.push(call.reply),
                Ok(Plan::Change(change)) => {
                    self.planning = true;
                    self.start_change(Change::of_catalogue(change, Some(call.reply)));
                }
                Ok(Plan::Patch(mut patch)) => {
                    self.planning = true;
                    patch.reply = Some(call.reply);
                    self.start_patch(patch);
                }
            }
        }
    }
}
