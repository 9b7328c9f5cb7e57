//! The block files: 4 KiB blocks in sparse chunk files of 1 GiB, `blocks/NNNNN.blk`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::{Error, Result};

pub(super) const BLOCK_BYTES: u64 = 4096;
/// Blocks of a chunk file.
pub(super) const CHUNK_BLOCKS: u64 = 1 << 18;
/// Chunk files kept open.
const OPEN_FILES: usize = 128;

/// Neighbouring blocks of one chunk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) count: u64,
}

impl Run {
    fn bytes(self) -> (u64, u64) {
        (
            self.start % CHUNK_BLOCKS * BLOCK_BYTES,
            self.count * BLOCK_BYTES,
        )
    }
}

/// Adds a block behind a list of runs in rising order.
pub(super) fn push_block(runs: &mut Vec<Run>, block: u64) {
    match runs.last_mut() {
        Some(last) if last.start + last.count == block && !block.is_multiple_of(CHUNK_BLOCKS) => {
            last.count += 1;
        }
        _ => runs.push(Run {
            start: block,
            count: 1,
        }),
    }
}

/// An error of a block file: full, or not usable now.
pub(super) fn io_error(what: &str, error: impl Into<std::io::Error>) -> Error {
    let error = error.into();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Error::OutOfSpace,
        _ => Error::Unavailable(format!("{what}: {error}")),
    }
}

#[derive(Default)]
struct Files {
    open: HashMap<u64, Arc<File>>,
    /// Written since the last sync; kept open, so that no write error goes unseen.
    unsynced: HashMap<u64, Arc<File>>,
    /// A file was made since the last sync.
    folder_changed: bool,
    /// Runs written since the last sync, kept only to simulate a power loss.
    unsynced_runs: Vec<Run>,
}

pub(super) struct BlockFiles {
    folder: PathBuf,
    files: Mutex<Files>,
    simulates_power_loss: bool,
}

