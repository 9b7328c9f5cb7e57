//! Entry points for fuzzing: any bytes where the store's own are expected. Whatever comes, the
//! store may refuse it, but must not panic, hang or take much memory.

#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::buffer::{UNIT_BYTES, crc};
use super::check::CheckOptions;
use super::disk::simulated::SimulatedDisk;
use super::disk::{Disk, FileId};
use super::format::batch::BatchHeader;
use super::format::node::Node;
use super::format::state::Saved;
use super::format::superblock::{Found, Superblock};
use super::format::{CHUNK_UNITS, Put, Unit};
use super::records::CatalogueChange as C;
use super::request::{Change, Content, Patch, Plan, PlanCall, Read, ReadTo, Reply, Request, parts};
use super::shard::{Settings, Shard, place};
use crate::{Error, ImageSpec, Result};

const SETTINGS: Settings = Settings {
    limit_units: None,
    map_cache_bytes: 0,
    spare_units: 256,
};
/// Steps that a request may take.
const MOST_STEPS: usize = 20_000;
const SIZE_BYTES: u64 = 4 << 20;

/// Reads bytes as every structure of the format, also behind a checksum that holds.
pub fn parse(bytes: &[u8]) {
    let _ = Saved::from_bytes(bytes);
    for level in 0..7 {
        if let Some(node) = Node::from_bytes(bytes, level) {
            let again = node.to_bytes();
            let used = if level == 0 { 2560 } else { UNIT_BYTES };
            assert_eq!(again[..used], bytes[..used]);
        }
    }
    let mut superblock = bytes.to_vec();
    superblock.resize(UNIT_BYTES, 0);
    superblock[..12].copy_from_slice(b"BASALTST\x02\0\0\0");
    seal(&mut superblock, 12);
    match Superblock::from_bytes(&superblock) {
        Found::Sound(found) => assert_eq!(
            Superblock::from_bytes(&found.to_bytes()),
            Found::Sound(found)
        ),
        Found::Broken => {}
        Found::Foreign(format) => panic!("format {format}"),
    }
    let mut batch = bytes.to_vec();
    if batch.len() >= 48 {
        batch[..4].copy_from_slice(b"BLOG");
        let length = batch.len() as u32;
        batch[40..44].copy_from_slice(&length.to_le_bytes());
        seal(&mut batch, 4);
        if let Some(found) = BatchHeader::from_bytes(&batch) {
            let mut bytes = bytes::BytesMut::new();
            found.put(&mut bytes);
            let again = BatchHeader::from_bytes(&bytes);
            assert_eq!(again, Some(found));
        }
    }
}

/// Puts the right checksum at this place.
fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = crc(bytes).to_le_bytes();
    bytes[at..at + 4].copy_from_slice(&sum);
}

/// A shard whose requests are pumped by hand, and never for ever.
struct Driver {
    shard: Shard,
}

