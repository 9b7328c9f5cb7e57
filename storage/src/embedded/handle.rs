//! An open image or snapshot: reads, writes and discards.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;

use super::blocks::{BLOCK_BYTES, Run};
use super::engine::Engine;
use super::records::Disk;
use super::state::{ReadToken, State};
use super::tree::{Entry, Fill, Root};
use crate::store::{ExtentList, check_limit, check_range, check_read};
use crate::{Error, Extent, ExtentKind, ImageHandle, Result};

const BLOCK: usize = BLOCK_BYTES as usize;
const ZEROES: [u8; BLOCK] = [0; BLOCK];
/// A larger write is cut into pieces of this.
const PIECE_BYTES: usize = 4 << 20;

/// What all handles of one image's head share.
#[derive(Default)]
pub(super) struct Head {
    /// Writers of whole blocks hold it shared; whoever writes part of a block, and so copies the
    /// rest of it, or changes the size, holds it alone.
    pub(super) lock: RwLock<()>,
    pub(super) size_bytes: AtomicU64,
    handles: AtomicUsize,
}

impl Head {
    pub(super) fn new(size_bytes: u64) -> Self {
        Head {
            size_bytes: AtomicU64::new(size_bytes),
            ..Head::default()
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }

    /// Runs with other writers of whole blocks, or alone.
    pub(super) fn locked<T>(&self, shared: bool, act: impl FnOnce() -> T) -> T {
        if shared {
            let _guard = self.lock.read().unwrap_or_else(PoisonError::into_inner);
            return act();
        }
        let _guard = self.lock.write().unwrap_or_else(PoisonError::into_inner);
        act()
    }
}

/// One handle's claim on a head.
struct OpenHead(Arc<Head>);

impl Drop for OpenHead {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Ordering::AcqRel);
    }
}

enum Target {
    Head { id: u64, head: OpenHead },
    Snapshot { disk: Disk, _open: Arc<()> },
}

/// An open image or snapshot of the engine.
pub(super) struct Handle {
    engine: Arc<Engine>,
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    target: Target,
}

impl Handle {
    /// To be made under the state's lock, so that nobody removes it in between.
    pub(super) fn head(engine: Arc<Engine>, name: String, id: u64, head: Arc<Head>) -> Self {
        head.handles.fetch_add(1, Ordering::AcqRel);
        let head = OpenHead(head);
        let target = Target::Head { id, head };
        Handle {
            engine,
            inner: Arc::new(Inner { name, target }),
        }
    }

    pub(super) fn snapshot(engine: Arc<Engine>, name: String, disk: Disk, open: Arc<()>) -> Self {
        let target = Target::Snapshot { disk, _open: open };
        Handle {
            engine,
            inner: Arc::new(Inner { name, target }),
        }
    }

    /// Runs on a thread for blocking work; errors then name the image.
    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Engine, &Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let act = move |engine: &Engine| act(engine, &inner).map_err(|error| inner.named(error));
        self.engine.blocking(act).await
    }

    fn writable(&self) -> Result<()> {
        if self.read_only() {
            return Err(Error::ReadOnly(self.inner.name.clone()));
        }
        Ok(())
    }
}

impl Inner {
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Corrupt { offset, detail, .. } => Error::Corrupt {
                image: self.name.clone(),
                offset,
                detail,
            },
            Error::NotFound(_) => Error::NotFound(self.name.clone()),
            other => other,
        }
    }

    fn disk(&self, state: &mut State) -> Result<Disk> {
        match &self.target {
            Target::Head { id, .. } => state.head(*id),
            Target::Snapshot { disk, .. } => Ok(*disk),
        }
    }

    fn head_id(&self) -> Result<(u64, &Head)> {
        match &self.target {
            Target::Head { id, head } => Ok((*id, &head.0)),
            Target::Snapshot { .. } => Err(Error::ReadOnly(self.name.clone())),
        }
    }
}

#[async_trait]
impl ImageHandle for Handle {
    fn size_bytes(&self) -> u64 {
        match &self.inner.target {
            Target::Head { head, .. } => head.0.size_bytes.load(Ordering::Acquire),
            Target::Snapshot { disk, .. } => disk.size_bytes,
        }
    }

