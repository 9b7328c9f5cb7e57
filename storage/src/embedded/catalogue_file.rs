//! The file `catalogue.redb` as redb sees it. It survives a full disk on a reserve of its own,
//! and can play a power loss for tests.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Room for the catalogue when the disk is full, so that removing images still works.
const RESERVE_BYTES: u64 = 16 << 20;

/// A preallocated file that is given up when the catalogue finds the disk full.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    /// The reserve is given up: nothing may add data until it is filled again.
    pub(super) given_up: Arc<AtomicBool>,
}

impl Reserve {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let reserve = Reserve {
            file,
            given_up: Arc::new(AtomicBool::new(true)),
        };
        reserve.refill();
        Ok(reserve)
    }

    /// Tries to set the space aside again.
    pub(super) fn refill(&self) {
        if self.given_up.load(Ordering::Acquire) {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
                // A file system that cannot preallocate goes without.
                Ok(()) | Err(Errno::OPNOTSUPP) => self.given_up.store(false, Ordering::Release),
                Err(_) => {
                    let _ = self.file.set_len(0);
                }
            }
        }
    }

    /// True: there was something to give up.
    fn give_up(&self) -> bool {
        !self.given_up.swap(true, Ordering::AcqRel) && self.file.set_len(0).is_ok()
    }
}

#[derive(Debug, Default)]
struct Unsynced {
    enabled: bool,
    /// What stood where something was written since the last sync, in order.
    before: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) struct CatalogueFile {
    file: File,
    reserve: Arc<Reserve>,
    unsynced: Mutex<Unsynced>,
    /// After this nothing reaches the file: the process is as good as dead.
    dead: AtomicBool,
}

impl CatalogueFile {
    pub(super) fn open(
        path: &Path,
        reserve: Arc<Reserve>,
        simulates_power_loss: bool,
    ) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let unsynced = Mutex::new(Unsynced {
            enabled: simulates_power_loss,
            before: Vec::new(),
        });
        Ok(CatalogueFile {
            file,
            reserve,
            unsynced,
            dead: AtomicBool::new(false),
        })
    }

    pub(super) fn die(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// What a power loss may do: any of the writes since the last sync did not happen.
    pub(super) fn lose_unsynced(&self, mut hit: impl FnMut() -> bool) {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        for (offset, before) in unsynced.before.drain(..).rev() {
            if hit() {
                let _ = self.file.write_all_at(&before, offset);
            }
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::Acquire) {
            return Err(io::Error::other("the store has stopped"));
        }
        Ok(())
    }

    fn remember(&self, offset: u64, length: usize) -> io::Result<()> {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if unsynced.enabled {
            let mut before = vec![0; length];
            let end = self.file.metadata()?.len();
            let there = end.saturating_sub(offset).min(length as u64) as usize;
            self.file
                .read_exact_at(before.get_mut(..there).unwrap_or_default(), offset)?;
            unsynced.before.push((offset, before));
        }
        Ok(())
    }

    /// Runs a write again after giving up the reserve if the disk is full.
    fn with_reserve(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let full = |error: &io::Error| {
            let errno = error.raw_os_error().map(Errno::from_raw_os_error);
            matches!(errno, Some(Errno::NOSPC | Errno::DQUOT))
        };
        match write() {
            Err(error) if full(&error) && self.reserve.give_up() => {
                tracing::warn!("the disk is full: the catalogue uses its reserve");
                write()
            }
            result => result,
        }
    }
}

/// Shares the file between redb, which owns a backend, and the store, which ends its life.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<CatalogueFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.alive()?;
        self.0.with_reserve(|| self.0.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.alive()?;
        self.0.file.sync_data()?;
        let mut unsynced = self
            .0
            .unsynced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unsynced.before.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.alive()?;
        self.0.remember(offset, data.len())?;
        self.0
            .with_reserve(|| self.0.file.write_all_at(data, offset))
    }
}
