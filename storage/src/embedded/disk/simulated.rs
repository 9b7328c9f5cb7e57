//! A disk in memory that loses power, tears and reorders what was not synced, fails and fills up.
//! All of it follows from a seed.

// The fuzz targets use a part of it.
#![cfg_attr(not(test), allow(dead_code))]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::BytesMut;

use super::{Action, Disk, Done, FileId, Io};
use crate::conformance::Random;
use crate::embedded::buffer::{UNIT_BYTES, aligned};

/// What a power loss may keep of a write, and lose of it.
const SECTOR_BYTES: usize = 512;

const HOLE_BYTES: u64 = 1 << 20;

type Block = (FileId, u64);

struct Unsynced {
    block: Block,
    data: Vec<u8>,
    /// Writes are counted as they are answered.
    number: u64,
}

/// What remains of the disk when its user is gone.
pub(crate) struct Platter {
    random: Random,
    lengths: HashMap<FileId, u64>,
    synced: BTreeMap<Block, Vec<u8>>,
    current: BTreeMap<Block, Vec<u8>>,
    unsynced: Vec<Unsynced>,
    answered: u64,
    /// Requests until the power goes.
    pub(crate) left: Option<u64>,
    /// Requests until one write or sync fails.
    pub(crate) fails_after: Option<u64>,
    /// Bytes that files can still grow.
    pub(crate) room: u64,
    /// Bytes of 1 MiB without room of their own: a write there would find the disk full.
    holes: BTreeSet<(FileId, u64)>,
    /// The file system takes nothing back.
    pub(crate) keeps_all: bool,
    /// Growths until one finds no room.
    pub(crate) full_after: Option<u64>,
    /// Growths that were asked for in all.
    pub(crate) growths: u64,
    /// The next growth fails, and not for want of room.
    pub(crate) growth_fails: bool,
    /// Requests that were carried out in all.
    pub(crate) count: u64,
    off: bool,
}

#[derive(Clone)]
pub(crate) struct SimulatedDisk {
    platter: Arc<Mutex<Platter>>,
    waiting: Arc<Mutex<Vec<(Io, u64)>>>,
}

impl SimulatedDisk {
    pub(crate) fn new(seed: u64, room: u64) -> Self {
        let platter = Platter {
            random: Random::new(seed),
            lengths: HashMap::new(),
            synced: BTreeMap::new(),
            current: BTreeMap::new(),
            unsynced: Vec::new(),
            answered: 0,
            left: None,
            fails_after: None,
            room,
            holes: BTreeSet::new(),
            keeps_all: false,
            full_after: None,
            growths: 0,
            growth_fails: false,
            count: 0,
            off: false,
        };
        SimulatedDisk {
            platter: Arc::new(Mutex::new(platter)),
            waiting: Arc::default(),
        }
    }

    #[allow(clippy::unwrap_used)]
    pub(crate) fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    #[allow(clippy::unwrap_used)]
    fn waiting(&self) -> MutexGuard<'_, Vec<(Io, u64)>> {
        self.waiting.lock().unwrap()
    }

    /// The power goes and comes back: of what was not synced, any part is there.
    pub(crate) fn lose_power(&self) {
        let mut platter = self.platter();
        let started: Vec<_> = self.waiting().drain(..).collect();
        for (io, _) in started {
            if let Action::Write(data) = io.action {
                platter.write(io.file, io.offset, &data);
            }
        }
        platter.lose_power();
    }

    /// As when only the process dies: what was answered is there.
    pub(crate) fn lose_process(&self) {
        self.waiting().clear();
        let mut platter = self.platter();
        (platter.left, platter.fails_after, platter.off) = (None, None, false);
    }

    /// Inverts some bits of what is on the disk.
    pub(crate) fn flip(&self, file: FileId, at: u64) {
        let mut platter = self.platter();
        let block = (file, at / UNIT_BYTES as u64);
        let mut data = platter.block(block);
        data[at as usize % UNIT_BYTES] ^= 0x41;
        platter.current.insert(block, data.clone());
        platter.synced.insert(block, data);
    }

    /// A unit as a read finds it.
    pub(crate) fn block(&self, file: FileId, at: u64) -> Vec<u8> {
        self.platter().block((file, at / UNIT_BYTES as u64))
    }

    pub(crate) fn replace(&self, file: FileId, at: u64, data: &[u8]) {
        let mut platter = self.platter();
        let block = (file, at / UNIT_BYTES as u64);
        platter.current.insert(block, data.to_vec());
        platter.synced.insert(block, data.to_vec());
    }

    /// Overwrites a file with zeroes, or removes it.
    pub(crate) fn erase(&self, file: FileId, removed: bool) {
        let mut platter = self.platter();
        platter.current.retain(|(of, _), _| *of != file);
        platter.synced.retain(|(of, _), _| *of != file);
        if removed {
            platter.lengths.remove(&file);
        }
    }

    pub(crate) fn length_of(&self, file: FileId) -> u64 {
        self.platter().lengths.get(&file).copied().unwrap_or(0)
    }

    /// A disk with the same content.
    pub(crate) fn copy(&self, seed: u64) -> Self {
        let platter = self.platter();
        let copy = SimulatedDisk::new(seed, platter.room);
        {
            let mut other = copy.platter();
            other.lengths = platter.lengths.clone();
            other.holes = platter.holes.clone();
            other.synced = platter.synced.clone();
            other.current = platter.current.clone();
            let unsynced = platter.unsynced.iter().map(|write| Unsynced {
                block: write.block,
                data: write.data.clone(),
                number: write.number,
            });
            other.unsynced = unsynced.collect();
            other.answered = platter.answered;
        }
        copy
    }
}

