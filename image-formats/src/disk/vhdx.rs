//! VHDX: two headers, a table of regions, metadata, and a table with a state and a place for each
//! block (MS-VHDX).

use bytes::Bytes;

use super::blocks::{Entry, FlatTable, Page, Table};
use super::{cut, part};
use crate::endian::{le_u32, le_u64};
use crate::inspect::vhdx::{
    BLOCK_TABLE_REGION, FILE_PARAMETERS, LOGICAL_SECTOR_SIZE, METADATA_REGION, PARENT_LOCATOR,
    REGION_TABLE_OFFSET, TABLE_BYTES, VIRTUAL_DISK_SIZE, metadata_item, region,
};
use crate::{ByteSource, Error, Result};

const HEADER_OFFSETS: [u64; 2] = [64 * 1024, 128 * 1024];
const HEADER_BYTES: usize = 4096;
const HAS_PARENT: u32 = 1 << 1;

pub(super) async fn open(source: &impl ByteSource) -> Result<(u64, Table)> {
    check_closed(source).await?;
    let regions = part(source, REGION_TABLE_OFFSET, TABLE_BYTES).await?;
    let metadata_offset = region(&regions, &METADATA_REGION).map_err(corrupt)?;
    let table_offset = region(&regions, &BLOCK_TABLE_REGION).map_err(corrupt)?;
    let metadata = part(source, metadata_offset, TABLE_BYTES).await?;
    if metadata_item(&metadata, &PARENT_LOCATOR).is_ok() {
        return Err(Error::BackingFile);
    }
    let item = async |guid: &[u8; 16], length: usize| -> Result<Bytes> {
        let within = metadata_item(&metadata, guid).map_err(corrupt)?;
        let offset = metadata_offset.checked_add(within).ok_or_else(cut)?;
        part(source, offset, length).await
    };
    let parameters = item(&FILE_PARAMETERS, 8).await?;
    if le_u32(&parameters, 4).ok_or_else(cut)? & HAS_PARENT != 0 {
        return Err(Error::BackingFile);
    }
    let block_bytes = u64::from(le_u32(&parameters, 0).ok_or_else(cut)?);
    if !block_bytes.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block_bytes) {
        return Err(Error::corrupt(format!("blocks of {block_bytes} bytes")));
    }
    let size_bytes = le_u64(&item(&VIRTUAL_DISK_SIZE, 8).await?, 0).ok_or_else(cut)?;
    let sector_bytes = match le_u32(&item(&LOGICAL_SECTOR_SIZE, 4).await?, 0) {
        Some(bytes @ (512 | 4096)) => u64::from(bytes),
        _ => return Err(Error::corrupt("an unknown size of sectors")),
    };
    let table = FlatTable {
        block_bytes,
        table_offset,
        entry: Entry::Vhdx,
        chunk_ratio: (sector_bytes << 23) / block_bytes,
        page: Page::default(),
    };
    Ok((size_bytes, Table::Flat(table)))
}

fn corrupt(why: crate::Unsafe) -> Error {
    Error::corrupt(why.reason)
}

/// A log that was not replayed holds changes that only a writer can make.
async fn check_closed(source: &impl ByteSource) -> Result<()> {
    let mut newest: Option<(u64, bool)> = None;
    for offset in HEADER_OFFSETS {
        let header = part(source, offset, HEADER_BYTES).await?;
        if !header.starts_with(b"head") || le_u32(&header, 4) != Some(checksum(&header)) {
            continue;
        }
        let sequence = le_u64(&header, 8).unwrap_or(0);
        let has_log = header
            .get(48..64)
            .is_some_and(|log| log.iter().any(|byte| *byte != 0));
        if newest.is_none_or(|(known, _)| sequence > known) {
            newest = Some((sequence, has_log));
        }
    }
    match newest {
        Some((_, false)) => Ok(()),
        Some((_, true)) => Err(Error::corrupt("it was not closed cleanly")),
        None => Err(Error::corrupt("neither header is valid")),
    }
}

/// CRC-32C of the header with its own field as zero.
fn checksum(header: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in header.iter().enumerate() {
        let byte = if (4..8).contains(&at) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
