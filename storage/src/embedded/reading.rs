//! Reads of blocks and of pages, and lists of extents.

use std::sync::PoisonError;

use bytes::BytesMut;

use super::buffer::{UNIT_BYTES, aligned, crc};
use super::disk::{Action, Done};
use super::format::Unit;
use super::format::node::Node;
use super::pages::{Missing, Stop};
use super::request::{Answer, Blocks, List, Read, ReadTo, Request};
use super::shard::{Shard, Tag, place};
use super::tree::{Piece, Root};
use crate::{Error, Result};

/// The memory of reads from this length on is used again.
pub(super) const BORROWED_BYTES: usize = 128 << 10;
/// And so much of it is kept.
pub(super) const KEPT_BYTES: usize = 16 << 20;

/// A read whose windows are on their way.
pub(super) struct ReadJob {
    read: Read,
    pieces: Vec<Piece>,
    crcs: Vec<u32>,
    /// One for each piece; together they are one buffer.
    windows: Vec<BytesMut>,
    left: usize,
    generation: u64,
    failure: Option<String>,
    failed_window: usize,
}

/// A page on its way.
pub(super) struct Load {
    missing: Missing,
    generation: u64,
}

impl Shard {
    pub(super) fn start_read(&mut self, read: Read) {
        let tree = self.state.catalogue.tree(read.image, read.snapshot);
        let (root, _) = match tree {
            Ok(found) => found,
            Err(error) => return self.answer_read(read.to, Err(error)),
        };
        match self.state.trees.look_up(&root, read.block, read.count) {
            Ok((pieces, crcs)) => self.read_pieces(read, pieces, crcs),
            Err(Stop::Missing(missing)) => {
                self.load(missing);
                self.stalled.push(Request::Read(read));
            }
            Err(Stop::Damaged(unit, why)) => {
                let block = self.first_damaged(&root, &read);
                let error = self.damaged(read.image, read.snapshot, block, unit, &why);
                self.answer_read(read.to, Err(error));
            }
        }
    }

    /// The first block of a read whose page is damaged.
    fn first_damaged(&mut self, root: &Root, read: &Read) -> u64 {
        let mut blocks = read.block..read.block + read.count;
        let damaged = blocks.find(|block| {
            let found = self.state.trees.look_up(root, *block, 1);
            matches!(found, Err(Stop::Damaged(..)))
        });
        damaged.unwrap_or(read.block)
    }

    pub(super) fn damaged(
        &self,
        image: u64,
        snapshot: Option<u64>,
        block: u64,
        unit: Unit,
        why: &str,
    ) -> Error {
        Error::Corrupt {
            image: self.state.catalogue.shown_name(image, snapshot),
            offset: block * UNIT_BYTES as u64,
            detail: describe(unit, why),
        }
    }

    pub(super) fn read_pieces(&mut self, read: Read, pieces: Vec<Piece>, crcs: Vec<u32>) {
        let mut rest = self.read_buffer(read.count as usize * UNIT_BYTES);
        let mut windows = Vec::with_capacity(pieces.len());
        let slot = self.free_reads.pop().unwrap_or_else(|| {
            self.reads.push(None);
            self.reads.len() - 1
        });
        let mut left = 0;
        for (index, piece) in pieces.iter().enumerate() {
            let length = piece.count as usize * UNIT_BYTES;
            let mut window = rest;
            rest = match index + 1 < pieces.len() {
                true => window.split_off(length),
                false => BytesMut::new(),
            };
            if piece.unit == 0 {
                window.resize(length, 0);
                windows.push(window);
                continue;
            }
            left += 1;
            windows.push(BytesMut::new());
            let (file, offset) = place(piece.unit);
            let action = Action::Read(window, length);
            self.order(Tag::Read(slot, index), file, offset, action);
        }
        *self.readers.entry(self.generation).or_default() += 1;
        let job = ReadJob {
            read,
            pieces,
            crcs,
            windows,
            left,
            generation: self.generation,
            failure: None,
            failed_window: 0,
        };
        match left {
            0 => {
                self.free_reads.push(slot);
                self.finish_read(job);
            }
            _ => self.reads[slot] = Some(job),
        }
    }

    fn read_buffer(&mut self, length: usize) -> BytesMut {
        match length {
            BORROWED_BYTES.. => {
                let spares = self.spares.lock();
                spares.unwrap_or_else(PoisonError::into_inner).take(length)
            }
            _ => aligned(length),
        }
    }

    pub(super) fn finish_window(&mut self, slot: usize, window: usize, done: Done) {
        let Some(job) = self.reads.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        job.left -= 1;
        if let Err(error) = done.result {
            let unit = job.pieces.get(window).map_or(0, |piece| piece.unit);
            job.failure = Some(describe(unit, &error.to_string()));
            job.failed_window = window;
        }
        if let Some(place) = job.windows.get_mut(window) {
            *place = done.buffer;
        }
        if job.left == 0
            && let Some(job) = self.reads.get_mut(slot).and_then(Option::take)
        {
            self.free_reads.push(slot);
            self.finish_read(job);
        }
    }

