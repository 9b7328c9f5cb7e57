//! The consistency check: walks everything and compares all counts with what is really there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::blocks::{BLOCK_BYTES, Run};
use super::engine::Engine;
use super::open::EmbeddedStore;
use super::records::{Disk, ImageRecord, SnapshotRecord, key};
use super::space::{CHUNK_GROUPS, ChunkUse, GROUP_BLOCKS, Group};
use super::state::State;
use super::tree::Root;
use crate::Result;

/// Errors that a report lists; the rest is only counted.
const MOST_ERRORS: usize = 1000;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub images: u64,
    pub snapshots: u64,
    /// Nodes of trees, a shared one once.
    pub nodes: u64,
    /// Bytes of blocks that trees map, a shared one once.
    pub used_bytes: u64,
    pub error_count: u64,
    /// The first errors, one line each. Empty: the store is sound.
    pub errors: Vec<String>,
}

impl EmbeddedStore {
    /// Compares all reference counts, counters and links with what a walk over the whole store
    /// finds; with `data` also reads every block. Other calls wait meanwhile. Needs about 1 MiB
    /// of memory per 10 GiB of data.
    pub async fn check(&self, data: bool) -> Result<CheckReport> {
        self.check_watched(data, Arc::default()).await
    }

    /// [`EmbeddedStore::check`] that counts in `checked_bytes` how far it is, up to
    /// [`Capacity::used_bytes`](crate::Capacity::used_bytes).
    pub async fn check_watched(
        &self,
        data: bool,
        checked_bytes: Arc<AtomicU64>,
    ) -> Result<CheckReport> {
        let check = move |engine: &Engine| {
            let mut state = engine.state()?;
            let mut walk = Walk {
                data: data.then_some(engine),
                checked_bytes,
                ..Walk::default()
            };
            state.check_images(&mut walk)?;
            state.check_nodes(&mut walk)?;
            state.check_blocks(&mut walk)?;
            Ok(walk.report)
        };
        self.engine.blocking(check).await
    }
}

#[derive(Default)]
struct Walk<'a> {
    report: CheckReport,
    data: Option<&'a Engine>,
    /// For whoever watches; the count itself is in the report.
    checked_bytes: Arc<AtomicU64>,
    /// Slots, roots and drops that point to each node; the blocks mapped below it.
    nodes: HashMap<u64, (u32, u64)>,
    groups: HashMap<u64, Group>,
}

impl Walk<'_> {
    fn error(&mut self, text: impl FnOnce() -> String) {
        self.report.error_count += 1;
        if self.report.errors.len() < MOST_ERRORS {
            self.report.errors.push(text());
        }
    }

    fn expect(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.error(text);
        }
    }

    fn count_block(&mut self, block: u64) {
        let group = self
            .groups
            .entry(block / GROUP_BLOCKS)
            .or_insert_with(Group::empty);
        let count = group.count(block % GROUP_BLOCKS);
        group.set(block % GROUP_BLOCKS, count.saturating_add(1));
        self.report.used_bytes += if count == 0 { BLOCK_BYTES } else { 0 };
        self.checked_bytes
            .store(self.report.used_bytes, Ordering::Relaxed);
    }

    fn read(&mut self, block: u64, crc: u32) {
        let mut data = vec![0; BLOCK_BYTES as usize];
        let run = Run {
            start: block,
            count: 1,
        };
        let sound = match self.data.map(|engine| engine.files.read(run, &mut data)) {
            None => true,
            Some(read) => read.is_ok() && crc_fast::crc32_iscsi(&data) == crc,
        };
        self.expect(sound, || format!("block {block} is damaged"));
    }
}

impl State {
    fn check_images(&mut self, walk: &mut Walk<'_>) -> Result<()> {
        let records = self.scan(b"I")?;
        walk.report.images = records.len() as u64;
        let (names, heads) = (self.scan(b"N")?.len(), self.scan(b"H")?.len());
        walk.expect(names == records.len() && heads == records.len(), || {
            format!("{} images, {names} names, {heads} heads", records.len())
        });
        let mut links = BTreeSet::new();
        let mut snapshot_keys = 0;
        for (image_key, value) in records {
            let id = image_key.get(1..9).and_then(|id| id.try_into().ok());
            let id = id.map_or(0, u64::from_be_bytes);
            let Some(record) = ImageRecord::from_bytes(&value) else {
                walk.error(|| format!("the record of image {id}"));
                continue;
            };
            let named = self.image_id(&record.spec);
            walk.expect(matches!(named, Ok(found) if found == id), || {
                format!("the name {} does not lead to its image", record.spec)
            });
            if let Some((parent, snapshot)) = record.parent {
                links.insert(key(b'L', &[parent, snapshot, id]));
                let known = self.snapshots(parent)?;
                let known = known
                    .iter()
                    .any(|found| found.id == snapshot && found.protected);
                walk.expect(known, || {
                    format!("the parent of {} is missing", record.spec)
                });
            }
            let head = self.head(id);
            match head {
                Ok(disk) => self.check_disk(disk, walk),
                Err(error) => walk.error(|| format!("{}: {error}", record.spec)),
            }
            for snapshot in self.snapshots(id)? {
                snapshot_keys += 1;
                self.check_disk(snapshot.disk, walk);
            }
        }
        walk.report.snapshots = snapshot_keys;
        let snapshots = self.scan(b"S")?;
        walk.expect(snapshots.len() as u64 == snapshot_keys, || {
            "snapshots without image".into()
        });
        let broken = |value: &Arc<Vec<u8>>| SnapshotRecord::from_bytes(0, value).is_none();
        walk.expect(!snapshots.iter().any(|(_, value)| broken(value)), || {
            "the record of a snapshot".into()
        });
        let found: BTreeSet<Vec<u8>> = self.scan(b"L")?.into_iter().map(|(key, _)| key).collect();
        walk.expect(found == links, || {
            format!("{} links to parents, not {}", found.len(), links.len())
        });
        for (metadata, _) in self.scan(b"M")? {
            let owner = [b"I", metadata.get(1..9).unwrap_or_default()].concat();
            let known = self.catalogue.get(&owner)?.is_some();
            walk.expect(known, || format!("metadata {metadata:02x?} without image"));
        }
        for dropped in self.load_drops()? {
            self.visit(dropped.node, dropped.level, walk);
        }
        Ok(())
    }

