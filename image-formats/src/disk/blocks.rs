//! Disks in blocks of one size that a table maps to places in the file.

use bytes::{Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress};

use super::part;
use crate::endian::{be_u32, le_u32, le_u64};
use crate::{ByteSource, DiskExtent, Error, MAX_PIECE_BYTES, Result};

/// The longest zero extent.
const MAX_ZERO_BYTES: u64 = 1 << 30;
/// Bytes of a table that are read at once.
const PAGE_BYTES: u64 = 64 * 1024;
const SECTOR: u64 = 512;
/// QEMU addresses a disk with 63 bits.
const MAX_DISK_BYTES: u64 = i64::MAX as u64;
/// What precedes a compressed grain: the sector it belongs to (8 bytes) and its length (4).
const GRAIN_MARKER_BYTES: usize = 12;

/// Where a block of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Zero,
    /// Offset of its bytes in the file.
    At(u64),
    /// Offset of the marker of its compressed bytes.
    Deflated(u64),
}

/// How a format maps blocks.
#[derive(Debug)]
pub(super) enum Table {
    /// The disk lies in the file as it is.
    Plain {
        offset: u64,
    },
    Flat(FlatTable),
    Grains(GrainTable),
}

/// An entry for each block.
#[derive(Debug)]
pub(super) struct FlatTable {
    pub block_bytes: u64,
    pub table_offset: u64,
    pub entry: Entry,
    /// After so many entries follows one that maps no block (VHDX); `u64::MAX`: never.
    pub chunk_ratio: u64,
    pub page: Page,
}

/// What an entry of a flat table says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry {
    /// Big-endian sector of a block, behind `bitmap_bytes`; all ones: zero.
    Vhd { bitmap_bytes: u64 },
    /// Little-endian number of a block behind `data_offset`; the two highest: zero.
    Vdi { data_offset: u64 },
    /// Little-endian: state in the low three bits, megabyte in the high 44.
    Vhdx,
}

/// VMDK: a directory of tables of entries of four bytes.
#[derive(Debug)]
pub(super) struct GrainTable {
    pub grain_bytes: u64,
    pub directory_offset: u64,
    pub entries_per_table: u64,
    pub compressed: bool,
    /// Whether an entry of 1 stands for zeroes.
    pub zero_grains: bool,
    pub directory_page: Page,
    pub table_page: Page,
}

/// The page of a table that was read last.
#[derive(Debug, Default)]
pub(super) struct Page(Option<(u64, Bytes)>);

impl Page {
    /// `length` bytes of the table at `offset`; they do not cross a page.
    async fn get(
        &mut self,
        source: &impl ByteSource,
        table_offset: u64,
        within: u64,
        length: usize,
    ) -> Result<Bytes> {
        let overflow = || Error::corrupt("a table lies past the end of the file");
        let start = table_offset
            .checked_add(within - within % PAGE_BYTES)
            .ok_or_else(overflow)?;
        let from = (within % PAGE_BYTES) as usize;
        let known = matches!(&self.0, Some((at, _)) if *at == start);
        if !known {
            let left = source.len().saturating_sub(start).min(PAGE_BYTES);
            self.0 = Some((start, part(source, start, left as usize).await?));
        }
        let page = self.0.as_ref().map(|(_, page)| page);
        page.filter(|page| from + length <= page.len())
            .map(|page| page.slice(from..from + length))
            .ok_or_else(overflow)
    }
}

impl Table {
    fn block_bytes(&self) -> u64 {
        match self {
            Table::Plain { .. } => MAX_PIECE_BYTES as u64,
            Table::Flat(table) => table.block_bytes,
            Table::Grains(table) => table.grain_bytes,
        }
    }

    /// Where the block is, and how many blocks from it on are zero if it is.
    async fn place(&mut self, source: &impl ByteSource, block: u64) -> Result<(Place, u64)> {
        match self {
            Table::Plain { offset } => {
                let at = block
                    .checked_mul(MAX_PIECE_BYTES as u64)
                    .and_then(|within| within.checked_add(*offset));
                Ok((Place::At(at.ok_or_else(past_the_end)?), 1))
            }
            Table::Flat(table) => Ok((table.place(source, block).await?, 1)),
            Table::Grains(table) => table.place(source, block).await,
        }
    }
}

fn past_the_end() -> Error {
    Error::corrupt("a block lies past the end of the file")
}

