//! What callers ask of a shard, and how they get their answer.

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::buffer::{UNIT_BYTES, crc};
use super::catalogue::Catalogue;
use super::format::Unit;
use super::growth::Promise;
use super::records::CatalogueChange;
use super::scan::{Scan, Scanned};
use super::tree::Piece;
use super::walk::Walk;
use crate::{Error, Extent, Result};

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

pub(crate) enum Request {
    Read(Read),
    Change(Change),
    Patch(Patch),
    List(List),
    /// A call about the catalogue: checks, and says what to do.
    Plan(PlanCall),
    Flush(Reply<()>),
    /// Answered when nothing that was dropped is left to take apart.
    Settle(Reply<()>),
    Scan(Scan),
    /// Units as they lie on the disk.
    Units {
        unit: Unit,
        count: u64,
        reply: Reply<Blocks>,
    },
}

/// Whole blocks of an image or a snapshot.
pub(crate) struct Read {
    pub(crate) image: u64,
    pub(crate) snapshot: Option<u64>,
    pub(crate) block: u64,
    pub(crate) count: u64,
    pub(crate) to: ReadTo,
}

pub(crate) enum ReadTo {
    Caller(Reply<Blocks>),
    /// Edge 0 or 1 of the patch with this number.
    Patch(u64, usize),
}

/// Blocks that were read, not checked yet.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) data: BytesMut,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) crcs: Vec<u32>,
}

impl Blocks {
    /// Compares all checksums; answers the first wrong block, counted from 0, and its unit.
    pub(crate) fn damage(&self) -> Option<(u64, u64)> {
        let mut units = self.pieces.iter().flat_map(|piece| {
            (0..piece.count).map(|at| if piece.unit == 0 { 0 } else { piece.unit + at })
        });
        let blocks = self.data.chunks(UNIT_BYTES).zip(&self.crcs).enumerate();
        for (index, (block, sum)) in blocks {
            let unit = units.next().unwrap_or(0);
            if unit != 0 && crc(block) != *sum {
                return Some((index as u64, unit));
            }
        }
        None
    }
}

/// Data for whole blocks.
#[derive(Debug)]
pub(crate) enum Part {
    Data {
        block: u64,
        data: Bytes,
        crcs: Vec<u32>,
    },
    Zero {
        block: u64,
        count: u64,
    },
}

fn is_zero(block: &[u8]) -> bool {
    let folded = |word: &[u8]| word.iter().fold(0, |all, byte| all | byte);
    block.chunks(32).all(|word| folded(word) == 0)
}

/// Splits whole blocks into data, with checksums, and zeroes.
pub(crate) fn parts(block: u64, data: &Bytes) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::with_capacity(1);
    for (index, bytes) in data.chunks(UNIT_BYTES).enumerate() {
        let at = index * UNIT_BYTES;
        if is_zero(bytes) {
            match parts.last_mut() {
                Some(Part::Zero { count, .. }) => *count += 1,
                _ => parts.push(Part::Zero {
                    block: block + index as u64,
                    count: 1,
                }),
            }
            continue;
        }
        let sum = crc(bytes);
        match parts.last_mut() {
            Some(Part::Data {
                data: run, crcs, ..
            }) => {
                crcs.push(sum);
                *run = data.slice(at + UNIT_BYTES - crcs.len() * UNIT_BYTES..at + UNIT_BYTES);
            }
            _ => parts.push(Part::Data {
                block: block + index as u64,
                data: data.slice(at..at + UNIT_BYTES),
                crcs: vec![sum],
            }),
        }
    }
    parts
}

impl Part {
    pub(crate) fn range(&self) -> (u64, u64) {
        match self {
            Part::Data { block, crcs, .. } => (*block, block + crcs.len() as u64),
            Part::Zero { block, count } => (*block, block + count),
        }
    }

    pub(crate) fn units(&self) -> u64 {
        match self {
            Part::Data { crcs, .. } => crcs.len() as u64,
            Part::Zero { .. } => 0,
        }
    }
}

