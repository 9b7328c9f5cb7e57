//! Takes image data from a stream into the store: bounded memory, hashing and writing side by
//! side with receiving.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use image_formats::{Inspection, Inspector};
use md5::Md5;
use sha2::{Digest, Sha512};
use storage::{ImageHandle, ImageSpec, ImageStore};
use taskflow::TaskError;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{class, store_error};
use crate::db::staging::StagedData;
use crate::fetch::Fetched;
use crate::hashing::hex;
use crate::stores::Pool;
use crate::uploads::{Source, Uploads, drain};

/// Data is looked through for zeroes in steps of this many bytes.
const ZERO_STEP_BYTES: usize = 64 << 10;
/// First size of an image of unknown length, and the most it grows by at a time.
const FIRST_SIZE_BYTES: u64 = 8 << 20;
const LARGEST_GROWTH_BYTES: u64 = 8 << 30;
/// How often a stalled upload looks whether it should stop.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// A client that sends nothing for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(600);

/// What the data was.
pub struct Received {
    pub inspection: Inspection,
    pub md5_hex: String,
    pub sha512_hex: String,
}

impl From<Received> for StagedData {
    fn from(received: Received) -> Self {
        StagedData {
            checksum: received.md5_hex,
            os_hash_value: received.sha512_hex,
            inspection: received.inspection,
        }
    }
}

/// Where the data goes, and how much of it may come.
pub struct Sink<'a> {
    store: &'a dyn ImageStore,
    image: ImageSpec,
    chunk_bytes: usize,
    /// More than this is refused as [`class::TOO_LARGE`].
    limit_bytes: u64,
}

impl<'a> Sink<'a> {
    /// The image's place in the pool.
    pub fn new(pool: &'a Pool, id: Uuid, limit_bytes: u64) -> Self {
        Sink {
            store: pool.engine.as_ref(),
            image: pool.image(id),
            chunk_bytes: pool.chunk_bytes,
            limit_bytes,
        }
    }
}

/// Tells a receiver to stop. Asked between pieces of data, and while none comes.
pub trait Watch {
    /// `Err` ends the upload with this error.
    fn check(&self) -> impl Future<Output = Result<(), TaskError>> + Send;
}

/// Stores the data of the request that waits for the flow.
pub async fn receive_upload(
    sink: &Sink<'_>,
    uploads: &Uploads,
    flow_id: Uuid,
    watch: &impl Watch,
) -> Result<Received, TaskError> {
    let message = "the data came to a process that has ended";
    let lost = || TaskError::new(class::DATA_LOST, message);
    let mut source = uploads.take(flow_id).ok_or_else(lost)?;
    let received = receive(sink, &mut source, watch).await;
    if let Err(error) = &received {
        // A client that is still there shall read why.
        if error.class != TaskError::INTERRUPTED && error.class != class::REQUEST_GONE {
            drain(&mut source.data).await;
        }
    }
    received
}

/// Stores data that was fetched. That it stops coming may pass.
pub async fn receive_fetched(
    sink: &Sink<'_>,
    fetched: Fetched,
    watch: &impl Watch,
) -> Result<Received, TaskError> {
    let (_alive, request_gone) = oneshot::channel();
    let mut source = Source {
        data: fetched.data,
        declared_bytes: fetched.size_bytes,
        request_gone,
    };
    let received = receive(sink, &mut source, watch).await;
    received.map_err(|error| match error.class.as_str() {
        class::REQUEST_GONE => TaskError::retryable(class::FETCH, error.message),
        _ => error,
    })
}

