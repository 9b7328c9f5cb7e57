//! Opening a folder: the last checkpoint, then the log after it, then a new checkpoint.
//!
//! **Promises.** Replay takes the longest prefix of the log without a gap, all of whose headers
//! and data are as their checksums say. It writes nothing before it is done and the superblock that
//! it began with is durable, and then only where neither the old checkpoint nor that prefix lies, until the new superblock is durable: whoever
//! is cut off here starts from the same place again.

use std::io;

use bytes::BytesMut;

use super::apply::State;
use super::buffer::{UNIT_BYTES, crc};
use super::catalogue::Catalogue;
use super::checkpoint::Checkpoint;
use super::disk::{Action, Disk, Done, FileId, Io};
use super::format::state::Saved;
use super::format::superblock::{COPIES, Found, Superblock};
use super::format::{CHUNK_UNITS, COUNTED_UNITS, MAX_UNITS, SPACE_MAP_UNITS};
use super::log::Log;
use super::pages::Pages;
use super::reading::{WRONG, describe};
use super::records::{CatalogueChange, Record};
use super::replay::{replay, replay_record};
use super::shard::{Settings, Shard};
use super::space::{MapUnit, Open, Space};
use super::tree::Trees;
use crate::{Error, Result};

/// Units of the first chunk file of a new store.
const FIRST_UNITS: u64 = COUNTED_UNITS;
const SUPERBLOCK_BYTES: u64 = COPIES * UNIT_BYTES as u64;

pub(super) fn unavailable(what: &str, error: &io::Error) -> Error {
    Error::Unavailable(format!("{what}: {error}"))
}

/// The store cannot be opened: something that was durable is not what was written.
pub(super) fn corrupt(detail: impl Into<String>) -> Error {
    Error::Corrupt {
        image: "the store".into(),
        offset: 0,
        detail: detail.into(),
    }
}

impl Shard {
    /// Opens the store on this disk, or makes one on an empty disk, with this `fsid`. Blocks.
    pub(crate) fn open(disk: Box<dyn Disk>, settings: Settings, fsid: [u8; 16]) -> Result<Self> {
        let (mut shard, found) = load(disk, settings, fsid)?;
        for id in shard.state.catalogue.orphans() {
            let remove = Record::Change(CatalogueChange::RemoveImage { id });
            replay_record(&mut *shard.disk, &mut shard.state, &remove)?;
        }
        let chunks = shard.state.trees.space.total().div_ceil(CHUNK_UNITS);
        shard.syncs.unsynced = (0..chunks as u32).collect();
        shard.checkpoint.due = true;
        shard.want_checkpoint(false, None);
        shard.finish()?;
        if shard.checkpoint.is_refused() {
            // The log of the new epoch must be found all the same.
            let old = found.ok_or(Error::OutOfSpace)?;
            shard.go_on_without_checkpoint(old)?;
        }
        shard.give_back_again();
        Ok(shard)
    }
}

/// Does one thing and waits for it.
fn carry_out(disk: &mut dyn Disk, file: FileId, action: Action) -> Result<()> {
    disk.submit(Io {
        tag: 0,
        file,
        offset: 0,
        action,
    });
    let mut done: Vec<Done> = Vec::new();
    while done.is_empty() {
        disk.wait();
        disk.reap(&mut done);
    }
    let failed = done.into_iter().find_map(|done| done.result.err());
    match failed {
        None => Ok(()),
        Some(error) if error.kind() == io::ErrorKind::StorageFull => Err(Error::OutOfSpace),
        Some(error) => Err(unavailable(&file.name(), &error)),
    }
}

/// The superblock gets its length last, and its content before anything is stored: without it
/// there is no store.
fn create(mut disk: Box<dyn Disk>, settings: Settings, fsid: [u8; 16]) -> Result<Shard> {
    require_empty(&mut *disk)?;
    let chunk_bytes = FIRST_UNITS * UNIT_BYTES as u64;
    carry_out(&mut *disk, FileId::Chunk(0), Action::Grow(chunk_bytes))?;
    for slot in 0..2 {
        carry_out(&mut *disk, FileId::Checkpoint(slot), Action::Grow(1 << 20))?;
    }
    carry_out(
        &mut *disk,
        FileId::Superblock,
        Action::Grow(SUPERBLOCK_BYTES),
    )?;
    begin_empty(disk, settings, fsid)
}

/// There are no data in the chunk files: nobody has lost a superblock here.
fn require_empty(disk: &mut dyn Disk) -> Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let lost = || {
        let text = "the superblock is missing, but the chunk files are not empty; \
                    nothing was changed";
        Err(corrupt(text))
    };
    let length = |disk: &dyn Disk, chunk| {
        let length = disk.length(FileId::Chunk(chunk));
        length.map_err(|error| unavailable("chunks", &error))
    };
    let bytes = length(disk, 0)?;
    if bytes > FIRST_UNITS * UNIT_BYTES as u64 || length(disk, 1)? > 0 {
        return lost();
    }
    // The space maps of a first checkpoint may be there.
    let whole = bytes / UNIT_BYTES as u64 * UNIT_BYTES as u64;
    let mut at = SPACE_MAP_UNITS * UNIT_BYTES as u64;
    while at < whole {
        let piece = PIECE_BYTES.min(whole - at);
        let found = disk.read_now(FileId::Chunk(0), at, piece as usize);
        let found = found.map_err(|error| unavailable("chunks/00000", &error))?;
        if found.iter().any(|byte| *byte != 0) {
            return lost();
        }
        at += piece;
    }
    Ok(())
}

