//! Diff streams, byte for byte those of `rbd export-diff` and `rbd import-diff` (rbd diff v1).
//!
//! ```text
//! "rbd diff v1\n"
//! 'f' u32 length, name      the older snapshot; absent: from the empty image
//! 't' u32 length, name      the newer snapshot; absent: the head
//! 's' u64 size              of the image
//! 'w' u64 offset, u64 length, data
//! 'z' u64 offset, u64 length
//! 'e'
//! ```
//! Little-endian. The first three come before any data, each once at most.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, FuturesOrdered};
use futures_util::{Stream, StreamExt};

use crate::store::check_name;
use crate::{Change, Error, Extent, ExtentKind, ImageHandle, ImageSpec, ImageStore, Result};

const MAGIC: &[u8] = b"rbd diff v1\n";
/// The most data of one item of an exported stream, and of one write of an import.
const PIECE_BYTES: u64 = 1 << 20;
/// Extents asked for at a time.
const EXTENTS: usize = 1024;
/// Extents that are read together, and batches of them on their way: what a disk needs to be busy,
/// and what others that use it hardly feel. A batch brings [`PIECE_BYTES`] of data at most.
const BATCH_EXTENTS: usize = 32;
const BATCHES: usize = 8;
/// The longest name of a snapshot in a stream.
const MAX_NAME_BYTES: u32 = 255;
/// Tag, offset and length.
const RECORD_BYTES: usize = 17;

/// The change of an image as a stream, in pieces of little more than 1 MiB. Nothing is read
/// before the stream is polled, and then some of it ahead; it ends after the first error.
///
/// Errors: those of [`ImageStore::open`], [`ImageStore::diff`] and [`ImageHandle::read`].
pub fn export(
    store: &Arc<dyn ImageStore>,
    image: &ImageSpec,
    change: Change<'_>,
) -> BoxStream<'static, Result<Bytes>> {
    let export = Export {
        store: Arc::clone(store),
        image: image.clone(),
        from: change.from.map(str::to_owned),
        to: change.to.map(str::to_owned),
        handle: None,
        extents: VecDeque::new(),
        position: 0,
        listed: false,
        batches: FuturesOrdered::new(),
        ended: false,
    };
    let next = |mut export: Export| async move {
        let piece = export.next().await?;
        Ok(piece.map(|piece| (piece, export)))
    };
    stream::try_unfold(export, next).boxed()
}

struct Export {
    store: Arc<dyn ImageStore>,
    image: ImageSpec,
    from: Option<String>,
    to: Option<String>,
    handle: Option<Arc<dyn ImageHandle>>,
    extents: VecDeque<Extent>,
    position: u64,
    /// There are no more extents.
    listed: bool,
    /// Records on their way, in order.
    batches: FuturesOrdered<BoxFuture<'static, Result<Bytes>>>,
    ended: bool,
}

/// The records of extents.
async fn records(handle: Arc<dyn ImageHandle>, extents: Vec<Extent>) -> Result<Bytes> {
    let is_data = |extent: &&Extent| extent.kind == ExtentKind::Data;
    let range = |extent: &Extent| extent.offset..extent.offset + extent.length;
    let ranges: Vec<_> = extents.iter().filter(is_data).map(range).collect();
    let data = handle.read_each(&ranges).await?;
    let data_bytes: usize = data.iter().map(Bytes::len).sum();
    let mut records = BytesMut::with_capacity(data_bytes + RECORD_BYTES * extents.len());
    let mut data = data.into_iter();
    for extent in extents {
        records.put_u8(match extent.kind {
            ExtentKind::Zero => b'z',
            ExtentKind::Data => b'w',
        });
        records.put_u64_le(extent.offset);
        records.put_u64_le(extent.length);
        if extent.kind == ExtentKind::Data {
            records.extend(data.next());
        }
    }
    Ok(records.freeze())
}

