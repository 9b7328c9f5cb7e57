//! VHDX: region table, metadata table, and the item with the virtual disk's size (MS-VHDX).

use super::Unsafe;
use super::capture::Capture;
use crate::endian::{le_u16, le_u32, le_u64};

pub(crate) const REGION_TABLE_OFFSET: u64 = 192 * 1024;
pub(crate) const TABLE_BYTES: usize = 64 * 1024;
const ENTRY_BYTES: usize = 32;
const MAX_ENTRIES: usize = 2047;

/// GUIDs as they lie in the file: the first three groups are little-endian.
pub(crate) const METADATA_REGION: [u8; 16] = [
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
];
pub(crate) const VIRTUAL_DISK_SIZE: [u8; 16] = [
    0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8,
];
pub(crate) const PARENT_LOCATOR: [u8; 16] = [
    0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c,
];

pub(crate) const BLOCK_TABLE_REGION: [u8; 16] = [
    0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08,
];
pub(crate) const FILE_PARAMETERS: [u8; 16] = [
    0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b,
];
pub(crate) const LOGICAL_SECTOR_SIZE: [u8; 16] = [
    0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f,
];

/// Follows the tables to the size. Each lies behind the one that names it, so one pass suffices.
#[derive(Debug)]
pub(super) struct Walk {
    capture: Capture,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Regions,
    Metadata,
    Size,
    Done(Result<u64, Unsafe>),
}

impl Walk {
    pub fn new() -> Self {
        Walk {
            capture: Capture::new(REGION_TABLE_OFFSET, TABLE_BYTES),
            step: Step::Regions,
        }
    }

    pub fn feed(&mut self, position: u64, chunk: &[u8]) {
        if !matches!(self.step, Step::Done(_)) {
            self.capture.feed(position, chunk);
        }
    }

    pub fn until_capture_ends(&self, position: u64) -> Option<usize> {
        if matches!(self.step, Step::Done(_)) {
            None
        } else {
            self.capture.until_end(position)
        }
    }

    /// Goes on to the next table when the current one is there; `position` is the stream's.
    pub fn advance(&mut self, position: u64) {
        if !self.capture.is_complete() {
            return;
        }
        let data = self.capture.data();
        let next = match self.step {
            Step::Regions => {
                region(data, &METADATA_REGION).map(|offset| (Step::Metadata, offset, TABLE_BYTES))
            }
            Step::Metadata => size_item(data)
                .map(|item| (Step::Size, self.capture.offset().saturating_add(item), 8)),
            Step::Size => {
                self.step = Step::Done(le_u64(data, 0).ok_or_else(cut));
                return;
            }
            Step::Done(_) => return,
        };
        match next {
            Ok((step, offset, wanted)) if offset >= position => {
                self.capture = Capture::new(offset, wanted);
                self.step = step;
            }
            Ok(_) => {
                self.step = Step::Done(Err(Unsafe::because(
                    "the VHDX tables are not in rising order",
                )))
            }
            Err(reason) => self.step = Step::Done(Err(reason)),
        }
    }

    pub fn judge(&self) -> (Option<u64>, Result<(), Unsafe>) {
        match &self.step {
            Step::Done(Ok(size_bytes)) => (Some(*size_bytes), Ok(())),
            Step::Done(Err(reason)) => (None, Err(reason.clone())),
            _ => (None, Err(cut())),
        }
    }
}

/// The offset of a region in the file.
pub(crate) fn region(table: &[u8], guid: &[u8; 16]) -> Result<u64, Unsafe> {
    let entries = le_u32(table, 8).filter(|_| table.starts_with(b"regi"));
    let entries = entries.ok_or_else(|| Unsafe::because("the VHDX file has no region table"))?;
    find_entry(table, 16, entries as usize, guid)
        .and_then(|entry| le_u64(entry, 16))
        .ok_or_else(|| Unsafe::because("the VHDX file lacks a region"))
}

/// The offset of an item within the metadata region.
pub(crate) fn metadata_item(table: &[u8], guid: &[u8; 16]) -> Result<u64, Unsafe> {
    let entries = le_u16(table, 10).filter(|_| table.starts_with(b"metadata"));
    let entries =
        usize::from(entries.ok_or_else(|| Unsafe::because("the VHDX metadata is broken"))?);
    find_entry(table, 32, entries, guid)
        .and_then(|entry| le_u32(entry, 16))
        .map(u64::from)
        .ok_or_else(|| Unsafe::because("the VHDX metadata lacks an item"))
}

fn size_item(table: &[u8]) -> Result<u64, Unsafe> {
    if metadata_item(table, &PARENT_LOCATOR).is_ok() {
        return Err(Unsafe::because("the VHDX image has a parent"));
    }
    metadata_item(table, &VIRTUAL_DISK_SIZE)
}

fn find_entry<'a>(
    table: &'a [u8],
    first: usize,
    entries: usize,
    guid: &[u8; 16],
) -> Option<&'a [u8]> {
    let entries = table
        .get(first..)?
        .chunks_exact(ENTRY_BYTES)
        .take(entries.min(MAX_ENTRIES));
    entries.into_iter().find(|entry| entry.starts_with(guid))
}

fn cut() -> Unsafe {
    Unsafe::because("the VHDX file is cut")
}