    fn read_only(&self) -> bool {
        matches!(self.inner.target, Target::Snapshot { .. })
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let read = move |engine: &Engine, inner: &Inner| {
            let mut state = engine.state()?;
            let disk = inner.disk(&mut state)?;
            check_read(offset, length, disk.size_bytes)?;
            let first = offset / BLOCK_BYTES;
            let count = (offset + length as u64).div_ceil(BLOCK_BYTES) - first;
            let entries = state.lookup(disk.root, first, count as usize)?;
            let token = Arc::clone(&state.reading);
            drop(state);
            let data = engine.read_blocks(first, &entries, token)?;
            let skip = (offset - first * BLOCK_BYTES) as usize;
            Ok(Bytes::from(data).slice(skip..skip + length))
        };
        self.run(read).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.writable()?;
        let write = move |engine: &Engine, inner: &Inner| {
            let (id, head) = inner.head_id()?;
            // Checked again under the lock; here, so that nothing is written of what cannot fit.
            check_range(
                offset,
                data.len() as u64,
                head.size_bytes.load(Ordering::Acquire),
            )?;
            let mut position = offset;
            let mut rest = &data[..];
            while !rest.is_empty() {
                let within = (position % PIECE_BYTES as u64) as usize;
                let (piece, behind) = rest.split_at(rest.len().min(PIECE_BYTES - within));
                engine.write_piece(id, head, position, piece)?;
                position += piece.len() as u64;
                rest = behind;
            }
            Ok(())
        };
        self.run(write).await
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.writable()?;
        let discard = move |engine: &Engine, inner: &Inner| {
            let (id, head) = inner.head_id()?;
            engine.discard(id, head, offset, length)
        };
        self.run(discard).await
    }

    async fn flush(&self) -> Result<()> {
        let last = |engine: &Engine, _: &Inner| Ok(engine.state()?.last_generation());
        let generation = self.run(last).await?;
        self.engine.durable(generation).await
    }

    async fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        let extents = move |engine: &Engine, inner: &Inner| {
            let roots = |state: &mut State| Ok((Root::default(), inner.disk(state)?));
            let size_bytes = inner.disk(&mut *engine.state()?)?.size_bytes;
            let end = check_range(offset, length, size_bytes)?;
            let data = engine.compare(roots, offset, end, limit)?;
            Ok(cover(&data, offset, end, limit))
        };
        self.run(extents).await
    }
}

/// Fills the gaps between data extents with zero extents.
fn cover(data: &[Extent], offset: u64, end: u64, limit: usize) -> Vec<Extent> {
    let mut list = ExtentList::new(limit);
    let mut position = offset;
    for extent in data {
        if !list.push(position, extent.offset - position, ExtentKind::Zero)
            || !list.push(extent.offset, extent.length, ExtentKind::Data)
        {
            return list.into_vec();
        }
        position = extent.offset + extent.length;
    }
    // With a full list there may be data behind; otherwise all behind is zero.
    if data.len() < limit {
        list.push(position, end - position, ExtentKind::Zero);
    }
    list.into_vec()
}

/// A write cut at block boundaries.
struct Cut<'a> {
    front: Option<Vec<u8>>,
    middle: &'a [u8],
    back: Option<Vec<u8>>,
}

impl Engine {
    /// The content of blocks, each checked.
    fn read_blocks(&self, first: u64, entries: &[Entry], token: ReadToken) -> Result<Vec<u8>> {
        let mut data = vec![0; entries.len() * BLOCK];
        let mut rest = data.as_mut_slice();
        let neighbours = |a: &Entry, b: &Entry| match (a.block, b.block) {
            (0, 0) => true,
            (0, _) | (_, 0) => false,
            (a, b) => a + 1 == b && !b.is_multiple_of(super::blocks::CHUNK_BLOCKS),
        };
        let mut index = first;
        for entries in entries.chunk_by(neighbours) {
            let (blocks, behind) = rest.split_at_mut(entries.len() * BLOCK);
            rest = behind;
            let count = entries.len() as u64;
            if let Some(Entry {
                block: start @ 1.., ..
            }) = entries.first().copied()
            {
                self.files.read(Run { start, count }, blocks)?;
                verify(index, entries, blocks)?;
            }
            index += count;
        }
        drop(token);
        Ok(data)
    }

    /// One block of the head as it is now.
    fn read_block(&self, id: u64, index: u64) -> Result<Vec<u8>> {
        let mut state = self.state()?;
        let root = state.head(id)?.root;
        let entries = state.lookup(root, index, 1)?;
        let token = Arc::clone(&state.reading);
        drop(state);
        self.read_blocks(index, &entries, token)
    }

