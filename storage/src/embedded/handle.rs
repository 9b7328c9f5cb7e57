//! Open images and snapshots.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::oneshot;

use super::buffer::UNIT_BYTES;
use super::open::{Shared, answered};
use super::reading::{BORROWED_BYTES, WRONG, describe};
use super::request::{Blocks, Change, Content, List, Part, Patch, Read, ReadTo, Request, parts};
use super::walk::{Listing, Walk};
use crate::aligned::Borrowed;
use crate::store::{check_limit, check_range, check_read, length_of};
use crate::{Error, Extent, ImageHandle, Result};

const UNIT: u64 = UNIT_BYTES as u64;
/// Longer writes are several changes.
const CHANGE_BYTES: usize = 1 << 20;

pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) image: u64,
    pub(super) snapshot: Option<u64>,
    pub(super) name: String,
    pub(super) size_bytes: Arc<AtomicU64>,
    pub(super) _open: Arc<()>,
}

impl Handle {
    fn require_writable(&self) -> Result<()> {
        match self.snapshot {
            None => Ok(()),
            Some(_) => Err(Error::ReadOnly(self.name.clone())),
        }
    }

    async fn write_piece(&self, offset: u64, data: Bytes) -> Result<()> {
        let whole = offset.is_multiple_of(UNIT) && data.len().is_multiple_of(UNIT_BYTES);
        if whole {
            let parts = parts(offset / UNIT, &data);
            let request = |reply| Request::Change(Change::new(self.image, parts, reply));
            return self.shared.ask(request).await;
        }
        self.patch(offset, Content::Bytes(data)).await
    }

    async fn patch(&self, offset: u64, content: Content) -> Result<()> {
        let request = |reply| {
            Request::Patch(Patch {
                image: self.image,
                offset,
                content,
                then: None,
                reply: Some(reply),
                durable: false,
            })
        };
        self.shared.ask(request).await
    }
}

/// A read of any bytes of an image or a snapshot, that is under way.
struct Reading {
    block: u64,
    /// Of what was asked for, in its blocks.
    start: usize,
    length: usize,
    answer: oneshot::Receiver<Result<Blocks>>,
}

impl Reading {
    /// `length` is not 0.
    fn new((image, snapshot): (u64, Option<u64>), offset: u64, length: usize) -> (Request, Self) {
        let block = offset / UNIT;
        let count = (offset + length as u64).div_ceil(UNIT) - block;
        let (reply, answer) = oneshot::channel();
        let to = ReadTo::Caller(reply);
        let request = Request::Read(Read {
            image,
            snapshot,
            block,
            count,
            to,
        });
        let start = (offset - block * UNIT) as usize;
        let reading = Reading {
            block,
            start,
            length,
            answer,
        };
        (request, reading)
    }

    /// Waits for the blocks, and checks them.
    async fn end(self, shared: &Shared, name: &str) -> Result<Bytes> {
        let blocks = answered(self.answer).await?;
        if let Some((index, unit)) = blocks.damage() {
            return Err(Error::Corrupt {
                image: name.to_owned(),
                offset: (self.block + index) * UNIT,
                detail: describe(unit, WRONG),
            });
        }
        let data = match blocks.data.len() {
            BORROWED_BYTES.. => Borrowed::bytes(blocks.data, &shared.spares),
            _ => blocks.data.freeze(),
        };
        Ok(data.slice(self.start..self.start + self.length))
    }
}

/// Reads any bytes of an image or a snapshot, and checks them.
pub(super) async fn read(
    shared: &Arc<Shared>,
    of: (u64, Option<u64>),
    name: &str,
    offset: u64,
    length: usize,
) -> Result<Bytes> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    let (request, reading) = Reading::new(of, offset, length);
    shared.submit([request])?;
    reading.end(shared, name).await
}

#[async_trait]
impl ImageHandle for Handle {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    fn read_only(&self) -> bool {
        self.snapshot.is_some()
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        check_read(offset, length, self.size_bytes())?;
        let of = (self.image, self.snapshot);
        read(&self.shared, of, &self.name, offset, length).await
    }

    async fn read_each(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let of = (self.image, self.snapshot);
        let mut requests = Vec::with_capacity(ranges.len());
        let mut readings = Vec::with_capacity(ranges.len());
        for range in ranges {
            let length = length_of(range);
            check_read(range.start, length, self.size_bytes())?;
            let started = (length > 0).then(|| Reading::new(of, range.start, length));
            let (request, reading) = started.unzip();
            requests.extend(request);
            readings.push(reading);
        }
        self.shared.submit(requests)?;
        let mut data = Vec::with_capacity(readings.len());
        for reading in readings {
            data.push(match reading {
                Some(reading) => reading.end(&self.shared, &self.name).await?,
                None => Bytes::new(),
            });
        }
        Ok(data)
    }

    async fn write(&self, offset: u64, mut data: Bytes) -> Result<()> {
        self.require_writable()?;
        check_range(offset, data.len() as u64, self.size_bytes())?;
        if data.is_empty() {
            return Ok(());
        }
        let room = CHANGE_BYTES - offset as usize % CHANGE_BYTES;
        if data.len() <= room {
            return self.write_piece(offset, data).await;
        }
        let mut pieces = Vec::new();
        let mut at = offset;
        while !data.is_empty() {
            let room = CHANGE_BYTES - at as usize % CHANGE_BYTES;
            let piece = data.split_to(room.min(data.len()));
            let length = piece.len() as u64;
            pieces.push(self.write_piece(at, piece));
            at += length;
        }
        try_join_all(pieces).await.map(|_| ())
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.require_writable()?;
        let end = check_range(offset, length, self.size_bytes())?;
        if length == 0 {
            return Ok(());
        }
        if !offset.is_multiple_of(UNIT) || !end.is_multiple_of(UNIT) {
            return self.patch(offset, Content::Zero(length)).await;
        }
        let parts = vec![Part::Zero {
            block: offset / UNIT,
            count: length / UNIT,
        }];
        let request = |reply| Request::Change(Change::new(self.image, parts, reply));
        self.shared.ask(request).await
    }

    async fn flush(&self) -> Result<()> {
        self.shared.ask(Request::Flush).await
    }

    async fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        let end = check_range(offset, length, self.size_bytes())?;
        let request = |reply| {
            Request::List(List {
                image: self.image,
                older: None,
                newer: self.snapshot,
                walk: Walk::new(Listing::Extents, offset, end, limit),
                reply,
            })
        };
        self.shared.ask(request).await
    }
}
