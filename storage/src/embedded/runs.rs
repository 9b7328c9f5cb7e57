//! Buffers put together as writes of units in a row.

use bytes::{Bytes, BytesMut};

use super::buffer::UNIT_BYTES;
use super::disk::Action;
use super::format::Unit;

pub(super) struct Runs {
    /// Where the run at hand begins, and the unit behind it.
    start: Unit,
    end: Unit,
    /// What was gathered of it, and what was copied since.
    pieces: Vec<Bytes>,
    copied: BytesMut,
    writes: Vec<(Unit, Action)>,
}

fn units(bytes: usize) -> u64 {
    (bytes / UNIT_BYTES) as u64
}

impl Runs {
    /// The first run begins with the buffer, in which there is room for all that will be copied.
    pub(super) fn new(start: Unit, buffer: BytesMut) -> Self {
        Runs {
            start,
            end: start + units(buffer.len()),
            pieces: Vec::new(),
            copied: buffer,
            writes: Vec::new(),
        }
    }

    pub(super) fn copy(&mut self, unit: Unit, data: &[u8]) {
        self.go_to(unit, data.len());
        self.copied.extend_from_slice(data);
    }

    /// Takes aligned data without a copy.
    pub(super) fn gather(&mut self, unit: Unit, data: Bytes) {
        self.go_to(unit, data.len());
        self.seal();
        self.pieces.push(data);
    }

    fn go_to(&mut self, unit: Unit, bytes: usize) {
        if unit != self.end {
            let copied = self.copied.split();
            self.end_run(copied);
            (self.start, self.end) = (unit, unit);
        }
        self.end += units(bytes);
    }

    fn seal(&mut self) {
        if !self.copied.is_empty() {
            self.pieces.push(self.copied.split().freeze());
        }
    }

    fn end_run(&mut self, copied: BytesMut) {
        let action = if self.pieces.is_empty() {
            Action::Write(copied)
        } else {
            let mut pieces = std::mem::take(&mut self.pieces);
            if !copied.is_empty() {
                pieces.push(copied.freeze());
            }
            Action::Gather(pieces)
        };
        self.writes.push((self.start, action));
    }

    /// The writes, each with its first unit. A single buffer stays whole.
    pub(super) fn into_writes(mut self) -> Vec<(Unit, Action)> {
        let copied = std::mem::take(&mut self.copied);
        self.end_run(copied);
        self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::aligned;

    fn block(byte: u8, count: usize) -> Bytes {
        let mut data = aligned(count * UNIT_BYTES);
        data.resize(count * UNIT_BYTES, byte);
        data.freeze()
    }

    fn shape(writes: &[(Unit, Action)]) -> Vec<(Unit, Vec<(u8, usize)>)> {
        let one = |data: &[u8]| (data[0], data.len() / UNIT_BYTES);
        let pieces = |action: &Action| match action {
            Action::Write(buffer) => vec![one(buffer)],
            Action::Gather(pieces) => pieces.iter().map(|piece| one(piece)).collect(),
            other => panic!("{other:?}"),
        };
        let writes = writes.iter().map(|(unit, action)| (*unit, pieces(action)));
        writes.collect()
    }

    fn runs() -> Runs {
        let mut header = aligned(64 * UNIT_BYTES);
        header.extend_from_slice(&block(1, 1));
        Runs::new(10, header)
    }

    #[test]
    fn copies_in_a_row_are_one_write() {
        let mut runs = runs();
        runs.copy(11, &block(1, 2));
        runs.copy(13, &block(1, 1));
        let writes = runs.into_writes();
        assert_eq!(shape(&writes), [(10, vec![(1, 4)])]);
        assert!(matches!(&writes[0].1, Action::Write(all) if all.capacity() >= 64 * UNIT_BYTES));
    }

    #[test]
    fn gathered_data_keeps_its_place_in_the_row() {
        let mut runs = runs();
        runs.gather(11, block(2, 8));
        runs.copy(19, &block(3, 1));
        runs.gather(40, block(4, 8));
        runs.copy(90, &block(5, 2));
        assert_eq!(
            shape(&runs.into_writes()),
            [
                (10, vec![(1, 1), (2, 8), (3, 1)]),
                (40, vec![(4, 8)]),
                (90, vec![(5, 2)])
            ]
        );
    }
}
