//! A small client that can also say what no real client would.

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::nbd::wire::{self, chunk, info, option, option_reply as rep};

pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

pub struct Client {
    pub reader: ReadHalf,
    pub writer: WriteHalf,
}

/// A reply to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub cookie: u64,
    pub error: u32,
    pub data: Bytes,
}

impl Client {
    pub async fn try_connect(path: &Path) -> io::Result<Client> {
        let (reader, writer) = tokio::net::UnixStream::connect(path).await?.into_split();
        let mut client = Client {
            reader: Box::new(reader),
            writer: Box::new(writer),
        };
        let mut greeting = [0; 18];
        client.reader.read_exact(&mut greeting).await?;
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        client.writer.write_u32(3).await?;
        Ok(client)
    }

    pub async fn connect(path: &Path) -> Client {
        Self::try_connect(path).await.unwrap()
    }

    pub async fn greet(reader: ReadHalf, writer: WriteHalf) -> Client {
        let mut client = Client { reader, writer };
        let mut greeting = [0; 18];
        client.reader.read_exact(&mut greeting).await.unwrap();
        client.writer.write_u32(3).await.unwrap();
        client
    }

    pub async fn option(&mut self, option: u32, data: &[u8]) {
        let mut message = BytesMut::new();
        message.put_u64(wire::OPTION_MAGIC);
        message.put_u32(option);
        message.put_u32(data.len() as u32);
        message.put_slice(data);
        self.writer.write_all(&message).await.unwrap();
    }

    pub async fn option_reply(&mut self) -> (u32, Bytes) {
        assert_eq!(
            self.reader.read_u64().await.unwrap(),
            wire::OPTION_REPLY_MAGIC
        );
        self.reader.read_u32().await.unwrap();
        let kind = self.reader.read_u32().await.unwrap();
        let mut data = vec![0; self.reader.read_u32().await.unwrap() as usize];
        self.reader.read_exact(&mut data).await.unwrap();
        (kind, data.into())
    }

    /// Sends an option and gives all replies up to the acknowledgement; `Err` with the error's
    /// number and text.
    pub async fn ask(
        &mut self,
        option: u32,
        data: &[u8],
    ) -> Result<Vec<(u32, Bytes)>, (u32, String)> {
        self.option(option, data).await;
        let mut replies = Vec::new();
        loop {
            match self.option_reply().await {
                (rep::ACK, _) => return Ok(replies),
                (kind, text) if kind >> 31 == 1 => {
                    return Err((kind, String::from_utf8(text.into()).unwrap()));
                }
                reply => replies.push(reply),
            }
        }
    }

    pub async fn structured(&mut self) {
        self.ask(option::STRUCTURED_REPLY, &[]).await.unwrap();
    }

    pub async fn allocation(&mut self, export: &str) {
        let replies = self
            .ask(
                option::SET_META_CONTEXT,
                &query(export, &["base:allocation"]),
            )
            .await
            .unwrap();
        assert_eq!(replies.len(), 1);
    }

    /// Size and flags.
    pub async fn go(&mut self, export: &str) -> Result<(u64, u16), (u32, String)> {
        let replies = self.ask(option::GO, &name_and_infos(export, &[])).await?;
        let mut export = replies
            .into_iter()
            .find(|(_, data)| data.starts_with(&info::EXPORT.to_be_bytes()))
            .unwrap()
            .1;
        export.advance(2);
        Ok((export.get_u64(), export.get_u16()))
    }

    pub async fn send(
        &mut self,
        flags: u16,
        command: u16,
        cookie: u64,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) {
        let mut message = BytesMut::new();
        message.put_u32(wire::REQUEST_MAGIC);
        message.put_u16(flags);
        message.put_u16(command);
        message.put_u64(cookie);
        message.put_u64(offset);
        message.put_u32(length);
        message.put_slice(payload);
        self.writer.write_all(&message).await.unwrap();
    }

