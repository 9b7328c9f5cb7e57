//! VHD: a footer, and in dynamic disks a header that leads to a table with a sector for each
//! block.

use super::blocks::{Entry, FlatTable, Page, Table};
use super::{cut, part};
use crate::endian::{be_u32, be_u64};
use crate::{ByteSource, Error, Result};

const FOOTER_BYTES: u64 = 512;
const HEADER_BYTES: usize = 1024;
const SECTOR: u64 = 512;

pub(super) async fn open(source: &impl ByteSource) -> Result<(u64, Table)> {
    let at = source.len().checked_sub(FOOTER_BYTES).ok_or_else(cut)?;
    let footer = part(source, at, FOOTER_BYTES as usize).await?;
    if !footer.starts_with(b"conectix") {
        return Err(Error::corrupt("the VHD footer is missing"));
    }
    let size_bytes = be_u64(&footer, 48).ok_or_else(cut)?;
    match be_u32(&footer, 60) {
        Some(2) => {
            if size_bytes > at {
                return Err(Error::corrupt("the disk passes the end of the file"));
            }
            Ok((size_bytes, Table::Plain { offset: 0 }))
        }
        Some(3) => {
            let header = be_u64(&footer, 16).ok_or_else(cut)?;
            let header = part(source, header, HEADER_BYTES).await?;
            Ok((size_bytes, dynamic(&header, size_bytes)?))
        }
        Some(4) => Err(Error::BackingFile),
        _ => Err(Error::corrupt("an unknown type of VHD")),
    }
}

fn dynamic(header: &[u8], size_bytes: u64) -> Result<Table> {
    if !header.starts_with(b"cxsparse") {
        return Err(Error::corrupt("the header of the dynamic disk is missing"));
    }
    let entries = u64::from(be_u32(header, 28).ok_or_else(cut)?);
    let block_bytes = u64::from(be_u32(header, 32).ok_or_else(cut)?);
    if !block_bytes.is_power_of_two() || !(4096..=256 << 20).contains(&block_bytes) {
        return Err(Error::corrupt(format!("blocks of {block_bytes} bytes")));
    }
    if entries < size_bytes.div_ceil(block_bytes) {
        return Err(Error::corrupt(
            "the block table does not cover the virtual size",
        ));
    }
    // A bit for each sector, in whole sectors.
    let bitmap_bytes = (block_bytes / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    Ok(Table::Flat(FlatTable {
        block_bytes,
        table_offset: be_u64(header, 16).ok_or_else(cut)?,
        entry: Entry::Vhd { bitmap_bytes },
        chunk_ratio: u64::MAX,
        page: Page::default(),
    }))
}
