//! What the entries of an L2 table say about a cluster or subcluster.

use bytes::Bytes;

use super::OFFSET_MASK;
use super::header::Header;
use crate::endian::be_u64;
use crate::{Error, Result};

const COMPRESSED: u64 = 1 << 62;
/// In standard entries of version 3 without subclusters: the cluster reads as zero.
const READS_ZERO: u64 = 1;
const SUBCLUSTERS: u32 = 32;

/// Where a range of the virtual disk lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    Zero,
    /// Stored as it is from `host_offset` on.
    Plain {
        host_offset: u64,
    },
    /// One whole cluster, compressed into at most `length` bytes.
    Compressed {
        host_offset: u64,
        length: usize,
    },
}

/// A range of a cluster, or more where it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// On the virtual disk.
    pub offset: u64,
    pub length: u64,
    pub mapping: Mapping,
}

/// An L2 table in memory.
#[derive(Debug)]
pub(crate) struct L2Table {
    pub host_offset: u64,
    pub entries: Bytes,
}

impl L2Table {
    /// The run that starts at `offset`, which may lie within a cluster at the start of a
    /// subcluster. The run ends at the end of the cluster at the latest.
    pub fn run_at(&self, header: &Header, offset: u64, file_length: u64) -> Result<Run> {
        let cluster_size = header.cluster_size();
        let index = (offset % header.l2_coverage()) / cluster_size;
        let position = usize::try_from(index * header.l2_entry_size()).unwrap_or(usize::MAX);
        let cut = || Error::corrupt("an L2 table is cut");
        let entry = be_u64(&self.entries, position).ok_or_else(cut)?;
        let rest = cluster_size - offset % cluster_size;
        if entry & COMPRESSED != 0 {
            let mapping = compressed(header, entry, file_length)?;
            return Ok(Run {
                offset,
                length: rest,
                mapping,
            });
        }
        if header.extended_l2 {
            let bitmap = be_u64(&self.entries, position.saturating_add(8)).ok_or_else(cut)?;
            return subclusters(header, offset, entry, bitmap);
        }
        let mapping = standard(header, entry)?;
        Ok(Run {
            offset,
            length: rest,
            mapping,
        })
    }
}

fn standard(header: &Header, entry: u64) -> Result<Mapping> {
    if entry & READS_ZERO != 0 {
        if header.version < 3 {
            return Err(Error::corrupt("a zero cluster in an image of version 2"));
        }
        return Ok(Mapping::Zero);
    }
    match host_cluster(header, entry)? {
        0 => Ok(Mapping::Zero),
        host_offset => Ok(Mapping::Plain { host_offset }),
    }
}

/// The host offset of a standard entry; 0: none.
fn host_cluster(header: &Header, entry: u64) -> Result<u64> {
    let host_offset = entry & OFFSET_MASK;
    if host_offset & (header.cluster_size() - 1) != 0 {
        return Err(Error::corrupt(format!(
            "a cluster at the odd offset {host_offset}"
        )));
    }
    Ok(host_offset)
}

fn compressed(header: &Header, entry: u64, file_length: u64) -> Result<Mapping> {
    // The offset takes the low bits, the number of further sectors the next cluster_bits - 8.
    let offset_bits = 62 - (header.cluster_bits - 8);
    let host_offset = entry & ((1 << offset_bits) - 1);
    let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
    let length = (sectors + 1) * 512 - host_offset % 512;
    // The count is in sectors, but the file may end within the last one.
    let available = file_length
        .checked_sub(host_offset)
        .filter(|available| *available > 0);
    let available = available.ok_or_else(|| past_end(host_offset))?;
    let length = usize::try_from(length.min(available)).map_err(|_| past_end(host_offset))?;
    Ok(Mapping::Compressed {
        host_offset,
        length,
    })
}

/// The low half of the bitmap marks subclusters that are stored, the high half those that read
/// as zero.
fn subclusters(header: &Header, offset: u64, entry: u64, bitmap: u64) -> Result<Run> {
    let host_offset = host_cluster(header, entry)?;
    let (stored, zero) = (bitmap & 0xffff_ffff, bitmap >> 32);
    if stored & zero != 0 {
        return Err(Error::corrupt("a subcluster is both stored and zero"));
    }
    if stored != 0 && host_offset == 0 {
        return Err(Error::corrupt("stored subclusters without a cluster"));
    }
    let size = header.cluster_size() / u64::from(SUBCLUSTERS);
    let within = offset % header.cluster_size();
    let first = within / size;
    let is_stored = |index: u64| stored >> index & 1 == 1;
    let same =
        (first..u64::from(SUBCLUSTERS)).take_while(|index| is_stored(*index) == is_stored(first));
    let length = same.count() as u64 * size - within % size;
    let mapping = if is_stored(first) {
        Mapping::Plain {
            host_offset: host_offset + within,
        }
    } else {
        Mapping::Zero
    };
    Ok(Run {
        offset,
        length,
        mapping,
    })
}

pub(crate) fn past_end(host_offset: u64) -> Error {
    Error::corrupt(format!(
        "data at {host_offset} lies past the end of the file"
    ))
}
