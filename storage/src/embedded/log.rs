//! The log: changes are gathered into batches, written, and take effect in order.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::buffer::UNIT_BYTES;
use super::disk::FileId;
use super::format::Unit;
use super::format::batch::{BatchHeader, ROOM_BYTES, header_units};
use super::growth::Promise;
use super::pages::Stop;
use super::records::{CatalogueChange, Record};
use super::request::{Change, Part, Patch, Plan, Read, ReadTo, Reply, Request};
use super::runs::Runs;
use super::shard::{Shard, Tag, place};
use super::space::Open;
use crate::aligned::{Spares, is_aligned};
use crate::{Error, Result};

/// Data from this length on is written from where it is; shorter data is copied together.
const GATHER_BYTES: usize = 32 << 10;
/// Buffers from this size on are used again.
const KEPT_BYTES: usize = 64 << 10;
/// Short batches that are written at the same time. While they are, more changes gather: fewer
/// and longer writes cost less.
const MOST_IN_FLIGHT: usize = 2;
/// A batch of so many changes or units is long enough, and need not wait for more: it keeps the
/// disk busy while others are received.
const LONG_CHANGES: usize = 8;
const LONG_UNITS: u64 = 64;
const MOST_LONG_IN_FLIGHT: usize = 8;

/// What is answered when a batch has taken effect.
pub(super) struct Finished {
    reply: Option<Reply<()>>,
    durable: bool,
    locks: Vec<(u64, u64)>,
    catalogue: bool,
    promised: Promise,
}

pub(super) struct Batch {
    sequence: u64,
    header: Unit,
    header_units: u64,
    records: Vec<Record>,
    applied: usize,
    pieces_left: usize,
    chunks: Vec<u32>,
    finished: Vec<Finished>,
}

pub(super) struct Log {
    pub(super) epoch: u64,
    /// Of the batch that is built next.
    pub(super) sequence: u64,
    /// Where it will be: promised by the header before it.
    pub(super) next: Unit,
    /// Reserved units from `next` on.
    next_units: u64,
    pub(super) open: Open,
    /// Headers that the next checkpoint makes superfluous.
    pub(super) headers: Vec<Unit>,
    pub(super) in_flight: VecDeque<Batch>,
    /// Batches below this number are durable.
    pub(super) durable: u64,
    /// Units that batches took since the last checkpoint began.
    pub(super) units: u64,
    /// Memory of batches that are written.
    pub(super) spares: Spares,
}

impl Log {
    pub(super) fn new(epoch: u64, sequence: u64, next: Unit, open: Open) -> Self {
        Log {
            epoch,
            sequence,
            next,
            next_units: 1,
            open,
            headers: Vec::new(),
            in_flight: VecDeque::new(),
            durable: sequence,
            units: 0,
            spares: Spares::default(),
        }
    }

    /// Where replay must begin to find everything that has not taken effect; `None`: not now.
    pub(super) fn replay_start(&self) -> Option<(Unit, u64)> {
        match self.in_flight.front() {
            None => Some((self.next, self.sequence)),
            Some(batch) if batch.applied == 0 => Some((batch.header, batch.sequence)),
            Some(_) => None,
        }
    }

    /// Units that wait for the next header.
    pub(super) fn next_units(&self) -> u64 {
        self.next_units
    }

    /// All batches below this number are written.
    pub(super) fn written_below(&self) -> u64 {
        let unwritten = self.in_flight.iter().find(|batch| batch.pieces_left > 0);
        unwritten.map_or(self.sequence, |batch| batch.sequence)
    }

    pub(super) fn fail_batches(&mut self) -> Vec<Reply<()>> {
        let finished = self.in_flight.drain(..).flat_map(|batch| batch.finished);
        finished.filter_map(|finished| finished.reply).collect()
    }
}

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

/// What a batch is made of.
#[derive(Default)]
struct Filling {
    records: Vec<Record>,
    record_bytes: usize,
    units: u64,
    /// Runs of units with their data, in order.
    data: Vec<(Unit, Bytes)>,
    finished: Vec<Finished>,
    /// The rest of its last change is the front of the queue.
    split: bool,
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

