//! VHDX: region table, metadata table, and the item with the virtual disk's size (MS-VHDX).

use super::Unsafe;
use super::capture::Capture;
use crate::endian::{le_u16, le_u32, le_u64};

const REGION_TABLE_OFFSET: u64 = 192 * 1024;
const TABLE_BYTES: usize = 64 * 1024;
const ENTRY_BYTES: usize = 32;
const MAX_ENTRIES: usize = 2047;

/// GUIDs as they lie in the file: the first three groups are little-endian.
const METADATA_REGION: [u8; 16] = [
    0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
];
const VIRTUAL_DISK_SIZE: [u8; 16] = [
    0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8,
];
const PARENT_LOCATOR: [u8; 16] = [
    0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c,
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
                metadata_region(data).map(|offset| (Step::Metadata, offset, TABLE_BYTES))
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

fn metadata_region(table: &[u8]) -> Result<u64, Unsafe> {
    let entries = le_u32(table, 8).filter(|_| table.starts_with(b"regi"));
    let entries = entries.ok_or_else(|| Unsafe::because("the VHDX file has no region table"))?;
    find_entry(table, 16, entries as usize, &METADATA_REGION)
        .and_then(|entry| le_u64(entry, 16))
        .ok_or_else(|| Unsafe::because("the VHDX file has no metadata"))
}

/// The offset of the size within the metadata region.
fn size_item(table: &[u8]) -> Result<u64, Unsafe> {
    let entries = le_u16(table, 10).filter(|_| table.starts_with(b"metadata"));
    let entries =
        usize::from(entries.ok_or_else(|| Unsafe::because("the VHDX metadata is broken"))?);
    if find_entry(table, 32, entries, &PARENT_LOCATOR).is_some() {
        return Err(Unsafe::because("the VHDX image has a parent"));
    }
    find_entry(table, 32, entries, &VIRTUAL_DISK_SIZE)
        .and_then(|entry| le_u32(entry, 16))
        .map(u64::from)
        .ok_or_else(|| Unsafe::because("the VHDX metadata names no size"))
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