impl FlatTable {
    /// Checks that the table covers the disk and lies in the file.
    pub fn check(&self, size_bytes: u64, file_bytes: u64) -> Result<()> {
        let blocks = size_bytes.div_ceil(self.block_bytes);
        let entries = blocks + blocks / self.chunk_ratio;
        let end = entries
            .checked_mul(self.entry.bytes() as u64)
            .and_then(|bytes| bytes.checked_add(self.table_offset));
        match end {
            Some(end) if end <= file_bytes => Ok(()),
            _ => Err(Error::corrupt(
                "the block table lies past the end of the file",
            )),
        }
    }

    async fn place(&mut self, source: &impl ByteSource, block: u64) -> Result<Place> {
        let index = block + block / self.chunk_ratio;
        let length = self.entry.bytes();
        let within = index.saturating_mul(length as u64);
        let entry = self.page.get(source, self.table_offset, within, length);
        self.entry.decode(&entry.await?, self.block_bytes)
    }
}

impl Entry {
    fn bytes(self) -> usize {
        match self {
            Entry::Vhd { .. } | Entry::Vdi { .. } => 4,
            Entry::Vhdx => 8,
        }
    }

    fn decode(self, entry: &[u8], block_bytes: u64) -> Result<Place> {
        let at = |offset: Option<u64>| offset.map(Place::At).ok_or_else(past_the_end);
        match self {
            Entry::Vhd { bitmap_bytes } => match be_u32(entry, 0) {
                None | Some(u32::MAX) => Ok(Place::Zero),
                Some(sector) => at((u64::from(sector) * SECTOR).checked_add(bitmap_bytes)),
            },
            Entry::Vdi { data_offset } => match le_u32(entry, 0) {
                None | Some(0xffff_fffe | u32::MAX) => Ok(Place::Zero),
                Some(number) => at(u64::from(number)
                    .checked_mul(block_bytes)
                    .and_then(|within| within.checked_add(data_offset))),
            },
            Entry::Vhdx => {
                let entry = le_u64(entry, 0).unwrap_or(0);
                match entry & 7 {
                    0..=3 => Ok(Place::Zero),
                    6 => Ok(Place::At(entry & !0xf_ffff)),
                    _ => Err(Error::corrupt(
                        "a block has a state that only a child can have",
                    )),
                }
            }
        }
    }
}

impl GrainTable {
    /// Checks that the directory covers the disk and lies in the file.
    pub fn check(&self, size_bytes: u64, file_bytes: u64) -> Result<()> {
        let tables = size_bytes.div_ceil(self.grain_bytes * self.entries_per_table);
        let end = tables
            .checked_mul(4)
            .and_then(|bytes| bytes.checked_add(self.directory_offset));
        match end {
            Some(end) if end <= file_bytes => Ok(()),
            _ => Err(Error::corrupt(
                "the grain directory lies past the end of the file",
            )),
        }
    }

    async fn place(&mut self, source: &impl ByteSource, grain: u64) -> Result<(Place, u64)> {
        let (table, index) = (
            grain / self.entries_per_table,
            grain % self.entries_per_table,
        );
        let entry =
            self.directory_page
                .get(source, self.directory_offset, table.saturating_mul(4), 4);
        let sector = le_u32(&entry.await?, 0).unwrap_or(0);
        if sector == 0 {
            return Ok((Place::Zero, self.entries_per_table - index));
        }
        let table_offset = u64::from(sector) * SECTOR;
        let entry = self.table_page.get(source, table_offset, index * 4, 4);
        let place = match le_u32(&entry.await?, 0).unwrap_or(0) {
            0 => Place::Zero,
            1 if self.zero_grains => Place::Zero,
            sector if self.compressed => Place::Deflated(u64::from(sector) * SECTOR),
            sector => Place::At(u64::from(sector) * SECTOR),
        };
        Ok((place, 1))
    }
}

/// Reads such a disk from its start to its end.
pub(super) struct BlockReader<S> {
    source: S,
    table: Table,
    size_bytes: u64,
    position: u64,
}

