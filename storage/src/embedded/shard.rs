//! A shard: the images, maps, space and log of one folder, as a machine that takes requests
//! ([`Shard::submit`]) and answers of the disk ([`Shard::pump`]), and never waits.
//!
//! **Promises.** Changes take effect in the order of the log, each whole, when its batch and all
//! before it are written; then they are answered. A flush is answered when one sync that began
//! later has made all of that durable. An error of a write or a sync stops the shard: nothing is
//! tried again, nothing is answered with success any more.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use super::apply::State;
use super::changes::PatchJob;
use super::checkpoint::Checkpoint;
use super::disk::{Action, Disk, Done, FileId, Io};
use super::format::{CHUNK_UNITS, Unit};
use super::give_back::GivingBack;
use super::growth::{Growth, Promise};
use super::log::Log;
use super::pages::{NumberMap, Stop};
use super::reading::{self, Load, ReadJob};
use super::request::{Answer, Change, PlanCall, Reply, Request};
use crate::aligned::{SharedSpares, Spares};
use crate::{Error, Result};

/// Dropped pages that are taken apart at one go, between requests.
const DROPS_AT_ONCE: usize = 8;
/// … and those that are read ahead for it.
const DROPS_AHEAD: usize = 32;
/// Units that are let go between requests.
const RELEASED_AT_ONCE: usize = 64 << 10;
/// The list of what is freed until the next checkpoint may take this share of the maps' memory.
const FREED_SHARE: usize = 8;
const LEAST_FREED: u64 = 1024;

/// What a store is opened with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Units that images may keep.
    pub(crate) limit_units: Option<u64>,
    pub(crate) map_cache_bytes: usize,
    /// Free units that are kept, beside those that writes will soon need.
    pub(crate) spare_units: u64,
}

impl Settings {
    /// With so many units freed, what was dropped waits for a checkpoint.
    pub(super) fn most_freed(&self) -> u64 {
        let most = self.map_cache_bytes / FREED_SHARE / size_of::<Unit>();
        LEAST_FREED.max(most as u64)
    }
}

/// Who an answer of the disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// A piece of the batch with this number.
    Batch(u64),
    /// A window of a read: slot and window.
    Read(usize, usize),
    Page(Unit),
    Sync,
    Grow,
    GiveBack,
    Checkpoint,
}

impl Tag {
    pub(super) fn to_number(self) -> u64 {
        let (kind, value) = match self {
            Tag::Batch(sequence) => (0, sequence),
            Tag::Read(slot, window) => (1, (slot as u64) << 20 | window as u64),
            Tag::Page(unit) => (2, unit),
            Tag::Sync => (3, 0),
            Tag::Grow => (4, 0),
            Tag::Checkpoint => (5, 0),
            Tag::GiveBack => (6, 0),
        };
        kind << 56 | value
    }

    fn from_number(number: u64) -> Self {
        let value = number & ((1 << 56) - 1);
        match number >> 56 {
            0 => Tag::Batch(value),
            1 => Tag::Read((value >> 20) as usize, (value & 0xf_ffff) as usize),
            2 => Tag::Page(value),
            3 => Tag::Sync,
            4 => Tag::Grow,
            6 => Tag::GiveBack,
            _ => Tag::Checkpoint,
        }
    }
}

/// Where a unit is.
pub(super) fn place(unit: Unit) -> (FileId, u64) {
    let chunk = (unit / CHUNK_UNITS) as u32;
    let offset = unit % CHUNK_UNITS * super::buffer::UNIT_BYTES as u64;
    (FileId::Chunk(chunk), offset)
}

/// Syncs: one runs, the next is for all who came meanwhile.
#[derive(Default)]
pub(super) struct Syncs {
    pub(super) waiting: Vec<Reply<()>>,
    running: Vec<Reply<()>>,
    left: usize,
    pub(super) running_chunks: BTreeSet<u32>,
    /// Batches below this number are durable when the running sync is done.
    covers: u64,
    /// Chunks with answered writes that no sync that began later has covered.
    pub(super) unsynced: BTreeSet<u32>,
}