/// A change that can go into the log as it is.
pub(crate) struct Change {
    pub(crate) image: u64,
    /// In reverse: the last is the next to go.
    pub(crate) parts: Vec<Part>,
    pub(crate) then: Option<CatalogueChange>,
    pub(crate) reply: Option<Reply<()>>,
    /// Answer when it is durable.
    pub(crate) durable: bool,
    /// Blocks that this change holds locked.
    pub(crate) locks: Vec<(u64, u64)>,
    /// What was promised to it; `None`: not admitted yet.
    pub(super) promised: Option<Promise>,
    /// The checkpoint at which it began to wait for space.
    pub(crate) waits_since: Option<u64>,
}

impl Change {
    pub(crate) fn new(image: u64, mut parts: Vec<Part>, reply: Reply<()>) -> Self {
        parts.reverse();
        Change {
            image,
            parts,
            then: None,
            reply: Some(reply),
            durable: false,
            locks: Vec::new(),
            promised: None,
            waits_since: None,
        }
    }

    pub(crate) fn of_catalogue(change: CatalogueChange, reply: Option<Reply<()>>) -> Self {
        Change {
            image: 0,
            parts: Vec::new(),
            then: Some(change),
            reply,
            durable: true,
            locks: Vec::new(),
            promised: None,
            waits_since: None,
        }
    }

    pub(crate) fn units(&self) -> u64 {
        self.parts.iter().map(Part::units).sum()
    }

    /// Gives space back: it may use the reserve.
    pub(crate) fn frees(&self) -> bool {
        use CatalogueChange as C;
        let frees = |change: &C| {
            matches!(
                change,
                C::RemoveImage { .. }
                    | C::RemoveSnapshot { .. }
                    | C::RemoveObject { .. }
                    | C::RemoveMetadata { .. }
                    | C::Resize { .. }
                    | C::RollBack { .. }
                    | C::Flatten { .. }
                    | C::Protect { .. }
            )
        };
        self.units() == 0 && self.then.as_ref().is_none_or(frees)
    }
}

/// What a patch puts there.
pub(crate) enum Content {
    Bytes(Bytes),
    Zero(u64),
    /// What is there already, in so many bytes of whole blocks: it gets new places.
    Same(u64),
}

impl Content {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Zero(length) | Content::Same(length) => *length,
        }
    }
}

/// A change of any bytes: the blocks at its edges are read first, and locked until it is done.
pub(crate) struct Patch {
    pub(crate) image: u64,
    pub(crate) offset: u64,
    pub(crate) content: Content,
    /// Goes into the same batch.
    pub(crate) then: Option<CatalogueChange>,
    pub(crate) reply: Option<Reply<()>>,
    pub(crate) durable: bool,
}

impl Patch {
    /// First block, and the first behind.
    pub(crate) fn blocks(&self) -> (u64, u64) {
        let unit = UNIT_BYTES as u64;
        let end = self.offset + self.content.length();
        (self.offset / unit, end.div_ceil(unit))
    }

    /// The blocks whose old content it needs.
    pub(crate) fn edges(&self) -> Vec<u64> {
        let unit = UNIT_BYTES as u64;
        let (first, end) = self.blocks();
        if let Content::Same(_) = self.content {
            return (first..end).collect();
        }
        let mut edges = Vec::new();
        if !self.offset.is_multiple_of(unit) {
            edges.push(first);
        }
        let last = end.saturating_sub(1);
        let ends_inside = !(self.offset + self.content.length()).is_multiple_of(unit);
        if ends_inside && edges.last() != Some(&last) {
            edges.push(last);
        }
        edges
    }

    /// The change, given the old content of the edges.
    pub(crate) fn parts(&self, edges: &[(u64, BytesMut)]) -> Vec<Part> {
        let unit = UNIT_BYTES as u64;
        let (first, end) = self.blocks();
        let old = |block: u64| {
            let found = edges.iter().find(|(edge, _)| *edge == block);
            found.map(|(_, bytes)| bytes)
        };
        if let Content::Same(_) = self.content {
            let mut all = BytesMut::with_capacity(edges.len() * UNIT_BYTES);
            edges
                .iter()
                .for_each(|(_, bytes)| all.extend_from_slice(bytes));
            return parts(first, &all.freeze());
        }
        if let Content::Bytes(bytes) = &self.content {
            let mut all = BytesMut::zeroed(((end - first) * unit) as usize);
            for block in [first, end - 1] {
                if let Some(old) = old(block) {
                    let at = ((block - first) * unit) as usize;
                    all[at..at + UNIT_BYTES].copy_from_slice(old);
                }
            }
            let at = (self.offset - first * unit) as usize;
            all[at..at + bytes.len()].copy_from_slice(bytes);
            return parts(first, &all.freeze());
        }
        let mut out = Vec::new();
        let (mut from, mut to) = (first, end);
        let stop = self.offset + self.content.length();
        for (block, bytes) in edges {
            let mut bytes = bytes.clone();
            let start = block * unit;
            let zero = self.offset.max(start) - start..stop.min(start + unit) - start;
            bytes[zero.start as usize..zero.end as usize].fill(0);
            out.extend(parts(*block, &bytes.freeze()));
            if *block == first {
                from += 1;
            } else {
                to -= 1;
            }
        }
        if from < to {
            out.push(Part::Zero {
                block: from,
                count: to - from,
            });
        }
        out
    }
}