    fn unlock(&mut self, locks: &[(u64, u64)]) {
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

    pub(super) fn build_batches(&mut self) {
        while self.may_begin_batch() && self.stopped.is_none() {
            if !self.admit() || !self.build_batch() {
                return;
            }
        }
    }

    fn may_begin_batch(&self) -> bool {
        let in_flight = self.log.in_flight.len();
        in_flight < MOST_IN_FLIGHT || in_flight < MOST_LONG_IN_FLIGHT && self.has_long_batch()
    }

    fn has_long_batch(&self) -> bool {
        let mut units = 0;
        let mut waiting = self.queue.iter().take(LONG_CHANGES);
        let full = waiting.any(|change| {
            units += change.units();
            units >= LONG_UNITS
        });
        full || self.queue.len() >= LONG_CHANGES
    }

    /// False: nothing could be built.
    fn build_batch(&mut self) -> bool {
        let mut filling = Filling::default();
        while self.front_fits(&filling) {
            let Some(change) = self.queue.pop_front() else {
                break;
            };
            if let Some(mut rest) = self.fill(&mut filling, change) {
                if filling.records.is_empty() {
                    // What was promised is not there.
                    self.promised -= rest.promised.take().unwrap_or_default();
                }
                filling.split = true;
                self.queue.push_front(rest);
                break;
            }
            // The next must be admitted before it takes part.
            if !self.admit() {
                break;
            }
        }
        if filling.records.is_empty() && filling.finished.is_empty() {
            return false;
        }
        self.write_batch(filling)
    }

    fn front_fits(&self, filling: &Filling) -> bool {
        let Some(front) = self.queue.front() else {
            return false;
        };
        let then = front.then.as_ref().map_or(0, record_bytes);
        let least = match front.parts.last() {
            Some(_) => Record::data_bytes(1) + then,
            None => then,
        };
        let fits = filling.units < LONG_UNITS && filling.record_bytes + least <= ROOM_BYTES;
        filling.records.is_empty() || fits
    }

    /// Moves as much of the change as there is room for; answers the rest.
    fn fill(&mut self, filling: &mut Filling, mut change: Change) -> Option<Change> {
        while let Some(part) = change.parts.pop() {
            let room = ROOM_BYTES.saturating_sub(filling.record_bytes);
            let rest = match part {
                _ if room < Record::data_bytes(1) => Some(part),
                Part::Zero { block, count } => {
                    filling.record_bytes += 25;
                    filling.records.push(Record::Zero {
                        image: change.image,
                        block,
                        count,
                    });
                    None
                }
                Part::Data { block, data, crcs } => {
                    self.fill_data(filling, change.image, (block, data, crcs))
                }
            };
            if let Some(rest) = rest {
                change.parts.push(rest);
                return Some(change);
            }
        }
        if let Some(then) = &change.then {
            let bytes = record_bytes(then);
            if !filling.records.is_empty() && filling.record_bytes + bytes > ROOM_BYTES {
                return Some(change);
            }
            filling.record_bytes += bytes;
            filling.records.push(Record::Change(then.clone()));
        }
        filling.finished.push(Finished {
            reply: change.reply,
            durable: change.durable,
            locks: change.locks,
            catalogue: change.then.is_some(),
            promised: change.promised.unwrap_or_default(),
        });
        None
    }

    fn fill_data(
        &mut self,
        filling: &mut Filling,
        image: u64,
        (mut block, mut data, mut crcs): (u64, Bytes, Vec<u32>),
    ) -> Option<Part> {
        while !crcs.is_empty() {
            let room = ROOM_BYTES.saturating_sub(filling.record_bytes + Record::data_bytes(0)) / 4;
            let most = room.min(crcs.len()) as u64;
            let taken = match most {
                0 => None,
                _ => self.state.trees.space.take(&mut self.log.open, most),
            };
            let Some((unit, count)) = taken else {
                return Some(Part::Data { block, data, crcs });
            };
            filling.units += count;
            let later = crcs.split_off(count as usize);
            let now = std::mem::replace(&mut crcs, later);
            filling.record_bytes += Record::data_bytes(now.len());
            filling
                .data
                .push((unit, data.split_to(now.len() * UNIT_BYTES)));
            filling.records.push(Record::Data {
                image,
                block,
                unit,
                crcs: now,
            });
            block += count;
        }
        None
    }

    /// False: the store has no room for it.
    fn write_batch(&mut self, filling: Filling) -> bool {
        let space = &mut self.state.trees.space;
        let units = header_units(filling.record_bytes);
        let more = units.saturating_sub(self.log.next_units);
        let at = self.log.next + self.log.next_units;
        if more > 0 && space.take_at(&mut self.log.open, at, more) {
            self.log.next_units = units;
        } else if more > 0 {
            // The header does not fit here: an empty batch leads to where it does.
            let Some(next) = space.take_contiguous(units) else {
                return self.refuse(filling);
            };
            self.write_to_log(Filling::default(), next, units);
        }
        let space = &mut self.state.trees.space;
        let Some((next, _)) = space.take(&mut self.log.open, 1) else {
            return self.refuse(filling);
        };
        self.write_to_log(filling, next, 1);
        true
    }

    fn write_to_log(&mut self, filling: Filling, next: Unit, next_units: u64) {
        let header = BatchHeader {
            epoch: self.log.epoch,
            sequence: self.log.sequence,
            next,
            durable: self.log.durable,
            records: filling.records,
        };
        let copied = |data: &Bytes| data.len() < GATHER_BYTES || !is_aligned(data);
        let copied_bytes = filling.data.iter().map(|(_, data)| data);
        let copied_bytes = copied_bytes
            .filter(|data| copied(data))
            .map(Bytes::len)
            .sum::<usize>();
        let header_bytes = self.log.next_units as usize * UNIT_BYTES;
        let mut buffer = self.log.spares.take(header_bytes + copied_bytes);
        header.put(&mut buffer);
        let mut runs = Runs::new(self.log.next, buffer);
        for (unit, data) in filling.data {
            match copied(&data) {
                true => runs.copy(unit, &data),
                false => runs.gather(unit, data),
            }
        }
        let runs = runs.into_writes();
        let mut chunks = Vec::with_capacity(1);
        let pieces_left = runs.len();
        for (unit, action) in runs {
            let (file, offset) = place(unit);
            if let FileId::Chunk(chunk) = file
                && !chunks.contains(&chunk)
            {
                chunks.push(chunk);
            }
            self.order(Tag::Batch(self.log.sequence), file, offset, action);
        }
        self.log.units += filling.units + self.log.next_units;
        self.log.in_flight.push_back(Batch {
            sequence: self.log.sequence,
            header: self.log.next,
            header_units: self.log.next_units,
            records: header.records,
            applied: 0,
            pieces_left,
            chunks,
            finished: filling.finished,
        });
        self.log.sequence += 1;
        (self.log.next, self.log.next_units) = (next, next_units);
        self.checkpoint.due = true;
    }

    /// There is no room for these changes: they do not happen.
    fn refuse(&mut self, filling: Filling) -> bool {
        for (unit, data) in &filling.data {
            let units = *unit..unit + (data.len() / UNIT_BYTES) as u64;
            units.for_each(|unit| self.state.trees.space.set_aside(unit));
            self.checkpoint.due = true;
        }
        for finished in filling.finished {
            self.promised -= finished.promised;
            self.finished_changes += 1;
            self.planning &= !finished.catalogue;
            self.unlock(&finished.locks);
            self.answer(finished.reply, Err(Error::OutOfSpace));
        }
        if filling.split
            && let Some(rest) = self.queue.pop_front()
        {
            self.fail_change(rest, Error::OutOfSpace);
        }
        self.again = true;
        false
    }

    pub(super) fn finish_piece(&mut self, sequence: u64, buffer: BytesMut) {
        if buffer.capacity() >= KEPT_BYTES {
            self.log.spares.give_back(buffer);
        }
        let Some(first) = self.log.in_flight.front().map(|batch| batch.sequence) else {
            return;
        };
        let index = sequence.wrapping_sub(first) as usize;
        if let Some(batch) = self.log.in_flight.get_mut(index) {
            batch.pieces_left -= 1;
            if batch.pieces_left == 0 {
                self.syncs.unsynced.extend(&batch.chunks);
            }
        }
    }

    /// Lets written batches take effect, in order.
    pub(super) fn apply_batches(&mut self) {
        while let Some(batch) = self.log.in_flight.front_mut() {
            if batch.pieces_left > 0 {
                return;
            }
            while let Some(record) = batch.records.get(batch.applied) {
                match self.state.apply(record) {
                    Ok(()) => batch.applied += 1,
                    Err(Stop::Missing(missing)) => return self.load(missing),
                    Err(Stop::Damaged(unit, why)) => {
                        let why = super::reading::describe(unit, &why);
                        return self.fail(&format!("a change cannot take effect: {why}"));
                    }
                }
            }
            let Some(batch) = self.log.in_flight.pop_front() else {
                return;
            };
            let headers = batch.header..batch.header + batch.header_units;
            self.log.headers.extend(headers);
            // A checkpoint that began while it was written does not know it.
            self.checkpoint.due = true;
            self.finish_changes(batch.finished);
        }
    }

    fn finish_changes(&mut self, finished: Vec<Finished>) {
        for finished in finished {
            self.promised -= finished.promised;
            self.finished_changes += 1;
            self.planning &= !finished.catalogue;
            self.unlock(&finished.locks);
            match finished.durable {
                false => self.answer(finished.reply, Ok(())),
                true => self.syncs.waiting.extend(finished.reply),
            }
        }
    }
}

fn record_bytes(change: &CatalogueChange) -> usize {
    let mut bytes = Vec::new();
    Record::Change(change.clone()).put(&mut bytes);
    bytes.len()
}
