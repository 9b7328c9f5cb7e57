//! Replay: the batches of the log after a checkpoint.
//!
//! Batches are read and checked in order, gathered, and carried out together: the pages that they
//! change are read at once, not one after another.

use std::io;

use bytes::BytesMut;

use super::apply::State;
use super::buffer::{UNIT_BYTES, aligned, crc};
use super::disk::{Action, Disk, Done, Io};
use super::format::batch::{BatchHeader, header_units};
use super::format::superblock::{LogPart, Superblock};
use super::format::{CHUNK_UNITS, Unit};
use super::pages::{Missing, NumberMap, Stop};
use super::reading::{describe, parse_page};
use super::records::Record;
use super::recovery::{corrupt, unavailable};
use super::shard::place;
use crate::Result;

/// Units that are read at once: batches mostly follow one another.
const AHEAD_UNITS: u64 = 256;
/// Records that are gathered: their pages have room in the smallest cache.
const GATHERED_RECORDS: usize = 256;
/// Levels of a tree.
const MOST_LEVELS: usize = 7;

/// Reads the log.
struct Reader<'a> {
    disk: &'a mut dyn Disk,
    start: Unit,
    buffer: BytesMut,
}

impl Reader<'_> {
    /// `None`: beyond the end of the file.
    fn units(&mut self, unit: Unit, count: u64) -> Result<Option<&[u8]>> {
        let have = (self.buffer.len() / UNIT_BYTES) as u64;
        if unit < self.start || unit + count > self.start + have {
            let (file, offset) = place(unit);
            let known = self.disk.length(file);
            let known = known.map_err(|error| unavailable(&file.name(), &error))?;
            let chunk_end = (unit / CHUNK_UNITS + 1) * CHUNK_UNITS;
            let there = (known.saturating_sub(offset) / UNIT_BYTES as u64).min(chunk_end - unit);
            if there < count {
                return Ok(None);
            }
            let length = count.max(AHEAD_UNITS).min(there) as usize * UNIT_BYTES;
            let bytes = self.disk.read_now(file, offset, length);
            self.buffer = match bytes {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other.map_err(|error| unavailable(&file.name(), &error))?,
            };
            self.start = unit;
        }
        let at = (unit - self.start) as usize * UNIT_BYTES;
        Ok(self.buffer.get(at..at + count as usize * UNIT_BYTES))
    }

    /// `None`: the log ends here.
    fn header(
        &mut self,
        state: &State,
        unit: Unit,
        (epoch, sequence): (u64, u64),
    ) -> Result<Option<BatchHeader>> {
        if !state.trees.space.is_claimable(unit) {
            return Ok(None);
        }
        let first = self.units(unit, 1)?;
        let Some(length) = first.and_then(|first| BatchHeader::length(first, epoch, sequence))
        else {
            return Ok(None);
        };
        let bytes = self.units(unit, length.div_ceil(UNIT_BYTES) as u64)?;
        Ok(bytes.and_then(BatchHeader::from_bytes))
    }

    fn data_is_sound(&mut self, state: &State, batch: &BatchHeader) -> Result<bool> {
        for record in &batch.records {
            let Record::Data { unit, crcs, .. } = record else {
                continue;
            };
            let count = crcs.len() as u64;
            let mut units = *unit..unit + count;
            if !units.all(|unit| state.trees.space.is_claimable(unit)) {
                return Ok(false);
            }
            let Some(bytes) = self.units(*unit, count)? else {
                return Ok(false);
            };
            let mut blocks = bytes.chunks(UNIT_BYTES).zip(crcs);
            if blocks.any(|(block, sum)| crc(block) != *sum) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The log ends before this batch. If a later one says that it was durable, it was damaged
    /// since.
    fn require_unflushed(&mut self, state: &State, batch: &BatchHeader) -> Result<()> {
        let (mut next, mut sequence) = (batch.next, batch.sequence + 1);
        while let Some(found) = self.header(state, next, (batch.epoch, sequence))? {
            if found.durable > batch.sequence {
                let text = format!("the data of batch {} of the log is damaged", batch.sequence);
                return Err(corrupt(text));
            }
            (next, sequence) = (found.next, sequence + 1);
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// Carries out the batches of a part, up to the one with number `end`; answers the number of
    /// the one behind the last.
    fn replay_part(&mut self, state: &mut State, part: LogPart, end: Option<u64>) -> Result<u64> {
        let (mut next, mut sequence) = (part.start, part.sequence);
        let mut gathered = Gathered::default();
        while end != Some(sequence)
            && let Some(batch) = self.header(state, next, (part.epoch, sequence))?
        {
            if !self.data_is_sound(state, &batch)? {
                self.require_unflushed(state, &batch)?;
                break;
            }
            keep(state, next, &batch);
            gathered.headers.push((next, units_of(&batch)));
            (next, sequence) = (batch.next, sequence + 1);
            gathered.records.extend(batch.records);
            if gathered.records.len() >= GATHERED_RECORDS {
                std::mem::take(&mut gathered).carry_out(self.disk, state)?;
            }
        }
        gathered.carry_out(self.disk, state)?;
        Ok(sequence)
    }
}

/// Sound batches that have not taken effect. All of their units are kept from use.
#[derive(Default)]
struct Gathered {
    records: Vec<Record>,
    /// Their headers: first unit, and how many.
    headers: Vec<(Unit, u64)>,
}

impl Gathered {
    fn carry_out(self, disk: &mut dyn Disk, state: &mut State) -> Result<()> {
        self.read_pages(disk, state);
        for record in &self.records {
            replay_record(disk, state, record)?;
        }
        // Superfluous with the next checkpoint, and not before.
        for (first, count) in self.headers {
            (first..first + count).for_each(|unit| state.trees.space.set_aside(unit));
        }
        Ok(())
    }

    /// Reads the pages that the records will want, a level of the trees at a time. What is still
    /// missing then, as one record changes what the next one finds, is read when it is needed.
    fn read_pages(&self, disk: &mut dyn Disk, state: &mut State) {
        for _ in 0..MOST_LEVELS {
            let mut missing: NumberMap<Missing> = NumberMap::default();
            for record in &self.records {
                if let Err(Stop::Missing(found)) = state.ready(record) {
                    missing.extend(found.into_iter().map(|page| (page.unit, page)));
                }
            }
            if missing.is_empty() {
                return;
            }
            load_pages(disk, state, &missing);
        }
    }
}

/// Carries out the log; answers the number of the batch that would come next.
pub(super) fn replay(
    disk: &mut dyn Disk,
    state: &mut State,
    superblock: &Superblock,
) -> Result<u64> {
    let mut reader = Reader {
        disk,
        start: 0,
        buffer: BytesMut::new(),
    };
    let mut sequence = superblock.log.sequence;
    let parts: Vec<LogPart> = superblock.parts().collect();
    for (index, part) in parts.iter().enumerate() {
        // A part that another follows was replayed before, and made durable.
        let end = parts.get(index + 1).map(|next| next.sequence);
        sequence = reader.replay_part(state, *part, end)?;
        if end.is_some_and(|end| end != sequence) {
            let text = format!("batch {sequence} of the log is damaged");
            return Err(corrupt(text));
        }
    }
    Ok(sequence)
}

fn units_of(batch: &BatchHeader) -> u64 {
    let mut bytes = Vec::new();
    batch
        .records
        .iter()
        .for_each(|record| record.put(&mut bytes));
    header_units(bytes.len())
}

fn keep(state: &mut State, header: Unit, batch: &BatchHeader) {
    let space = &mut state.trees.space;
    (header..header + units_of(batch)).for_each(|unit| space.reserve(unit));
    for record in &batch.records {
        if let Record::Data { unit, crcs, .. } = record {
            (*unit..unit + crcs.len() as u64).for_each(|unit| space.reserve(unit));
        }
    }
}

/// Carries a record out, whatever has to be read for it. Blocks.
pub(super) fn replay_record(disk: &mut dyn Disk, state: &mut State, record: &Record) -> Result<()> {
    loop {
        match state.apply(record) {
            Ok(()) => return Ok(()),
            Err(Stop::Damaged(unit, why)) => return Err(corrupt(describe(unit, &why))),
            Err(Stop::Missing(missing)) => {
                for missing in missing {
                    load_page(disk, state, missing)?;
                }
            }
        }
    }
}

/// Reads pages into memory, all at once; those that cannot be read are left out. Blocks.
fn load_pages(disk: &mut dyn Disk, state: &mut State, missing: &NumberMap<Missing>) {
    for unit in missing.keys() {
        let (file, offset) = place(*unit);
        let action = Action::Read(aligned(UNIT_BYTES), UNIT_BYTES);
        disk.submit(Io {
            tag: *unit,
            file,
            offset,
            action,
        });
    }
    let total = state.trees.space.total();
    let mut done: Vec<Done> = Vec::new();
    while disk.under_way() > 0 {
        disk.wait();
        disk.reap(&mut done);
        for done in done.drain(..) {
            let Some(page) = missing.get(&done.tag) else {
                continue;
            };
            // Damage is told to whoever needs the page.
            if let Ok(node) = parse_page(*page, done, total) {
                state.trees.pages.add_saved(page.unit, page.level, node);
            }
        }
    }
    state.trees.pages.evict();
}

/// Reads a page into memory. Blocks.
fn load_page(disk: &mut dyn Disk, state: &mut State, missing: Missing) -> Result<()> {
    let (file, offset) = place(missing.unit);
    let mut done = Done {
        tag: 0,
        result: Ok(()),
        buffer: BytesMut::new(),
    };
    match disk.read_now(file, offset, UNIT_BYTES) {
        Ok(buffer) => done.buffer = buffer,
        Err(error) => done.result = Err(error),
    }
    let total = state.trees.space.total();
    let node = parse_page(missing, done, total);
    let node = node.map_err(|why| corrupt(describe(missing.unit, &why)))?;
    state
        .trees
        .pages
        .add_saved(missing.unit, missing.level, node);
    state.trees.pages.evict();
    Ok(())
}
