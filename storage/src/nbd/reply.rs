//! Replies in the three forms of the protocol.

use bytes::{BufMut, Bytes, BytesMut};

use super::meta_context::BASE_ALLOCATION_ID;
use super::outbox::Outbox;
use super::wire::{self, Errno, chunk};

/// What was agreed on for requests and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Requests of 28 bytes, simple replies.
    Simple,
    /// Requests of 28 bytes, replies in chunks.
    Structured,
    /// Requests of 32 bytes with 64-bit lengths, replies in chunks with the like.
    Extended,
}

/// How a request was answered.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    /// What was read at the request's offset.
    Data(Bytes),
    /// Lengths and states of `base:allocation`.
    BlockStatus(Vec<(u64, u32)>),
    Failed(Errno),
}

/// Which request a reply belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub cookie: u64,
    pub offset: u64,
}

impl Form {
    /// Puts a reply behind those that wait.
    ///
    /// With structured replies, `read` must be answered with chunks; everything else may be
    /// answered simply. With extended headers everything is a chunk.
    pub fn reply(self, outbox: &mut Outbox, question: Question, answer: Answer) {
        let small = outbox.small();
        match (self, answer) {
            (Form::Extended, Answer::Done) => self.chunk(small, chunk::NONE, question, 0),
            (_, Answer::Done) => simple(small, question, 0),
            (Form::Simple, Answer::Failed(errno)) => simple(small, question, errno as u32),
            (_, Answer::Failed(errno)) => {
                self.chunk(small, chunk::ERROR, question, 6);
                small.put_u32(errno as u32);
                small.put_u16(0);
            }
            (Form::Simple, Answer::Data(data)) => {
                simple(small, question, 0);
                outbox.data(data);
            }
            (_, Answer::Data(data)) if data.is_empty() => {
                self.chunk(small, chunk::NONE, question, 0);
            }
            (_, Answer::Data(data)) => {
                // At most 32 MiB.
                self.chunk(small, chunk::OFFSET_DATA, question, 8 + data.len() as u32);
                small.put_u64(question.offset);
                outbox.data(data);
            }
            (_, Answer::BlockStatus(extents)) => self.block_status(small, question, &extents),
        }
    }

    /// The head of the only chunk of a reply.
    fn chunk(self, small: &mut BytesMut, kind: u16, question: Question, length: u32) {
        let extended = self == Form::Extended;
        small.put_u32(if extended {
            wire::EXTENDED_CHUNK_MAGIC
        } else {
            wire::CHUNK_MAGIC
        });
        small.put_u16(chunk::FLAG_DONE);
        small.put_u16(kind);
        small.put_u64(question.cookie);
        if extended {
            small.put_u64(question.offset);
            small.put_u64(length.into());
        } else {
            small.put_u32(length);
        }
    }

    fn block_status(self, small: &mut BytesMut, question: Question, extents: &[(u64, u32)]) {
        // At most some thousand extents.
        let count = extents.len() as u32;
        if self == Form::Extended {
            self.chunk(
                small,
                chunk::BLOCK_STATUS_EXTENDED,
                question,
                8 + 16 * count,
            );
            small.put_u32(BASE_ALLOCATION_ID);
            small.put_u32(count);
            for (length, state) in extents {
                small.put_u64(*length);
                small.put_u64((*state).into());
            }
            return;
        }
        self.chunk(small, chunk::BLOCK_STATUS, question, 4 + 8 * count);
        small.put_u32(BASE_ALLOCATION_ID);
        for (length, state) in extents {
            // Not longer than the request, whose length had 32 bits.
            small.put_u32(*length as u32);
            small.put_u32(*state);
        }
    }
}

fn simple(small: &mut BytesMut, question: Question, error: u32) {
    small.put_u32(wire::SIMPLE_REPLY_MAGIC);
    small.put_u32(error);
    small.put_u64(question.cookie);
}
