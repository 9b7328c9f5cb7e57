//! An open image of the store, as the readers of image formats and archives want it.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use image_formats::ByteSource;
use storage::ImageHandle;
use tokio::runtime::Handle;

/// Random access to the bytes of an image that does not change.
#[derive(Clone)]
pub struct HandleSource {
    handle: Arc<dyn ImageHandle>,
    length_bytes: u64,
}

impl HandleSource {
    pub fn new(handle: Arc<dyn ImageHandle>) -> Self {
        let length_bytes = handle.size_bytes();
        HandleSource {
            handle,
            length_bytes,
        }
    }

    /// A reader for a thread that may block.
    pub fn into_reader(self) -> HandleReader {
        HandleReader {
            source: self,
            runtime: Handle::current(),
            position: 0,
        }
    }
}

#[async_trait]
impl ByteSource for HandleSource {
    fn len(&self) -> u64 {
        self.length_bytes
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > self.length_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = self.handle.read(offset, length).await;
        read.map_err(io::Error::other)
    }
}

/// The same for readers that know nothing of async. Must not be used on an async worker.
pub struct HandleReader {
    source: HandleSource,
    runtime: Handle,
    position: u64,
}

impl Read for HandleReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.source.length_bytes.saturating_sub(self.position);
        let length = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let (into, _) = buffer.split_at_mut(length);
        let read = self.source.read_at(self.position, length);
        into.copy_from_slice(&self.runtime.block_on(read)?);
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for HandleReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.source.length_bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