pub(crate) struct Shard {
    pub(super) disk: Box<dyn Disk>,
    pub(super) settings: Settings,
    pub(crate) fsid: [u8; 16],
    pub(crate) state: State,
    pub(super) log: Log,
    /// Changes that wait for a batch.
    pub(super) queue: VecDeque<Change>,
    /// What admitted changes will still take.
    pub(super) promised: Promise,
    pub(super) queued_changes: u64,
    pub(super) finished_changes: u64,
    /// Requests that wait for pages.
    pub(super) stalled: Vec<Request>,
    /// Requests that wait for locked blocks.
    pub(super) parked: VecDeque<Request>,
    pub(super) locked: HashSet<(u64, u64)>,
    pub(super) patches: BTreeMap<u64, PatchJob>,
    pub(super) next_patch: u64,
    pub(super) plans: VecDeque<PlanCall>,
    /// A change of the catalogue is on its way.
    pub(super) planning: bool,
    pub(super) reads: Vec<Option<ReadJob>>,
    pub(super) free_reads: Vec<usize>,
    /// Memory of long reads.
    pub(super) spares: SharedSpares,
    pub(super) loads: NumberMap<Load>,
    /// Counts checkpoints; units freed before one may be read by requests that began before.
    pub(super) generation: u64,
    pub(super) readers: BTreeMap<u64, usize>,
    pub(super) to_release: VecDeque<(u64, Vec<Unit>)>,
    pub(super) syncs: Syncs,
    pub(super) growing: Option<Growth>,
    pub(super) giving_back: Option<GivingBack>,
    /// The file system takes nothing back.
    pub(super) keeps_all: bool,
    pub(super) cannot_grow: bool,
    pub(super) checkpoint: Checkpoint,
    settles: Vec<Reply<()>>,
    /// Damage that the start found and made good.
    pub(super) mended: Vec<String>,
    pub(super) stopped: Option<String>,
    pub(super) answers: Vec<Answer>,
    /// Something happened that may let waiting requests go on.
    pub(super) again: bool,
    done: Vec<Done>,
}

impl Shard {
    pub(super) fn new(
        disk: Box<dyn Disk>,
        settings: Settings,
        fsid: [u8; 16],
        state: State,
        log: Log,
        checkpoint: Checkpoint,
    ) -> Self {
        Shard {
            disk,
            settings,
            fsid,
            state,
            log,
            queue: VecDeque::new(),
            promised: Promise::default(),
            queued_changes: 0,
            finished_changes: 0,
            stalled: Vec::new(),
            parked: VecDeque::new(),
            locked: HashSet::new(),
            patches: BTreeMap::new(),
            next_patch: 0,
            plans: VecDeque::new(),
            planning: false,
            reads: Vec::new(),
            free_reads: Vec::new(),
            spares: Arc::new(Mutex::new(Spares::keeping(reading::KEPT_BYTES))),
            loads: NumberMap::default(),
            generation: 0,
            readers: BTreeMap::new(),
            to_release: VecDeque::new(),
            syncs: Syncs::default(),
            growing: None,
            giving_back: None,
            keeps_all: false,
            cannot_grow: false,
            checkpoint,
            settles: Vec::new(),
            mended: Vec::new(),
            stopped: None,
            answers: Vec::new(),
            again: false,
            done: Vec::new(),
        }
    }

    /// Why the shard does not serve any more.
    pub(crate) fn check_running(&self) -> Result<()> {
        match &self.stopped {
            Some(why) => Err(Error::Unavailable(why.clone())),
            None => Ok(()),
        }
    }

    /// Takes a request. Nothing may happen before the next [`Shard::pump`].
    pub(crate) fn submit(&mut self, request: Request) {
        match self.check_running() {
            Ok(()) => self.start(request),
            Err(error) => self.answers.extend(request.fail(error)),
        }
    }