/// A list of extents.
pub(crate) struct List {
    pub(crate) image: u64,
    pub(crate) older: Option<u64>,
    pub(crate) newer: Option<u64>,
    pub(crate) walk: Walk,
    pub(crate) reply: Reply<Vec<Extent>>,
}

/// What a call about the catalogue comes to.
pub(crate) enum Plan {
    Nothing,
    Change(CatalogueChange),
    Patch(Patch),
}

pub(crate) type PlanOf = Box<dyn FnOnce(&mut Catalogue) -> Result<Plan> + Send>;

pub(crate) struct PlanCall {
    pub(crate) plan: PlanOf,
    pub(crate) reply: Reply<()>,
}

/// An answer on its way: sent when the shard's lock is free again.
pub(crate) enum Answer {
    Unit(Reply<()>, Result<()>),
    Blocks(Reply<Blocks>, Result<Blocks>),
    Extents(Reply<Vec<Extent>>, Result<Vec<Extent>>),
    Scanned(Reply<Scanned>, Result<Scanned>),
}

impl Answer {
    /// A caller that is gone needs no answer.
    pub(crate) fn send(self) {
        match self {
            Answer::Unit(reply, result) => drop(reply.send(result)),
            Answer::Blocks(reply, result) => drop(reply.send(result)),
            Answer::Extents(reply, result) => drop(reply.send(result)),
            Answer::Scanned(reply, result) => drop(reply.send(result)),
        }
    }
}

impl Request {
    /// Refuses it.
    pub(crate) fn fail(self, error: Error) -> Option<Answer> {
        match self {
            Request::Read(Read {
                to: ReadTo::Caller(reply),
                ..
            }) => Some(Answer::Blocks(reply, Err(error))),
            Request::Read(_) => None,
            Request::Change(change) => change.reply.map(|reply| Answer::Unit(reply, Err(error))),
            Request::Patch(patch) => patch.reply.map(|reply| Answer::Unit(reply, Err(error))),
            Request::Units { reply, .. } => Some(Answer::Blocks(reply, Err(error))),
            Request::Scan(scan) => Some(Answer::Scanned(scan.reply, Err(error))),
            Request::List(list) => Some(Answer::Extents(list.reply, Err(error))),
            Request::Plan(call) => Some(Answer::Unit(call.reply, Err(error))),
            Request::Flush(reply) | Request::Settle(reply) => Some(Answer::Unit(reply, Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_and_data_are_told_apart() {
        let mut data = vec![0u8; 6 * UNIT_BYTES];
        data[UNIT_BYTES] = 1;
        data[3 * UNIT_BYTES - 1] = 2;
        data[5 * UNIT_BYTES + 7] = 3;
        let data = Bytes::from(data);
        let ranges: Vec<_> = parts(10, &data)
            .iter()
            .map(|part| (part.range(), part.units()))
            .collect();
        assert_eq!(
            ranges,
            [((10, 11), 0), ((11, 13), 2), ((13, 15), 0), ((15, 16), 1)]
        );
        match &parts(10, &data)[1] {
            Part::Data {
                data: run, crcs, ..
            } => {
                assert_eq!(run[..], data[UNIT_BYTES..3 * UNIT_BYTES]);
                assert_eq!(crcs[1], crc(&data[2 * UNIT_BYTES..3 * UNIT_BYTES]));
            }
            other => panic!("{other:?}"),
        }
    }
}