    fn leave_generation(&mut self, generation: u64) {
        if let Some(readers) = self.readers.get_mut(&generation) {
            *readers -= 1;
            if *readers == 0 {
                self.readers.remove(&generation);
                self.again |= !self.to_release.is_empty();
            }
        }
    }

    fn finish_read(&mut self, job: ReadJob) {
        self.leave_generation(job.generation);
        if let Some(detail) = job.failure {
            let image = self
                .state
                .catalogue
                .shown_name(job.read.image, job.read.snapshot);
            let before = job.pieces.iter().take(job.failed_window);
            let block = job.read.block + before.map(|piece| piece.count).sum::<u64>();
            let offset = block * UNIT_BYTES as u64;
            let error = Error::Corrupt {
                image,
                offset,
                detail,
            };
            return self.answer_read(job.read.to, Err(error));
        }
        let mut windows = job.windows.into_iter();
        let mut data = windows.next().unwrap_or_default();
        windows.for_each(|window| data.unsplit(window));
        let blocks = Blocks {
            data,
            pieces: job.pieces,
            crcs: job.crcs,
        };
        match job.read.to {
            ReadTo::Caller(reply) => self.answers.push(Answer::Blocks(reply, Ok(blocks))),
            ReadTo::Patch(number, edge) => {
                let result = match blocks.damage() {
                    None => Ok(blocks.data),
                    Some((_, unit)) => {
                        let read = &job.read;
                        Err(self.damaged(read.image, None, read.block, unit, WRONG))
                    }
                };
                self.finish_edge(number, edge, result);
            }
        }
    }

    fn answer_read(&mut self, to: ReadTo, result: Result<Blocks>) {
        match to {
            ReadTo::Caller(reply) => self.answers.push(Answer::Blocks(reply, result)),
            ReadTo::Patch(number, edge) => {
                self.finish_edge(number, edge, result.map(|blocks| blocks.data));
            }
        }
    }

    /// Asks for pages; whoever needs them tries again when they have come.
    pub(super) fn load(&mut self, missing: Vec<Missing>) {
        for missing in missing {
            let unit = missing.unit;
            if self.loads.contains_key(&unit) {
                continue;
            }
            let generation = self.generation;
            self.loads.insert(
                unit,
                Load {
                    missing,
                    generation,
                },
            );
            *self.readers.entry(generation).or_default() += 1;
            let (file, offset) = place(unit);
            let action = Action::Read(aligned(UNIT_BYTES), UNIT_BYTES);
            self.order(Tag::Page(unit), file, offset, action);
        }
    }

    pub(super) fn finish_load(&mut self, unit: Unit, done: Done) {
        let Some(load) = self.loads.remove(&unit) else {
            return;
        };
        self.leave_generation(load.generation);
        self.again = true;
        let trees = &mut self.state.trees;
        // It may have been freed on the way, or even be another page by now.
        if trees.space.count(unit) == 0 || trees.pages.contains(unit) {
            return;
        }
        match parse_page(load.missing, done, trees.space.total()) {
            Ok(node) => trees.pages.add_saved(unit, load.missing.level, node),
            Err(why) => trees.pages.set_damaged(unit, why),
        }
    }

    pub(super) fn start_list(&mut self, mut list: List) {
        let older = match list.older {
            None => Ok((Root::default(), 0)),
            some => self.state.catalogue.tree(list.image, some),
        };
        let newer = self.state.catalogue.tree(list.image, list.newer);
        let (older, newer) = match (older, newer) {
            (Ok((older, _)), Ok((newer, _))) => (older, newer),
            (Err(error), _) | (_, Err(error)) => {
                return self.answers.push(Answer::Extents(list.reply, Err(error)));
            }
        };
        match list.walk.go_on(&mut self.state.trees, &older, &newer) {
            Ok(()) => {
                let extents = list.walk.into_extents();
                self.answers.push(Answer::Extents(list.reply, Ok(extents)));
            }
            Err(Stop::Missing(missing)) => {
                self.load(missing);
                self.stalled.push(Request::List(list));
            }
            Err(Stop::Damaged(unit, why)) => {
                let block = list.walk.position() / UNIT_BYTES as u64;
                let error = self.damaged(list.image, list.newer, block, unit, &why);
                self.answers.push(Answer::Extents(list.reply, Err(error)));
            }
        }
    }
}

/// What is said of data that is not what was written.
pub(crate) const WRONG: &str = "the checksum is wrong";

/// `chunks/00000 at byte 4096: …`.
pub(crate) fn describe(unit: Unit, why: &str) -> String {
    let (file, offset) = place(unit);
    format!("{} at byte {offset}: {why}", file.name())
}

/// A page as it was read, of a store with this many units.
pub(super) fn parse_page(missing: Missing, done: Done, total: u64) -> Result<Node, String> {
    done.result.map_err(|error| error.to_string())?;
    if crc(&done.buffer) != missing.crc {
        return Err("the checksum of a page is wrong".into());
    }
    let node = Node::from_bytes(&done.buffer, missing.level);
    let sound = node.filter(|node| node.targets().iter().all(|unit| *unit < total));
    sound.ok_or_else(|| "not a page".into())
}
