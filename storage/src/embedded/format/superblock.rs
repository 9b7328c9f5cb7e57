//! The superblock: which checkpoint the store starts from.

use super::super::buffer::{UNIT_BYTES, aligned, crc};
use super::{Fields, Put, Unit};
use bytes::BytesMut;

pub(crate) const MAGIC: &[u8; 8] = b"BASALTST";
pub(crate) const FORMAT: u32 = 2;
/// Two slots of two copies.
pub(crate) const COPIES: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) fsid: [u8; 16],
    /// Checkpoints count up; the number's last bit is the slot.
    pub(crate) checkpoint: u64,
    /// Counts the times that the log was begun anew.
    pub(crate) epoch: u64,
    /// Where the first batch after the checkpoint is, or will be, and its number.
    pub(crate) log_start: Unit,
    pub(crate) sequence: u64,
    /// Length and checksum of `checkpoint.SLOT`.
    pub(crate) state_bytes: u64,
    pub(crate) state_crc: u32,
    /// The store was closed: the log is empty.
    pub(crate) clean: bool,
}

/// What a copy holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Sound(Superblock),
    /// Made by another version.
    Foreign(u32),
    Broken,
}

impl Superblock {
    pub(crate) fn slot(&self) -> u8 {
        (self.checkpoint & 1) as u8
    }

    /// Both copies of the slot.
    pub(crate) fn to_bytes(self) -> BytesMut {
        let mut out = Vec::with_capacity(UNIT_BYTES);
        out.extend(MAGIC);
        out.put_32(FORMAT);
        out.put_32(0);
        out.extend(self.fsid);
        for number in [self.checkpoint, self.epoch, self.log_start, self.sequence] {
            out.put_64(number);
        }
        out.put_64(self.state_bytes);
        out.put_32(self.state_crc);
        out.put_32(self.clean.into());
        out.resize(UNIT_BYTES, 0);
        let sum = crc(&out).to_le_bytes();
        out[12..16].copy_from_slice(&sum);
        let mut both = aligned(2 * UNIT_BYTES);
        both.extend_from_slice(&out);
        both.extend_from_slice(&out);
        both
    }

    /// Reads one copy.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Found {
        match Self::parse(bytes) {
            None => Found::Broken,
            Some(Err(format)) => Found::Foreign(format),
            Some(Ok(found)) => Found::Sound(found),
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
        Some(Ok(Superblock {
            fsid,
            checkpoint: fields.u64()?,
            epoch: fields.u64()?,
            log_start: fields.u64()?,
            sequence: fields.u64()?,
            state_bytes: fields.u64()?,
            state_crc: fields.u32()?,
            clean: fields.u32()? == 1,
        }))
    }
}
