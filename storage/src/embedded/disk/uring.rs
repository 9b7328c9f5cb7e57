//! Reads, writes and syncs through one io_uring.
//!
//! This is the one place that hands memory to the kernel: a buffer is owned by its slot from the
//! submission to the completion, and the ring is drained before the slots go.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use bytes::BytesMut;
use io_uring::{IoUring, opcode, squeue, types};

use super::{Action, Done, Io};

/// Requests in the kernel's hands at once; more wait in `backlog`.
const ENTRIES: u32 = 256;

struct Slot {
    tag: u64,
    file: Arc<File>,
    offset: u64,
    action: Action,
    /// Bytes that came or went already: the kernel may do a part only.
    through: usize,
}

pub(super) struct Ring {
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    backlog: VecDeque<Slot>,
    queued: bool,
}

impl Ring {
    /// The kernel holds the lock, too, until all writes have ended: those of a process that was
    /// killed go on without it, and must not meet those of the next.
    pub(super) fn new(bell: BorrowedFd<'_>, lock: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let ring = IoUring::builder().setup_coop_taskrun().build(ENTRIES)?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        if let Some(lock) = lock {
            ring.submitter().register_files(&[lock.as_raw_fd()])?;
        }
        Ok(Ring {
            ring,
            slots: (0..ENTRIES).map(|_| None).collect(),
            free: (0..ENTRIES as usize).rev().collect(),
            backlog: VecDeque::new(),
            queued: false,
        })
    }

    /// Lets go of the lock.
    pub(super) fn leave(&mut self) {
        // Fails when there is none.
        let _ = self.ring.submitter().unregister_files();
    }

    pub(super) fn submit(&mut self, io: Io, file: Arc<File>) {
        let slot = Slot {
            tag: io.tag,
            file,
            offset: io.offset,
            action: io.action,
            through: 0,
        };
        match self.free.pop() {
            Some(index) => self.start(index, slot),
            None => self.backlog.push_back(slot),
        }
    }

    fn start(&mut self, index: usize, mut slot: Slot) {
        let entry = entry(&mut slot).user_data(index as u64);
        self.slots[index] = Some(slot);
        // SAFETY: the buffer and the file live in the slot until the completion is reaped, and a
        // slot has one request at a time. There are as many queue entries as slots.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.enter();
        }
        self.queued = true;
    }

    fn enter(&mut self) {
        loop {
            match self.ring.submit() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Busy: completions must be reaped first; the entries stay queued till then.
                _ => return,
            }
        }
    }

    pub(super) fn kick(&mut self) {
        if self.queued {
            self.enter();
            self.queued = !self.ring.submission().is_empty();
        }
    }

    pub(super) fn has_answers(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    pub(super) fn reap(&mut self, done: &mut Vec<Done>) {
        while let Some((index, result)) = self.next_completion() {
            let Some(mut slot) = self.slots.get_mut(index).and_then(Option::take) else {
                continue;
            };
            match progress(&mut slot, result) {
                None => self.start(index, slot),
                Some(result) => {
                    done.push(answer(slot, result));
                    match self.backlog.pop_front() {
                        Some(next) => self.start(index, next),
                        None => self.free.push(index),
                    }
                }
            }
        }
        self.kick();
    }

    fn next_completion(&mut self) -> Option<(usize, i32)> {
        let completion = self.ring.completion().next()?;
        Some((completion.user_data() as usize, completion.result()))
    }

    pub(super) fn under_way(&self) -> usize {
        self.slots.len() - self.free.len() + self.backlog.len()
    }
}

fn entry(slot: &mut Slot) -> squeue::Entry {
    let file = types::Fd(slot.file.as_raw_fd());
    let offset = slot.offset + slot.through as u64;
    match &mut slot.action {
        Action::Write(buffer) => {
            let rest = &buffer[slot.through..];
            opcode::Write::new(file, rest.as_ptr(), rest.len() as u32)
                .offset(offset)
                .build()
        }
        Action::Read(buffer, length) => {
            // SAFETY: the buffer has room for `length` bytes; only the kernel writes there.
            let start = unsafe { buffer.as_mut_ptr().add(slot.through) };
            opcode::Read::new(file, start, (*length - slot.through) as u32)
                .offset(offset)
                .build()
        }
        _ => opcode::Fsync::new(file)
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
    }
}

/// `None`: there is more to do.
fn progress(slot: &mut Slot, result: i32) -> Option<io::Result<()>> {
    if result < 0 {
        let error = io::Error::from_raw_os_error(-result);
        // The thread that had submitted it ended, or a signal came: nothing has happened.
        const CANCELED: i32 = 125;
        let again = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock].contains(&error.kind());
        return (!again && -result != CANCELED).then_some(Err(error));
    }
    let wanted = match &slot.action {
        Action::Write(buffer) => buffer.len(),
        Action::Read(_, length) => *length,
        _ => return Some(Ok(())),
    };
    slot.through += result as usize;
    if slot.through >= wanted {
        return Some(Ok(()));
    }
    (result == 0).then(|| Err(io::ErrorKind::UnexpectedEof.into()))
}

fn answer(slot: Slot, result: io::Result<()>) -> Done {
    let buffer = match slot.action {
        Action::Write(buffer) => buffer,
        Action::Read(mut buffer, length) => {
            if result.is_ok() {
                // SAFETY: the kernel has filled `length` bytes, for which there was room.
                unsafe { buffer.set_len(length) };
            }
            buffer
        }
        _ => BytesMut::new(),
    };
    Done {
        tag: slot.tag,
        result,
        buffer,
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.under_way() > 0 {
            if self.ring.submit_and_wait(1).is_err() {
                // The kernel still owns the buffers.
                self.slots.drain(..).for_each(std::mem::forget);
                return;
            }
            self.reap(&mut done);
        }
    }
}