impl<S: ByteSource> BlockReader<S> {
    pub fn new(source: S, size_bytes: u64, table: Table) -> Result<Self> {
        if size_bytes > MAX_DISK_BYTES {
            return Err(Error::corrupt("the virtual size is too large"));
        }
        match &table {
            Table::Plain { offset } => {
                if offset
                    .checked_add(size_bytes)
                    .is_none_or(|end| end > source.len())
                {
                    return Err(Error::corrupt("the disk passes the end of the file"));
                }
            }
            Table::Flat(table) => table.check(size_bytes, source.len())?,
            Table::Grains(table) => table.check(size_bytes, source.len())?,
        }
        Ok(BlockReader {
            source,
            table,
            size_bytes,
            position: 0,
        })
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub async fn next_extent(&mut self) -> Result<Option<DiskExtent>> {
        let offset = self.position;
        if offset >= self.size_bytes {
            return Ok(None);
        }
        let block_bytes = self.table.block_bytes();
        let (place, zero_blocks) = self.table.place(&self.source, offset / block_bytes).await?;
        let within = offset % block_bytes;
        let in_block = (block_bytes - within).min(self.size_bytes - offset);
        let extent = match place {
            Place::Zero => self.zero_extent(zero_blocks).await?,
            Place::At(start) => {
                let start = start.checked_add(within).ok_or_else(past_the_end)?;
                let data = self.data(start, in_block).await?;
                DiskExtent::Data { offset, data }
            }
            Place::Deflated(start) => {
                let data = self.inflated(start, block_bytes, in_block).await?;
                DiskExtent::Data { offset, data }
            }
        };
        self.position = match &extent {
            DiskExtent::Data { data, .. } => offset + data.len() as u64,
            DiskExtent::Zero { length, .. } => offset + length,
        };
        Ok(Some(extent))
    }

    /// Zeroes from the position on, over as many blocks as there are.
    async fn zero_extent(&mut self, blocks: u64) -> Result<DiskExtent> {
        let block_bytes = self.table.block_bytes();
        let offset = self.position;
        let last = offset.saturating_add(MAX_ZERO_BYTES).min(self.size_bytes);
        let first_block = offset / block_bytes;
        let mut block = first_block.saturating_add(blocks);
        while block.saturating_mul(block_bytes) < last {
            match self.table.place(&self.source, block).await? {
                (Place::Zero, more) => block = block.saturating_add(more),
                _ => break,
            }
        }
        let end = block.saturating_mul(block_bytes).min(last);
        let length = end - offset;
        Ok(DiskExtent::Zero { offset, length })
    }

    /// Bytes of the file, joined over blocks that follow each other there. The last block of a
    /// file may be cut: what is missing is zero.
    async fn data(&mut self, start: u64, in_block: u64) -> Result<Bytes> {
        let block_bytes = self.table.block_bytes();
        let most = (MAX_PIECE_BYTES as u64).min(self.size_bytes - self.position);
        let mut length = in_block.min(most);
        if length == in_block {
            let mut block = self.position / block_bytes + 1;
            while length < most {
                let follows = start.saturating_add(length);
                match self.table.place(&self.source, block).await? {
                    (Place::At(at), _) if at == follows => {
                        length = length.saturating_add(block_bytes).min(most);
                    }
                    _ => break,
                }
                block += 1;
            }
        }
        let there = self.source.len().saturating_sub(start).min(length);
        if there == 0 {
            return Err(past_the_end());
        }
        let data = self.source.read_at(start, there as usize).await?;
        if there == length {
            return Ok(data);
        }
        let mut padded = BytesMut::from(data.as_ref());
        padded.resize(length as usize, 0);
        Ok(padded.freeze())
    }

    async fn inflated(&mut self, start: u64, grain_bytes: u64, wanted: u64) -> Result<Bytes> {
        let marker = part(&self.source, start, GRAIN_MARKER_BYTES).await?;
        let sector = le_u64(&marker, 0);
        if sector != Some(self.position / grain_bytes * (grain_bytes / SECTOR)) {
            return Err(Error::corrupt("a compressed grain belongs somewhere else"));
        }
        let length = le_u32(&marker, 8).unwrap_or(0) as usize;
        // Deflate makes incompressible data at most a little longer.
        if length > grain_bytes as usize + grain_bytes as usize / 8 + 1024 {
            return Err(Error::corrupt(
                "a compressed grain is longer than it can be",
            ));
        }
        let start = start.saturating_add(GRAIN_MARKER_BYTES as u64);
        let input = part(&self.source, start, length).await?;
        let wanted = wanted as usize;
        let inflate = move || inflate(&input, grain_bytes as usize, wanted);
        tokio::task::spawn_blocking(inflate)
            .await
            .map_err(std::io::Error::other)?
    }
}

/// The first `wanted` bytes of a zlib stream of at most `most` bytes.
fn inflate(input: &[u8], most: usize, wanted: usize) -> Result<Bytes> {
    let broken = || Error::corrupt("a compressed grain cannot be decompressed");
    let mut grain = vec![0; most];
    let mut inflate = Decompress::new(true);
    let status = inflate.decompress(input, &mut grain, FlushDecompress::Finish);
    if status.is_err() || inflate.total_out() < wanted as u64 {
        return Err(broken());
    }
    grain.truncate(wanted);
    Ok(grain.into())
}
