//! One request: checking it and carrying it out.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::negotiation::Session;
use super::reply::{Answer, Form, Question};
use super::wire::{self, Errno, allocation, command, command_flag as flag};
use crate::{ExtentKind, ImageHandle};

/// Extents in one answer to BLOCK_STATUS. The client asks again for the rest.
const MAX_EXTENTS: usize = 2048;

/// The fixed part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    /// Of the range, or of the payload where there is one.
    pub length: u64,
    /// Bytes that follow the header.
    pub payload_bytes: u64,
}

impl Header {
    /// How long a header is.
    pub fn bytes(form: Form) -> usize {
        if form == Form::Extended { 32 } else { 28 }
    }

    /// Reads [`Header::bytes`] bytes. `None` without the magic number: the stream is out of step.
    pub fn parse(mut bytes: Bytes, form: Form) -> Option<Header> {
        let extended = form == Form::Extended;
        let magic = if extended {
            wire::EXTENDED_REQUEST_MAGIC
        } else {
            wire::REQUEST_MAGIC
        };
        if bytes.len() != Self::bytes(form) || bytes.get_u32() != magic {
            return None;
        }
        let flags = bytes.get_u16();
        let command = bytes.get_u16();
        let cookie = bytes.get_u64();
        let offset = bytes.get_u64();
        let length = if extended {
            bytes.get_u64()
        } else {
            bytes.get_u32().into()
        };
        // QEMU leaves the flag out of its writes and sends the payload all the same.
        let has_payload =
            command == command::WRITE || extended && flags & flag::PAYLOAD_LENGTH != 0;
        Some(Header {
            flags,
            command,
            cookie,
            offset,
            length,
            payload_bytes: if has_payload { length } else { 0 },
        })
    }

    pub fn question(&self) -> Question {
        Question {
            cookie: self.cookie,
            offset: self.offset,
        }
    }

    /// Bytes of data that the request needs in memory while it runs.
    pub fn memory_bytes(&self) -> u64 {
        if matches!(self.command, command::READ | command::WRITE) {
            self.length
        } else {
            0
        }
    }

    /// What is wrong with the request, without looking at data. Called before memory is taken.
    pub fn check(&self, session: &Session) -> Result<(), Errno> {
        let changes = matches!(
            self.command,
            command::WRITE | command::TRIM | command::WRITE_ZEROES
        );
        let allowed_flags = match self.command {
            command::READ if session.form != Form::Simple => flag::DF | flag::FUA,
            command::WRITE if session.form == Form::Extended => flag::FUA | flag::PAYLOAD_LENGTH,
            command::WRITE_ZEROES => flag::FUA | flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS => flag::REQ_ONE | flag::FUA,
            _ => flag::FUA,
        };
        if self.flags & !allowed_flags != 0 {
            return Err(Errno::Invalid);
        }
        if changes && session.export.read_only() {
            return Err(Errno::NotPermitted);
        }
        match self.command {
            command::FLUSH if self.offset == 0 && self.length == 0 => return Ok(()),
            command::READ if self.length > wire::MAX_BLOCK_BYTES.into() => {
                return Err(Errno::Invalid);
            }
            command::BLOCK_STATUS if !session.block_status || self.length == 0 => {
                return Err(Errno::Invalid);
            }
            command::READ
            | command::WRITE
            | command::TRIM
            | command::CACHE
            | command::WRITE_ZEROES
            | command::BLOCK_STATUS => {}
            _ => return Err(Errno::Invalid),
        }
        let end = self.offset.checked_add(self.length);
        if end.is_none_or(|end| end > session.export.handle.size_bytes()) {
            let grows = matches!(self.command, command::WRITE | command::WRITE_ZEROES);
            return Err(if grows {
                Errno::NoSpace
            } else {
                Errno::Invalid
            });
        }
        Ok(())
    }

    /// Carries out a request that was checked. Failures of the store are logged here.
    pub async fn carry_out(self, handle: Arc<dyn ImageHandle>, payload: Bytes) -> Answer {
        match self.run(handle.as_ref(), payload).await {
            Ok(answer) => answer,
            Err(error) => {
                let errno = Errno::from(&error);
                tracing::warn!(command = self.command, offset = self.offset, length = self.length, %error, "NBD request failed");
                Answer::Failed(errno)
            }
        }
    }

    async fn run(&self, handle: &dyn ImageHandle, payload: Bytes) -> crate::Result<Answer> {
        let length = self.length;
        match self.command {
            command::READ => {
                let data = if length == 0 {
                    Bytes::new()
                } else {
                    handle.read(self.offset, self.length as usize).await?
                };
                // The reply's header has told the length; a store that breaks its promise must not
                // put the stream out of step.
                if data.len() != self.length as usize {
                    return Err(crate::Error::Unavailable(
                        "a read of the wrong length".into(),
                    ));
                }
                return Ok(Answer::Data(data));
            }
            command::BLOCK_STATUS => return self.block_status(handle).await,
            command::FLUSH => {
                handle.flush().await?;
                return Ok(Answer::Done);
            }
            // A hint: the store has no cache to fill.
            command::CACHE => return Ok(Answer::Done),
            _ if length == 0 => {}
            command::WRITE => handle.write(self.offset, payload).await?,
            command::TRIM => handle.discard(self.offset, length).await?,
            // Always fast. NO_HOLE changes nothing: each write of the store takes fresh space, so
            // zeroes that were written out would reserve none.
            command::WRITE_ZEROES => handle.write_zeroes(self.offset, length).await?,
            _ => return Ok(Answer::Failed(Errno::Invalid)),
        }
        if self.flags & flag::FUA != 0 {
            handle.flush().await?;
        }
        Ok(Answer::Done)
    }

    /// Neighbours of the same kind are one extent. At least one, at most what was asked about.
    async fn block_status(&self, handle: &dyn ImageHandle) -> crate::Result<Answer> {
        let one = self.flags & flag::REQ_ONE != 0;
        let end = self.offset.saturating_add(self.length);
        let mut position = self.offset;
        let mut found: Vec<(u64, u32)> = Vec::new();
        for extent in handle
            .extents(self.offset, self.length, MAX_EXTENTS)
            .await?
        {
            let extent_end = extent.offset.saturating_add(extent.length).min(end);
            let Some(length) = extent_end
                .checked_sub(position)
                .filter(|length| *length > 0)
            else {
                continue;
            };
            let state = match extent.kind {
                ExtentKind::Data => 0,
                ExtentKind::Zero => allocation::HOLE | allocation::ZERO,
            };
            match found.last_mut() {
                Some((last_length, last_state)) if *last_state == state => *last_length += length,
                Some(_) if one => break,
                _ => found.push((length, state)),
            }
            position = extent_end;
        }
        if found.is_empty() {
            return Err(crate::Error::Unavailable("no extents".into()));
        }
        Ok(Answer::BlockStatus(found))
    }
}