impl Export {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(handle) = self.handle.clone() else {
            let handle = self.store.open(&self.image, self.to.as_deref()).await?;
            self.handle = Some(Arc::clone(&handle));
            return Ok(Some(self.header(handle.size_bytes())));
        };
        if self.ended {
            return Ok(None);
        }
        while self.batches.len() < BATCHES {
            let batch = self.next_batch().await?;
            if batch.is_empty() {
                break;
            }
            let records = records(Arc::clone(&handle), batch);
            self.batches.push_back(records.boxed());
        }
        let Some(records) = self.batches.next().await else {
            self.ended = true;
            return Ok(Some(Bytes::from_static(b"e")));
        };
        records.map(Some)
    }

    fn header(&self, size_bytes: u64) -> Bytes {
        let mut header = BytesMut::from(MAGIC);
        for (tag, name) in [(b'f', &self.from), (b't', &self.to)] {
            if let Some(name) = name {
                header.put_u8(tag);
                header.put_u32_le(name.len() as u32);
                header.put_slice(name.as_bytes());
            }
        }
        header.put_u8(b's');
        header.put_u64_le(size_bytes);
        header.freeze()
    }

    /// The extents that are read next, together. Empty: there are no more.
    async fn next_batch(&mut self) -> Result<Vec<Extent>> {
        let mut batch = Vec::new();
        let mut room = PIECE_BYTES;
        while batch.len() < BATCH_EXTENTS && room > 0 {
            if self.extents.is_empty() && !self.listed {
                self.list().await?;
            }
            let Some(mut extent) = self.extents.pop_front() else {
                break;
            };
            if extent.kind == ExtentKind::Data {
                let now = extent.length.min(room);
                if now < extent.length {
                    self.extents.push_front(Extent {
                        offset: extent.offset + now,
                        length: extent.length - now,
                        ..extent
                    });
                    extent.length = now;
                }
                room -= now;
            }
            batch.push(extent);
        }
        Ok(batch)
    }

    async fn list(&mut self) -> Result<()> {
        let change = Change {
            from: self.from.as_deref(),
            to: self.to.as_deref(),
        };
        let diff = self.store.diff(&self.image, change, self.position, EXTENTS);
        self.extents = diff.await?.into();
        let end = |last: &Extent| last.offset.saturating_add(last.length);
        match self.extents.back() {
            Some(last) => self.position = end(last),
            None => self.listed = true,
        }
        Ok(())
    }
}

/// What an import brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub from: Option<String>,
    /// The snapshot that was made.
    pub to: Option<String>,
    pub size_bytes: u64,
    pub data_bytes: u64,
}

/// Applies a stream to an image: resizes it, writes, flushes, and makes the newer snapshot last.
///
/// An import that failed or was cut off by a crash leaves part of the data in the head and no
/// snapshot; repeating it from the start is safe and ends in the same image. The head must be
/// what it was at the older snapshot (or an earlier try of the same import).
///
/// Errors: `Invalid` (broken or truncated stream, an older snapshot that the image does not
/// have, a newer one that it has), those of the stream, and those of the store.
pub async fn import(
    store: &dyn ImageStore,
    image: &ImageSpec,
    stream: impl Stream<Item = Result<Bytes>> + Send + Unpin,
) -> Result<Imported> {
    let mut input = Input {
        stream,
        buffer: Bytes::new(),
    };
    let mut magic = [0; MAGIC.len()];
    input.fill(&mut magic).await?;
    if magic != MAGIC {
        return Err(Error::Invalid("not a diff stream (rbd diff v1)".into()));
    }
    let (header, mut tag) = read_header(&mut input).await?;
    prepare(store, image, &header).await?;
    let handle = store.open(image, None).await?;
    let mut data_bytes = 0;
    loop {
        match tag {
            b'w' => data_bytes += write_record(&mut input, &*handle, header.size_bytes).await?,
            b'z' => {
                let (offset, length) = input.range(header.size_bytes).await?;
                handle.write_zeroes(offset, length).await?;
            }
            b'e' => break,
            other => return Err(unexpected(other)),
        }
        tag = input.tag().await?;
    }
    if !input.is_at_end().await? {
        return Err(Error::Invalid("diff stream: data behind its end".into()));
    }
    handle.flush().await?;
    if let Some(to) = &header.to {
        store.create_snapshot(&image.at(to)).await?;
    }
    Ok(Imported {
        from: header.from,
        to: header.to,
        size_bytes: header.size_bytes,
        data_bytes,
    })
}

