//! Takes image data from a stream into the store: bounded memory, hashing and writing side by
//! side with receiving.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use storage::{ImageHandle, ImageSpec, ImageStore};
use taskflow::TaskError;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::digests::{Digested, Digests};
use super::{class, store_error};
use crate::db::staging::StagedData;
use crate::fetch::Fetched;
use crate::hashing::Algorithm;
use crate::stores::Pool;
use crate::transfer_memory::{PIECE_BYTES_MAX, Transfer, TransferMemory};
use crate::uploads::{Source, Uploads, drain};

/// Writes of one upload at the same time, so that the store is busy while the next piece comes.
const CONCURRENT_WRITES: usize = 4;
/// Data is looked through for zeroes in steps of this many bytes.
const ZERO_STEP_BYTES: usize = 64 << 10;
/// First size of an image of unknown length, and the most it grows by at a time.
const FIRST_SIZE_BYTES: u64 = 8 << 20;
const LARGEST_GROWTH_BYTES: u64 = 8 << 30;
/// How often a stalled upload looks whether it should stop.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// A client that sends nothing for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(600);

impl From<Digested> for StagedData {
    fn from(received: Digested) -> Self {
        StagedData {
            checksum: received.md5_hex,
            os_hash_value: received.hash_hex,
            inspection: received.inspection,
        }
    }
}

/// Where the data goes, and how much of it may come.
pub struct Sink<'a> {
    store: &'a dyn ImageStore,
    image: ImageSpec,
    piece_bytes: usize,
    /// More than this is refused as [`class::TOO_LARGE`].
    limit_bytes: u64,
    transfer: Transfer,
}

impl<'a> Sink<'a> {
    /// The place of this name in the pool.
    pub fn new(
        pool: &'a Pool,
        name: impl Display,
        limit_bytes: u64,
        memory: &TransferMemory,
    ) -> Self {
        Sink {
            store: pool.engine.as_ref(),
            image: pool.image(name),
            piece_bytes: pool.chunk_bytes.min(PIECE_BYTES_MAX),
            limit_bytes,
            transfer: memory.transfer(),
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
) -> Result<Digested, TaskError> {
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
) -> Result<Digested, TaskError> {
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
) -> Result<Digested, TaskError> {
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
    let digests = Digests::start(Algorithm::Sha512);
    let mut writes = Writes::new(Arc::clone(&handle));
    let mut size = first_size;
    let taken = take_all(sink, source, watch, &mut size, (&digests, &mut writes)).await;
    // A write that runs is never left behind.
    let stored = writes.finish().await;
    let written = taken?;
    stored?;
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

/// Hands every piece to the digests and to a write of its own, while the next comes in. A failed
/// write does not wait for a slow client. Answers how many bytes came.
async fn take_all(
    sink: &Sink<'_>,
    source: &mut Source,
    watch: &impl Watch,
    size: &mut u64,
    (digests, writes): (&Digests, &mut Writes),
) -> Result<u64, TaskError> {
    let mut rest = Bytes::new();
    let mut taken = 0_u64;
    loop {
        let piece = {
            let next = next_piece(source, &mut rest, sink, watch);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    piece = &mut next => break piece?,
                    Some(written) = writes.running.join_next() => written.map_err(died)??,
                }
            }
        };
        if piece.is_empty() {
            return Ok(taken);
        }
        let end = taken.saturating_add(piece.len() as u64);
        check_size(end, source.declared_bytes, sink.limit_bytes)?;
        if end > *size {
            *size = grown(*size, end);
            let resized = sink.store.resize(&sink.image, *size).await;
            resized.map_err(store_error)?;
        }
        writes.start(taken, piece.clone()).await?;
        digests.feed(piece).await?;
        taken = end;
    }
}

/// The writes of one upload that are under way.
struct Writes {
    handle: Arc<dyn ImageHandle>,
    running: JoinSet<Result<(), TaskError>>,
}

impl Writes {
    fn new(handle: Arc<dyn ImageHandle>) -> Self {
        Writes {
            handle,
            running: JoinSet::new(),
        }
    }

    /// Begins to write the piece, once not too many others are under way.
    async fn start(&mut self, offset: u64, piece: Bytes) -> Result<(), TaskError> {
        while self.running.len() >= CONCURRENT_WRITES
            && let Some(written) = self.running.join_next().await
        {
            written.map_err(died)??;
        }
        let handle = Arc::clone(&self.handle);
        self.running.spawn(write_piece(handle, offset, piece));
        Ok(())
    }

    /// Waits for all of them, also where one fails.
    async fn finish(mut self) -> Result<(), TaskError> {
        let mut outcome = Ok(());
        while let Some(written) = self.running.join_next().await {
            outcome = outcome.and(written.map_err(died).and_then(|written| written));
        }
        outcome
    }
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

/// The next piece of the stream, fewer at its end, none after it.
async fn next_piece(
    source: &mut Source,
    rest: &mut Bytes,
    sink: &Sink<'_>,
    watch: &impl Watch,
) -> Result<Bytes, TaskError> {
    watch.check().await?;
    let mut piece = sink.transfer.buffer().await;
    let piece_bytes = sink.piece_bytes.min(piece.room_bytes());
    while piece.len() < piece_bytes {
        if rest.is_empty() {
            match next_bytes(source, watch).await? {
                Some(bytes) => *rest = bytes,
                None => break,
            }
        }
        let missing = piece_bytes.saturating_sub(piece.len());
        piece.extend(&rest.split_to(rest.len().min(missing)));
    }
    Ok(piece.freeze())
}

async fn next_bytes(source: &mut Source, watch: &impl Watch) -> Result<Option<Bytes>, TaskError> {
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

/// Runs of zeroes are not written, the image has them already.
async fn write_piece(
    handle: Arc<dyn ImageHandle>,
    offset: u64,
    piece: Bytes,
) -> Result<(), TaskError> {
    for (start, end) in data_runs(&piece) {
        let at = offset.saturating_add(start as u64);
        let written = handle.write(at, piece.slice(start..end)).await;
        written.map_err(store_error)?;
    }
    Ok(())
}

/// The ranges of the piece that are not zero, merged, in steps of [`ZERO_STEP_BYTES`].
fn data_runs(piece: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, step) in piece.chunks(ZERO_STEP_BYTES).enumerate() {
        if is_zero(step) {
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

/// Looks no further than needed.
fn is_zero(step: &[u8]) -> bool {
    let folded = |word: &[u8]| word.iter().fold(0, |all, byte| all | byte);
    step.chunks(64).all(|word| folded(word) == 0)
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