impl BlockFiles {
    /// Opens the folder, makes it if needed, and removes files of chunks that never became part
    /// of the catalogue (a crash came first).
    pub(super) fn open(folder: PathBuf, chunks: u64, simulates_power_loss: bool) -> Result<Self> {
        let failed =
            |error: std::io::Error| io_error(&format!("folder {}", folder.display()), error);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let chunk = name
                .and_then(|name| name.strip_suffix(".blk"))
                .and_then(|number| number.parse::<u64>().ok());
            if chunk.is_some_and(|chunk| chunk >= chunks) {
                std::fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(BlockFiles {
            folder,
            files: Mutex::default(),
            simulates_power_loss,
        })
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // Plain maps: usable whatever the thread did that panicked.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, chunk: u64) -> PathBuf {
        self.folder.join(format!("{chunk:05}.blk"))
    }

    fn file(&self, chunk: u64, create: bool) -> std::io::Result<Arc<File>> {
        let mut files = self.files();
        if let Some(file) = files
            .open
            .get(&chunk)
            .or_else(|| files.unsynced.get(&chunk))
        {
            return Ok(Arc::clone(file));
        }
        let path = self.path(chunk);
        let made = create && !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(path)?;
        let file = Arc::new(file);
        files.folder_changed |= made;
        if files.open.len() >= OPEN_FILES {
            let one = files.open.keys().next().copied();
            one.and_then(|chunk| files.open.remove(&chunk));
        }
        files.open.insert(chunk, Arc::clone(&file));
        Ok(file)
    }

    /// Fills `buffer` from the run's blocks. Blocks that are not there read as zeroes, which
    /// their checksums then tell.
    pub(super) fn read(&self, run: Run, buffer: &mut [u8]) -> Result<()> {
        let failed = |error| io_error("reading blocks", error);
        let file = match self.file(run.start / CHUNK_BLOCKS, false) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                buffer.fill(0);
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let (mut offset, _) = run.bytes();
        let mut rest = buffer;
        while !rest.is_empty() {
            match file.read_at(rest, offset) {
                Ok(0) => {
                    rest.fill(0);
                    return Ok(());
                }
                Ok(count) => {
                    offset += count as u64;
                    rest = rest.split_at_mut(count).1;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Writes blocks, given in order, to a run. Durable after [`BlockFiles::sync`].
    pub(super) fn write(&self, run: Run, blocks: &[&[u8]]) -> Result<()> {
        let failed = |error: std::io::Error| io_error("writing blocks", error);
        let chunk = run.start / CHUNK_BLOCKS;
        let file = self.file(chunk, true).map_err(failed)?;
        let (mut offset, _) = run.bytes();
        for blocks in blocks.chunks(512) {
            let mut slices: Vec<IoSlice<'_>> =
                blocks.iter().map(|block| IoSlice::new(block)).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                match rustix::io::pwritev(&*file, rest, offset) {
                    Ok(0) => {
                        return Err(Error::Unavailable("writing blocks: wrote nothing".into()));
                    }
                    Ok(count) => {
                        offset += count as u64;
                        IoSlice::advance_slices(&mut rest, count);
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(failed(error.into())),
                }
            }
        }
        let mut files = self.files();
        files.unsynced.insert(chunk, file);
        if self.simulates_power_loss {
            files.unsynced_runs.push(run);
        }
        Ok(())
    }

    /// Makes everything written before durable. An error is final: the kernel may have dropped
    /// the pages.
    pub(super) fn sync(&self) -> Result<()> {
        let (unsynced, folder_changed, runs) = {
            let mut files = self.files();
            (
                std::mem::take(&mut files.unsynced),
                std::mem::take(&mut files.folder_changed),
                std::mem::take(&mut files.unsynced_runs),
            )
        };
        let result = self.sync_files(&unsynced, folder_changed);
        if result.is_err() {
            self.files().unsynced_runs.extend(runs);
        }
        result
    }

    fn sync_files(&self, unsynced: &HashMap<u64, Arc<File>>, folder_changed: bool) -> Result<()> {
        for file in unsynced.values() {
            rustix::fs::fdatasync(&**file).map_err(|error| io_error("syncing blocks", error))?;
        }
        if folder_changed {
            let folder = File::open(&self.folder).and_then(|folder| folder.sync_all());
            folder.map_err(|error| io_error("syncing the block folder", error))?;
        }
        Ok(())
    }

    /// Gives a run's space back to the file system.
    pub(super) fn punch(&self, run: Run) -> Result<()> {
        let failed = |error: std::io::Error| io_error("freeing blocks", error);
        let file = match self.file(run.start / CHUNK_BLOCKS, false) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let (offset, length) = run.bytes();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&*file, flags, offset, length) {
            // A file system without holes: the space stays the store's and is used again.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Empties a chunk file that holds nothing.
    pub(super) fn truncate(&self, chunk: u64) -> Result<()> {
        let result = match self.file(chunk, false) {
            Ok(file) => file.set_len(0),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        result.map_err(|error| io_error("emptying a chunk file", error))
    }

    /// The first block of the chunk, from this one on, that the file system keeps space for.
    pub(super) fn next_stored(&self, chunk: u64, within: u64) -> Result<Option<u64>> {
        let failed = |error: std::io::Error| io_error("looking for stored blocks", error);
        let file = match self.file(chunk, false) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match rustix::fs::seek(&*file, SeekFrom::Data(within * BLOCK_BYTES)) {
            Ok(offset) => Ok(Some(offset / BLOCK_BYTES)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// What a power loss may do: any of the blocks written since the last sync hold garbage.
    pub(super) fn lose_unsynced(&self, mut hit: impl FnMut() -> bool) {
        let runs = std::mem::take(&mut self.files().unsynced_runs);
        for run in runs {
            for block in run.start..run.start + run.count {
                let (offset, _) = Run {
                    start: block,
                    count: 1,
                }
                .bytes();
                if let Ok(file) = self.file(block / CHUNK_BLOCKS, false)
                    && hit()
                {
                    // Nobody may rely on these bytes, so nobody needs to know if this fails.
                    let _ = file.write_all_at(&[0xa5; BLOCK_BYTES as usize], offset);
                }
            }
        }
    }
}
