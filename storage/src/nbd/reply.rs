//! Replies to requests, and the task that sends them.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::meta_context::BASE_ALLOCATION_ID;
use super::wire::{self, Errno, chunk};

/// Replies that wait for the socket. Each holds its request's share of the limits.
const QUEUE_LENGTH: usize = 64;
/// Data up to this size is copied behind its header, and so sent with it in one call.
const COPY_BYTES: usize = 32 * 1024;

/// How a request was answered.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Data {
        offset: u64,
        data: Bytes,
    },
    /// Lengths and states of `base:allocation`.
    BlockStatus(Vec<(u32, u32)>),
    Failed(Errno),
}

/// An encoded reply.
pub(super) struct Reply {
    header: BytesMut,
    data: Bytes,
    /// The request's share of count and bytes, given back when the reply is sent.
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Reply {
    /// With structured replies, `read` must be answered with chunks; everything else may be
    /// answered simply.
    pub fn new(
        cookie: u64,
        structured: bool,
        answer: Answer,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Reply {
        let mut header = BytesMut::with_capacity(64);
        let mut body = Bytes::new();
        match answer {
            Answer::Done => simple(&mut header, cookie, 0),
            Answer::Failed(errno) if structured => {
                chunk_header(&mut header, chunk::ERROR, cookie, 6);
                header.put_u32(errno as u32);
                header.put_u16(0);
            }
            Answer::Failed(errno) => simple(&mut header, cookie, errno as u32),
            Answer::Data { data, .. } if structured && data.is_empty() => {
                chunk_header(&mut header, chunk::NONE, cookie, 0);
            }
            Answer::Data { offset, data } => {
                if structured {
                    // At most 32 MiB.
                    chunk_header(
                        &mut header,
                        chunk::OFFSET_DATA,
                        cookie,
                        8 + data.len() as u32,
                    );
                    header.put_u64(offset);
                } else {
                    simple(&mut header, cookie, 0);
                }
                body = data;
            }
            Answer::BlockStatus(extents) => {
                // At most some thousand extents.
                chunk_header(
                    &mut header,
                    chunk::BLOCK_STATUS,
                    cookie,
                    4 + 8 * extents.len() as u32,
                );
                header.put_u32(BASE_ALLOCATION_ID);
                for (length, state) in extents {
                    header.put_u32(length);
                    header.put_u32(state);
                }
            }
        }
        Reply {
            header,
            data: body,
            _permits: permits,
        }
    }
}

fn simple(header: &mut BytesMut, cookie: u64, error: u32) {
    header.put_u32(wire::SIMPLE_REPLY_MAGIC);
    header.put_u32(error);
    header.put_u64(cookie);
}

/// The only chunk of its reply.
fn chunk_header(header: &mut BytesMut, kind: u16, cookie: u64, length: u32) {
    header.put_u32(wire::CHUNK_MAGIC);
    header.put_u16(chunk::FLAG_DONE);
    header.put_u16(kind);
    header.put_u64(cookie);
    header.put_u32(length);
}

/// Where finished requests hand in their replies.
#[derive(Clone)]
pub(super) struct Replies(mpsc::Sender<Reply>);

impl Replies {
    /// Starts the task that writes; it ends with the last clone of `Replies` or a socket error,
    /// or when the set is dropped.
    pub fn start<W: AsyncWrite + Send + Unpin + 'static>(
        writer: W,
    ) -> (Replies, JoinSet<io::Result<()>>) {
        let (sender, queue) = mpsc::channel(QUEUE_LENGTH);
        let mut sending = JoinSet::new();
        sending.spawn(send_all(writer, queue));
        (Replies(sender), sending)
    }

    /// A reply to a client that is gone is dropped.
    pub async fn send(&self, reply: Reply) {
        let _ = self.0.send(reply).await;
    }

    /// Resolves when the client takes no replies any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

async fn send_all<W: AsyncWrite + Send + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Reply>,
) -> io::Result<()> {
    let mut waiting = Vec::with_capacity(QUEUE_LENGTH);
    let mut buffer = BytesMut::new();
    while queue.recv_many(&mut waiting, QUEUE_LENGTH).await > 0 {
        for reply in waiting.drain(..) {
            buffer.put_slice(&reply.header);
            if reply.data.len() <= COPY_BYTES {
                buffer.put_slice(&reply.data);
            } else {
                writer.write_all_buf(&mut buffer).await?;
                writer.write_all(&reply.data).await?;
            }
        }
        writer.write_all_buf(&mut buffer).await?;
        writer.flush().await?;
    }
    writer.shutdown().await
}
