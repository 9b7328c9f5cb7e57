//! Where an image is read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// Random access to bytes that do not change while they are read.
#[async_trait]
pub trait ByteSource: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Exactly `length` bytes; `UnexpectedEof` when the range passes the end.
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;
}

#[async_trait]
impl<S: ByteSource + ?Sized> ByteSource for Arc<S> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        (**self).read_at(offset, length).await
    }
}

#[async_trait]
impl ByteSource for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start
            .checked_add(length)
            .filter(|end| *end <= Bytes::len(self));
        Ok(self.slice(start..end.ok_or(io::ErrorKind::UnexpectedEof)?))
    }
}

/// A local file, read on the runtime's blocking threads.
#[derive(Debug, Clone)]
pub struct FileSource {
    file: Arc<File>,
    length_bytes: u64,
}

impl FileSource {
    pub async fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::open(path)?;
            let length_bytes = file.metadata()?.len();
            Ok(FileSource {
                file: Arc::new(file),
                length_bytes,
            })
        });
        opened.await.map_err(io::Error::other)?
    }
}

#[async_trait]
impl ByteSource for FileSource {
    fn len(&self) -> u64 {
        self.length_bytes
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        if offset
            .checked_add(length as u64)
            .is_none_or(|end| end > self.length_bytes)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file = Arc::clone(&self.file);
        let read = tokio::task::spawn_blocking(move || {
            let mut data = vec![0; length];
            file.read_exact_at(&mut data, offset)?;
            Ok(Bytes::from(data))
        });
        read.await.map_err(io::Error::other)?
    }
}