    /// Takes what the disk has done, and does what can be done now. True: there is more to do
    /// that waits for nothing, so call again soon.
    pub(crate) fn pump(&mut self) -> bool {
        let mut done = std::mem::take(&mut self.done);
        self.disk.reap(&mut done);
        for done in done.drain(..) {
            self.finish_io(done);
        }
        self.done = done;
        let mut releasable = RELEASED_AT_ONCE;
        loop {
            self.apply_batches();
            if std::mem::take(&mut self.again) {
                self.retry();
            }
            self.go_on_with_patches();
            self.go_on_with_plans();
            self.build_batches();
            self.start_sync();
            self.release_units(&mut releasable);
            self.begin_checkpoint_if_wanted();
            self.grow_if_wanted();
            if !self.again {
                break;
            }
        }
        let more = self.drop_some() || releasable == 0;
        self.disk.kick();
        self.state.trees.pages.evict();
        more
    }

    /// The answers to send.
    pub(crate) fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    pub(super) fn answer(&mut self, reply: Option<Reply<()>>, result: Result<()>) {
        self.answers
            .extend(reply.map(|reply| Answer::Unit(reply, result)));
    }

    pub(super) fn start(&mut self, request: Request) {
        match request {
            Request::Read(read) => self.start_read(read),
            Request::Change(change) => self.start_change(change),
            Request::Patch(patch) => self.start_patch(patch),
            Request::List(list) => self.start_list(list),
            Request::Scan(scan) => self.start_scan(scan),
            Request::Units { unit, count, reply } => self.read_units(unit, count, reply),
            Request::Plan(call) => self.plans.push_back(call),
            Request::Flush(reply) => self.syncs.waiting.push(reply),
            Request::Settle(reply) => match self.state.trees.drops.is_empty() {
                true => self.answer(Some(reply), Ok(())),
                false => self.settles.push(reply),
            },
        }
    }

    fn retry(&mut self) {
        for request in std::mem::take(&mut self.stalled) {
            self.start(request);
        }
        if self.locked.is_empty() || !self.parked.is_empty() {
            for request in std::mem::take(&mut self.parked) {
                self.start(request);
            }
        }
    }

    pub(super) fn order(&mut self, tag: Tag, file: FileId, offset: u64, action: Action) {
        self.disk.submit(Io {
            tag: tag.to_number(),
            file,
            offset,
            action,
        });
    }

    fn finish_io(&mut self, done: Done) {
        match Tag::from_number(done.tag) {
            Tag::Read(slot, window) => self.finish_window(slot, window, done),
            Tag::Page(unit) => self.finish_load(unit, done),
            Tag::Grow => self.finish_growing(done.result),
            Tag::GiveBack => self.finish_giving_back(done.result),
            tag => match done.result {
                Err(error) if tag == Tag::Checkpoint && self.refuse_state_file(&error) => {}
                Err(error) => self.fail(&format!("{}: {error}", what_failed(tag))),
                Ok(()) if self.stopped.is_some() => {}
                Ok(()) => match tag {
                    Tag::Batch(sequence) => self.finish_piece(sequence, done.buffer),
                    Tag::Sync => self.finish_sync(),
                    _ => self.finish_checkpoint_io(),
                },
            },
        }
    }

    fn start_sync(&mut self) {
        if self.syncs.left > 0 || self.syncs.waiting.is_empty() || self.stopped.is_some() {
            return;
        }
        let replies = std::mem::take(&mut self.syncs.waiting);
        if self.syncs.unsynced.is_empty() {
            let answers = replies.into_iter().map(|reply| Answer::Unit(reply, Ok(())));
            self.answers.extend(answers);
            return;
        }
        self.syncs.running = replies;
        self.syncs.covers = self.log.written_below();
        self.syncs.running_chunks = std::mem::take(&mut self.syncs.unsynced);
        self.syncs.left = self.syncs.running_chunks.len();
        for chunk in self.syncs.running_chunks.clone() {
            self.order(Tag::Sync, FileId::Chunk(chunk), 0, Action::Sync);
        }
    }

    fn finish_sync(&mut self) {
        self.syncs.left -= 1;
        if self.syncs.left == 0 {
            self.syncs.running_chunks.clear();
            self.log.durable = self.log.durable.max(self.syncs.covers);
            let replies = std::mem::take(&mut self.syncs.running);
            let answers = replies.into_iter().map(|reply| Answer::Unit(reply, Ok(())));
            self.answers.extend(answers);
            self.again = true;
        }
    }