impl Driver {
    fn ask<T>(&mut self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, mut answer) = oneshot::channel();
        self.shard.submit(request(reply));
        for _ in 0..MOST_STEPS {
            match answer.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Closed) => panic!("a request was forgotten"),
                Err(TryRecvError::Empty) => {
                    self.shard.pump();
                    let answers = self.shard.take_answers();
                    answers.into_iter().for_each(|answer| answer.send());
                }
            }
        }
        panic!("a request is never answered");
    }

    fn change(&mut self, change: C) -> Result<()> {
        let plan = Box::new(move |_: &mut _| Ok(Plan::Change(change)));
        self.ask(|reply| Request::Plan(PlanCall { plan, reply }))
    }

    fn write(&mut self, image: u64, block: u64, count: u64, value: u8) -> Result<()> {
        let mut data = vec![value; count as usize * UNIT_BYTES];
        for (at, block) in data.chunks_mut(UNIT_BYTES).enumerate() {
            block[0] = at as u8;
        }
        let parts = parts(block, &Bytes::from(data));
        self.ask(|reply| Request::Change(Change::new(image, parts, reply)))
    }

    fn read(&mut self, image: u64, snapshot: Option<u64>, block: u64, count: u64) -> Result<()> {
        let read = |reply| {
            Request::Read(Read {
                image,
                snapshot,
                block,
                count,
                to: ReadTo::Caller(reply),
            })
        };
        self.ask(read).map(|blocks| {
            let _ = blocks.damage();
        })
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.shard.want_checkpoint(false, None);
        self.ask(Request::Flush)?;
        self.shard.finish()
    }

    /// Uses everything that is there.
    fn use_all(&mut self) -> Result<()> {
        let options = CheckOptions {
            data: true,
            most_bytes_per_second: None,
        };
        self.shard.check(options, &AtomicU64::new(0))?;
        let images = &self.shard.state.catalogue.images;
        let trees = images.iter().flat_map(|(id, image)| {
            let snapshots = image.snapshots.keys().map(|number| (*id, Some(*number)));
            snapshots.chain([(*id, None)])
        });
        let mut trees: Vec<(u64, Option<u64>)> = trees.collect();
        trees.sort_unstable();
        for (image, snapshot) in &trees {
            for block in [0, 200, 500, 70_000, (1 << 40) - 64] {
                let read = self.read(*image, *snapshot, block, 64);
                unless_gone(read)?;
            }
        }
        for (image, snapshot) in trees {
            if let Some(number) = snapshot {
                unless_gone(self.change(C::RollBack {
                    id: image,
                    snapshot: number,
                }))?;
                unless_gone(self.change(C::RemoveSnapshot {
                    id: image,
                    snapshot: number,
                }))?;
                continue;
            }
            unless_gone(self.write(image, 3, 40, 9))?;
            let same = |reply| {
                Request::Patch(Patch {
                    image,
                    offset: 0,
                    content: Content::Same(64 * UNIT_BYTES as u64),
                    then: None,
                    reply: Some(reply),
                    durable: false,
                })
            };
            unless_gone(self.ask(same))?;
            unless_gone(self.change(C::Resize {
                id: image,
                size_bytes: 100_000,
            }))?;
            unless_gone(self.change(C::RemoveImage { id: image }))?;
        }
        self.ask(Request::Settle)?;
        self.checkpoint()
    }
}

/// A store that has stopped is the end; anything else is an answer.
fn unless_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error @ Error::Unavailable(_)) => Err(error),
        _ => Ok(()),
    }
}

/// A small store with something of every kind, cut off with a log behind its checkpoint.
struct Base {
    disk: SimulatedDisk,
    /// Pages and data.
    units: Vec<Unit>,
    /// Headers of the log.
    headers: Vec<Unit>,
}

