//! The superblock: which checkpoint the store starts from.

use super::super::buffer::{UNIT_BYTES, aligned, crc};
use super::{Fields, Put, Unit};
use bytes::BytesMut;

pub(crate) const MAGIC: &[u8; 8] = b"BASALTST";
pub(crate) const FORMAT: u32 = 2;
/// Two slots of two copies.
pub(crate) const COPIES: u64 = 4;
/// Parts of the log behind the first that a superblock can name.
const MOST_LATER_PARTS: usize = 64;

/// A part of the log: the batches of one epoch, up to where the next part begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogPart {
    pub(crate) epoch: u64,
    /// Where its first batch is, or will be, and that one's number.
    pub(crate) start: Unit,
    pub(crate) sequence: u64,
}

/// The parts of the log behind the first. There are some only after starts that could not make a
/// checkpoint, because its file had no room to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaterParts {
    count: usize,
    parts: [LogPart; MOST_LATER_PARTS],
}

impl Default for LaterParts {
    fn default() -> Self {
        LaterParts {
            count: 0,
            parts: [LogPart::default(); MOST_LATER_PARTS],
        }
    }
}

impl LaterParts {
    /// `None`: there are too many.
    pub(crate) fn push(&mut self, part: LogPart) -> Option<()> {
        *self.parts.get_mut(self.count)? = part;
        self.count += 1;
        Some(())
    }

    pub(crate) fn as_slice(&self) -> &[LogPart] {
        self.parts.get(..self.count).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) fsid: [u8; 16],
    /// Checkpoints count up; the number's last bit is the slot.
    pub(crate) checkpoint: u64,
    /// The log after the checkpoint. Epochs count the times that the log was begun anew.
    pub(crate) log: LogPart,
    pub(crate) later: LaterParts,
    /// Length and checksum of `checkpoint.SLOT`.
    pub(crate) state_bytes: u64,
    pub(crate) state_crc: u32,
    /// The store was closed: the log is empty.
    pub(crate) clean: bool,
}

/// What a copy holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Sound(Box<Superblock>),
    /// Made by another version.
    Foreign(u32),
    Broken,
}

impl Superblock {
    pub(crate) fn slot(&self) -> u8 {
        (self.checkpoint & 1) as u8
    }

    /// All parts of the log, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = LogPart> + '_ {
        std::iter::once(self.log).chain(self.later.as_slice().iter().copied())
    }

    /// The epoch that was written to last.
    pub(crate) fn last_epoch(&self) -> u64 {
        self.parts().last().map_or(0, |part| part.epoch)
    }

    /// Where a copy of the slot, 0 or 1, is in the file.
    pub(crate) fn offset(&self, copy: u64) -> u64 {
        (2 * u64::from(self.slot()) + copy) * UNIT_BYTES as u64
    }

    /// One copy.
    pub(crate) fn to_bytes(self) -> BytesMut {
        let mut out = Vec::with_capacity(UNIT_BYTES);
        out.extend(MAGIC);
        out.put_32(FORMAT);
        out.put_32(0);
        out.extend(self.fsid);
        let log = self.log;
        for number in [self.checkpoint, log.epoch, log.start, log.sequence] {
            out.put_64(number);
        }
        out.put_64(self.state_bytes);
        out.put_32(self.state_crc);
        out.put_32(self.clean.into());
        out.put_32(self.later.count as u32);
        for part in self.later.as_slice() {
            for number in [part.epoch, part.start, part.sequence] {
                out.put_64(number);
            }
        }
        out.resize(UNIT_BYTES, 0);
        let sum = crc(&out).to_le_bytes();
        out[12..16].copy_from_slice(&sum);
        let mut copy = aligned(UNIT_BYTES);
        copy.extend_from_slice(&out);
        copy
    }

    /// Reads one copy.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Found {
        match Self::parse(bytes) {
            None => Found::Broken,
            Some(Err(format)) => Found::Foreign(format),
            Some(Ok(found)) => Found::Sound(Box::new(found)),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Result<Self, u32>> {
        let mut fields = Fields(bytes.get(..UNIT_BYTES)?);
        let magic = fields.bytes(8)? == MAGIC;
        let format = fields.u32()?;
        let sum = fields.u32()?;
        let mut blank = bytes.get(..UNIT_BYTES)?.to_vec();
        blank.get_mut(12..16)?.fill(0);
        if !magic || crc(&blank) != sum {
            return None;
        }
        if format != FORMAT {
            return Some(Err(format));
        }
        let fsid = fields.bytes(16)?.try_into().ok()?;
        let mut found = Superblock {
            fsid,
            checkpoint: fields.u64()?,
            log: take_part(&mut fields)?,
            later: LaterParts::default(),
            state_bytes: fields.u64()?,
            state_crc: fields.u32()?,
            clean: fields.u32()? == 1,
        };
        for _ in 0..fields.u32()? {
            found.later.push(take_part(&mut fields)?)?;
        }
        Some(Ok(found))
    }
}

fn take_part(fields: &mut Fields<'_>) -> Option<LogPart> {
    Some(LogPart {
        epoch: fields.u64()?,
        start: fields.u64()?,
        sequence: fields.u64()?,
    })
}
