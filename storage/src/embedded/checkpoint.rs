//! Checkpoints: the state is written to free places, and then the superblock points to it.
//!
//! **Promises.** A checkpoint is the state between two batches. Its pages, space maps and
//! catalogue go where nothing that is in use lies, and are synced, together with all data that
//! they point to, before the superblock is written; that is synced before anything that the
//! checkpoint freed is used again. Until then the one before, and the log after it, are whole.

use std::collections::BTreeSet;
use std::io;

use bytes::BytesMut;

use super::buffer::{UNIT_BYTES, aligned, crc, pad};
use super::disk::{Action, FileId, is_full};
use super::format::node::Node;
use super::format::superblock::{LaterParts, LogPart, Superblock};
use super::format::{Unit, state};
use super::pages::{NumberMap, is_unsaved};
use super::request::Reply;
use super::shard::{Shard, Tag, place};
use super::space::{MapUnit, Open};
use super::tree::Trees;
use crate::{Error, Result};

/// Units that batches take between two checkpoints: 512 MiB, or a share of what is free.
const MOST_LOG_UNITS: u64 = 128 << 10;
const LEAST_LOG_UNITS: u64 = 1024;
/// Pages that go in one write.
const WRITE_UNITS: usize = 256;
/// Ticks without rest until a checkpoint is made anyway.
const MOST_TICKS: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The file for the catalogue gets its length.
    Growing,
    Writing,
    Syncing,
    /// A copy of the superblock, 0 and then 1: a power loss spoils one of them at most.
    Superblock(u64),
    SyncingSuperblock(u64),
}

struct Job {
    stage: Stage,
    left: usize,
    files: BTreeSet<FileId>,
    superblock: Superblock,
    /// What is free when the checkpoint is durable.
    release: Vec<Unit>,
    generation: u64,
    log_durable: u64,
}

/// Where checkpoints stand.
#[derive(Default)]
pub(super) struct Checkpoint {
    /// Of the last durable one.
    pub(super) number: u64,
    /// Lengths of the two files.
    pub(super) file_bytes: [u64; 2],
    /// Something changed since the last one began.
    pub(super) due: bool,
    /// Somebody waits for one.
    pub(super) wanted: bool,
    /// The next one is the last: the store closes.
    pub(super) closing: bool,
    /// There is no room for the file of the next one. Nothing is lost: the log goes on.
    pub(super) cannot_grow: bool,
    job: Option<Job>,
    open: Open,
    replies: Vec<Reply<()>>,
    ticks: u32,
    seen_sequence: u64,
}

impl Checkpoint {
    pub(super) fn new(number: u64, file_bytes: [u64; 2]) -> Self {
        Checkpoint {
            number,
            file_bytes,
            ..Checkpoint::default()
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.job.is_some()
    }

    /// Whether the last one that was asked for had no room.
    pub(super) fn is_refused(&self) -> bool {
        self.cannot_grow
    }

    pub(super) fn take_replies(&mut self) -> Vec<Reply<()>> {
        std::mem::take(&mut self.replies)
    }
}

/// Gathers units next to each other into long writes.
struct Writer {
    buffer: BytesMut,
    /// Where runs of the buffer go, and their units.
    runs: Vec<(Unit, usize)>,
}

impl Writer {
    fn new(units: usize) -> Self {
        Writer {
            buffer: aligned(units * UNIT_BYTES),
            runs: Vec::new(),
        }
    }

    fn put(&mut self, unit: Unit, bytes: &[u8; UNIT_BYTES]) {
        self.buffer.extend_from_slice(bytes);
        match self.runs.last_mut() {
            Some((start, units)) if *start + *units as u64 == unit && *units < WRITE_UNITS => {
                *units += 1;
            }
            _ => self.runs.push((unit, 1)),
        }
    }

