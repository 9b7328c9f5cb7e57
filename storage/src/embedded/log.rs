//! The log: batches on their way to the disk, and what follows when they are there.
//!
//! **Promises.** Batches are written side by side, and take effect in their order: one whose pieces
//! are written waits for all before it.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::format::Unit;
use super::growth::Promise;
use super::pages::Stop;
use super::records::Record;
use super::request::Reply;
use super::shard::Shard;
use super::space::Open;
use crate::aligned::Spares;

/// Buffers from this size on are used again.
const KEPT_BYTES: usize = 64 << 10;

/// What is answered when a batch has taken effect.
pub(super) struct Finished {
    pub(super) reply: Option<Reply<()>>,
    pub(super) durable: bool,
    pub(super) locks: Vec<(u64, u64)>,
    pub(super) catalogue: bool,
    pub(super) promised: Promise,
}

pub(super) struct Batch {
    pub(super) sequence: u64,
    pub(super) header: Unit,
    pub(super) header_units: u64,
    pub(super) records: Vec<Record>,
    pub(super) applied: usize,
    pub(super) pieces_left: usize,
    pub(super) chunks: Vec<u32>,
    pub(super) finished: Vec<Finished>,
}

pub(super) struct Log {
    pub(super) epoch: u64,
    /// Of the batch that is built next.
    pub(super) sequence: u64,
    /// Where it will be: promised by the header before it.
    pub(super) next: Unit,
    /// Reserved units from `next` on.
    pub(super) next_units: u64,
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

impl Shard {
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
