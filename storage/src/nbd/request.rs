//! One request: checking it and carrying it out.

use bytes::{Buf, Bytes};

use super::negotiation::Session;
use super::reply::Answer;
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
    pub length: u32,
}

impl Header {
    pub const BYTES: usize = 28;

    /// `None` without the magic number: the stream is out of step.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Header> {
        let mut bytes = bytes.as_slice();
        if bytes.get_u32() != wire::REQUEST_MAGIC {
            return None;
        }
        Some(Header {
            flags: bytes.get_u16(),
            command: bytes.get_u16(),
            cookie: bytes.get_u64(),
            offset: bytes.get_u64(),
            length: bytes.get_u32(),
        })
    }

    /// Bytes that follow the header.
    pub fn payload_bytes(&self) -> u32 {
        if self.command == command::WRITE {
            self.length
        } else {
            0
        }
    }

    /// Bytes that the request needs in memory while it runs.
    pub fn memory_bytes(&self) -> u32 {
        if matches!(self.command, command::READ | command::WRITE) {
            self.length
        } else {
            0
        }
    }

    /// What is wrong with the request, without looking at data. Called before memory is taken.
    pub fn check(&self, session: &Session) -> Result<(), Errno> {
        let handle = &session.export.handle;
        let changes = matches!(
            self.command,
            command::WRITE | command::TRIM | command::WRITE_ZEROES
        );
        let allowed_flags = match self.command {
            command::READ if session.structured_replies => flag::DF | flag::FUA,
            command::WRITE_ZEROES => flag::FUA | flag::NO_HOLE,
            command::BLOCK_STATUS => flag::REQ_ONE | flag::FUA,
            _ => flag::FUA,
        };
        if self.flags & !allowed_flags != 0 {
            return Err(Errno::Invalid);
        }
        if changes && handle.read_only() {
            return Err(Errno::NotPermitted);
        }
        match self.command {
            command::FLUSH if self.offset == 0 && self.length == 0 => return Ok(()),
            command::READ if self.length > wire::MAX_BLOCK_BYTES => return Err(Errno::Invalid),
            command::BLOCK_STATUS if !session.block_status || self.length == 0 => {
                return Err(Errno::Invalid);
            }
            command::READ
            | command::WRITE
            | command::TRIM
            | command::WRITE_ZEROES
            | command::BLOCK_STATUS => {}
            _ => return Err(Errno::Invalid),
        }
        let end = self.offset.checked_add(self.length.into());
        if end.is_none_or(|end| end > handle.size_bytes()) {
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
    pub async fn carry_out(&self, handle: &dyn ImageHandle, payload: Bytes) -> Answer {
        match self.run(handle, payload).await {
            Ok(answer) => answer,
            Err(error) => {
                let errno = Errno::from(&error);
                tracing::warn!(command = self.command, offset = self.offset, length = self.length, %error, "NBD request failed");
                Answer::Failed(errno)
            }
        }
    }

    async fn run(&self, handle: &dyn ImageHandle, payload: Bytes) -> crate::Result<Answer> {
        let length = u64::from(self.length);
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
                return Ok(Answer::Data {
                    offset: self.offset,
                    data,
                });
            }
            command::BLOCK_STATUS => return self.block_status(handle).await,
            command::FLUSH => {
                handle.flush().await?;
                return Ok(Answer::Done);
            }
            _ if length == 0 => {}
            command::WRITE => handle.write(self.offset, payload).await?,
            command::TRIM => handle.discard(self.offset, length).await?,
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
        let end = self.offset.saturating_add(self.length.into());
        let mut position = self.offset;
        let mut found: Vec<(u32, u32)> = Vec::new();
        for extent in handle
            .extents(self.offset, self.length.into(), MAX_EXTENTS)
            .await?
        {
            let extent_end = extent.offset.saturating_add(extent.length).min(end);
            // At most the request's length, so it has 32 bits.
            let Some(length) = extent_end
                .checked_sub(position)
                .filter(|length| *length > 0)
            else {
                continue;
            };
            let length = length as u32;
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