fn base() -> Base {
    let disk = SimulatedDisk::new(1, 1 << 30);
    let shard = Shard::open(Box::new(disk.clone()), SETTINGS, [3; 16]).unwrap();
    let mut driver = Driver { shard };
    let spec = |name: &str| ImageSpec::new("p", name);
    let changes = [
        C::CreatePool { pool: "p".into() },
        C::CreateImage {
            id: 1,
            spec: spec("a"),
            size_bytes: SIZE_BYTES,
        },
        C::CreateHidden {
            id: 2,
            size_bytes: 9000,
        },
        C::PutObject {
            id: 2,
            pool: "p".into(),
            name: "o".into(),
        },
        C::SetMetadata {
            id: 1,
            key: "k".into(),
            value: "v".repeat(6000),
        },
    ];
    for change in changes {
        driver.change(change).unwrap();
    }
    driver.write(1, 0, 300, 1).unwrap();
    driver.write(2, 0, 3, 1).unwrap();
    driver
        .change(C::CreateSnapshot {
            id: 1,
            snapshot: 3,
            name: "s".into(),
        })
        .unwrap();
    driver
        .change(C::Protect {
            id: 1,
            snapshot: 3,
            protected: true,
        })
        .unwrap();
    driver.write(1, 100, 50, 2).unwrap();
    driver.checkpoint().unwrap();
    driver
        .change(C::Clone {
            id: 4,
            spec: spec("b"),
            parent: 1,
            snapshot: 3,
        })
        .unwrap();
    driver.write(4, 290, 20, 3).unwrap();
    driver.checkpoint().unwrap();
    let mut headers = vec![driver.shard.log.next];
    for round in 0..6 {
        driver.write(1, 7 * round, 20, 4).unwrap();
        driver
            .change(C::CreateSnapshot {
                id: 4,
                snapshot: 10 + round,
                name: format!("t{round}"),
            })
            .unwrap();
        headers.push(driver.shard.log.next);
    }
    driver.ask(Request::Flush).unwrap();
    let space = &driver.shard.state.trees.space;
    let units = (0..space.total())
        .filter(|unit| space.count(*unit) > 0)
        .collect();
    drop(driver);
    disk.lose_process();
    Base {
        disk,
        units,
        headers,
    }
}

/// Opens a store with the changes that the input tells, and uses all of it.
///
/// Each change is eight bytes: what (1), where (4), how (1), a value (1), and whether checksums are
/// made to fit (1).
pub fn recover(input: &[u8]) {
    static BASE: OnceLock<Base> = OnceLock::new();
    let base = BASE.get_or_init(base);
    let seed = u64::from(crc(input));
    let disk = base.disk.copy(seed);
    for change in input.chunks_exact(8).take(16) {
        let at = u32::from_le_bytes([change[1], change[2], change[3], change[4]]);
        spoil(
            base,
            &disk,
            change[0],
            at,
            (change[5], change[6]),
            change[7] & 1 == 1,
        );
    }
    for _ in 0..2 {
        let Ok(shard) = Shard::open(Box::new(disk.clone()), SETTINGS, [3; 16]) else {
            return;
        };
        let mut driver = Driver { shard };
        let _ = driver.use_all();
        drop(driver);
        disk.lose_process();
    }
}

fn pick(units: &[Unit], at: u32) -> (FileId, u64) {
    let unit = units.get(at as usize % units.len().max(1));
    place(unit.copied().unwrap_or(CHUNK_UNITS - 1))
}

fn spoil(
    base: &Base,
    disk: &SimulatedDisk,
    what: u8,
    at: u32,
    (how, value): (u8, u8),
    sealed: bool,
) {
    let (file, block) = match what % 6 {
        0 => (
            FileId::Superblock,
            u64::from(at >> 16) % 4 * UNIT_BYTES as u64,
        ),
        1 => (
            FileId::Checkpoint(at as u8 & 1),
            u64::from(at >> 20 & 1) * UNIT_BYTES as u64,
        ),
        2 | 3 => pick(&base.units, at >> 12),
        4 => pick(&base.headers, at >> 12),
        _ => (
            FileId::Chunk(0),
            u64::from(at >> 12) % 4096 * UNIT_BYTES as u64,
        ),
    };
    let old = disk.block(file, block);
    let mut new = old.clone();
    let place = at as usize % (UNIT_BYTES - 8);
    match how % 4 {
        0 => new[place] ^= value | 1,
        1 => new[place..place + 4].fill(value),
        2 => new[place..place + 8].copy_from_slice(&u64::from(value).to_le_bytes()),
        _ => new.copy_from_slice(
            &disk.block(FileId::Chunk(0), u64::from(value) * 16 * UNIT_BYTES as u64),
        ),
    }
    if sealed && file == FileId::Superblock {
        seal(&mut new, 12);
    }
    if sealed && what % 6 == 4 {
        let length = u32::from_le_bytes([new[40], new[41], new[42], new[43]]) as usize;
        if (48..=UNIT_BYTES).contains(&length) {
            seal(&mut new[..length], 4);
        }
    }
    disk.replace(file, block, &new);
    if sealed && matches!(file, FileId::Chunk(_)) {
        let unit = block / UNIT_BYTES as u64;
        fit(base, disk, unit, crc(&old), crc(&new), 0);
    }
    if sealed && matches!(file, FileId::Checkpoint(_)) {
        fit_superblocks(disk);
    }
}

