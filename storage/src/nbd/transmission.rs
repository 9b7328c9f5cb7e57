//! The requests of one connection: read ahead, carried out side by side, answered in any order.
//!
//! One task does everything for a connection. Woken, it reads what the socket holds, starts every
//! whole request in it, collects what has finished, and sends all replies in one call. No task is
//! started per request, and memory is bounded: requests wait in the socket when the client has
//! [`MAX_IN_FLIGHT`] or [`MAX_BYTES`] under way, or does not take its replies.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::listener::Stream;
use super::negotiation::Session;
use super::outbox::Outbox;
use super::reply::{Answer, Question};
use super::request::Header;
use super::wire::{self, Errno, command};
use crate::aligned::Spares;

/// Requests of one connection that run.
const MAX_IN_FLIGHT: usize = 128;
/// Bytes of reads and writes that run or wait to be sent. The largest request must fit.
const MAX_BYTES: u64 = 32 << 20;
/// With so much waiting for the client, no further request is taken.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Room for reading ahead: taken when less than the second is left, so that a block of memory is
/// shared by the payloads of many small writes.
const READ_BYTES: usize = 128 * 1024;
const LEAST_READ_BYTES: usize = 16 * 1024;
/// A payload from this length on is read into memory of its own.
const LARGE_BYTES: u64 = 32 * 1024;

/// How long a client may be silent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// In the middle of a request, or with replies that it does not take.
    pub stalled: Duration,
    /// Between requests.
    pub idle: Option<Duration>,
}

/// Serves until the client disconnects or breaks the protocol, or `stop` resolves: then new
/// requests are refused, and it ends when those that run are answered. `inbox` was read ahead.
pub(super) async fn transmit(
    mut stream: Stream,
    inbox: BytesMut,
    session: Session,
    patience: Patience,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let handle = Arc::clone(&session.export.handle);
    let start = |header: Header, payload: Bytes| {
        let large = header.payload_bytes >= LARGE_BYTES;
        let payload_again = large.then(|| payload.clone());
        let running = AssertUnwindSafe(header.carry_out(Arc::clone(&handle), payload));
        async move {
            let answer = running.catch_unwind().await.unwrap_or_else(|_| {
                // The panic hook has told where. A client that never gets its reply would hang.
                tracing::error!(command = header.command, "NBD request panicked");
                Answer::Failed(Errno::Io)
            });
            Finished {
                question: header.question(),
                memory_bytes: header.memory_bytes(),
                answer,
                payload: payload_again,
            }
        }
    };
    let mut transmission = Transmission {
        stream: &mut stream,
        session: &session,
        start,
        inbox,
        stage: Stage::Header,
        outbox: Outbox::default(),
        running: FuturesUnordered::new(),
        running_bytes: 0,
        spares: Spares::default(),
        phase: Phase::Serving,
        moved_bytes: 0,
    };
    let mut stop = pin!(stop);
    let mut clock = Clock::new(patience);
    let ended = std::future::poll_fn(|context| {
        if matches!(transmission.phase, Phase::Serving) && stop.as_mut().poll(context).is_ready() {
            transmission.phase = Phase::Draining;
        }
        while clock.tick.poll_tick(context).is_ready() {
            transmission.spares.clear();
            if clock.is_over(&transmission) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        transmission.poll(context)
    })
    .await;
    drop(transmission);
    // A farewell under TLS. The client may be gone.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
    ended
}

/// An answered request.
struct Finished {
    question: Question,
    memory_bytes: u64,
    answer: Answer,
    /// A large payload, whose memory may be used again.
    payload: Option<Bytes>,
}

/// What the next bytes from the client are.
enum Stage {
    Header,
    /// None yet: this request waits until there is room for it.
    Room(Header),
    Payload(Header),
    Large(Header, BytesMut),
    /// The rest of the payload of a request that is refused.
    Refused(Header, Errno, u64),
}

#[derive(Debug)]
enum Phase {
    Serving,
    /// The server stops: everything new is refused.
    Draining,
    /// Nothing more is read; what runs is still answered. Then the outcome is this.
    Closing(Option<io::Error>),
}

struct Transmission<'a, Start, Run> {
    stream: &'a mut Stream,
    session: &'a Session,
    start: Start,
    inbox: BytesMut,
    stage: Stage,
    outbox: Outbox,
    running: FuturesUnordered<Run>,
    running_bytes: u64,
    spares: Spares,
    phase: Phase,
    /// Bytes received and sent, for the clock.
    moved_bytes: u64,
}

