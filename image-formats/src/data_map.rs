//! Which clusters of a disk hold data, for writers that put a file out in one pass.

use bytes::Bytes;

use crate::{ByteSource, Error, MAX_PIECE_BYTES, Result};

/// The map takes at most this many bits, 8 MiB.
const MAX_CLUSTERS: u64 = 64 * 1024 * 1024;
const DEFAULT_CLUSTER_BITS: u32 = 16;
const MAX_CLUSTER_BITS: u32 = 21;

/// The clusters of a disk that hold data. Takes one bit per cluster, at most 8 MiB.
#[derive(Debug, Clone)]
pub struct DataMap {
    virtual_size_bytes: u64,
    cluster_bits: u32,
    words: Vec<u64>,
}

impl DataMap {
    /// A disk of zeroes. Clusters have 64 KiB up to 4 TiB and grow with larger disks; `Invalid`
    /// over 128 TiB.
    pub fn new(virtual_size_bytes: u64) -> Result<Self> {
        let fits = |bits: &u32| virtual_size_bytes.div_ceil(1 << bits) <= MAX_CLUSTERS;
        let cluster_bits = (DEFAULT_CLUSTER_BITS..=MAX_CLUSTER_BITS).find(fits);
        let too_large =
            || Error::Invalid(format!("a disk of {virtual_size_bytes} bytes is too large"));
        let cluster_bits = cluster_bits.ok_or_else(too_large)?;
        let clusters = virtual_size_bytes.div_ceil(1 << cluster_bits);
        Ok(DataMap {
            virtual_size_bytes,
            cluster_bits,
            words: vec![0; clusters.div_ceil(64) as usize],
        })
    }

    /// Notes that the range holds data. Ranges may come in any order and overlap. `Invalid` past
    /// the virtual size.
    pub fn add(&mut self, offset: u64, length: u64) -> Result<()> {
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= self.virtual_size_bytes);
        let Some(end) = end else {
            return Err(Error::Invalid(format!(
                "the extent {offset}+{length} passes the end of the disk"
            )));
        };
        if length == 0 {
            return Ok(());
        }
        let mut cluster = offset >> self.cluster_bits;
        let end = end.div_ceil(1 << self.cluster_bits);
        while cluster < end {
            let next = end.min((cluster / 64 + 1) * 64);
            let mask = (u64::MAX >> (64 - (next - cluster))) << (cluster % 64);
            if let Some(word) = self.words.get_mut((cluster / 64) as usize) {
                *word |= mask;
            }
            cluster = next;
        }
        Ok(())
    }

    pub fn virtual_size_bytes(&self) -> u64 {
        self.virtual_size_bytes
    }

    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(crate) fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    pub(crate) fn holds_data(&self, cluster: u64) -> bool {
        self.words
            .get((cluster / 64) as usize)
            .is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }

    /// The first cluster with data from `cluster` on.
    pub(crate) fn next_data(&self, cluster: u64) -> Option<u64> {
        let mut index = (cluster / 64) as usize;
        let mut word = self.words.get(index)? & (u64::MAX << (cluster % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
    }

    /// How many clusters from `first` to before `end` hold data. Both are multiples of 64, or
    /// `end` lies past the disk.
    fn count(&self, first: u64, end: u64) -> u64 {
        let start = (first / 64) as usize;
        let end = (end.div_ceil(64) as usize).min(self.words.len());
        let words = self.words.get(start..end).unwrap_or_default();
        words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The tables of `entries` clusters each, a multiple of 64, that have any with data, and how
    /// many clusters that are.
    pub(crate) fn tables(&self, entries: u64) -> (Vec<TablePlace>, u64) {
        let clusters = self.virtual_size_bytes.div_ceil(self.cluster_size());
        let (mut places, mut data) = (Vec::new(), 0);
        for index in 0..clusters.div_ceil(entries) {
            let count = self.count(index * entries, (index + 1) * entries);
            if count > 0 {
                places.push(TablePlace {
                    index,
                    data_before: data,
                });
                data += count;
            }
        }
        (places, data)
    }
}

/// A table that is written because some of its clusters hold data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TablePlace {
    /// Its number among all of the disk's.
    pub index: u64,
    /// How many clusters with data come before its first.
    pub data_before: u64,
}

/// Goes through the clusters that hold data, in rising order.
#[derive(Debug, Default)]
pub(crate) struct DataPieces {
    /// The next cluster of the disk to look at.
    cluster: u64,
}

impl DataPieces {
    /// The next clusters with data, whole ones, at most [`MAX_PIECE_BYTES`]; the last of the disk
    /// is filled up with zeroes.
    pub async fn next(
        &mut self,
        map: &DataMap,
        disk: &(impl ByteSource + ?Sized),
    ) -> Result<Option<Bytes>> {
        let cluster_size = map.cluster_size();
        let Some(first) = map.next_data(self.cluster) else {
            return Ok(None);
        };
        let max_clusters = MAX_PIECE_BYTES as u64 / cluster_size;
        let rest = first + 1..first + max_clusters;
        let end = rest
            .take_while(|cluster| map.holds_data(*cluster))
            .last()
            .unwrap_or(first)
            + 1;
        let (start, padded_end) = (first * cluster_size, end * cluster_size);
        let length = (padded_end.min(map.virtual_size_bytes()) - start) as usize;
        let data = disk.read_at(start, length).await?;
        if data.len() != length {
            return Err(Error::Source(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.cluster = end;
        let padded_length = (padded_end - start) as usize;
        if length == padded_length {
            return Ok(Some(data));
        }
        let mut padded = Vec::with_capacity(padded_length);
        padded.extend_from_slice(&data);
        padded.resize(padded_length, 0);
        Ok(Some(padded.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_marks_exactly_the_touched_clusters() {
        let mut map = DataMap::new(300 * 65536 + 5).unwrap();
        map.add(0, 1).unwrap();
        map.add(63 * 65536 + 9, 70 * 65536).unwrap();
        map.add(300 * 65536, 5).unwrap();
        let marked: Vec<u64> = (0..400)
            .filter(|cluster| map.holds_data(*cluster))
            .collect();
        let expected: Vec<u64> = [0].into_iter().chain(63..=133).chain([300]).collect();
        assert_eq!(marked, expected);
        assert_eq!(map.next_data(1), Some(63));
        assert_eq!(map.next_data(134), Some(300));
        assert_eq!(map.next_data(301), None);
        assert!(map.add(300 * 65536, 6).is_err());
        assert!(map.add(u64::MAX, 2).is_err());
    }

    #[test]
    fn clusters_grow_with_the_disk() {
        assert_eq!(DataMap::new(4 << 40).unwrap().cluster_size(), 65536);
        assert_eq!(DataMap::new((4 << 40) + 1).unwrap().cluster_size(), 131072);
        assert_eq!(DataMap::new(128 << 40).unwrap().cluster_size(), 2 << 20);
        assert!(DataMap::new((128 << 40) + 1).is_err());
        assert!(DataMap::new(u64::MAX).is_err());
    }
}