    fn write_piece(&self, id: u64, head: &Head, offset: u64, data: &[u8]) -> Result<()> {
        let size = head.size_bytes.load(Ordering::Acquire);
        let end = offset + data.len() as u64;
        let whole = |position: u64| position.is_multiple_of(BLOCK_BYTES);
        let shared = whole(offset) && (whole(end) || end == size);
        head.locked(shared, || {
            let size = head.size_bytes.load(Ordering::Acquire);
            check_range(offset, data.len() as u64, size)?;
            let first = offset / BLOCK_BYTES;
            let cut = self.cut(id, offset, data, end == size)?;
            let mut blocks: Vec<&[u8]> = Vec::with_capacity(cut.middle.len() / BLOCK + 2);
            blocks.extend(cut.front.as_deref());
            blocks.extend(cut.middle.chunks_exact(BLOCK));
            blocks.extend(cut.back.as_deref());
            self.put_blocks(&blocks, |state, entries| {
                let mut disk = state.head(id)?;
                let count = entries.len() as u64;
                disk.root = state.assign(disk.root, first, count, Fill::Blocks(entries))?;
                state.set_head(id, disk);
                Ok(())
            })
        })
    }

    /// Cuts data into a first block, whole blocks, and a last block; what the data leaves of an
    /// edge block is filled with what the image holds.
    fn cut<'a>(&self, id: u64, offset: u64, data: &'a [u8], to_the_end: bool) -> Result<Cut<'a>> {
        let within = (offset % BLOCK_BYTES) as usize;
        let (mut front, mut back, mut middle) = (None, None, data);
        if within > 0 {
            let (edge, rest) = data.split_at(data.len().min(BLOCK - within));
            let mut block = self.read_block(id, offset / BLOCK_BYTES)?;
            fill(&mut block, within, edge);
            (front, middle) = (Some(block), rest);
        }
        let tail = middle.len() % BLOCK;
        if tail > 0 {
            let end = offset + data.len() as u64;
            let (rest, edge) = middle.split_at(middle.len() - tail);
            // Behind the end of the image there are only zeroes.
            let mut block = match to_the_end {
                true => ZEROES.to_vec(),
                false => self.read_block(id, end / BLOCK_BYTES)?,
            };
            fill(&mut block, 0, edge);
            (back, middle) = (Some(block), rest);
        }
        Ok(Cut {
            front,
            middle,
            back,
        })
    }

    /// Stores blocks and puts them into a tree: `land` runs in a call of its own with their
    /// entries.
    fn put_blocks(
        &self,
        blocks: &[&[u8]],
        land: impl FnOnce(&mut State, &[Entry]) -> Result<()>,
    ) -> Result<()> {
        let stored: Vec<&[u8]> = blocks
            .iter()
            .copied()
            .filter(|block| *block != ZEROES)
            .collect();
        let runs = self.store_blocks(&stored)?;
        let mut numbers = runs.iter().flat_map(|run| run.start..run.start + run.count);
        let entry = |block: &&[u8]| match *block == ZEROES {
            true => Entry::default(),
            false => Entry {
                block: numbers.next().unwrap_or(0),
                crc: crc_fast::crc32_iscsi(block),
            },
        };
        let entries: Vec<Entry> = blocks.iter().map(entry).collect();
        let mut state = self.state()?;
        let result = state.transact(|state| land(state, &entries));
        state.landed(&runs, result.is_ok());
        self.after_change(state);
        result
    }

    /// Writes blocks to free places. When there are none, waits for the space of what was
    /// removed and tries once more.
    fn store_blocks(&self, blocks: &[&[u8]]) -> Result<Vec<Run>> {
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        match self.try_store_blocks(blocks) {
            Err(Error::OutOfSpace) if self.wait_for_space()? => self.try_store_blocks(blocks),
            result => result,
        }
    }

    fn try_store_blocks(&self, blocks: &[&[u8]]) -> Result<Vec<Run>> {
        let runs = self.state_with_room()?.allocate(blocks.len() as u64)?;
        let mut rest = blocks;
        for run in &runs {
            let (piece, behind) = rest.split_at(rest.len().min(run.count as usize));
            rest = behind;
            if let Err(error) = self.files.write(*run, piece) {
                let mut state = self.state()?;
                state.landed(&runs, false);
                self.after_change(state);
                return Err(error);
            }
        }
        Ok(runs)
    }

    fn discard(&self, id: u64, head: &Head, offset: u64, length: u64) -> Result<()> {
        let size = head.size_bytes.load(Ordering::Acquire);
        let end = check_range(offset, length, size)?;
        let first = offset.div_ceil(BLOCK_BYTES);
        let last = if end == size {
            end.div_ceil(BLOCK_BYTES)
        } else {
            end / BLOCK_BYTES
        };
        let zeroes = |from: u64, to: u64| match from < to {
            true => self.write_piece(id, head, from, &ZEROES[..(to - from) as usize]),
            false => Ok(()),
        };
        if first > last || (first == last && !offset.is_multiple_of(BLOCK_BYTES)) {
            let middle = (first * BLOCK_BYTES).min(end);
            zeroes(offset, middle)?;
            return zeroes(middle, end);
        }
        zeroes(offset, first * BLOCK_BYTES)?;
        zeroes((last * BLOCK_BYTES).min(end).max(offset), end)?;
        head.locked(true, || {
            // A resize may have come in between: beyond the end there is nothing to clear.
            let size = head.size_bytes.load(Ordering::Acquire);
            let last = last.min(size.div_ceil(BLOCK_BYTES));
            let mut state = self.state_with_room()?;
            let result = state.transact(|state| {
                let mut disk = state.head(id)?;
                let count = last.saturating_sub(first);
                disk.root = state.assign(disk.root, first, count, Fill::Zero)?;
                state.set_head(id, disk);
                Ok(())
            });
            self.after_change(state);
            result
        })
    }

    /// Sets the size of a head; what lies behind is dropped, the rest of its last block zeroed.
    pub(super) fn resize(&self, id: u64, head: &Head, size_bytes: u64) -> Result<()> {
        head.locked(false, || {
            let size = head.size_bytes.load(Ordering::Acquire);
            let cut = (size_bytes % BLOCK_BYTES) as usize;
            let last = size_bytes / BLOCK_BYTES;
            let mut block = Vec::new();
            if size_bytes < size && cut > 0 {
                block = self.read_block(id, last)?;
                fill(&mut block, cut, &ZEROES[cut..]);
            }
            let edge: Vec<&[u8]> = block.chunks_exact(BLOCK).collect();
            self.put_blocks(&edge, |state, entries| {
                let mut disk = state.head(id)?;
                if size_bytes < size {
                    let count = size.div_ceil(BLOCK_BYTES).saturating_sub(last);
                    let old = state.lookup(disk.root, last, 1)?;
                    disk.root = state.assign(disk.root, last, count, Fill::Zero)?;
                    // A last block that was all zero before needs no entry, nor a tree that high.
                    if old.first() != Some(&Entry::default()) {
                        let count = entries.len() as u64;
                        disk.root = state.assign(disk.root, last, count, Fill::Blocks(entries))?;
                    }
                }
                disk.size_bytes = size_bytes;
                state.set_head(id, disk);
                Ok(())
            })?;
            head.size_bytes.store(size_bytes, Ordering::Release);
            Ok(())
        })
    }

    /// What differs between two roots within a range of bytes, at most `limit` extents. `roots`
    /// is asked anew each time others got their turn.
    pub(super) fn compare(
        &self,
        roots: impl Fn(&mut State) -> Result<(Root, Disk)>,
        start_bytes: u64,
        end_bytes: u64,
        limit: usize,
    ) -> Result<Vec<Extent>> {
        let mut walk = super::tree::Walk {
            start_bytes,
            end_bytes,
            nodes: 0,
            resume_bytes: Some(start_bytes),
            list: ExtentList::new(limit),
        };
        while let Some(start_bytes) = walk.resume_bytes {
            let mut state = self.state()?;
            let (older, newer) = roots(&mut state)?;
            walk.start_bytes = start_bytes;
            walk.end_bytes = end_bytes.min(newer.size_bytes);
            walk.nodes = 256;
            state.compare(older, newer.root, &mut walk)?;
        }
        Ok(walk.list.into_vec())
    }
}

/// Puts bytes into a block.
fn fill(block: &mut [u8], at: usize, data: &[u8]) {
    if let Some(place) = block.get_mut(at..at + data.len()) {
        place.copy_from_slice(data);
    }
}

fn verify(first: u64, entries: &[Entry], blocks: &[u8]) -> Result<()> {
    let blocks = blocks.chunks_exact(BLOCK);
    for (index, (entry, block)) in (first..).zip(entries.iter().zip(blocks)) {
        if crc_fast::crc32_iscsi(block) != entry.crc {
            return Err(Error::Corrupt {
                image: String::new(),
                offset: index * BLOCK_BYTES,
                detail: format!("block {} does not match its checksum", entry.block),
            });
        }
    }
    Ok(())
}