    fn into_writes(mut self) -> Vec<(Unit, BytesMut)> {
        let runs = self.runs.into_iter();
        let split = runs.map(|(unit, units)| (unit, self.buffer.split_to(units * UNIT_BYTES)));
        split.collect()
    }
}

/// Gives all unsaved pages their places, from the leaves up.
fn save_pages(
    trees: &mut Trees,
    open: &mut Open,
    writer: &mut Writer,
) -> Option<NumberMap<(Unit, u32)>> {
    let mut saved: NumberMap<(Unit, u32)> = NumberMap::default();
    for pages in trees.pages.unsaved_by_level() {
        for number in pages {
            let (unit, _) = trees.space.take(open, 1)?;
            let page = trees.pages.find(number)?;
            if let Node::Inner(inner) = &mut page.node {
                let children = inner.pages.iter_mut().zip(&mut inner.crcs);
                for (child, sum) in children.filter(|(child, _)| is_unsaved(**child)) {
                    (*child, *sum) = saved.get(child).copied()?;
                }
            }
            let bytes = page.node.to_bytes();
            let references = page.references;
            writer.put(unit, &bytes);
            saved.insert(number, (unit, crc(&bytes)));
            trees.space.claim(unit, references);
            trees.pages.renumber(number, Some(unit));
        }
    }
    Some(saved)
}

impl Shard {
    pub(super) fn begin_checkpoint_if_wanted(&mut self) {
        let checkpoint = &self.checkpoint;
        if checkpoint.is_running() || checkpoint.cannot_grow || self.stopped.is_some() {
            return;
        }
        let space = &self.state.trees.space;
        let most = (space.free() / 2).clamp(LEAST_LOG_UNITS, MOST_LOG_UNITS);
        let full = self.log.units >= most || self.state.trees.pages.wants_saving();
        let wanted = self.checkpoint.wanted && (self.checkpoint.due || self.checkpoint.closing);
        if full || wanted {
            self.begin_checkpoint();
        } else if self.checkpoint.wanted {
            self.checkpoint.wanted = false;
            for reply in self.checkpoint.take_replies() {
                self.answer(Some(reply), Ok(()));
            }
        }
    }

    pub(super) fn tick_checkpoint(&mut self) {
        self.checkpoint.cannot_grow = false;
        self.checkpoint.ticks += 1;
        let rests = self.checkpoint.seen_sequence == self.log.sequence;
        self.checkpoint.seen_sequence = self.log.sequence;
        if self.checkpoint.due && (rests || self.checkpoint.ticks >= MOST_TICKS) {
            self.checkpoint.wanted = true;
        }
    }

    /// Answers when all that has taken effect is in a checkpoint.
    pub(crate) fn want_checkpoint(&mut self, closing: bool, reply: Option<Reply<()>>) {
        self.checkpoint.cannot_grow = false;
        self.checkpoint.wanted = true;
        self.checkpoint.closing |= closing;
        self.checkpoint.replies.extend(reply);
        self.again = true;
    }

    fn begin_checkpoint(&mut self) {
        // Not in the middle of a batch: replay begins with a whole one.
        let Some((log_start, sequence)) = self.log.replay_start() else {
            return;
        };
        let number = self.checkpoint.number + 1;
        let slot = (number & 1) as u8;
        let bytes = state::length(&self.state);
        let length = self.checkpoint.file_bytes[slot as usize];
        if bytes > length {
            return self.grow_state_file(slot, bytes);
        }
        let superblock = Superblock {
            fsid: self.fsid,
            checkpoint: number,
            log: LogPart {
                epoch: self.log.epoch,
                start: log_start,
                sequence,
            },
            later: LaterParts::default(),
            state_bytes: bytes,
            state_crc: 0,
            clean: self.checkpoint.closing,
        };
        if !self.has_room_for_pages() {
            return;
        }
        let mut writer = Writer::new(self.state.trees.pages.unsaved());
        let trees = &mut self.state.trees;
        let Some(saved) = save_pages(trees, &mut self.checkpoint.open, &mut writer) else {
            return self.fail("there is no room left for a checkpoint");
        };
        self.repoint(&saved);
        self.state.trees.space.close(&mut self.checkpoint.open);
        let mut writes = writer.into_writes();
        writes.extend(self.save_maps());
        self.write_checkpoint(writes, superblock);
    }

    /// False: not now. Stops the store when there never will be room.
    fn has_room_for_pages(&mut self) -> bool {
        let unsaved = self.state.trees.pages.unsaved() as u64;
        if self.state.trees.space.free() < unsaved {
            self.state.trees.space.close(&mut self.log.open);
        }
        if self.state.trees.space.free() >= unsaved {
            return true;
        }
        let waits = !self.to_release.is_empty() || self.is_giving_back();
        if self.growing.is_none() && !self.grow() && !waits {
            self.fail("there is no room left for a checkpoint");
        }
        false
    }

