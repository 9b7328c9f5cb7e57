//! VDI (VirtualBox): a header, and a table with a number for each block.

use super::blocks::{Entry, FlatTable, Page, Table};
use super::{cut, head};
use crate::endian::{le_u32, le_u64};
use crate::{ByteSource, Error, Result};

const HEADER_BYTES: usize = 512;

pub(super) async fn open(source: &impl ByteSource) -> Result<(u64, Table)> {
    let header = head(source, HEADER_BYTES).await?;
    let field = |offset: usize| le_u32(&header, offset).map(u64::from).ok_or_else(cut);
    // Dynamic and fixed; the other kinds have a parent.
    if !matches!(field(0x4c)?, 1 | 2) {
        return Err(Error::BackingFile);
    }
    let size_bytes = le_u64(&header, 0x170).ok_or_else(cut)?;
    let block_bytes = field(0x178)?;
    if !block_bytes.is_power_of_two() || !(4096..=64 << 20).contains(&block_bytes) {
        return Err(Error::corrupt(format!("blocks of {block_bytes} bytes")));
    }
    if field(0x17c)? != 0 {
        return Err(Error::corrupt("blocks with extra data"));
    }
    if field(0x180)? < size_bytes.div_ceil(block_bytes) {
        return Err(Error::corrupt(
            "the block table does not cover the virtual size",
        ));
    }
    let table = FlatTable {
        block_bytes,
        table_offset: field(0x154)?,
        entry: Entry::Vdi {
            data_offset: field(0x158)?,
        },
        chunk_ratio: u64::MAX,
        page: Page::default(),
    };
    Ok((size_bytes, Table::Flat(table)))
}
