//! The content of an image in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::store::ExtentList;
use crate::{Extent, ExtentKind};

pub(super) const BLOCK: u64 = 4096;

/// What an image or snapshot holds: its size and the blocks that are not all zero.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) size_bytes: u64,
    pub(super) blocks: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Disk {
    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        let end = offset + length as u64;
        for (index, block) in self.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = (index * BLOCK).max(offset);
            let stop = ((index + 1) * BLOCK).min(end);
            let within = (start - index * BLOCK) as usize..(stop - index * BLOCK) as usize;
            data[(start - offset) as usize..(stop - offset) as usize]
                .copy_from_slice(&block[within]);
        }
        data
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut position = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (position % BLOCK) as usize;
            let (piece, behind) = rest.split_at(rest.len().min(BLOCK as usize - within));
            let index = position / BLOCK;
            let mut block = self
                .blocks
                .get(&index)
                .map_or_else(|| vec![0; BLOCK as usize], |block| block.to_vec());
            block[within..within + piece.len()].copy_from_slice(piece);
            if block.iter().all(|byte| *byte == 0) {
                self.blocks.remove(&index);
            } else {
                self.blocks.insert(index, Arc::new(block));
            }
            position += piece.len() as u64;
            rest = behind;
        }
    }

    pub(super) fn discard(&mut self, offset: u64, end: u64) {
        let first_whole = offset.div_ceil(BLOCK);
        let end_whole = end / BLOCK;
        if first_whole > end_whole {
            return self.write(offset, &vec![0; (end - offset) as usize]);
        }
        self.write(offset, &vec![0; (first_whole * BLOCK - offset) as usize]);
        self.write(
            end_whole * BLOCK,
            &vec![0; (end - end_whole * BLOCK) as usize],
        );
        let behind = self.blocks.split_off(&first_whole);
        self.blocks
            .extend(behind.into_iter().filter(|(index, _)| *index >= end_whole));
    }

    pub(super) fn resize(&mut self, size_bytes: u64) {
        if size_bytes < self.size_bytes {
            self.discard(size_bytes, self.size_bytes.next_multiple_of(BLOCK));
        }
        self.size_bytes = size_bytes;
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }
}

/// What differs between two disks from `start` on.
pub(super) fn difference(
    older: Option<&Disk>,
    newer: &Disk,
    start: u64,
    limit: usize,
) -> Vec<Extent> {
    let empty = BTreeMap::new();
    let old = older.map_or(&empty, |disk| &disk.blocks);
    let indices: BTreeSet<u64> = old
        .range(start / BLOCK..)
        .chain(newer.blocks.range(start / BLOCK..))
        .map(|(index, _)| *index)
        .collect();
    let mut list = ExtentList::new(limit);
    for index in indices {
        let kind = match (old.get(&index), newer.blocks.get(&index)) {
            (before, Some(now)) if before != Some(now) => ExtentKind::Data,
            (Some(_), None) => ExtentKind::Zero,
            _ => continue,
        };
        let begin = (index * BLOCK).max(start);
        let end = ((index + 1) * BLOCK).min(newer.size_bytes);
        if begin < end && !list.push(begin, end - begin, kind) {
            break;
        }
    }
    list.into_vec()
}
