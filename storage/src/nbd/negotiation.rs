//! The handshake: greeting and options, until the client has chosen an export or leaves.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::exports::{Export, Exports};
use super::meta_context::{self, BASE_ALLOCATION_ID, Query};
use super::wire::{self, info, option, option_reply as rep, take_string, take_u16};
use crate::Error;

/// Far more than a name with a few queries.
const MAX_OPTION_BYTES: u32 = 64 * 1024;
const MAX_OPTIONS: usize = 1024;

/// What was agreed on.
pub(super) struct Session {
    pub export: Export,
    pub structured_replies: bool,
    /// `base:allocation` was selected for this export.
    pub block_status: bool,
}

pub(super) struct Negotiation<'a, R, W> {
    reader: R,
    writer: W,
    exports: &'a Exports,
    no_zeroes: bool,
    structured_replies: bool,
    /// The export for which `base:allocation` was selected.
    allocation_for: Option<String>,
}

/// What follows an option.
enum Next {
    Option,
    Transmission(Session),
    Close,
}

impl<'a, R: AsyncRead + Send + Unpin, W: AsyncWrite + Send + Unpin> Negotiation<'a, R, W> {
    pub fn new(reader: R, writer: W, exports: &'a Exports) -> Self {
        Negotiation {
            reader,
            writer,
            exports,
            no_zeroes: false,
            structured_replies: false,
            allocation_for: None,
        }
    }

    pub fn into_halves(self) -> (R, W) {
        (self.reader, self.writer)
    }

    /// `None` when the client has left in order. An error closes the connection.
    pub async fn run(&mut self) -> io::Result<Option<Session>> {
        self.greet().await?;
        for _ in 0..MAX_OPTIONS {
            if self.reader.read_u64().await? != wire::OPTION_MAGIC {
                return Err(protocol("no option where one must be"));
            }
            let option = self.reader.read_u32().await?;
            let length = self.reader.read_u32().await?;
            if length > MAX_OPTION_BYTES {
                self.refuse(option, rep::ERR_TOO_BIG, "the option's data is too long")
                    .await?;
                return Err(protocol("an option is too long"));
            }
            let mut data = vec![0; length as usize];
            self.reader.read_exact(&mut data).await?;
            match self.handle(option, data.into()).await? {
                Next::Option => {}
                Next::Transmission(session) => return Ok(Some(session)),
                Next::Close => return Ok(None),
            }
        }
        Err(protocol("too many options"))
    }

    async fn greet(&mut self) -> io::Result<()> {
        let mut greeting = BytesMut::new();
        greeting.put_slice(wire::GREETING);
        greeting.put_u64(wire::OPTION_MAGIC);
        greeting.put_u16(wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
        self.send(&greeting).await?;
        let flags = self.reader.read_u32().await?;
        let known = u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
        if flags & !known != 0 || flags & u32::from(wire::FIXED_NEWSTYLE) == 0 {
            return Err(protocol("the client does not speak fixed newstyle"));
        }
        self.no_zeroes = flags & u32::from(wire::NO_ZEROES) != 0;
        Ok(())
    }

    async fn handle(&mut self, option: u32, data: Bytes) -> io::Result<Next> {
        match option {
            option::EXPORT_NAME => return self.export_name(data).await,
            option::GO | option::INFO => return self.info_or_go(option, data).await,
            option::ABORT => {
                // The client may be gone already.
                let _ = self.reply(option, rep::ACK, &[]).await;
                return Ok(Next::Close);
            }
            option::LIST => self.list(data).await?,
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured_replies = true;
                self.reply(option, rep::ACK, &[]).await?;
            }
            option::STRUCTURED_REPLY => {
                self.refuse(option, rep::ERR_INVALID, "the option takes no data")
                    .await?
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(option, data).await?
            }
            _ => {
                self.refuse(option, rep::ERR_UNSUPPORTED, "the option is not supported")
                    .await?
            }
        }
        Ok(Next::Option)
    }

    /// The old way to choose an export, which has no error reply.
    async fn export_name(&mut self, data: Bytes) -> io::Result<Next> {
        let name =
            std::str::from_utf8(&data).map_err(|_| protocol("an export name that is not UTF-8"))?;
        let export = self.exports.open(name).await.map_err(io::Error::other)?;
        let mut reply = BytesMut::new();
        reply.put_u64(export.handle.size_bytes());
        reply.put_u16(export.flags(self.structured_replies));
        if !self.no_zeroes {
            reply.put_bytes(0, 124);
        }
        self.send(&reply).await?;
        Ok(Next::Transmission(self.session(export)))
    }

