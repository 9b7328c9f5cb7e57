//! The byte stream of one client during the handshake, with what was read ahead.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::admission::PeerCertificate;
use super::listener::Stream;
use super::tls::Tls;

const READ_BYTES: usize = 4096;

pub(super) struct Channel {
    stream: Option<Stream>,
    inbox: BytesMut,
}

impl Channel {
    pub fn new(stream: Stream) -> Self {
        Channel {
            stream: Some(stream),
            inbox: BytesMut::new(),
        }
    }

    /// The stream and the bytes that were read ahead.
    pub fn into_parts(self) -> io::Result<(Stream, BytesMut)> {
        Ok((self.stream.ok_or_else(gone)?, self.inbox))
    }

    /// The next bytes, exactly as many. The caller bounds the length.
    pub async fn receive(&mut self, length: usize) -> io::Result<Bytes> {
        let stream = self.stream.as_mut().ok_or_else(gone)?;
        while self.inbox.len() < length {
            self.inbox.reserve(READ_BYTES);
            if stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.inbox.split_to(length).freeze())
    }

    pub async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or_else(gone)?;
        stream.write_all(data).await?;
        stream.flush().await
    }

    /// Goes on under TLS. Bytes that came before the handshake could have been put in by anybody,
    /// so there must be none.
    pub async fn start_tls(&mut self, tls: &Tls) -> io::Result<Option<PeerCertificate>> {
        if !self.inbox.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "data before the TLS handshake",
            ));
        }
        let stream = self.stream.take().ok_or_else(gone)?;
        let (stream, certificate) = tls.accept(stream).await?;
        self.stream = Some(stream);
        Ok(certificate)
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