    /// A simple reply, with `length` bytes of data unless it is an error.
    pub async fn simple(&mut self, length: usize) -> Answer {
        assert_eq!(
            self.reader.read_u32().await.unwrap(),
            wire::SIMPLE_REPLY_MAGIC
        );
        let error = self.reader.read_u32().await.unwrap();
        let cookie = self.reader.read_u64().await.unwrap();
        let mut data = vec![0; if error == 0 { length } else { 0 }];
        self.reader.read_exact(&mut data).await.unwrap();
        Answer {
            cookie,
            error,
            data: data.into(),
        }
    }

    /// A reply of one chunk, or a simple one without data.
    pub async fn reply(&mut self) -> Answer {
        let magic = self.reader.read_u32().await.unwrap();
        if magic == wire::SIMPLE_REPLY_MAGIC {
            let error = self.reader.read_u32().await.unwrap();
            return Answer {
                cookie: self.reader.read_u64().await.unwrap(),
                error,
                data: Bytes::new(),
            };
        }
        assert_eq!(magic, wire::CHUNK_MAGIC);
        assert_eq!(self.reader.read_u16().await.unwrap(), chunk::FLAG_DONE);
        let kind = self.reader.read_u16().await.unwrap();
        let cookie = self.reader.read_u64().await.unwrap();
        let mut data = vec![0; self.reader.read_u32().await.unwrap() as usize];
        self.reader.read_exact(&mut data).await.unwrap();
        let mut data = Bytes::from(data);
        let error = if kind == chunk::ERROR {
            data.get_u32()
        } else {
            0
        };
        if kind == chunk::OFFSET_DATA {
            data.advance(8);
        }
        Answer {
            cookie,
            error,
            data,
        }
    }

    /// Sends a request with extended headers.
    pub async fn send_extended(
        &mut self,
        flags: u16,
        command: u16,
        cookie: u64,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) {
        let mut message = BytesMut::new();
        message.put_u32(wire::EXTENDED_REQUEST_MAGIC);
        message.put_u16(flags);
        message.put_u16(command);
        message.put_u64(cookie);
        message.put_u64(offset);
        message.put_u64(length);
        message.put_slice(payload);
        self.writer.write_all(&message).await.unwrap();
    }

    /// The only chunk of a reply with extended headers: its kind, its offset and the rest.
    pub async fn extended_reply(&mut self) -> (u16, u64, Answer) {
        let magic = self.reader.read_u32().await.unwrap();
        assert_eq!(magic, wire::EXTENDED_CHUNK_MAGIC);
        assert_eq!(self.reader.read_u16().await.unwrap(), chunk::FLAG_DONE);
        let kind = self.reader.read_u16().await.unwrap();
        let cookie = self.reader.read_u64().await.unwrap();
        let offset = self.reader.read_u64().await.unwrap();
        let mut data = vec![0; self.reader.read_u64().await.unwrap() as usize];
        self.reader.read_exact(&mut data).await.unwrap();
        let mut data = Bytes::from(data);
        let error = if kind == chunk::ERROR {
            data.get_u32()
        } else {
            0
        };
        let answer = Answer {
            cookie,
            error,
            data,
        };
        (kind, offset, answer)
    }

    /// Whether the server has closed the connection.
    pub async fn is_closed(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]).await, Ok(0) | Err(_))
    }
}

pub fn query(export: &str, patterns: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(export.len() as u32);
    data.put_slice(export.as_bytes());
    data.put_u32(patterns.len() as u32);
    for pattern in patterns {
        data.put_u32(pattern.len() as u32);
        data.put_slice(pattern.as_bytes());
    }
    data
}

pub fn name_and_infos(export: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(export.len() as u32);
    data.put_slice(export.as_bytes());
    data.put_u16(infos.len() as u16);
    infos.iter().for_each(|info| data.put_u16(*info));
    data
}