fn begin_empty(disk: Box<dyn Disk>, settings: Settings, fsid: [u8; 16]) -> Result<Shard> {
    let mut space = Space::default();
    space.grow(chunk_units(&*disk)?.max(FIRST_UNITS));
    let state = State {
        catalogue: Catalogue::default(),
        trees: Trees {
            pages: Pages::new(settings.map_cache_bytes),
            space,
            used: 0,
            drops: Vec::new(),
        },
    };
    begin(disk, settings, fsid, state, (0, 0, 0))
}

/// A shard whose log begins anew, after a checkpoint, epoch and batch number.
fn begin(
    disk: Box<dyn Disk>,
    settings: Settings,
    fsid: [u8; 16],
    mut state: State,
    (checkpoint, epoch, sequence): (u64, u64, u64),
) -> Result<Shard> {
    let mut open = Open::default();
    let next = state.trees.space.take(&mut open, 1);
    let (next, _) = next.ok_or(Error::OutOfSpace)?;
    let log = Log::new(epoch + 1, sequence, next, open);
    let length = |slot| {
        let length = disk.length(FileId::Checkpoint(slot));
        length.map_err(|error| unavailable("checkpoint", &error))
    };
    let checkpoint = Checkpoint::new(checkpoint, [length(0)?, length(1)?]);
    Ok(Shard::new(disk, settings, fsid, state, log, checkpoint))
}

/// Units that the chunk files have, up to the first that is short.
fn chunk_units(disk: &dyn Disk) -> Result<u64> {
    let mut total = 0;
    loop {
        let chunk = FileId::Chunk((total / CHUNK_UNITS) as u32);
        let length = disk.length(chunk);
        let length = length.map_err(|error| unavailable(&chunk.name(), &error))?;
        let units = (length / UNIT_BYTES as u64).min(CHUNK_UNITS);
        total += units / COUNTED_UNITS * COUNTED_UNITS;
        if units < CHUNK_UNITS || total >= MAX_UNITS {
            return Ok(total);
        }
    }
}

/// The superblock to start from.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) superblock: Superblock,
    /// Copies that are damaged, and that no power loss can have spoiled.
    pub(crate) damaged: Vec<usize>,
}

/// The newest sound superblock; `None`: the making of the store was cut off.
///
/// Copies are written one after the other, each when the one before is durable. So a power loss
/// spoils one copy at most. A slot that has lost both was damaged, and the checkpoint in the
/// other slot is not what the store was last.
pub(crate) fn choose(bytes: &[u8]) -> Result<Option<Chosen>> {
    let mut copies: [Option<Superblock>; COPIES as usize] = [None; COPIES as usize];
    let mut blank = [true; COPIES as usize];
    for (index, bytes) in bytes.chunks(UNIT_BYTES).take(copies.len()).enumerate() {
        blank[index] = bytes.iter().all(|byte| *byte == 0);
        match Superblock::from_bytes(bytes) {
            Found::Foreign(format) => {
                let text = format!("the store has format {format}: it was made by another version");
                return Err(Error::Invalid(text));
            }
            Found::Sound(found) => copies[index] = Some(*found),
            Found::Broken => {}
        }
    }
    let newest = copies.iter().flatten().max_by_key(|found| found.checkpoint);
    let newest = newest.copied();
    let first = newest.map_or(1, |newest| newest.checkpoint + 1);
    for slot in 0..2 {
        let sound = copies[2 * slot].is_some() || copies[2 * slot + 1].is_some();
        // The first that was written to the slot may have been cut off.
        let begun = first <= 2 && first as usize % 2 == slot && blank[2 * slot + 1];
        let unused = first <= 2 && blank[2 * slot] && blank[2 * slot + 1];
        if !sound && !begun && !unused {
            return Err(corrupt("both copies of a superblock are damaged"));
        }
    }
    let Some(superblock) = newest else {
        return Ok(None);
    };
    let slot = 2 * usize::from(superblock.slot());
    let mut damaged = Vec::new();
    // The second copy is as new only when the first was whole.
    if copies[slot].is_none() {
        damaged.extend((copies[slot + 1] == newest).then_some(slot));
    }
    // A store is closed only when both copies are written.
    if copies[slot + 1].is_none() && superblock.clean {
        damaged.push(slot + 1);
    }
    Ok(Some(Chosen {
        superblock,
        damaged,
    }))
}