struct Header {
    from: Option<String>,
    to: Option<String>,
    size_bytes: u64,
}

fn unexpected(tag: u8) -> Error {
    Error::Invalid(format!("diff stream: unexpected record {tag:#04x}"))
}

/// The records before the data, and the tag of the one behind them.
async fn read_header<S>(input: &mut Input<S>) -> Result<(Header, u8)>
where
    S: Stream<Item = Result<Bytes>> + Send + Unpin,
{
    let (mut from, mut to, mut size_bytes) = (None, None, None);
    loop {
        match input.tag().await? {
            b'f' if from.is_none() => from = Some(input.name().await?),
            b't' if to.is_none() => to = Some(input.name().await?),
            b's' if size_bytes.is_none() => size_bytes = Some(input.u64().await?),
            tag @ (b'w' | b'z' | b'e') => {
                let missing = || Error::Invalid("diff stream: data before the size".into());
                let size_bytes = size_bytes.ok_or_else(missing)?;
                let header = Header {
                    from,
                    to,
                    size_bytes,
                };
                return Ok((header, tag));
            }
            other => return Err(unexpected(other)),
        }
    }
}

/// Checks the snapshots and sets the size.
async fn prepare(store: &dyn ImageStore, image: &ImageSpec, header: &Header) -> Result<()> {
    let info = store.info(image).await?;
    let has = |name: &str| info.snapshots.iter().any(|snapshot| snapshot.name == name);
    if let Some(from) = header.from.as_deref().filter(|from| !has(from)) {
        return Err(Error::Invalid(format!(
            "diff stream: it starts at snapshot {from}, which {image} does not have"
        )));
    }
    if let Some(to) = header.to.as_deref().filter(|to| has(to)) {
        return Err(Error::Invalid(format!(
            "diff stream: {image} has its snapshot {to} already"
        )));
    }
    if info.size_bytes != header.size_bytes {
        store.resize(image, header.size_bytes).await?;
    }
    Ok(())
}

/// Writes one record's data as it comes; answers its length.
async fn write_record<S>(
    input: &mut Input<S>,
    handle: &dyn ImageHandle,
    size_bytes: u64,
) -> Result<u64>
where
    S: Stream<Item = Result<Bytes>> + Send + Unpin,
{
    let (mut offset, length) = input.range(size_bytes).await?;
    let mut left = length;
    while left > 0 {
        // Up to a multiple of the piece, so that the writes are of whole blocks.
        let piece = (PIECE_BYTES - offset % PIECE_BYTES).min(left);
        let mut data = vec![0; piece as usize];
        input.fill(&mut data).await?;
        handle.write(offset, data.into()).await?;
        offset += piece;
        left -= piece;
    }
    Ok(length)
}

/// The bytes of a stream in order.
struct Input<S> {
    stream: S,
    buffer: Bytes,
}

