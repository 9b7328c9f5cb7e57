//! Batches: changes that wait are gathered into long writes of header and data.
//!
//! **Promises.** A batch goes to the disk when all its units, and those of the header behind it, are
//! there. Else none of it does, and its changes are answered with an error.

use bytes::Bytes;

use super::buffer::UNIT_BYTES;
use super::disk::FileId;
use super::format::Unit;
use super::format::batch::{BatchHeader, ROOM_BYTES, header_units};
use super::log::{Batch, Finished};
use super::records::{CatalogueChange, Record};
use super::request::{Change, Part};
use super::runs::Runs;
use super::shard::{Shard, Tag, place};
use crate::Error;
use crate::aligned::is_aligned;

/// Data from this length on is written from where it is; shorter data is copied together.
const GATHER_BYTES: usize = 32 << 10;
/// Short batches that are written at the same time. While they are, more changes gather: fewer
/// and longer writes cost less.
const MOST_IN_FLIGHT: usize = 2;
/// A batch of so many changes or units is long enough, and need not wait for more: it keeps the
/// disk busy while others are received.
const LONG_CHANGES: usize = 8;
const LONG_UNITS: u64 = 64;
const MOST_LONG_IN_FLIGHT: usize = 8;

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
}

fn record_bytes(change: &CatalogueChange) -> usize {
    let mut bytes = Vec::new();
    Record::Change(change.clone()).put(&mut bytes);
    bytes.len()
}