/// Whoever points to the unit gets its new checksum, and so on upwards.
fn fit(base: &Base, disk: &SimulatedDisk, unit: Unit, old: u32, new: u32, depth: usize) {
    if depth > 8 || old == new {
        return;
    }
    let mut entry = Vec::new();
    entry.put_48(unit);
    let wanted = [&entry[..], &old.to_le_bytes()].concat();
    let fitting = [&entry[..], &new.to_le_bytes()].concat();
    let pages = base.units.iter().map(|unit| place(*unit));
    let state = (0..2).flat_map(|slot| (0..4).map(move |at| (FileId::Checkpoint(slot), at * 4096)));
    for (file, block) in pages.chain(state) {
        let before = disk.block(file, block);
        let mut after = before.clone();
        for at in 0..after.len() - wanted.len() {
            // Fuzzed code is slow at comparing slices.
            if after[at] == wanted[0]
                && after[at + 6] == wanted[6]
                && after[at..].starts_with(&wanted)
            {
                after[at..at + wanted.len()].copy_from_slice(&fitting);
            }
        }
        if after != before {
            disk.replace(file, block, &after);
            if let FileId::Chunk(_) = file {
                let above = block / UNIT_BYTES as u64;
                fit(base, disk, above, crc(&before), crc(&after), depth + 1);
            }
        }
    }
    fit_superblocks(disk);
}

fn fit_superblocks(disk: &SimulatedDisk) {
    for copy in 0..4u64 {
        let mut bytes = disk.block(FileId::Superblock, copy * UNIT_BYTES as u64);
        let Found::Sound(found) = Superblock::from_bytes(&bytes) else {
            continue;
        };
        let file = FileId::Checkpoint(found.slot());
        let length = (found.state_bytes as usize).next_multiple_of(UNIT_BYTES);
        let Ok(state) = disk.clone().read_now(file, 0, length.min(1 << 20)) else {
            continue;
        };
        let state = state.get(..found.state_bytes as usize).unwrap_or_default();
        bytes[72..76].copy_from_slice(&crc(state).to_le_bytes());
        seal(&mut bytes, 12);
        disk.replace(FileId::Superblock, copy * UNIT_BYTES as u64, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;

    #[test]
    fn the_base_is_whole() {
        let disk = base().disk;
        let shard = Shard::open(Box::new(disk), SETTINGS, [3; 16]).unwrap();
        let mut driver = Driver { shard };
        let options = CheckOptions {
            data: true,
            most_bytes_per_second: None,
        };
        let report = driver.shard.check(options, &AtomicU64::new(0)).unwrap();
        assert!(
            report.errors.is_empty() && report.snapshots == 7,
            "{report:?}"
        );
        driver.use_all().unwrap();
    }

    /// A short run of what `cargo fuzz` does for long; the seed is in the panic's backtrace.
    #[test]
    fn any_change_of_a_store_is_survived() {
        let first: u64 = std::env::var("STORE_SEED").map_or(0, |seed| seed.parse().unwrap());
        let count: u64 = std::env::var("STORE_SEEDS").map_or(300, |count| count.parse().unwrap());
        for seed in first..first + count {
            eprintln!("seed {seed}");
            let mut random = Random::new(seed);
            let changes = 1 + random.below(4);
            let input = random.bytes(8 * changes as usize);
            recover(&input);
            let length = random.below(6000) as usize;
            parse(&random.bytes(length));
        }
    }
}