/// The store as its last checkpoint and the log tell it, and the superblock that led to them.
fn load(
    mut disk: Box<dyn Disk>,
    settings: Settings,
    fsid: [u8; 16],
) -> Result<(Shard, Option<Superblock>)> {
    let length = disk.length(FileId::Superblock);
    let length = length.map_err(|error| unavailable("superblock", &error))?;
    let mut bytes = BytesMut::new();
    if length >= SUPERBLOCK_BYTES {
        let read = disk.read_now(FileId::Superblock, 0, SUPERBLOCK_BYTES as usize);
        bytes = read.map_err(|error| unavailable("superblock", &error))?;
    }
    let Some(chosen) = choose(&bytes)? else {
        return Ok((create(disk, settings, fsid)?, None));
    };
    // Whoever wrote it may have been killed before it was durable, and the checkpoint before it,
    // which the start writes over, would still be needed.
    carry_out(&mut *disk, FileId::Superblock, Action::Sync)?;
    let superblock = chosen.superblock;
    let mut state = load_state(&mut *disk, settings, &superblock)?;
    let sequence = replay(&mut *disk, &mut state, &superblock)?;
    let from = (superblock.checkpoint, superblock.last_epoch(), sequence);
    let mut shard = begin(disk, settings, superblock.fsid, state, from)?;
    let mended = chosen.damaged.into_iter().map(|copy| {
        let at = copy * UNIT_BYTES;
        tracing::warn!(at, "a copy of the superblock was damaged");
        format!("superblock at byte {at}: {WRONG}; the other copy served")
    });
    shard.mended.extend(mended);
    Ok((shard, Some(superblock)))
}

fn load_state(disk: &mut dyn Disk, settings: Settings, superblock: &Superblock) -> Result<State> {
    let file = FileId::Checkpoint(superblock.slot());
    let wrong = |why: &str| corrupt(format!("{}: {why}", file.name()));
    let known = disk
        .length(file)
        .map_err(|error| unavailable(&file.name(), &error))?;
    if superblock.state_bytes > known {
        return Err(wrong("it is too short"));
    }
    let length = (superblock.state_bytes as usize).next_multiple_of(UNIT_BYTES);
    let bytes = disk.read_now(file, 0, length);
    let bytes = bytes.map_err(|error| wrong(&error.to_string()))?;
    let bytes = bytes
        .get(..superblock.state_bytes as usize)
        .unwrap_or_default();
    if crc(bytes) != superblock.state_crc {
        return Err(wrong("the checksum is wrong"));
    }
    let saved = Saved::from_bytes(bytes).ok_or_else(|| wrong("it cannot be understood"))?;
    let present = chunk_units(disk)?;
    if present < saved.total_units || saved.maps.len() as u64 * COUNTED_UNITS != saved.total_units {
        return Err(corrupt("chunk files are missing"));
    }
    if points_beyond(&saved, present) {
        return Err(wrong("it points beyond the chunk files"));
    }
    let mut space = Space::default();
    space.grow(present);
    load_maps(disk, &mut space, &saved.maps)?;
    for (unit, count) in saved.overflow {
        space.load_overflow(unit, count);
    }
    for (first, count) in saved.absent {
        let sound = space.load_absent(first, count);
        sound.ok_or_else(|| wrong("what was given back is in use"))?;
    }
    Ok(State {
        catalogue: saved.catalogue,
        trees: Trees {
            pages: Pages::new(settings.map_cache_bytes),
            space,
            used: saved.used,
            drops: saved.drops,
        },
    })
}

fn points_beyond(saved: &Saved, units: u64) -> bool {
    let roots = saved.catalogue.images.values().flat_map(|image| {
        let snapshots = image.snapshots.values().map(|snapshot| &snapshot.root);
        snapshots.chain([&image.root])
    });
    let dropped = saved.drops.iter().map(|dropped| dropped.page);
    roots
        .map(|root| root.page)
        .chain(dropped)
        .any(|page| page >= units)
}

fn load_maps(disk: &mut dyn Disk, space: &mut Space, maps: &[MapUnit]) -> Result<()> {
    let per_chunk = (CHUNK_UNITS / COUNTED_UNITS) as usize;
    for (chunk, maps) in maps.chunks(per_chunk).enumerate() {
        let first = chunk * per_chunk;
        let file = FileId::Chunk(chunk as u32);
        // Both slots of all of them lie side by side.
        let bytes = disk.read_now(file, 0, 2 * per_chunk * UNIT_BYTES);
        let bytes = bytes.map_err(|error| unavailable(&file.name(), &error))?;
        for (within, map) in maps.iter().enumerate() {
            if map.slot == MapUnit::NEVER {
                continue;
            }
            let unit = MapUnit::place(first + within, map.slot);
            let at = (unit % CHUNK_UNITS) as usize * UNIT_BYTES;
            let bytes = bytes.get(at..at + UNIT_BYTES).unwrap_or_default();
            let sound = crc(bytes) == map.crc;
            let loaded = sound
                .then(|| space.load(first + within, *map, bytes))
                .flatten();
            loaded.ok_or_else(|| corrupt(describe(unit, "the space map is damaged")))?;
        }
    }
    Ok(())
}