impl<Start, Run> Transmission<'_, Start, Run>
where
    Start: Fn(Header, Bytes) -> Run,
    Run: Future<Output = Finished>,
{
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut moved = self.take_requests();
            while let Poll::Ready(Some(finished)) = self.running.poll_next_unpin(context) {
                self.running_bytes -= finished.memory_bytes;
                if let Some(payload) = finished.payload {
                    self.spares.give(payload);
                }
                let form = self.session.form;
                form.reply(&mut self.outbox, finished.question, finished.answer);
                moved = true;
            }
            moved |= self.send(context);
            if self.is_done() {
                let Phase::Closing(Some(error)) =
                    std::mem::replace(&mut self.phase, Phase::Closing(None))
                else {
                    return Poll::Ready(Ok(()));
                };
                return Poll::Ready(Err(error));
            }
            moved |= self.receive(context);
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn is_done(&self) -> bool {
        !matches!(self.phase, Phase::Serving) && self.running.is_empty() && self.outbox.is_empty()
    }

    fn close(&mut self, reason: Option<io::Error>) {
        self.phase = Phase::Closing(reason);
        self.stage = Stage::Header;
        self.inbox.clear();
    }

    /// Sends what waits; true if something went.
    fn send(&mut self, context: &mut Context<'_>) -> bool {
        if self.outbox.is_empty() {
            return false;
        }
        let before = self.moved_bytes;
        let sent = self
            .outbox
            .poll_send(&mut self.stream, &mut self.moved_bytes, context);
        if let Poll::Ready(Err(error)) = sent {
            // Nobody is there to read replies; what runs comes to its end.
            self.outbox.clear();
            self.close(Some(error));
        }
        self.moved_bytes != before
    }

    /// Reads once where there is room; true if something came.
    fn receive(&mut self, context: &mut Context<'_>) -> bool {
        if matches!(self.phase, Phase::Closing(_)) || !self.wants_bytes() {
            return false;
        }
        let received = match &mut self.stage {
            Stage::Large(header, payload) => {
                let missing = header.payload_bytes as usize - payload.len();
                let mut rest = payload.limit(missing);
                pin!(self.stream.read_buf(&mut rest)).poll(context)
            }
            _ => {
                if self.inbox.capacity() - self.inbox.len() < LEAST_READ_BYTES {
                    self.inbox.reserve(READ_BYTES);
                }
                pin!(self.stream.read_buf(&mut self.inbox)).poll(context)
            }
        };
        match received {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => {
                let in_order = matches!(self.stage, Stage::Header) && self.inbox.is_empty();
                self.close((!in_order).then(|| io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Ready(Ok(length)) => self.moved_bytes += length as u64,
            Poll::Ready(Err(error)) => self.close(Some(error)),
        }
        true
    }

    /// Whether the bytes that are there are not enough to go on.
    fn wants_bytes(&self) -> bool {
        match &self.stage {
            Stage::Header => {
                self.inbox.len() < Header::bytes(self.session.form) && self.has_room_to_answer()
            }
            Stage::Room(_) => false,
            Stage::Payload(_) | Stage::Large(..) | Stage::Refused(..) => true,
        }
    }

    fn has_room_to_answer(&self) -> bool {
        self.outbox.bytes() < MAX_WAITING_BYTES
    }

    fn has_room_for(&self, header: &Header) -> bool {
        let bytes = self.running_bytes + self.outbox.bytes() as u64 + header.memory_bytes();
        self.running.len() < MAX_IN_FLIGHT
            && (bytes <= MAX_BYTES || self.running.is_empty() && self.outbox.is_empty())
    }

    /// Takes all requests that are there; true if there was one.
    fn take_requests(&mut self) -> bool {
        let mut moved = false;
        while !matches!(self.phase, Phase::Closing(_)) && self.take_step() {
            moved = true;
        }
        moved
    }

    /// One step in the stream of requests; false when bytes or room are missing.
    fn take_step(&mut self) -> bool {
        match std::mem::replace(&mut self.stage, Stage::Header) {
            Stage::Header => return self.take_header(),
            Stage::Room(header) if !self.has_room_for(&header) => {
                self.stage = Stage::Room(header);
                return false;
            }
            Stage::Room(header) => {
                self.running_bytes += header.memory_bytes();
                self.stage = match header.payload_bytes {
                    0 => {
                        self.running.push((self.start)(header, Bytes::new()));
                        Stage::Header
                    }
                    1..LARGE_BYTES => Stage::Payload(header),
                    // Memory that no byte has come for is not touched.
                    length => Stage::Large(header, self.spares.take(length as usize)),
                };
            }
            Stage::Payload(header) if (self.inbox.len() as u64) < header.payload_bytes => {
                self.stage = Stage::Payload(header);
                return false;
            }
            Stage::Payload(header) => {
                let payload = self.inbox.split_to(header.payload_bytes as usize).freeze();
                self.running.push((self.start)(header, payload));
            }
            Stage::Large(header, mut payload) => {
                let missing = header.payload_bytes as usize - payload.len();
                let there = self.inbox.len().min(missing);
                payload.put_slice(&self.inbox.split_to(there));
                if there < missing {
                    self.stage = Stage::Large(header, payload);
                    return false;
                }
                self.running.push((self.start)(header, payload.freeze()));
            }
            Stage::Refused(header, errno, left) => {
                let there = left.min(self.inbox.len() as u64);
                self.inbox.advance(there as usize);
                if there < left {
                    self.stage = Stage::Refused(header, errno, left - there);
                    return false;
                }
                let answer = Answer::Failed(errno);
                self.session
                    .form
                    .reply(&mut self.outbox, header.question(), answer);
            }
        }
        true
    }

    fn take_header(&mut self) -> bool {
        let length = Header::bytes(self.session.form);
        if self.inbox.len() < length || !self.has_room_to_answer() {
            return false;
        }
        let bytes = self.inbox.split_to(length).freeze();
        let Some(header) = Header::parse(bytes, self.session.form) else {
            self.close(Some(protocol("no request where one must be")));
            return true;
        };
        if header.command == command::DISCONNECT {
            self.close(None);
        } else if header.payload_bytes > wire::MAX_BLOCK_BYTES.into() {
            // Its payload would have to be read to stay in step.
            self.close(Some(protocol("a payload is longer than allowed")));
        } else if matches!(self.phase, Phase::Draining) {
            self.stage = Stage::Refused(header, Errno::Shutdown, header.payload_bytes);
        } else if let Err(errno) = header.check(self.session) {
            self.stage = Stage::Refused(header, errno, header.payload_bytes);
        } else {
            self.stage = Stage::Room(header);
        }
        true
    }
}

/// Looks now and then whether the client still moves.
struct Clock {
    tick: tokio::time::Interval,
    patience: Patience,
    seen_bytes: u64,
    silent: Duration,
}

impl Clock {
    fn new(patience: Patience) -> Self {
        let shortest = patience
            .idle
            .unwrap_or(patience.stalled)
            .min(patience.stalled);
        let period = (shortest / 4).max(Duration::from_millis(1));
        let mut tick = tokio::time::interval_at(Instant::now() + period, period);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Clock {
            tick,
            patience,
            seen_bytes: 0,
            silent: Duration::ZERO,
        }
    }

    /// Called once a tick.
    fn is_over<Start, Run>(&mut self, transmission: &Transmission<'_, Start, Run>) -> bool {
        let partial = !matches!(transmission.stage, Stage::Header | Stage::Room(_))
            || matches!(transmission.stage, Stage::Header) && !transmission.inbox.is_empty();
        let stalled = partial || !transmission.outbox.is_empty();
        let moved = std::mem::replace(&mut self.seen_bytes, transmission.moved_bytes);
        // Whoever waits for the store is not silent.
        if moved != transmission.moved_bytes || !stalled && !transmission.running.is_empty() {
            self.silent = Duration::ZERO;
            return false;
        }
        self.silent += self.tick.period();
        if stalled {
            self.silent >= self.patience.stalled
        } else {
            self.patience.idle.is_some_and(|idle| self.silent >= idle)
        }
    }
}

fn protocol(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
