//! Reading requests and running them side by side.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::negotiation::Session;
use super::reply::{Answer, Replies, Reply};
use super::request::Header;
use super::stopped;
use super::wire::{self, Errno, command};

/// Requests of one connection that run or wait for their reply to be sent.
const MAX_IN_FLIGHT: u32 = 128;
/// Bytes of reads and writes among them. The largest request must fit.
const MAX_IN_FLIGHT_BYTES: u32 = 2 * wire::MAX_BLOCK_BYTES;

pub(super) struct Transmission<R> {
    requests: Requests<R>,
    session: Session,
    replies: Replies,
    stopping: watch::Receiver<bool>,
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl<R: AsyncRead + Send + Unpin> Transmission<R> {
    pub fn new(
        reader: R,
        session: Session,
        replies: Replies,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Transmission {
            requests: Requests {
                reader,
                partial: [0; Header::BYTES],
                filled: 0,
            },
            session,
            replies,
            stopping,
            count: Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)),
            bytes: Arc::new(Semaphore::new(MAX_IN_FLIGHT_BYTES as usize)),
            running: JoinSet::new(),
        }
    }

    /// Serves until the client disconnects or breaks the protocol, or the server stops.
    pub async fn run(&mut self) -> io::Result<()> {
        loop {
            let header = tokio::select! {
                // A stop is seen before the next request.
                biased;
                () = stopped(&mut self.stopping) => None,
                () = self.replies.closed() => return Ok(()),
                header = self.requests.next() => Some(header?),
            };
            let Some(header) = header else {
                return self.drain().await;
            };
            let Some(header) = header else { return Ok(()) };
            if header.command == command::DISCONNECT {
                return Ok(());
            }
            self.start(header).await?;
            while self.running.try_join_next().is_some() {}
        }
    }

    /// Waits for what runs.
    pub async fn finish(self) {
        let mut running = self.running;
        drop(self.replies);
        while running.join_next().await.is_some() {}
    }

    async fn start(&mut self, header: Header) -> io::Result<()> {
        if header.payload_bytes() > wire::MAX_BLOCK_BYTES {
            // Its payload would have to be read to stay in step.
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a write is longer than allowed",
            ));
        }
        let checked = header.check(&self.session);
        let mut permits = vec![take(&self.count, 1).await?];
        if header.payload_bytes() > 0 || checked.is_ok() {
            permits.push(take(&self.bytes, header.memory_bytes()).await?);
        }
        let payload = self.requests.payload(header.payload_bytes()).await?;
        let structured = self.session.structured_replies;
        if let Err(errno) = checked {
            self.replies
                .send(Reply::new(
                    header.cookie,
                    structured,
                    Answer::Failed(errno),
                    permits,
                ))
                .await;
            return Ok(());
        }
        let (handle, replies) = (
            Arc::clone(&self.session.export.handle),
            self.replies.clone(),
        );
        self.running.spawn(async move {
            let running = AssertUnwindSafe(header.carry_out(handle.as_ref(), payload));
            let answer = running.catch_unwind().await.unwrap_or_else(|_| {
                // The panic hook has told where. A client that never gets its reply would hang.
                tracing::error!(command = header.command, "NBD request panicked");
                Answer::Failed(Errno::Io)
            });
            replies
                .send(Reply::new(header.cookie, structured, answer, permits))
                .await;
        });
        Ok(())
    }

    /// Refuses new requests until those in flight are done.
    async fn drain(&mut self) -> io::Result<()> {
        let all_done = take(&self.count, MAX_IN_FLIGHT);
        let mut all_done = std::pin::pin!(all_done);
        loop {
            let header = tokio::select! {
                biased;
                done = &mut all_done => return done.map(drop),
                header = self.requests.next() => header?,
            };
            let Some(header) = header.filter(|header| header.command != command::DISCONNECT) else {
                return Ok(());
            };
            self.requests.discard(header.payload_bytes()).await?;
            let answer = Answer::Failed(Errno::Shutdown);
            self.replies
                .send(Reply::new(
                    header.cookie,
                    self.session.structured_replies,
                    answer,
                    Vec::new(),
                ))
                .await;
        }
    }
}

async fn take(semaphore: &Arc<Semaphore>, permits: u32) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(semaphore)
        .acquire_many_owned(permits)
        .await
        .map_err(io::Error::other)
}

/// The stream of requests.
struct Requests<R> {
    reader: R,
    /// A header of which only a part has come, so that waiting for one can be broken off.
    partial: [u8; Header::BYTES],
    filled: usize,
}

impl<R: AsyncRead + Send + Unpin> Requests<R> {
    /// The next header; `None` when the client closed between two requests. Cancel safe.
    async fn next(&mut self) -> io::Result<Option<Header>> {
        while let Some(rest) = self
            .partial
            .get_mut(self.filled..)
            .filter(|rest| !rest.is_empty())
        {
            match self.reader.read(rest).await? {
                0 if self.filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => self.filled += length,
            }
        }
        self.filled = 0;
        let header = Header::parse(&self.partial);
        header.map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "no request where one must be")
        })
    }

    async fn payload(&mut self, length: u32) -> io::Result<Bytes> {
        let length = length as usize;
        let mut payload = BytesMut::with_capacity(length);
        while payload.len() < length {
            let missing = (length - payload.len()) as u64;
            if (&mut self.reader)
                .take(missing)
                .read_buf(&mut payload)
                .await?
                == 0
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(payload.freeze())
    }

    async fn discard(&mut self, length: u32) -> io::Result<()> {
        let mut payload = (&mut self.reader).take(length.into());
        tokio::io::copy(&mut payload, &mut tokio::io::sink()).await?;
        Ok(())
    }
}
