//! The handshake: greeting and options, until the client has chosen an export or leaves.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::admission::{Peer, split_secret};
use super::channel::Channel;
use super::exports::{Export, Exports};
use super::meta_context::{self, BASE_ALLOCATION_ID, Query};
use super::reply::Form;
use super::tls::Tls;
use super::wire::{self, info, option, option_reply as rep, take_string, take_u16};
use crate::Error;

/// Far more than a name with a few queries.
const MAX_OPTION_BYTES: u32 = 64 * 1024;
const MAX_OPTIONS: usize = 1024;

/// What was agreed on.
pub(super) struct Session {
    pub export: Export,
    pub form: Form,
    /// `base:allocation` was selected for this export.
    pub block_status: bool,
}

pub(super) struct Negotiation<'a> {
    channel: Channel,
    exports: &'a Exports,
    peer: Peer,
    tls: Option<&'a Tls>,
    /// TLS is on, or nobody asks for it.
    secured: bool,
    no_zeroes: bool,
    form: Form,
    /// The export for which `base:allocation` was selected.
    allocation_for: Option<String>,
}

/// What follows an option.
enum Next {
    Option,
    Transmission(Session),
    Close,
}

impl<'a> Negotiation<'a> {
    /// With `tls`, a client must start it before anything else.
    pub fn new(channel: Channel, exports: &'a Exports, peer: Peer, tls: Option<&'a Tls>) -> Self {
        Negotiation {
            channel,
            exports,
            peer,
            secured: tls.is_none(),
            tls,
            no_zeroes: false,
            form: Form::Simple,
            allocation_for: None,
        }
    }

    /// The connection, and who the client turned out to be.
    pub fn into_parts(self) -> (Channel, Peer) {
        (self.channel, self.peer)
    }

    /// `None` when the client has left in order. An error closes the connection.
    pub async fn run(&mut self) -> io::Result<Option<Session>> {
        self.greet().await?;
        for _ in 0..MAX_OPTIONS {
            let mut header = self.channel.receive(16).await?;
            if header.get_u64() != wire::OPTION_MAGIC {
                return Err(protocol("no option where one must be"));
            }
            let option = header.get_u32();
            let length = header.get_u32();
            if length > MAX_OPTION_BYTES {
                self.refuse(option, rep::ERR_TOO_BIG, "the option's data is too long")
                    .await?;
                return Err(protocol("an option is too long"));
            }
            let data = self.channel.receive(length as usize).await?;
            match self.handle(option, data).await? {
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
        self.channel.send(&greeting).await?;
        let flags = self.channel.receive(4).await?.get_u32();
        let known = u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
        if flags & !known != 0 || flags & u32::from(wire::FIXED_NEWSTYLE) == 0 {
            return Err(protocol("the client does not speak fixed newstyle"));
        }
        self.no_zeroes = flags & u32::from(wire::NO_ZEROES) != 0;
        Ok(())
    }

    async fn handle(&mut self, option: u32, data: Bytes) -> io::Result<Next> {
        if !self.secured && !matches!(option, option::STARTTLS | option::ABORT) {
            if option == option::EXPORT_NAME {
                return Err(protocol("an export name before TLS"));
            }
            self.refuse(option, rep::ERR_TLS_REQUIRED, "TLS must be started first")
                .await?;
            return Ok(Next::Option);
        }
        match option {
            option::EXPORT_NAME => return self.export_name(data).await,
            option::GO | option::INFO => return self.info_or_go(option, data).await,
            option::ABORT => {
                // The client may be gone already.
                let _ = self.reply(option, rep::ACK, &[]).await;
                return Ok(Next::Close);
            }
            option::LIST => self.list(data).await?,
            option::STARTTLS => self.start_tls(data).await?,
            option::STRUCTURED_REPLY if self.form == Form::Extended => {
                self.refuse(
                    option,
                    rep::ERR_EXTENDED_HEADERS_REQUIRED,
                    "extended headers are in use",
                )
                .await?
            }
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS if data.is_empty() => {
                self.form = if option == option::EXTENDED_HEADERS {
                    Form::Extended
                } else {
                    Form::Structured
                };
                self.reply(option, rep::ACK, &[]).await?;
            }
            option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
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

    /// Upgrades the connection; what was agreed on before does not count any more.
    async fn start_tls(&mut self, data: Bytes) -> io::Result<()> {
        let Some(tls) = self.tls else {
            return self
                .refuse(option::STARTTLS, rep::ERR_UNSUPPORTED, "TLS is not set up")
                .await;
        };
        if self.secured || !data.is_empty() {
            return self
                .refuse(
                    option::STARTTLS,
                    rep::ERR_INVALID,
                    "TLS is on, or the option has data",
                )
                .await;
        }
        self.reply(option::STARTTLS, rep::ACK, &[]).await?;
        self.peer.certificate = self.channel.start_tls(tls).await?;
        self.secured = true;
        self.form = Form::Simple;
        self.allocation_for = None;
        Ok(())
    }

    /// The old way to choose an export, which has no error reply.
    async fn export_name(&mut self, data: Bytes) -> io::Result<Next> {
        let name =
            std::str::from_utf8(&data).map_err(|_| protocol("an export name that is not UTF-8"))?;
        let opened = self.exports.open(name, &self.peer).await;
        let export = opened.map_err(io::Error::other)?;
        let mut reply = BytesMut::new();
        reply.put_u64(export.handle.size_bytes());
        reply.put_u16(export.flags(self.form != Form::Simple));
        if !self.no_zeroes {
            reply.put_bytes(0, 124);
        }
        self.channel.send(&reply).await?;
        Ok(Next::Transmission(self.session(export)))
    }

    async fn info_or_go(&mut self, option: u32, data: Bytes) -> io::Result<Next> {
        let Some((name, requests)) = parse_info(data) else {
            self.refuse(option, rep::ERR_INVALID, "the option's data is malformed")
                .await?;
            return Ok(Next::Option);
        };
        let export = match self.exports.open(&name, &self.peer).await {
            Ok(export) => export,
            Err(error) => {
                self.refuse_open(option, &name, &error).await?;
                return Ok(Next::Option);
            }
        };
        let mut reply = BytesMut::new();
        reply.put_u16(info::EXPORT);
        reply.put_u64(export.handle.size_bytes());
        reply.put_u16(export.flags(self.form != Form::Simple));
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
        let names = match self.exports.list(&self.peer).await {
            Ok(Some(names)) => names,
            Ok(None) => {
                return self
                    .refuse(option::LIST, rep::ERR_POLICY, "exports are not listed")
                    .await;
            }
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
        if self.form == Form::Simple {
            return self
                .refuse(option, rep::ERR_INVALID, "structured replies come first")
                .await;
        }
        let Some(query) = Query::parse(data) else {
            return self
                .refuse(option, rep::ERR_INVALID, "the option's data is malformed")
                .await;
        };
        if let Err(error) = self.exports.open(&query.export_name, &self.peer).await {
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
            form: self.form,
            block_status,
        }
    }

    async fn refuse_open(&mut self, option: u32, name: &str, error: &Error) -> io::Result<()> {
        match error {
            Error::NotFound(_) | Error::Invalid(_) => {
                let shown: String = split_secret(name).0.chars().take(256).collect();
                self.refuse(
                    option,
                    rep::ERR_UNKNOWN,
                    &format!("there is no export {shown:?}"),
                )
                .await
            }
            _ => {
                tracing::warn!(export = split_secret(name).0, %error, "NBD export not opened");
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
        self.channel.send(&reply).await
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