    /// Roots and dropped pages get the numbers under which their pages were saved.
    fn repoint(&mut self, saved: &NumberMap<(Unit, u32)>) {
        let repoint = |page: &mut u64, sum: &mut u32| {
            if is_unsaved(*page)
                && let Some(found) = saved.get(page)
            {
                (*page, *sum) = *found;
            }
        };
        for image in self.state.catalogue.images.values_mut() {
            let snapshots = image
                .snapshots
                .values_mut()
                .map(|snapshot| &mut snapshot.root);
            for root in snapshots.chain([&mut image.root]) {
                repoint(&mut root.page, &mut root.crc);
            }
        }
        for dropped in &mut self.state.trees.drops {
            repoint(&mut dropped.page, &mut dropped.crc);
        }
    }

    fn save_maps(&mut self) -> Vec<(Unit, BytesMut)> {
        let space = &mut self.state.trees.space;
        let changed = space.take_changed();
        let mut writer = Writer::new(changed.len());
        for index in changed {
            let bytes = space.map_bytes(index);
            let Some(map) = space.maps.get_mut(index) else {
                continue;
            };
            map.slot = u8::from(map.slot == 0);
            map.crc = crc(&bytes);
            writer.put(MapUnit::place(index, map.slot), &bytes);
        }
        writer.into_writes()
    }

    fn write_checkpoint(&mut self, writes: Vec<(Unit, BytesMut)>, mut superblock: Superblock) {
        let bytes = state::to_bytes(&self.state);
        superblock.state_bytes = bytes.len() as u64;
        superblock.state_crc = crc(&bytes);
        let mut buffer = aligned(bytes.len());
        buffer.extend_from_slice(&bytes);
        pad(&mut buffer);
        let written = self.syncs.unsynced.iter().chain(&self.syncs.running_chunks);
        let mut files: BTreeSet<FileId> = written.copied().map(FileId::Chunk).collect();
        let file = FileId::Checkpoint(superblock.slot());
        files.insert(file);
        let left = writes.len() + 1;
        self.order(Tag::Checkpoint, file, 0, Action::Write(buffer));
        for (unit, buffer) in writes {
            let (file, offset) = place(unit);
            files.insert(file);
            self.order(Tag::Checkpoint, file, offset, Action::Write(buffer));
        }
        let mut release = self.state.trees.space.take_freed();
        release.append(&mut self.log.headers);
        self.log.units = 0;
        let checkpoint = &mut self.checkpoint;
        (checkpoint.due, checkpoint.wanted, checkpoint.ticks) = (false, false, 0);
        checkpoint.job = Some(Job {
            stage: Stage::Writing,
            left,
            files,
            superblock,
            release,
            generation: self.generation,
            log_durable: superblock.log.sequence,
        });
        self.generation += 1;
    }

    fn grow_state_file(&mut self, slot: u8, bytes: u64) {
        let length = (2 * bytes).next_multiple_of(1 << 20);
        self.checkpoint.file_bytes[slot as usize] = length;
        self.checkpoint.job = Some(Job {
            stage: Stage::Growing,
            left: 1,
            files: BTreeSet::new(),
            superblock: Superblock {
                fsid: self.fsid,
                checkpoint: self.checkpoint.number + 1,
                log: LogPart::default(),
                later: LaterParts::default(),
                state_bytes: 0,
                state_crc: 0,
                clean: false,
            },
            release: Vec::new(),
            generation: 0,
            log_durable: 0,
        });
        let file = FileId::Checkpoint(slot);
        self.order(Tag::Checkpoint, file, 0, Action::Grow(length));
    }