fn power_is_gone() -> io::Error {
    io::Error::other("the power is gone")
}

fn holes(io: &Io, length: u64) -> impl Iterator<Item = (FileId, u64)> + use<> {
    let (file, offset) = (io.file, io.offset);
    assert!(offset.is_multiple_of(HOLE_BYTES) && length.is_multiple_of(HOLE_BYTES));
    (offset / HOLE_BYTES..(offset + length) / HOLE_BYTES).map(move |hole| (file, hole))
}

impl Platter {
    fn block(&self, block: Block) -> Vec<u8> {
        let found = self.current.get(&block);
        found.cloned().unwrap_or_else(|| vec![0; UNIT_BYTES])
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) {
        let (first, last) = (offset, offset + data.len() as u64 - 1);
        for hole in first / HOLE_BYTES..=last / HOLE_BYTES {
            assert!(
                !self.holes.contains(&(file, hole)),
                "a write where no room is"
            );
        }
        for (index, data) in data.chunks(UNIT_BYTES).enumerate() {
            let block = (file, offset / UNIT_BYTES as u64 + index as u64);
            self.current.insert(block, data.to_vec());
            self.answered += 1;
            self.unsynced.push(Unsynced {
                block,
                data: data.to_vec(),
                number: self.answered,
            });
        }
    }

    /// What was there may come back with a power loss, or not.
    fn give_back(&mut self, hole: (FileId, u64)) {
        if !self.holes.insert(hole) {
            return;
        }
        self.room += HOLE_BYTES;
        let units = HOLE_BYTES / UNIT_BYTES as u64;
        let first = hole.1 * units;
        let gone = |block: &Block| block.0 == hole.0 && (first..first + units).contains(&block.1);
        self.unsynced.retain(|write| !gone(&write.block));
        self.current.retain(|block, _| !gone(block));
        if self.random.chance(50) {
            self.synced.retain(|block, _| !gone(block));
        }
    }

    fn sync(&mut self, file: FileId, before: u64) {
        let all = std::mem::take(&mut self.unsynced);
        for write in all {
            if write.block.0 == file && write.number <= before {
                self.synced.insert(write.block, write.data);
            } else {
                self.unsynced.push(write);
            }
        }
    }

    fn lose_power(&mut self) {
        let mut unsynced = std::mem::take(&mut self.unsynced);
        // Nothing, everything, or any mixture reaches the platter, in any order.
        let percent = [0, 100, 50, 90]
            .get(self.random.below(4) as usize)
            .copied()
            .unwrap_or(0);
        for last in (1..unsynced.len()).rev() {
            let other = self.random.below(last as u64 + 1) as usize;
            unsynced.swap(last, other);
        }
        for write in unsynced {
            let mut data = match self.synced.get(&write.block) {
                Some(old) => old.clone(),
                None => vec![0; UNIT_BYTES],
            };
            let torn = self.random.chance(20);
            let whole = self.random.chance(percent);
            let sectors = data
                .chunks_mut(SECTOR_BYTES)
                .zip(write.data.chunks(SECTOR_BYTES));
            for (sector, new) in sectors {
                if (torn && self.random.chance(50)) || (!torn && whole) {
                    sector.copy_from_slice(new);
                }
            }
            self.synced.insert(write.block, data);
        }
        self.current = self.synced.clone();
        (self.left, self.fails_after, self.off) = (None, None, false);
    }