    async fn info_or_go(&mut self, option: u32, data: Bytes) -> io::Result<Next> {
        let Some((name, requests)) = parse_info(data) else {
            self.refuse(option, rep::ERR_INVALID, "the option's data is malformed")
                .await?;
            return Ok(Next::Option);
        };
        let export = match self.exports.open(&name).await {
            Ok(export) => export,
            Err(error) => {
                self.refuse_open(option, &name, &error).await?;
                return Ok(Next::Option);
            }
        };
        let mut reply = BytesMut::new();
        reply.put_u16(info::EXPORT);
        reply.put_u64(export.handle.size_bytes());
        reply.put_u16(export.flags(self.structured_replies));
        self.reply(option, rep::INFO, &reply).await?;
        if requests.contains(&info::NAME) {
            let mut reply = BytesMut::new();
            reply.put_u16(info::NAME);
            reply.put_slice(name.as_bytes());
            self.reply(option, rep::INFO, &reply).await?;
        }
        let mut reply = BytesMut::new();
        reply.put_u16(info::BLOCK_SIZE);
        reply.put_u32(wire::MIN_BLOCK_BYTES);
        reply.put_u32(wire::PREFERRED_BLOCK_BYTES);
        reply.put_u32(wire::MAX_BLOCK_BYTES);
        self.reply(option, rep::INFO, &reply).await?;
        self.reply(option, rep::ACK, &[]).await?;
        if option == option::GO {
            Ok(Next::Transmission(self.session(export)))
        } else {
            Ok(Next::Option)
        }
    }

    async fn list(&mut self, data: Bytes) -> io::Result<()> {
        if !data.is_empty() {
            return self
                .refuse(option::LIST, rep::ERR_INVALID, "the option takes no data")
                .await;
        }
        let names = match self.exports.list().await {
            Ok(names) => names,
            Err(error) => {
                return self
                    .refuse(option::LIST, rep::ERR_PLATFORM, &error.to_string())
                    .await;
            }
        };
        for name in names {
            let mut reply = BytesMut::new();
            // At most 255 bytes.
            reply.put_u32(name.len() as u32);
            reply.put_slice(name.as_bytes());
            self.reply(option::LIST, rep::SERVER, &reply).await?;
        }
        self.reply(option::LIST, rep::ACK, &[]).await
    }

    async fn meta_context(&mut self, option: u32, data: Bytes) -> io::Result<()> {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            // Whatever comes of it, it replaces the earlier selection.
            self.allocation_for = None;
        }
        if !self.structured_replies {
            return self
                .refuse(option, rep::ERR_INVALID, "structured replies come first")
                .await;
        }
        let Some(query) = Query::parse(data) else {
            return self
                .refuse(option, rep::ERR_INVALID, "the option's data is malformed")
                .await;
        };
        if let Err(error) = self.exports.open(&query.export_name).await {
            return self.refuse_open(option, &query.export_name, &error).await;
        }
        if sets && query.sets_allocation() {
            self.reply(
                option,
                rep::META_CONTEXT,
                &meta_context::reply(BASE_ALLOCATION_ID),
            )
            .await?;
            self.allocation_for = Some(query.export_name);
        } else if !sets && query.lists_allocation() {
            // The id has no meaning in a list.
            self.reply(option, rep::META_CONTEXT, &meta_context::reply(0))
                .await?;
        }
        self.reply(option, rep::ACK, &[]).await
    }

    fn session(&self, export: Export) -> Session {
        let block_status = self.allocation_for.as_ref() == Some(&export.name);
        Session {
            export,
            structured_replies: self.structured_replies,
            block_status,
        }
    }

    async fn refuse_open(&mut self, option: u32, name: &str, error: &Error) -> io::Result<()> {
        match error {
            Error::NotFound(_) | Error::Invalid(_) => {
                let shown: String = name.chars().take(256).collect();
                self.refuse(
                    option,
                    rep::ERR_UNKNOWN,
                    &format!("there is no export {shown:?}"),
                )
                .await
            }
            _ => {
                tracing::warn!(export = name, %error, "NBD export not opened");
                self.refuse(option, rep::ERR_PLATFORM, &error.to_string())
                    .await
            }
        }
    }

    async fn refuse(&mut self, option: u32, kind: u32, text: &str) -> io::Result<()> {
        self.reply(option, kind, text.as_bytes()).await
    }

    async fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut reply = BytesMut::with_capacity(20 + data.len());
        reply.put_u64(wire::OPTION_REPLY_MAGIC);
        reply.put_u32(option);
        reply.put_u32(kind);
        // Texts and lists of ours: some hundred bytes.
        reply.put_u32(data.len() as u32);
        reply.put_slice(data);
        self.send(&reply).await
    }

    async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        self.writer.write_all(data).await?;
        self.writer.flush().await
    }
}

/// The name and the wanted information of NBD_OPT_INFO and NBD_OPT_GO.
fn parse_info(mut data: Bytes) -> Option<(String, Vec<u16>)> {
    let name = take_string(&mut data)?;
    let count = usize::from(take_u16(&mut data)?);
    if data.len() != count * 2 {
        return None;
    }
    let requests = (0..count)
        .map(|_| take_u16(&mut data))
        .collect::<Option<Vec<_>>>()?;
    Some((name, requests))
}

fn protocol(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