impl<S: Stream<Item = Result<Bytes>> + Send + Unpin> Input<S> {
    /// Fills the buffer if it is empty. False: the stream has ended.
    async fn refill(&mut self) -> Result<bool> {
        while self.buffer.is_empty() {
            match self.stream.next().await {
                Some(bytes) => self.buffer = bytes?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let mut rest = out;
        while !rest.is_empty() {
            if !self.refill().await? {
                return Err(Error::Invalid("diff stream: it is cut off".into()));
            }
            let count = rest.len().min(self.buffer.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&self.buffer.split_to(count));
            rest = later;
        }
        Ok(())
    }

    async fn is_at_end(&mut self) -> Result<bool> {
        self.refill().await.map(|more| !more)
    }

    async fn tag(&mut self) -> Result<u8> {
        let mut tag = [0];
        self.fill(&mut tag).await?;
        let [tag] = tag;
        Ok(tag)
    }

    async fn u64(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes).await?;
        Ok(u64::from_le_bytes(bytes))
    }

    async fn name(&mut self) -> Result<String> {
        let mut length = [0; 4];
        self.fill(&mut length).await?;
        let length = u32::from_le_bytes(length);
        if length > MAX_NAME_BYTES {
            return Err(Error::Invalid(format!(
                "diff stream: a snapshot name of {length} bytes"
            )));
        }
        let mut name = vec![0; length as usize];
        self.fill(&mut name).await?;
        let name = String::from_utf8(name)
            .map_err(|_| Error::Invalid("diff stream: a snapshot name is not UTF-8".into()))?;
        check_name("snapshot", &name)?;
        Ok(name)
    }

    /// Offset and length of a record, inside the image.
    async fn range(&mut self, size_bytes: u64) -> Result<(u64, u64)> {
        let (offset, length) = (self.u64().await?, self.u64().await?);
        match offset.checked_add(length) {
            Some(end) if end <= size_bytes => Ok((offset, length)),
            _ => Err(Error::Invalid(format!(
                "diff stream: {length} bytes at offset {offset} pass the image's end, {size_bytes}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    fn spec(name: &str) -> ImageSpec {
        ImageSpec::new("p", name)
    }

    async fn store() -> Arc<dyn ImageStore> {
        let store: Arc<dyn ImageStore> = Arc::new(MemoryStore::new());
        store.ensure_pool("p").await.unwrap();
        store
    }

    async fn bytes(stream: BoxStream<'static, Result<Bytes>>) -> Vec<u8> {
        let pieces: Vec<Result<Bytes>> = stream.collect().await;
        pieces
            .into_iter()
            .flat_map(|piece| piece.unwrap().to_vec())
            .collect()
    }

    fn pieces(bytes: &[u8], length: usize) -> impl Stream<Item = Result<Bytes>> + Send + Unpin {
        let pieces: Vec<_> = bytes
            .chunks(length)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        stream::iter(pieces)
    }

    #[tokio::test]
    async fn the_bytes_are_those_of_rbd() {
        let store = store().await;
        store.create(&spec("a"), 3 * 4096).await.unwrap();
        let handle = store.open(&spec("a"), None).await.unwrap();
        handle
            .write(4096, Bytes::from(vec![7; 4096]))
            .await
            .unwrap();
        store.create_snapshot(&spec("a").at("one")).await.unwrap();
        handle.discard(4096, 4096).await.unwrap();
        store.create_snapshot(&spec("a").at("two")).await.unwrap();
        let change = Change {
            from: Some("one"),
            to: Some("two"),
        };
        let found = bytes(export(&store, &spec("a"), change)).await;
        let mut wanted = b"rbd diff v1\nf\x03\0\0\0onet\x03\0\0\0twos\0\x30\0\0\0\0\0\0".to_vec();
        wanted.extend(b"z\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\0e");
        assert_eq!(found, wanted);
        let full = bytes(export(
            &store,
            &spec("a"),
            Change {
                from: None,
                to: Some("one"),
            },
        ))
        .await;
        let mut wanted = b"rbd diff v1\nt\x03\0\0\0ones\0\x30\0\0\0\0\0\0".to_vec();
        wanted.extend(b"w\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\0");
        wanted.extend([7; 4096]);
        wanted.extend(b"e");
        assert_eq!(full, wanted);
    }

    /// More extents than one batch and one list have, and longer ones than a piece.
    #[tokio::test]
    async fn many_and_long_extents_come_in_their_order() {
        let store = store().await;
        let blocks = 2 * EXTENTS as u64 + 3;
        let long = blocks * 8192;
        let size = long + 3 * PIECE_BYTES + 4096;
        store.create(&spec("a"), size).await.unwrap();
        let handle = store.open(&spec("a"), None).await.unwrap();
        let content = |index: u64| Bytes::from(vec![index as u8 | 1; 4096]);
        for index in 0..blocks {
            handle.write(index * 8192, content(index)).await.unwrap();
        }
        let data: Vec<u8> = (0..3 * PIECE_BYTES)
            .map(|at| (at >> 12) as u8 | 1)
            .collect();
        handle
            .write(long + 4096, data.clone().into())
            .await
            .unwrap();
        let all = Change {
            from: None,
            to: None,
        };
        let found: Vec<_> = export(&store, &spec("a"), all).collect().await;
        let longest = found.iter().map(|piece| piece.as_ref().unwrap().len());
        let most = PIECE_BYTES as usize + BATCH_EXTENTS * RECORD_BYTES;
        assert!(longest.max().unwrap() <= most);
        let found = stream::iter(found);
        store.create(&spec("b"), size).await.unwrap();
        let done = import(&*store, &spec("b"), found).await.unwrap();
        assert_eq!(done.data_bytes, blocks * 4096 + 3 * PIECE_BYTES);
        let copy = store.open(&spec("b"), None).await.unwrap();
        let whole = copy.read(0, size as usize).await.unwrap();
        for index in 0..blocks {
            let at = index as usize * 8192;
            assert_eq!(whole[at..at + 4096], content(index));
            assert!(whole[at + 4096..at + 8192].iter().all(|byte| *byte == 0));
        }
        assert!(whole[long as usize + 4096..] == data);
    }

    #[tokio::test]
    async fn a_chain_of_imports_ends_in_the_same_images() {
        let store = store().await;
        store.create(&spec("a"), 5 << 20).await.unwrap();
        store.create(&spec("b"), 1).await.unwrap();
        let handle = store.open(&spec("a"), None).await.unwrap();
        handle
            .write(100, Bytes::from(vec![1; 3 << 20]))
            .await
            .unwrap();
        store.create_snapshot(&spec("a").at("one")).await.unwrap();
        store.resize(&spec("a"), 2 << 20).await.unwrap();
        handle
            .write(5000, Bytes::from(vec![2; 5000]))
            .await
            .unwrap();
        store.create_snapshot(&spec("a").at("two")).await.unwrap();
        for (from, to) in [(None, "one"), (Some("one"), "two")] {
            let change = Change { from, to: Some(to) };
            let stream = bytes(export(&store, &spec("a"), change)).await;
            let cut = pieces(&stream[..stream.len() - 1], 999);
            assert!(matches!(
                import(&*store, &spec("b"), cut).await,
                Err(Error::Invalid(_))
            ));
            let done = import(&*store, &spec("b"), pieces(&stream, 70_001))
                .await
                .unwrap();
            assert_eq!(done.to.as_deref(), Some(to));
            let (a, b) = (
                store.open(&spec("a"), Some(to)).await.unwrap(),
                store.open(&spec("b"), Some(to)).await.unwrap(),
            );
            assert_eq!(a.size_bytes(), b.size_bytes());
            let length = a.size_bytes() as usize;
            assert!(a.read(0, length).await.unwrap() == b.read(0, length).await.unwrap());
            assert!(matches!(
                import(&*store, &spec("b"), pieces(&stream, 999)).await,
                Err(Error::Invalid(_))
            ));
        }
    }

    #[tokio::test]
    async fn broken_streams_are_refused() {
        let store = store().await;
        store.create(&spec("a"), 8192).await.unwrap();
        let size = b"rbd diff v1\ns\0\x20\0\0\0\0\0\0";
        let cases: [&[u8]; 12] = [
            b"",
            b"rbd diff v2\n",
            b"rbd diff v1\n",
            b"rbd diff v1\ne",
            b"rbd diff v1\nf\x03\0\0\0one",
            b"rbd diff v1\nf\x03\0\0\0ones\0\x20\0\0\0\0\0\0e",
            b"rbd diff v1\nf\xff\xff\xff\xff",
            b"rbd diff v1\ns\0\x20\0\0\0\0\0\0s\0\x20\0\0\0\0\0\0e",
            b"rbd diff v1\ns\xff\xff\xff\xff\xff\xff\xff\xffe",
            &[size, &b"x"[..]].concat(),
            &[size, &b"z\0\x20\0\0\0\0\0\0\x01\0\0\0\0\0\0\0e"[..]].concat(),
            &[
                size,
                &b"w\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\0e"[..],
            ]
            .concat(),
        ];
        for case in cases {
            let result = import(&*store, &spec("a"), pieces(case, 5)).await;
            assert!(
                matches!(result, Err(Error::Invalid(_))),
                "{case:?}: {result:?}"
            );
        }
        let good = [size, &b"e"[..]].concat();
        assert!(import(&*store, &spec("a"), pieces(&good, 1)).await.is_ok());
        let behind = [size, &b"ee"[..]].concat();
        assert!(
            import(&*store, &spec("a"), pieces(&behind, 1))
                .await
                .is_err()
        );
    }
}