    /// Takes the error, if it was one of a full disk and of no consequence to what is saved.
    pub(super) fn refuse_state_file(&mut self, error: &io::Error) -> bool {
        let full = is_full(error);
        let Some(job) = self
            .checkpoint
            .job
            .take_if(|job| job.stage == Stage::Growing)
        else {
            return false;
        };
        if !full {
            return false;
        }
        tracing::warn!(%error, "there is no room for the file of a checkpoint");
        let slot = job.superblock.slot();
        let length = self.disk.length(FileId::Checkpoint(slot)).unwrap_or(0);
        if let Some(known) = self.checkpoint.file_bytes.get_mut(usize::from(slot)) {
            *known = length;
        }
        self.checkpoint.cannot_grow = true;
        self.checkpoint.wanted = false;
        for reply in self.checkpoint.take_replies() {
            self.answer(Some(reply), Err(Error::OutOfSpace));
        }
        self.again = true;
        true
    }

    pub(super) fn finish_checkpoint_io(&mut self) {
        let Some(mut job) = self.checkpoint.job.take() else {
            return;
        };
        job.left -= 1;
        if job.left > 0 {
            self.checkpoint.job = Some(job);
            return;
        }
        match job.stage {
            Stage::Growing => {
                self.again = true;
                return;
            }
            Stage::Writing => {
                job.stage = Stage::Syncing;
                job.left = job.files.len();
                for file in job.files.clone() {
                    self.order(Tag::Checkpoint, file, 0, Action::Sync);
                }
            }
            Stage::Syncing => self.write_superblock(&mut job, 0),
            Stage::Superblock(copy) => {
                job.stage = Stage::SyncingSuperblock(copy);
                job.left = 1;
                self.order(Tag::Checkpoint, FileId::Superblock, 0, Action::Sync);
            }
            Stage::SyncingSuperblock(0) => self.write_superblock(&mut job, 1),
            Stage::SyncingSuperblock(_) => return self.finish_checkpoint(job),
        }
        self.checkpoint.job = Some(job);
    }

    fn write_superblock(&mut self, job: &mut Job, copy: u64) {
        job.stage = Stage::Superblock(copy);
        job.left = 1;
        let write = Action::Write(job.superblock.to_bytes());
        let offset = job.superblock.offset(copy);
        self.order(Tag::Checkpoint, FileId::Superblock, offset, write);
    }

    /// After a start that has no room for a checkpoint: the superblock leads to the same
    /// checkpoint as before, to all parts of the log that it had, and to a new one.
    ///
    /// Errors: `OutOfSpace` when it can name no more parts.
    pub(super) fn go_on_without_checkpoint(&mut self, old: Superblock) -> Result<()> {
        let mut superblock = Superblock {
            // The next but one has the same slot, and so the same file.
            checkpoint: old.checkpoint + 2,
            clean: false,
            ..old
        };
        let part = LogPart {
            epoch: self.log.epoch,
            start: self.log.next,
            sequence: self.log.sequence,
        };
        superblock.later.push(part).ok_or(Error::OutOfSpace)?;
        // What was replayed may have come from the disk's cache.
        let files: BTreeSet<FileId> = self
            .syncs
            .unsynced
            .iter()
            .copied()
            .map(FileId::Chunk)
            .collect();
        for file in &files {
            self.order(Tag::Checkpoint, *file, 0, Action::Sync);
        }
        self.checkpoint.job = Some(Job {
            stage: Stage::Syncing,
            left: files.len(),
            files,
            superblock,
            release: Vec::new(),
            generation: self.generation,
            log_durable: part.sequence,
        });
        self.generation += 1;
        self.finish()
    }

    fn finish_checkpoint(&mut self, job: Job) {
        self.checkpoint.number = job.superblock.checkpoint;
        self.give_back_saved();
        self.log.durable = self.log.durable.max(job.log_durable);
        self.to_release.push_back((job.generation, job.release));
        self.again = true;
        if !self.checkpoint.wanted {
            for reply in self.checkpoint.take_replies() {
                self.answer(Some(reply), Ok(()));
            }
        }
    }

    /// Lets freed units be used again that no running read can mean, `most` of them; what is left
    /// of that number may still be.
    pub(super) fn release_units(&mut self, most: &mut usize) {
        while *most > 0
            && let Some((generation, units)) = self.to_release.front_mut()
        {
            let oldest = self.readers.keys().next();
            if oldest.is_some_and(|oldest| oldest <= generation) {
                return;
            }
            let released = units.split_off(units.len().saturating_sub(*most));
            *most -= released.len();
            if units.is_empty() {
                self.to_release.pop_front();
            }
            self.state.trees.space.release(released);
            self.again = true;
        }
    }
}