/// Stores all of the data in the new image, which has the exact size at the end and is flushed.
async fn receive(
    sink: &Sink<'_>,
    source: &mut Source,
    watch: &impl Watch,
) -> Result<Received, TaskError> {
    let first_size = source
        .declared_bytes
        .unwrap_or(FIRST_SIZE_BYTES)
        .min(sink.limit_bytes);
    create_anew(sink, first_size).await?;
    let handle = sink
        .store
        .open(&sink.image, None)
        .await
        .map_err(store_error)?;
    let mut digests = Digests::default();
    let mut rest = Bytes::new();
    let (mut written, mut size) = (0_u64, first_size);
    let mut chunk = next_chunk(source, &mut rest, sink.chunk_bytes, watch).await?;
    while !chunk.is_empty() {
        let end = written.saturating_add(chunk.len() as u64);
        check_size(end, source.declared_bytes, sink.limit_bytes)?;
        if end > size {
            size = grown(size, end);
            sink.store
                .resize(&sink.image, size)
                .await
                .map_err(store_error)?;
        }
        let next = next_chunk(source, &mut rest, sink.chunk_bytes, watch);
        (chunk, digests) = both(next, store_chunk(&handle, digests, written, chunk)).await?;
        written = end;
    }
    if let Some(declared) = source
        .declared_bytes
        .filter(|declared| *declared != written)
    {
        let message = format!("Size mismatch: {declared} bytes were announced, {written} came");
        return Err(TaskError::new(class::SIZE_MISMATCH, message));
    }
    if size != written {
        sink.store
            .resize(&sink.image, written)
            .await
            .map_err(store_error)?;
    }
    handle.flush().await.map_err(store_error)?;
    digests.finish().await
}

/// What an earlier run left of the image goes first.
async fn create_anew(sink: &Sink<'_>, size_bytes: u64) -> Result<(), TaskError> {
    match sink.store.create(&sink.image, size_bytes).await {
        Err(storage::Error::Exists(_)) => {
            sink.store.remove(&sink.image).await.map_err(store_error)?;
            sink.store
                .create(&sink.image, size_bytes)
                .await
                .map_err(store_error)
        }
        created => created.map_err(store_error),
    }
}

/// One chunk is hashed and written while the next comes in; no more than these two are held.
/// A failed write does not wait for a slow client; a write that runs is never left behind.
async fn both<A, B>(
    next: impl Future<Output = Result<A, TaskError>>,
    storing: impl Future<Output = Result<B, TaskError>>,
) -> Result<(A, B), TaskError> {
    tokio::pin!(next, storing);
    tokio::select! {
        next = &mut next => {
            let stored = storing.await;
            Ok((next?, stored?))
        }
        stored = &mut storing => {
            let stored = stored?;
            Ok((next.await?, stored))
        }
    }
}

fn check_size(bytes: u64, declared: Option<u64>, limit: u64) -> Result<(), TaskError> {
    if bytes > limit {
        let message = format!("The data is larger than the {limit} bytes that are allowed");
        return Err(TaskError::new(class::TOO_LARGE, message));
    }
    match declared {
        Some(declared) if bytes > declared => {
            let message = format!("Size mismatch: more than the announced {declared} bytes came");
            Err(TaskError::new(class::SIZE_MISMATCH, message))
        }
        _ => Ok(()),
    }
}

/// The next size of an image of unknown length that must hold `end` bytes: doubled, within reason.
fn grown(size: u64, end: u64) -> u64 {
    size.saturating_add(size.clamp(FIRST_SIZE_BYTES, LARGEST_GROWTH_BYTES))
        .max(end)
}

/// The next `chunk_bytes` bytes of the stream, fewer at its end, none after it.
async fn next_chunk(
    source: &mut Source,
    rest: &mut Bytes,
    chunk_bytes: usize,
    watch: &impl Watch,
) -> Result<Bytes, TaskError> {
    watch.check().await?;
    let mut chunk = BytesMut::new();
    while chunk.len() < chunk_bytes {
        if rest.is_empty() {
            match next_piece(source, watch).await? {
                Some(piece) => *rest = piece,
                None => break,
            }
        }
        chunk.reserve(chunk_bytes.saturating_sub(chunk.len()));
        let take = rest.len().min(chunk_bytes - chunk.len());
        chunk.extend_from_slice(&rest.split_to(take));
    }
    Ok(chunk.freeze())
}