    /// Whether a sync is on its way.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncs.left > 0
    }

    /// Whether so much is freed that it must be let go before more is: a removed image may be of any
    /// size. Where there is no room for a checkpoint, removals go on.
    fn must_save_before_drops(&self) -> bool {
        let trees = &self.state.trees;
        let many = trees.space.freed() >= self.settings.most_freed();
        many && !trees.drops.is_empty() && !self.checkpoint.is_refused()
    }

    /// Takes some dropped pages apart. True: there are more, and they are in memory.
    fn drop_some(&mut self) -> bool {
        if self.stopped.is_some() {
            return false;
        }
        if self.must_save_before_drops() {
            return !std::mem::replace(&mut self.checkpoint.wanted, true);
        }
        for _ in 0..DROPS_AT_ONCE {
            match self.state.trees.drop_one() {
                Ok(true) => self.checkpoint.due = true,
                Ok(false) => {
                    let settles = std::mem::take(&mut self.settles);
                    self.again |= !settles.is_empty();
                    for reply in settles {
                        self.answer(Some(reply), Ok(()));
                    }
                    return false;
                }
                Err(Stop::Missing(_)) => {
                    self.load(self.state.trees.missing_drops(DROPS_AHEAD));
                    return false;
                }
                Err(Stop::Damaged(unit, why)) => {
                    // What it kept stays in use; the check tells.
                    tracing::error!(unit, why, "a page of a removed image is damaged");
                    self.state.trees.drops.pop();
                }
            }
        }
        // Whoever waits for space may find it.
        self.again = true;
        true
    }

    /// Nothing can be made durable any more: every request fails from now on.
    pub(super) fn fail(&mut self, why: &str) {
        if self.stopped.is_none() {
            tracing::error!(why, "the store has stopped");
        }
        self.stop(why);
    }

    /// Serves no more.
    pub(crate) fn stop(&mut self, why: &str) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(why.to_owned());
        let error = || Error::Unavailable(why.to_owned());
        let mut requests: Vec<Request> = std::mem::take(&mut self.stalled);
        requests.extend(self.parked.drain(..));
        requests.extend(self.queue.drain(..).map(Request::Change));
        requests.extend(self.plans.drain(..).map(Request::Plan));
        for request in requests {
            self.answers.extend(request.fail(error()));
        }
        let mut replies = self.log.fail_batches();
        for (_, job) in std::mem::take(&mut self.patches) {
            replies.extend(job.patch.reply);
        }
        replies.append(&mut self.syncs.waiting);
        replies.append(&mut self.syncs.running);
        replies.append(&mut self.settles);
        replies.extend(self.checkpoint.take_replies());
        for reply in replies {
            self.answer(Some(reply), Err(error()));
        }
    }

    /// Once in a while: saves what has changed, and looks again whether files can grow.
    pub(crate) fn tick(&mut self) {
        self.cannot_grow = false;
        self.again = true;
        self.tick_checkpoint();
        self.give_back();
    }

    /// Whether no change, sync or checkpoint is on its way.
    pub(super) fn is_finished(&self) -> bool {
        self.queue.is_empty()
            && self.log.in_flight.is_empty()
            && self.patches.is_empty()
            && self.stalled.is_empty()
            && self.parked.is_empty()
            && self.plans.is_empty()
            && !self.is_syncing()
            && self.syncs.waiting.is_empty()
            && !self.checkpoint.is_running()
            && !self.checkpoint.wanted
            && self.growing.is_none()
            && !self.is_giving_back()
    }

    /// Works until all requests are done. Blocks.
    pub(crate) fn finish(&mut self) -> Result<()> {
        loop {
            self.pump();
            self.check_running()?;
            if self.is_finished() {
                return Ok(());
            }
            self.disk.wait();
        }
    }
}

fn what_failed(tag: Tag) -> &'static str {
    match tag {
        Tag::Sync => "making data durable failed",
        Tag::Checkpoint => "saving a checkpoint failed",
        _ => "writing failed",
    }
}
