//! Which clusters of a disk hold data, and where everything lies in a file written in one pass.

use crate::{Error, Result};

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
        let too_large = || {
            Error::Invalid(format!(
                "a disk of {virtual_size_bytes} bytes is too large for qcow2"
            ))
        };
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

    pub(super) fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    pub(super) fn holds_data(&self, cluster: u64) -> bool {
        self.words
            .get((cluster / 64) as usize)
            .is_some_and(|word| word >> (cluster % 64) & 1 == 1)
    }

    /// The first cluster with data from `cluster` on.
    pub(super) fn next_data(&self, cluster: u64) -> Option<u64> {
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
}

/// An L2 table that is written because some of its clusters hold data.
#[derive(Debug, Clone, Copy)]
pub(super) struct L2Place {
    pub l1_index: u64,
    /// How many clusters with data come before its first.
    pub data_before: u64,
}

/// The order of the file, in clusters: header, reference count table, reference count blocks, L1
/// table, L2 tables, data.
#[derive(Debug)]
pub(super) struct Layout {
    pub refcount_table: u64,
    pub refcount_blocks: u64,
    pub l1_entries: u64,
    pub l1: u64,
    pub l2: Vec<L2Place>,
    pub data: u64,
}

impl Layout {
    pub fn of(map: &DataMap) -> Layout {
        let cluster_size = map.cluster_size();
        let l2_entries = cluster_size / 8;
        let clusters = map.virtual_size_bytes.div_ceil(cluster_size);
        let l1_entries = clusters.div_ceil(l2_entries).max(1);
        let mut l2 = Vec::new();
        let mut data = 0;
        for l1_index in 0..l1_entries {
            let count = map.count(l1_index * l2_entries, (l1_index + 1) * l2_entries);
            if count > 0 {
                l2.push(L2Place {
                    l1_index,
                    data_before: data,
                });
                data += count;
            }
        }
        let l1 = (l1_entries * 8).div_ceil(cluster_size);
        let fixed = 1 + l1 + l2.len() as u64 + data;
        let (refcount_table, refcount_blocks) = refcount_clusters(fixed, cluster_size);
        Layout {
            refcount_table,
            refcount_blocks,
            l1_entries,
            l1,
            l2,
            data,
        }
    }

    pub fn first_refcount_block(&self) -> u64 {
        1 + self.refcount_table
    }

    pub fn first_l1(&self) -> u64 {
        self.first_refcount_block() + self.refcount_blocks
    }

    pub fn first_l2(&self) -> u64 {
        self.first_l1() + self.l1
    }

    pub fn first_data(&self) -> u64 {
        self.first_l2() + self.l2.len() as u64
    }

    pub fn clusters(&self) -> u64 {
        self.first_data() + self.data
    }
}

/// Clusters of the reference count table and of its blocks, which count themselves as well.
fn refcount_clusters(fixed: u64, cluster_size: u64) -> (u64, u64) {
    let per_block = cluster_size / 2;
    let (mut table, mut blocks) = (1, 1);
    // Both only grow, and each added cluster counts tens of thousands of others.
    loop {
        let wanted_blocks = (fixed + table + blocks).div_ceil(per_block);
        let wanted_table = (wanted_blocks * 8).div_ceil(cluster_size);
        if (wanted_table, wanted_blocks) == (table, blocks) {
            return (table, blocks);
        }
        (table, blocks) = (wanted_table.max(table), wanted_blocks.max(blocks));
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