async fn next_piece(source: &mut Source, watch: &impl Watch) -> Result<Option<Bytes>, TaskError> {
    let gone = || TaskError::new(class::REQUEST_GONE, "the request ended before its data did");
    let mut waited = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            _ = &mut source.request_gone => return Err(gone()),
            piece = source.data.next() => return match piece {
                None => Ok(None),
                Some(Ok(piece)) => Ok(Some(piece)),
                Some(Err(error)) => {
                    Err(TaskError::new(class::REQUEST_GONE, format!("the data stopped coming: {error}")))
                }
            },
            () = tokio::time::sleep(LOOK_AROUND) => {
                waited += LOOK_AROUND;
                if waited >= STALL_LIMIT {
                    return Err(gone());
                }
                watch.check().await?;
            }
        }
    }
}

/// Hashes and writes one chunk; runs of zeroes are not written, the image has them already.
async fn store_chunk(
    handle: &Arc<dyn ImageHandle>,
    digests: Digests,
    offset: u64,
    chunk: Bytes,
) -> Result<Digests, TaskError> {
    let write = async {
        let looked_at = chunk.clone();
        let runs = spawn_blocking(move || data_runs(&looked_at))
            .await
            .map_err(died)?;
        for (start, end) in runs {
            let at = offset.saturating_add(start as u64);
            handle
                .write(at, chunk.slice(start..end))
                .await
                .map_err(store_error)?;
        }
        Ok(())
    };
    let (digests, written) = tokio::join!(digests.feed(chunk.clone()), write);
    written.and(digests)
}

/// The ranges of the chunk that are not zero, merged, in steps of [`ZERO_STEP_BYTES`].
fn data_runs(chunk: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, step) in chunk.chunks(ZERO_STEP_BYTES).enumerate() {
        if step.iter().fold(0, |all, byte| all | byte) == 0 {
            continue;
        }
        let start = index * ZERO_STEP_BYTES;
        let end = start + step.len();
        match runs.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => runs.push((start, end)),
        }
    }
    runs
}

/// The running hashes and the format inspection. They move to blocking threads and back.
#[derive(Default)]
struct Digests {
    md5: Md5,
    sha512: Sha512,
    inspector: Inspector,
}

impl Digests {
    async fn feed(self, chunk: Bytes) -> Result<Self, TaskError> {
        let Digests {
            mut md5,
            mut sha512,
            mut inspector,
        } = self;
        let data = chunk.clone();
        let left = spawn_blocking(move || {
            md5.update(&data);
            inspector.feed(&data);
            (md5, inspector)
        });
        let right = spawn_blocking(move || {
            sha512.update(&chunk);
            sha512
        });
        let (left, right) = tokio::join!(left, right);
        let (md5, inspector) = left.map_err(died)?;
        Ok(Digests {
            md5,
            sha512: right.map_err(died)?,
            inspector,
        })
    }

    async fn finish(self) -> Result<Received, TaskError> {
        let finish = || Received {
            inspection: self.inspector.finish(),
            md5_hex: hex(&self.md5.finalize()),
            sha512_hex: hex(&self.sha512.finalize()),
        };
        spawn_blocking(finish).await.map_err(died)
    }
}

fn died(error: tokio::task::JoinError) -> TaskError {
    TaskError::new(TaskError::PANIC, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_runs_are_left_out_and_data_runs_merged() {
        let step = ZERO_STEP_BYTES;
        let mut chunk = vec![0; 5 * step + 7];
        assert_eq!(data_runs(&chunk), vec![]);
        chunk[step + 1] = 1;
        chunk[2 * step] = 1;
        chunk[5 * step + 6] = 1;
        assert_eq!(
            data_runs(&chunk),
            vec![(step, 3 * step), (5 * step, 5 * step + 7)]
        );
    }

    #[test]
    fn growth_doubles_within_bounds() {
        assert_eq!(grown(0, 1), FIRST_SIZE_BYTES);
        assert_eq!(
            grown(FIRST_SIZE_BYTES, FIRST_SIZE_BYTES + 1),
            2 * FIRST_SIZE_BYTES
        );
        assert_eq!(grown(100 << 30, (100 << 30) + 1), 108 << 30);
        assert_eq!(grown(u64::MAX, u64::MAX), u64::MAX);
    }
}