    fn check_disk(&mut self, disk: Disk, walk: &mut Walk<'_>) {
        let Root {
            node,
            height,
            mapped,
        } = disk.root;
        let below = match height.checked_sub(1) {
            Some(level) if node != 0 => self.visit(node, level, walk),
            _ => 0,
        };
        walk.expect(below == mapped, || {
            format!("the tree of node {node} maps {below} blocks, not {mapped}")
        });
    }

    /// Counts one more pointer to a node; answers the blocks mapped below it.
    fn visit(&mut self, id: u64, level: u8, walk: &mut Walk<'_>) -> u64 {
        if let Some((references, mapped)) = walk.nodes.get_mut(&id) {
            *references += 1;
            return *mapped;
        }
        let node = match self.node(id, level) {
            Ok(node) => node,
            Err(error) => {
                walk.error(|| error.to_string());
                return 0;
            }
        };
        let mapped = node.mapped();
        walk.nodes.insert(id, (1, mapped));
        for (_, below, value) in node.slots() {
            let Some(level) = level.checked_sub(1) else {
                walk.count_block(below);
                walk.read(below, value as u32);
                continue;
            };
            let found = self.visit(below, level, walk);
            walk.expect(found == value, || {
                format!("node {below} maps {found} blocks, not {value}")
            });
        }
        mapped
    }

    fn check_nodes(&mut self, walk: &mut Walk<'_>) -> Result<()> {
        let stored = self.nodes.keys()?;
        walk.report.nodes = stored.len() as u64;
        for id in stored {
            let known = walk.nodes.contains_key(&id);
            walk.expect(known, || format!("nothing points to node {id}"));
        }
        let mut counted: HashMap<u64, u32> = HashMap::new();
        for id in self.shares.keys()? {
            let shares = self.shares(id)?;
            counted.insert(id, shares);
        }
        let shared = walk.nodes.iter().filter(|(_, (count, _))| *count > 1);
        let shared: HashMap<u64, u32> = shared.map(|(id, (count, _))| (*id, *count)).collect();
        let all: BTreeSet<&u64> = counted.keys().chain(shared.keys()).collect();
        for id in all {
            let (count, found) = (counted.get(id), shared.get(id));
            walk.expect(count == found, || {
                format!("node {id} is counted {count:?} times, not {found:?}")
            });
        }
        Ok(())
    }

    fn check_blocks(&mut self, walk: &mut Walk<'_>) -> Result<()> {
        let stored: BTreeSet<u64> = self.groups.keys()?.into_iter().collect();
        let all: BTreeSet<u64> = stored.iter().chain(walk.groups.keys()).copied().collect();
        let mut chunks = vec![ChunkUse::empty(); self.space.chunks.len()];
        for number in all {
            let found = walk.groups.remove(&number).unwrap_or_else(Group::empty);
            let used: u32 = found.used().iter().map(|word| word.count_ones()).sum();
            let slot = chunks
                .get_mut((number / CHUNK_GROUPS) as usize)
                .and_then(|chunk| chunk.0.get_mut((number % CHUNK_GROUPS) as usize));
            match slot {
                Some(slot) => *slot = used as u16,
                None => walk.error(|| format!("block group {number} is beyond the files")),
            }
            let counted = self.groups.get(&number);
            let same = |index| match &counted {
                Ok(Some(group)) => group.count(index) == found.count(index),
                Ok(None) => found.count(index) == 0,
                Err(_) => false,
            };
            let wrong = (0..GROUP_BLOCKS).filter(|index| !same(*index)).count();
            walk.expect(wrong == 0, || {
                format!("{wrong} blocks of group {number} are counted wrong")
            });
        }
        walk.expect(chunks == self.space.chunks, || {
            "the use of the chunk files is counted wrong".into()
        });
        let (found, counted) = (walk.report.used_bytes, self.space.used_blocks * BLOCK_BYTES);
        walk.expect(found == counted, || {
            format!("{counted} bytes are counted as used, not {found}")
        });
        Ok(())
    }
}
