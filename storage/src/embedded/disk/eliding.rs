//! A disk that does not keep data: maps, logs and checkpoints of any size are measured on it, far
//! beyond what the real one holds.
//!
//! What is not kept is the unit full of [`ELIDED_BYTE`]: it is not written, and a unit of zeroes
//! reads as such a unit. Everything else, all that the store writes for itself, is in real files.
//! (It never writes a unit of zeroes outside the space maps, which are left alone.) Chunk files
//! grow without space.

use std::io;

use bytes::{Bytes, BytesMut};

use super::real::RealDisk;
use super::{Action, Disk, Done, FileId, Io};
use crate::embedded::buffer::{UNIT_BYTES, aligned};
use crate::embedded::format::SPACE_MAP_UNITS;

/// What blocks must be full of to be elided.
pub const ELIDED_BYTE: u8 = 0xe1;
/// The size that the file system is said to have: 16 TiB.
const ROOM_BYTES: u64 = 16 << 40;

static ELIDED: [u8; UNIT_BYTES] = [ELIDED_BYTE; UNIT_BYTES];
static ZERO: [u8; UNIT_BYTES] = [0; UNIT_BYTES];

pub(crate) struct ElidingDisk {
    disk: RealDisk,
    /// Ends of writes that left nothing to write.
    done: Vec<Done>,
}

impl ElidingDisk {
    pub(crate) fn new(disk: RealDisk) -> Self {
        ElidingDisk {
            disk,
            done: Vec::new(),
        }
    }

    fn end(&mut self, tag: u64, result: io::Result<()>) {
        self.done.push(Done {
            tag,
            result,
            buffer: BytesMut::new(),
        });
    }
}

/// Leaves out the elided units at the end; those between others stay.
fn shorten(buffer: &mut BytesMut) {
    let mut units = buffer.chunks(UNIT_BYTES);
    let kept = units
        .rposition(|unit| unit != ELIDED)
        .map_or(0, |at| at + 1);
    buffer.truncate(kept * UNIT_BYTES);
}

fn restore(buffer: &mut [u8]) {
    let zeroes = buffer.chunks_mut(UNIT_BYTES).filter(|unit| **unit == ZERO);
    zeroes.for_each(|unit| unit.copy_from_slice(&ELIDED));
}

impl Disk for ElidingDisk {
    fn submit(&mut self, mut io: Io) {
        if let Action::Gather(buffers) = &io.action {
            let mut whole = aligned(buffers.iter().map(Bytes::len).sum());
            buffers
                .iter()
                .for_each(|buffer| whole.extend_from_slice(buffer));
            io.action = Action::Write(whole);
        }
        match (&mut io.action, io.file) {
            (Action::Write(buffer), FileId::Chunk(_)) => {
                shorten(buffer);
                match buffer.is_empty() {
                    true => self.end(io.tag, Ok(())),
                    false => self.disk.submit(io),
                }
            }
            (Action::Fill(_), FileId::Chunk(_)) => self.disk.submit(Io {
                action: Action::Sync,
                ..io
            }),
            (Action::Grow(to), FileId::Chunk(_)) => {
                match self.disk.set_length(io.file, *to) {
                    // An end that somebody hears of.
                    Ok(()) => self.disk.submit(Io {
                        action: Action::Sync,
                        ..io
                    }),
                    Err(error) => self.end(io.tag, Err(error)),
                }
            }
            _ => self.disk.submit(io),
        }
    }

    fn kick(&mut self) {
        self.disk.kick();
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.done);
        let first = done.len();
        self.disk.reap(done);
        for done in done.iter_mut().skip(first) {
            restore(&mut done.buffer);
        }
    }

    fn wait(&mut self) {
        if self.done.is_empty() {
            self.disk.wait();
        }
    }

    fn under_way(&self) -> usize {
        self.disk.under_way() + self.done.len()
    }

    fn length(&self, file: FileId) -> io::Result<u64> {
        self.disk.length(file)
    }

    fn read_now(&mut self, file: FileId, offset: u64, length: usize) -> io::Result<BytesMut> {
        let mut buffer = self.disk.read_now(file, offset, length)?;
        let data = SPACE_MAP_UNITS * UNIT_BYTES as u64;
        if matches!(file, FileId::Chunk(_)) && offset >= data {
            restore(&mut buffer);
        }
        Ok(buffer)
    }

    fn room(&self) -> io::Result<(u64, u64)> {
        Ok((ROOM_BYTES, ROOM_BYTES))
    }

    fn leave(&mut self) {
        self.disk.leave();
    }
}
