//! Numbers of the protocol, and reading its fields.

use bytes::{Buf, Bytes};

pub(super) const GREETING: &[u8; 8] = b"NBDMAGIC";
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const CHUNK_MAGIC: u32 = 0x668e_33ef;
pub(super) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
pub(super) const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flags, the same on both sides.
pub(super) const FIXED_NEWSTYLE: u16 = 1 << 0;
pub(super) const NO_ZEROES: u16 = 1 << 1;

/// The longest name that the protocol allows.
pub(super) const MAX_NAME_BYTES: usize = 4096;

/// What we tell in NBD_INFO_BLOCK_SIZE.
pub(super) const MIN_BLOCK_BYTES: u32 = 1;
pub(super) const PREFERRED_BLOCK_BYTES: u32 = 4096;
pub(super) const MAX_BLOCK_BYTES: u32 = 32 * 1024 * 1024;

pub(super) mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

pub(super) mod option_reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUPPORTED: u32 = 0x8000_0001;
    pub const ERR_POLICY: u32 = 0x8000_0002;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_PLATFORM: u32 = 0x8000_0004;
    pub const ERR_TLS_REQUIRED: u32 = 0x8000_0005;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
    pub const ERR_EXTENDED_HEADERS_REQUIRED: u32 = 0x8000_000a;
}

pub(super) mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Flags of an export.
pub(super) mod transmission_flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

pub(super) mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

pub(super) mod command_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
    /// With extended headers: the length is that of the payload.
    pub const PAYLOAD_LENGTH: u16 = 1 << 5;
}

pub(super) mod chunk {
    pub const FLAG_DONE: u16 = 1 << 0;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXTENDED: u16 = 6;
    pub const ERROR: u16 = 0x8001;
}

/// States of `base:allocation`.
pub(super) mod allocation {
    pub const HOLE: u32 = 1 << 0;
    pub const ZERO: u32 = 1 << 1;
}

/// Errors of requests, with the protocol's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    NotPermitted = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Shutdown = 108,
}

impl From<&crate::Error> for Errno {
    fn from(error: &crate::Error) -> Self {
        match error {
            crate::Error::ReadOnly(_) => Errno::NotPermitted,
            crate::Error::OutOfSpace => Errno::NoSpace,
            crate::Error::Invalid(_) => Errno::Invalid,
            _ => Errno::Io,
        }
    }
}

/// A field of the data of an option; `None` where the data ends before it.
pub(super) fn take_u16(data: &mut Bytes) -> Option<u16> {
    (data.len() >= 2).then(|| data.get_u16())
}

pub(super) fn take_u32(data: &mut Bytes) -> Option<u32> {
    (data.len() >= 4).then(|| data.get_u32())
}

/// A string after its length of 32 bits, of at most [`MAX_NAME_BYTES`] and in UTF-8.
pub(super) fn take_string(data: &mut Bytes) -> Option<String> {
    let length = take_u32(data)? as usize;
    if length > MAX_NAME_BYTES || length > data.len() {
        return None;
    }
    String::from_utf8(data.split_to(length).into()).ok()
}
