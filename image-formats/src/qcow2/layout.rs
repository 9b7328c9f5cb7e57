//! Where everything lies in a file written in one pass.

use crate::data_map::{DataMap, TablePlace};

/// The order of the file, in clusters: header, reference count table, reference count blocks, L1
/// table, L2 tables, data.
#[derive(Debug)]
pub(super) struct Layout {
    pub refcount_table: u64,
    pub refcount_blocks: u64,
    pub l1_entries: u64,
    pub l1: u64,
    pub l2: Vec<TablePlace>,
    pub data: u64,
}

impl Layout {
    pub fn of(map: &DataMap) -> Layout {
        let cluster_size = map.cluster_size();
        let l2_entries = cluster_size / 8;
        let clusters = map.virtual_size_bytes().div_ceil(cluster_size);
        let l1_entries = clusters.div_ceil(l2_entries).max(1);
        let (l2, data) = map.tables(l2_entries);
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
