//! Opening a folder: the last checkpoint, then the log after it, then a new checkpoint.
//!
//! **Promises.** Replay takes the longest prefix of the log without a gap, all of whose headers
//! and data are as their checksums say. It writes nothing before it is done, and then only where
//! neither the old checkpoint nor that prefix lies, until the new superblock is durable: whoever
//! is cut off here starts from the same place again.

use std::io;

use bytes::BytesMut;

use super::buffer::{UNIT_BYTES, crc};
use super::catalogue::{Catalogue, State};
use super::checkpoint::Checkpoint;
use super::disk::{Action, Disk, Done, FileId, Io};
use super::format::state::Saved;
use super::format::superblock::{COPIES, Found, Superblock};
use super::format::{CHUNK_UNITS, COUNTED_UNITS, MAX_UNITS};
use super::log::Log;
use super::pages::Pages;
use super::reading::describe;
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
        let mut shard = match find_superblock(&*disk)? {
            None => create(disk, settings, fsid)?,
            Some(()) => load(disk, settings, fsid)?,
        };
        for id in shard.state.catalogue.orphans() {
            let remove = Record::Change(CatalogueChange::RemoveImage { id });
            replay_record(&mut *shard.disk, &mut shard.state, &remove)?;
        }
        let chunks = shard.state.trees.space.total().div_ceil(CHUNK_UNITS);
        shard.syncs.unsynced = (0..chunks as u32).collect();
        shard.checkpoint.due = true;
        shard.want_checkpoint(false, None);
        shard.finish()?;
        Ok(shard)
    }
}

/// `None`: there is no store yet.
fn find_superblock(disk: &dyn Disk) -> Result<Option<()>> {
    let length = disk.length(FileId::Superblock);
    let length = length.map_err(|error| unavailable("superblock", &error))?;
    Ok((length > 0).then_some(()))
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

/// The superblock gets its length last: without it there is no store.
fn create(mut disk: Box<dyn Disk>, settings: Settings, fsid: [u8; 16]) -> Result<Shard> {
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

/// The newest sound superblock; `None`: the making of the store was cut off.
pub(crate) fn choose(bytes: &[u8]) -> Result<Option<Superblock>> {
    let mut newest: Option<Superblock> = None;
    for copy in bytes.chunks(UNIT_BYTES) {
        match Superblock::from_bytes(copy) {
            Found::Foreign(format) => {
                let text = format!("the store has format {format}: it was made by another version");
                return Err(Error::Invalid(text));
            }
            Found::Sound(found)
                if newest.is_none_or(|newest| newest.checkpoint < found.checkpoint) =>
            {
                newest = Some(found);
            }
            Found::Sound(_) | Found::Broken => {}
        }
    }
    match newest {
        None if bytes.iter().any(|byte| *byte != 0) => Err(corrupt("no superblock is sound")),
        found => Ok(found),
    }
}

fn load(mut disk: Box<dyn Disk>, settings: Settings, fsid: [u8; 16]) -> Result<Shard> {
    let bytes = disk.read_now(FileId::Superblock, 0, SUPERBLOCK_BYTES as usize);
    let bytes = match bytes {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => BytesMut::new(),
        other => other.map_err(|error| unavailable("superblock", &error))?,
    };
    let Some(superblock) = choose(&bytes)? else {
        return create(disk, settings, fsid);
    };
    let mut state = load_state(&mut *disk, settings, &superblock)?;
    let sequence = replay(&mut *disk, &mut state, &superblock)?;
    let from = (superblock.checkpoint, superblock.epoch, sequence);
    begin(disk, settings, superblock.fsid, state, from)
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
