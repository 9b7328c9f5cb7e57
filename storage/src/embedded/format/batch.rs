//! A batch of the log: a header of one or more units, whose records say where the data went.

use super::super::buffer::{UNIT_BYTES, crc, pad};
use super::super::records::Record;
use super::{Fields, Put, Unit};
use bytes::BytesMut;

const MAGIC: &[u8; 4] = b"BLOG";
const FIXED_BYTES: usize = 48;
/// The longest header: room for the longest metadata value.
pub(crate) const MAX_HEADER_BYTES: usize = 128 << 10;

/// Records fit into a header of one unit up to this many bytes.
pub(crate) const ROOM_BYTES: usize = UNIT_BYTES - FIXED_BYTES;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchHeader {
    pub(crate) epoch: u64,
    /// Counts up by one; a gap ends the log.
    pub(crate) sequence: u64,
    /// Where the next batch will be.
    pub(crate) next: Unit,
    /// All batches below this number were durable when this one was written.
    pub(crate) durable: u64,
    pub(crate) records: Vec<Record>,
}

/// Units of a header with this many bytes of records.
pub(crate) fn header_units(record_bytes: usize) -> u64 {
    (FIXED_BYTES + record_bytes).div_ceil(UNIT_BYTES) as u64
}

impl BatchHeader {
    /// Puts whole units into an empty buffer.
    pub(crate) fn put(&self, bytes: &mut BytesMut) {
        let mut records = Vec::new();
        for record in &self.records {
            record.put(&mut records);
        }
        let length = FIXED_BYTES + records.len();
        let mut out: Vec<u8> = Vec::with_capacity(FIXED_BYTES);
        out.extend(MAGIC);
        out.put_32(0);
        for number in [self.epoch, self.sequence, self.next, self.durable] {
            out.put_64(number);
        }
        out.put_32(length as u32);
        out.put_32(self.records.len() as u32);
        bytes.extend_from_slice(&out);
        bytes.extend_from_slice(&records);
        let sum = crc(bytes).to_le_bytes();
        bytes[4..8].copy_from_slice(&sum);
        pad(bytes);
    }

    /// The length that a first unit tells, if it looks like a header of this place in the log.
    pub(crate) fn length(first: &[u8], epoch: u64, sequence: u64) -> Option<usize> {
        let mut fields = Fields(first.get(..FIXED_BYTES)?);
        let magic = fields.bytes(4)? == MAGIC;
        let _crc = fields.u32()?;
        let same = fields.u64()? == epoch && fields.u64()? == sequence;
        let (_next, _durable) = (fields.u64()?, fields.u64()?);
        let length = fields.u32()? as usize;
        (magic && same && (FIXED_BYTES..=MAX_HEADER_BYTES).contains(&length)).then_some(length)
    }

    /// Reads a whole header.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = fields.bytes(4)? == MAGIC;
        let sum = fields.u32()?;
        let (epoch, sequence, next) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let durable = fields.u64()?;
        let length = fields.u32()? as usize;
        if !magic || !(FIXED_BYTES..=MAX_HEADER_BYTES).contains(&length) {
            return None;
        }
        let mut blank = bytes.get(..length)?.to_vec();
        blank.get_mut(4..8)?.fill(0);
        if crc(&blank) != sum {
            return None;
        }
        let count = fields.count(1)?;
        let mut fields = Fields(bytes.get(FIXED_BYTES..length)?);
        let records = (0..count).map(|_| Record::take(&mut fields));
        let records = records.collect::<Option<_>>()?;
        fields.0.is_empty().then_some(BatchHeader {
            epoch,
            sequence,
            next,
            durable,
            records,
        })
    }
}
