//! The io_uring of a lane: what files and sockets do.
//!
//! This is the one place that hands memory to the kernel: a buffer is owned by its slot from the
//! submission to the completion, and the ring is drained before the slots go.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use io_uring::{IoUring, opcode, squeue, types};

use super::files::{Done, FileAction, FileOrder, FileOwner};
use super::mailbox::Mailbox;
use super::slots::Slots;
use super::stream::{Direction, SocketState};

const ENTRIES: u32 = 256;
const COMPLETIONS: u32 = 2048;
/// Files' orders in the kernel's hands at once; more wait in `backlog`.
const MOST_ORDERS: usize = 512;

const BELL: u64 = 0;
const FILE: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 3;

/// What has happened.
pub(super) enum Event {
    Bell,
    Ready(Arc<SocketState>, Direction),
    Done(Arc<dyn FileOwner>, Done),
}

struct Slot {
    order: FileOrder,
    /// Bytes that came or went already: the kernel may do a part only.
    through: usize,
    /// Of the buffers of a gathering write, what is left to go.
    pieces: Vec<IoSlice<'static>>,
}

pub(super) struct Ring {
    // Dropped first: after it, nothing of the slots is in use.
    ring: IoUring,
    files: Slots<Slot>,
    sockets: Slots<Arc<SocketState>>,
    backlog: VecDeque<FileOrder>,
}

fn tag(kind: u64, place: usize) -> u64 {
    kind << 56 | place as u64
}

/// The best that the kernel knows. With deferred work, completions come when the lane asks for
/// them and never interrupt it.
fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(COMPLETIONS);
    let mut best = builder.clone();
    best.setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    best.build(ENTRIES).or_else(|_| builder.build(ENTRIES))
}

impl Ring {
    /// The kernel has `held` open as long as the ring is in use.
    pub fn new(mailbox: &Mailbox, held: Option<File>) -> io::Result<Ring> {
        let mut ring = Ring {
            ring: build()?,
            files: Slots::default(),
            sockets: Slots::default(),
            backlog: VecDeque::new(),
        };
        if let Some(held) = held {
            ring.ring.submitter().register_files(&[held.as_raw_fd()])?;
        }
        ring.wait_for_bell(mailbox);
        Ok(ring)
    }

    pub fn let_go(&mut self) {
        // Fails when nothing is held.
        let _ = self.ring.submitter().unregister_files();
    }

    fn wait_for_bell(&mut self, mailbox: &Mailbox) {
        let bell = types::Fd(mailbox.bell());
        let entry = opcode::PollAdd::new(bell, libc_poll(Direction::Read)).build();
        // SAFETY: no memory; the mailbox lives as long as the lane.
        unsafe { self.push(entry.user_data(tag(BELL, 0))) };
    }

    pub fn hear(&mut self, mailbox: &Mailbox) {
        mailbox.hear();
        self.wait_for_bell(mailbox);
    }

    /// Tells once when the socket is ready.
    pub fn arm(&mut self, socket: &Arc<SocketState>, direction: Direction) {
        let number = types::Fd(socket.number());
        let place = self.sockets.insert(Arc::clone(socket));
        let kind = match direction {
            Direction::Read => READ,
            Direction::Write => WRITE,
        };
        let entry = opcode::PollAdd::new(number, libc_poll(direction)).build();
        // SAFETY: no memory; the descriptor is open as long as its slot holds it.
        unsafe { self.push(entry.user_data(tag(kind, place))) };
    }

    pub fn order(&mut self, order: FileOrder) {
        if self.files.len() >= MOST_ORDERS {
            return self.backlog.push_back(order);
        }
        let place = self.files.insert(Slot {
            order,
            through: 0,
            pieces: Vec::new(),
        });
        self.start(place);
    }

    fn start(&mut self, place: usize) {
        let Some(slot) = self.files.get_mut(place) else {
            return;
        };
        let entry = entry(slot).user_data(tag(FILE, place));
        // SAFETY: buffer and file live in the slot until the completion is reaped, and a slot has
        // one request at a time.
        unsafe { self.push(entry) };
    }

