//! VMDK in one file: sparse, or compressed as a stream.

use super::blocks::{GrainTable, Page, Table};
use super::{cut, head, part};
use crate::endian::{le_u16, le_u32, le_u64};
use crate::inspect::capture::TAIL_BYTES;
use crate::inspect::vmdk as inspection;
use crate::{ByteSource, Error, Result};

const SECTOR: u64 = 512;
const DIRECTORY_AT_END: u64 = u64::MAX;
const FLAG_ZERO_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const DEFLATE: u16 = 1;

pub(super) async fn open(source: &impl ByteSource) -> Result<(u64, Table)> {
    let header = head(source, SECTOR as usize).await?;
    let first = head(source, inspection::head_bytes(&header)).await?;
    let tail_bytes = source.len().min(TAIL_BYTES as u64);
    let tail = part(source, source.len() - tail_bytes, tail_bytes as usize).await?;
    let (size_bytes, safety) = inspection::judge(&first, &tail);
    safety.map_err(|why| Error::corrupt(why.reason))?;
    let size_bytes = size_bytes.ok_or_else(cut)?;
    // The footer of a stream takes the header's place.
    let header = match le_u64(&header, 56) {
        Some(DIRECTORY_AT_END) => tail.slice(SECTOR as usize..2 * SECTOR as usize),
        _ => header,
    };
    Ok((size_bytes, Table::Grains(grains(&header)?)))
}

fn grains(header: &[u8]) -> Result<GrainTable> {
    let flags = le_u32(header, 8).ok_or_else(cut)?;
    let grain_sectors = le_u64(header, 20).ok_or_else(cut)?;
    if !grain_sectors.is_power_of_two() || !(8..=4096).contains(&grain_sectors) {
        return Err(Error::corrupt(format!("grains of {grain_sectors} sectors")));
    }
    let entries_per_table = u64::from(le_u32(header, 44).ok_or_else(cut)?);
    if !(1..=512).contains(&entries_per_table) {
        return Err(Error::corrupt(format!(
            "{entries_per_table} entries in a grain table"
        )));
    }
    let compressed = flags & FLAG_COMPRESSED != 0;
    if compressed && (flags & FLAG_MARKERS == 0 || le_u16(header, 77) != Some(DEFLATE)) {
        return Err(Error::corrupt("an unknown way of compression"));
    }
    let directory = le_u64(header, 56).ok_or_else(cut)?;
    Ok(GrainTable {
        grain_bytes: grain_sectors * SECTOR,
        directory_offset: directory.checked_mul(SECTOR).ok_or_else(cut)?,
        entries_per_table,
        compressed,
        zero_grains: flags & FLAG_ZERO_GRAINS != 0,
        directory_page: Page::default(),
        table_page: Page::default(),
    })
}
