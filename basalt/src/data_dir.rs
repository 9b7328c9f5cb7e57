//! The data folder: made at the first start, and held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A new folder needs room for an empty store, its reserve and the database; one that is in use
/// already has them.
const LEAST_FREE_BYTES_NEW: u64 = 32 << 20;
const LEAST_FREE_BYTES: u64 = 1 << 20;

/// A data folder that this process owns until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Its lock ends with the process, however that ends.
    _lock: File,
}

impl DataDir {
    /// Makes the folder where it is missing (mode 0700) and takes its lock.
    ///
    /// Errors: `DataInUse` while another process has it, `DataDir` where it cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::data_dir(path, &error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::DataInUse { path }),
            Err(TryLockError::Error(error)) => return Err(Error::data_dir(&path, &error)),
        }
        check_writable(&path)?;
        Ok(DataDir { path, _lock: lock })
    }

    /// A folder in which `part` must be there already, for commands that only look.
    pub fn existing(path: &Path, part: &str) -> Result<PathBuf> {
        let missing = |error: io::Error| Error::data_dir(path, &error);
        if !path.join(part).try_exists().map_err(missing)? {
            let error = io::Error::other("there is no data of basalt in it");
            return Err(Error::data_dir(path, &error));
        }
        path.canonicalize().map_err(missing)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Finds a full disk now, with a clear message, rather than inside the database.
fn check_writable(folder: &Path) -> Result<()> {
    let is_new = !folder.join("basalt.sqlite").exists();
    let least = if is_new {
        LEAST_FREE_BYTES_NEW
    } else {
        LEAST_FREE_BYTES
    };
    let space = rustix::fs::statvfs(folder)
        .map_err(|error| Error::data_dir(folder, &io::Error::from(error)))?;
    if space.f_bavail.saturating_mul(space.f_frsize) < least {
        let reason = format!(
            "the disk is full: at least {} MiB must be free",
            least >> 20
        );
        return Err(Error::DataDir {
            path: folder.to_owned(),
            reason,
        });
    }
    let probe = folder.join("writable.tmp");
    let written = File::create(&probe).and_then(|mut file| {
        file.write_all(&[0; 4096])?;
        file.sync_all()
    });
    let removed = std::fs::remove_file(&probe);
    written
        .and(removed)
        .map_err(|error| Error::data_dir(folder, &error))
}

/// Replaces the file by `content` in one step, readable by its owner alone, and durably: after a
/// crash the old or the new content is there.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn one_owner_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert!(matches!(DataDir::open(&path), Err(Error::DataInUse { .. })));
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(DataDir::open(&path), Err(Error::DataDir { .. })));
        assert!(matches!(
            DataDir::existing(parent.path(), "store"),
            Err(Error::DataDir { .. })
        ));
    }

    #[test]
    fn replaced_files_are_private_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(folder.path().join("secret.tmp"), "left by a crash").unwrap();
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