    /// # Safety
    ///
    /// What the entry points to must live until its completion.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit();
        }
    }

    /// Hands over what was ordered, and takes what has happened.
    pub fn submit(&mut self) {
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        if idle {
            return;
        }
        let interrupted = |result: io::Result<usize>| {
            result.is_err_and(|error| error.kind() == io::ErrorKind::Interrupted)
        };
        // Busy: completions must be reaped first; the entries stay queued till then.
        while interrupted(self.ring.submit()) {}
    }

    /// As [`Ring::submit`], and waits until something has happened.
    pub fn wait(&mut self, most: Option<Duration>) {
        if self.has_events() {
            return self.submit();
        }
        let _ = match most {
            None => self.ring.submit_and_wait(1),
            Some(most) => {
                let most = types::Timespec::from(most);
                let arguments = types::SubmitArgs::new().timespec(&most);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
    }

    pub fn has_events(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Whether something has happened, without a call. The kernel's sign that there is work may
    /// be left from work that is done.
    pub fn may_have_events(&mut self) -> bool {
        self.has_events() || self.ring.submission().taskrun()
    }

    pub fn reap(&mut self, events: &mut Vec<Event>) {
        while let Some((number, result)) = self.next_completion() {
            let place = (number & ((1 << 56) - 1)) as usize;
            let direction = match number >> 56 {
                FILE => {
                    self.reap_file(place, result, events);
                    continue;
                }
                READ => Direction::Read,
                WRITE => Direction::Write,
                _ => {
                    events.push(Event::Bell);
                    continue;
                }
            };
            if let Some(socket) = self.sockets.remove(place) {
                events.push(Event::Ready(socket, direction));
            }
        }
    }

    fn next_completion(&mut self) -> Option<(u64, i32)> {
        let completion = self.ring.completion().next()?;
        Some((completion.user_data(), completion.result()))
    }

    fn reap_file(&mut self, place: usize, result: i32, events: &mut Vec<Event>) {
        let Some(slot) = self.files.get_mut(place) else {
            return;
        };
        let Some(result) = progress(slot, result) else {
            return self.start(place);
        };
        let Some(slot) = self.files.remove(place) else {
            return;
        };
        let owner = Arc::clone(&slot.order.owner);
        events.push(Event::Done(owner, finish(slot, result)));
        if let Some(next) = self.backlog.pop_front() {
            self.order(next);
        }
    }

    pub fn files_under_way(&self) -> usize {
        self.files.len() + self.backlog.len()
    }
}

/// The events of `poll(2)`.
fn libc_poll(direction: Direction) -> u32 {
    use rustix::event::PollFlags;
    let flags = match direction {
        Direction::Read => PollFlags::IN | PollFlags::RDHUP,
        Direction::Write => PollFlags::OUT,
    };
    flags.bits().into()
}

fn entry(slot: &mut Slot) -> squeue::Entry {
    let order = &mut slot.order;
    let file = types::Fd(order.file.as_raw_fd());
    let offset = order.offset + slot.through as u64;
    match &mut order.action {
        FileAction::Write(buffer) => {
            let rest = &buffer[slot.through..];
            opcode::Write::new(file, rest.as_ptr(), rest.len() as u32)
                .offset(offset)
                .build()
        }
        FileAction::Gather(buffers) => {
            slot.pieces = pieces(buffers, slot.through);
            let count = slot.pieces.len() as u32;
            // A slice for I/O is laid out as the system's own.
            opcode::Writev::new(file, slot.pieces.as_ptr().cast(), count)
                .offset(offset)
                .build()
        }
        FileAction::Read(buffer, length) => {
            // SAFETY: the buffer has room for `length` bytes; only the kernel writes there.
            let start = unsafe { buffer.as_mut_ptr().add(slot.through) };
            opcode::Read::new(file, start, (*length - slot.through) as u32)
                .offset(offset)
                .build()
        }
        FileAction::Sync => opcode::Fsync::new(file)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
    }
}

/// What is left of buffers when so many bytes have gone.
fn pieces(buffers: &[Bytes], mut through: usize) -> Vec<IoSlice<'static>> {
    let mut pieces = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let gone = through.min(buffer.len());
        through -= gone;
        let rest = &buffer[gone..];
        if !rest.is_empty() {
            // SAFETY: the slot owns the buffers, whose bytes never move, and drops the pieces
            // together with them.
            let rest = unsafe { std::slice::from_raw_parts(rest.as_ptr(), rest.len()) };
            pieces.push(IoSlice::new(rest));
        }
    }
    pieces
}

/// `None`: there is more to do.
fn progress(slot: &mut Slot, result: i32) -> Option<io::Result<()>> {
    if result < 0 {
        let error = io::Error::from_raw_os_error(-result);
        // A signal came: nothing has happened.
        const CANCELED: i32 = 125;
        let again = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock].contains(&error.kind());
        return (!again && -result != CANCELED).then_some(Err(error));
    }
    let wanted = match &slot.order.action {
        FileAction::Write(buffer) => buffer.len(),
        FileAction::Gather(buffers) => buffers.iter().map(Bytes::len).sum(),
        FileAction::Read(_, length) => *length,
        FileAction::Sync => return Some(Ok(())),
    };
    slot.through += result as usize;
    if slot.through >= wanted {
        return Some(Ok(()));
    }
    (result == 0).then(|| Err(io::ErrorKind::UnexpectedEof.into()))
}

fn finish(slot: Slot, result: io::Result<()>) -> Done {
    let buffer = match slot.order.action {
        FileAction::Write(buffer) => buffer,
        FileAction::Read(mut buffer, length) => {
            if result.is_ok() {
                // SAFETY: the kernel has filled `length` bytes, for which there was room.
                unsafe { buffer.set_len(length) };
            }
            buffer
        }
        FileAction::Gather(_) | FileAction::Sync => BytesMut::new(),
    };
    Done {
        tag: slot.order.tag,
        result,
        buffer,
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut events = Vec::new();
        self.backlog.clear();
        while self.files.len() > 0 {
            if self.ring.submit_and_wait(1).is_err() {
                // The kernel still owns the buffers.
                std::mem::forget(std::mem::take(&mut self.files));
                return;
            }
            self.reap(&mut events);
        }
    }
}