    fn carry_out(&mut self, io: Io, before: u64) -> Done {
        self.count += 1;
        if self.left == Some(0) {
            self.off = true;
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        let fails = self.fails_after == Some(0) && !matches!(io.action, Action::Read(..));
        if fails {
            self.fails_after = None;
        }
        self.fails_after = self.fails_after.map(|left| left.saturating_sub(1));
        let mut done = Done {
            tag: io.tag,
            result: Ok(()),
            buffer: BytesMut::new(),
        };
        if self.off || fails {
            done.result = Err(match self.off {
                true => power_is_gone(),
                false => io::Error::other("a made up failure"),
            });
            // A part of it may be there all the same.
            if let Action::Write(data) = io.action
                && self.random.chance(50)
            {
                self.write(io.file, io.offset, &data);
            }
            return done;
        }
        match io.action {
            Action::Write(data) => {
                self.write(io.file, io.offset, &data);
                done.buffer = data;
            }
            Action::Read(_, length) => match self.read(io.file, io.offset, length) {
                Ok(data) => done.buffer = data,
                Err(error) => done.result = Err(error),
            },
            Action::Gather(_) => unreachable!("gathered on the way in"),
            Action::Sync => self.sync(io.file, before),
            Action::Fill(length) => {
                let wanted = holes(&io, length).filter(|hole| self.holes.contains(hole));
                let wanted: Vec<_> = wanted.collect();
                let more = wanted.len() as u64 * HOLE_BYTES;
                let full = more > self.room || self.full_after == Some(0);
                self.full_after = self.full_after.and_then(|left| left.checked_sub(1));
                self.growths += 1;
                if full {
                    done.result = Err(io::ErrorKind::StorageFull.into());
                } else {
                    self.room -= more;
                    wanted.iter().for_each(|hole| {
                        self.holes.remove(hole);
                    });
                }
            }
            Action::GiveBack(_) if self.keeps_all => {
                done.result = Err(io::ErrorKind::Unsupported.into());
            }
            Action::GiveBack(length) => {
                for hole in holes(&io, length) {
                    self.give_back(hole);
                }
            }
            Action::Grow(to) => {
                let length = self.lengths.entry(io.file).or_default();
                let more = to.saturating_sub(*length);
                let full = more > self.room || self.full_after == Some(0);
                self.full_after = self.full_after.and_then(|left| left.checked_sub(1));
                self.growths += 1;
                if std::mem::take(&mut self.growth_fails) {
                    done.result = Err(io::Error::other("a made up failure"));
                } else if full {
                    done.result = Err(io::ErrorKind::StorageFull.into());
                } else {
                    self.room -= more;
                    *length += more;
                }
            }
        }
        done
    }

    fn read(&self, file: FileId, offset: u64, length: usize) -> io::Result<BytesMut> {
        let known = self.lengths.get(&file).copied().unwrap_or(0);
        if offset + length as u64 > known {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut data = aligned(length);
        let first = offset / UNIT_BYTES as u64;
        for index in first..first + (length / UNIT_BYTES) as u64 {
            data.extend_from_slice(&self.block((file, index)));
        }
        Ok(data)
    }
}

impl Disk for SimulatedDisk {
    fn submit(&mut self, mut io: Io) {
        if let Action::Gather(pieces) = io.action {
            io.action = Action::Write(pieces.concat().as_slice().into());
        }
        let before = self.platter().answered;
        self.waiting().push((io, before));
    }

    fn kick(&mut self) {}

    fn reap(&mut self, done: &mut Vec<Done>) {
        let mut platter = self.platter();
        let mut waiting = self.waiting();
        while !waiting.is_empty() && platter.random.chance(70) {
            let index = platter.random.below(waiting.len() as u64) as usize;
            let (io, before) = waiting.swap_remove(index);
            done.push(platter.carry_out(io, before));
        }
    }

    fn wait(&mut self) {}

    fn under_way(&self) -> usize {
        self.waiting().len()
    }

    fn length(&self, file: FileId) -> io::Result<u64> {
        Ok(self.length_of(file))
    }

    fn read_now(&mut self, file: FileId, offset: u64, length: usize) -> io::Result<BytesMut> {
        let mut platter = self.platter();
        if platter.left == Some(0) {
            platter.off = true;
        }
        if platter.off {
            return Err(power_is_gone());
        }
        platter.read(file, offset, length)
    }

    fn room(&self) -> io::Result<(u64, u64)> {
        Ok((self.platter().room, 1 << 40))
    }
}
