//! The image cache of a node: copies of images in a folder, as Glance's `image_cache_dir`.
//!
//! `DIR/<image id>` is a whole copy, `DIR/incomplete/<image id>` one that is being made, and
//! `DIR/queue/<image id>`, an empty file, an image that is to be copied. What lies in the folder is
//! the truth; how often a copy was read is only remembered until the process ends. The folder
//! stays within `image_cache_max_size`: the copies that were not read for longest go first.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use storage::{Extent, ExtentKind, ImageHandle};
use tokio::task::spawn_blocking;
use uuid::Uuid;

/// A copy that nobody writes to for so long is given up.
const STALL_TIME: Duration = Duration::from_secs(86_400);

/// A copy in the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedImage {
    pub image_id: Uuid,
    pub hits: u64,
    /// Seconds since the epoch.
    pub last_accessed_s: f64,
    pub last_modified_s: f64,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reads {
    hits: u64,
    last: SystemTime,
}

/// The folder. Cheap to clone.
#[derive(Clone)]
pub struct ImageCache {
    folder: Arc<Path>,
    max_bytes: u64,
    reads: Arc<Mutex<HashMap<Uuid, Reads>>>,
}

impl ImageCache {
    /// Makes the folder unless it is there.
    pub fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        let cache = ImageCache {
            folder: folder.into(),
            max_bytes,
            reads: Arc::default(),
        };
        fs::create_dir_all(cache.folder.join("incomplete"))?;
        fs::create_dir_all(cache.folder.join("queue"))?;
        Ok(cache)
    }

    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    fn copy(&self, id: Uuid) -> PathBuf {
        self.folder.join(id.to_string())
    }

    fn incomplete(&self, id: Uuid) -> PathBuf {
        self.folder.join("incomplete").join(id.to_string())
    }

    fn queue_entry(&self, id: Uuid) -> PathBuf {
        self.folder.join("queue").join(id.to_string())
    }

    /// Runs a call that waits for the disk on a thread for such calls.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&ImageCache) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let cache = self.clone();
        spawn_blocking(move || call(&cache))
            .await
            .map_err(io::Error::other)?
    }

    /// The copies, by id.
    pub async fn cached(&self) -> io::Result<Vec<CachedImage>> {
        self.blocking(ImageCache::copies).await
    }

    fn copies(&self) -> io::Result<Vec<CachedImage>> {
        let mut copies = Vec::new();
        for (image_id, metadata) in files(&self.folder)? {
            let modified = metadata.modified()?;
            let reads = self.reads(|reads| reads.get(&image_id).copied());
            copies.push(CachedImage {
                image_id,
                hits: reads.map_or(0, |reads| reads.hits),
                last_accessed_s: seconds(reads.map_or(modified, |reads| reads.last)),
                last_modified_s: seconds(modified),
                size_bytes: metadata.len(),
            });
        }
        copies.sort_by_key(|copy| copy.image_id);
        Ok(copies)
    }

    /// The images that are to be copied.
    pub async fn queued(&self) -> io::Result<Vec<Uuid>> {
        let entries = self.blocking(|cache| files(&cache.folder.join("queue")));
        Ok(entries.await?.into_iter().map(|(id, _)| id).collect())
    }

    /// `false`: it is there already, or queued.
    pub async fn queue(&self, id: Uuid) -> io::Result<bool> {
        self.blocking(move |cache| {
            if cache.copy(id).exists() {
                return Ok(false);
            }
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(cache.queue_entry(id))
            {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Whether there is a copy.
    pub async fn has(&self, id: Uuid) -> io::Result<bool> {
        self.blocking(move |cache| cache.copy(id).try_exists())
            .await
    }

    pub async fn is_queued(&self, id: Uuid) -> io::Result<bool> {
        self.blocking(move |cache| cache.queue_entry(id).try_exists())
            .await
    }

    pub async fn unqueue(&self, id: Uuid) -> io::Result<bool> {
        self.blocking(move |cache| removed(&cache.queue_entry(id)))
            .await
    }

    /// From the cache and the queue. `false`: it was in neither.
    pub async fn remove(&self, id: Uuid) -> io::Result<bool> {
        self.blocking(move |cache| {
            let queued = removed(&cache.queue_entry(id))?;
            Ok(cache.drop_copy(id)? || queued)
        })
        .await
    }

    fn drop_copy(&self, id: Uuid) -> io::Result<bool> {
        self.reads(|reads| reads.remove(&id));
        removed(&self.copy(id))
    }

    pub async fn clear(&self, copies: bool, queue: bool) -> io::Result<()> {
        self.blocking(move |cache| {
            if queue {
                for (id, _) in files(&cache.folder.join("queue"))? {
                    removed(&cache.queue_entry(id))?;
                }
            }
            if copies {
                for (id, _) in files(&cache.folder)? {
                    cache.drop_copy(id)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Removes copies that were begun and not ended for a day.
    pub async fn clean(&self) -> io::Result<()> {
        self.blocking(|cache| {
            for (id, metadata) in files(&cache.folder.join("incomplete"))? {
                let age = SystemTime::now().duration_since(metadata.modified()?);
                if age.is_ok_and(|age| age > STALL_TIME) {
                    removed(&cache.incomplete(id))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Removes copies until the rest is within the largest size: their number and bytes.
    pub async fn prune(&self) -> io::Result<(u64, u64)> {
        self.blocking(|cache| cache.make_room(0)).await
    }

    fn make_room(&self, bytes: u64) -> io::Result<(u64, u64)> {
        let mut copies = self.copies()?;
        copies.sort_by(|a, b| a.last_accessed_s.total_cmp(&b.last_accessed_s));
        let mut used: u64 = copies.iter().map(|copy| copy.size_bytes).sum();
        let (mut files, mut freed) = (0, 0);
        for copy in copies {
            if used.saturating_add(bytes) <= self.max_bytes {
                break;
            }
            self.drop_copy(copy.image_id)?;
            used = used.saturating_sub(copy.size_bytes);
            files += 1;
            freed += copy.size_bytes;
        }
        Ok((files, freed))
    }

    /// A new copy in the making, in place of one that was not ended.
    pub async fn begin(&self, id: Uuid) -> io::Result<NewCopy> {
        let file = self
            .blocking(move |cache| File::create(cache.incomplete(id)))
            .await?;
        Ok(NewCopy {
            cache: self.clone(),
            id,
            file: Arc::new(file),
        })
    }

    /// The copy, if there is one; counts as read.
    pub async fn open_copy(&self, id: Uuid) -> Option<Arc<dyn ImageHandle>> {
        let file = self.blocking(move |cache| {
            let file = File::open(cache.copy(id))?;
            let size_bytes = file.metadata()?.len();
            Ok(CachedFile {
                file: Arc::new(file),
                size_bytes,
            })
        });
        let file = file.await.ok()?;
        self.reads(|reads| {
            let last = SystemTime::now();
            let entry = reads.entry(id).or_insert(Reads { hits: 0, last });
            entry.hits = entry.hits.saturating_add(1);
            entry.last = last;
        });
        Some(Arc::new(file))
    }

    fn reads<T>(&self, look: impl FnOnce(&mut HashMap<Uuid, Reads>) -> T) -> T {
        // Whole after every statement, also where a holder panicked.
        look(&mut self.reads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A copy that is being made.
pub struct NewCopy {
    cache: ImageCache,
    id: Uuid,
    file: Arc<File>,
}

impl NewCopy {
    pub async fn write(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let file = Arc::clone(&self.file);
        let write = spawn_blocking(move || file.write_all_at(&data, offset));
        write.await.map_err(io::Error::other)?
    }

    /// Makes room for it, and puts it in its place unless it has been taken out of the queue.
    pub async fn finish(self) -> io::Result<()> {
        let NewCopy { cache, id, file } = self;
        cache
            .blocking(move |cache| {
                cache.make_room(file.metadata()?.len())?;
                if removed(&cache.queue_entry(id))? {
                    return fs::rename(cache.incomplete(id), cache.copy(id));
                }
                removed(&cache.incomplete(id)).map(|_| ())
            })
            .await
    }

    pub async fn abandon(self) -> io::Result<()> {
        let NewCopy { cache, id, .. } = self;
        let dropped = cache.blocking(move |cache| removed(&cache.incomplete(id)));
        dropped.await.map(|_| ())
    }
}

/// The files of a folder that are named by an image.
fn files(folder: &Path) -> io::Result<Vec<(Uuid, fs::Metadata)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| Uuid::parse_str(name).ok())
        else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) => files.push((id, metadata)),
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// `false`: it was not there.
fn removed(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A copy that is read; it stays readable when it is removed.
struct CachedFile {
    file: Arc<File>,
    size_bytes: u64,
}

#[async_trait]
impl ImageHandle for CachedFile {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn read(&self, offset: u64, length: usize) -> storage::Result<Bytes> {
        let file = Arc::clone(&self.file);
        let read = spawn_blocking(move || {
            let mut data = vec![0; length];
            file.read_exact_at(&mut data, offset)?;
            Ok(Bytes::from(data))
        });
        let read: io::Result<Bytes> = read.await.map_err(io::Error::other).and_then(|read| read);
        read.map_err(|error| storage::Error::Unavailable(error.to_string()))
    }

    async fn write(&self, _: u64, _: Bytes) -> storage::Result<()> {
        Err(storage::Error::ReadOnly(
            "a copy in the image cache".to_owned(),
        ))
    }

    async fn discard(&self, _: u64, _: u64) -> storage::Result<()> {
        Err(storage::Error::ReadOnly(
            "a copy in the image cache".to_owned(),
        ))
    }

    async fn flush(&self) -> storage::Result<()> {
        Ok(())
    }

    async fn extents(&self, offset: u64, length: u64, _: usize) -> storage::Result<Vec<Extent>> {
        let kind = ExtentKind::Data;
        Ok(vec![Extent {
            offset,
            length,
            kind,
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(cache: &ImageCache, bytes: usize) -> Uuid {
        let id = Uuid::new_v4();
        assert!(cache.queue(id).await.unwrap());
        assert!(!cache.queue(id).await.unwrap());
        let copy = cache.begin(id).await.unwrap();
        copy.write(0, Bytes::from(vec![1; bytes])).await.unwrap();
        copy.finish().await.unwrap();
        id
    }

    #[tokio::test]
    async fn copies_make_room_for_each_other_and_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::open(folder.path(), 100).unwrap();
        let first = fill(&cache, 40).await;
        let second = fill(&cache, 40).await;
        let handle = cache.open_copy(first).await.unwrap();
        assert_eq!(handle.read(38, 2).await.unwrap(), vec![1; 2]);
        assert!(handle.read(39, 2).await.is_err());
        // The second was not read for longest.
        let third = fill(&cache, 40).await;
        let cached = cache.cached().await.unwrap();
        let mut ids: Vec<Uuid> = cached.iter().map(|copy| copy.image_id).collect();
        let mut expected = vec![first, third];
        ids.sort();
        expected.sort();
        assert_eq!(ids, expected);
        assert!(cache.open_copy(second).await.is_none());
        assert!(cache.remove(first).await.unwrap());
        assert!(!cache.remove(first).await.unwrap());
        let queued = Uuid::new_v4();
        cache.queue(queued).await.unwrap();
        assert_eq!(cache.queued().await.unwrap(), [queued]);
        cache.clear(false, true).await.unwrap();
        assert!(cache.queued().await.unwrap().is_empty());
        assert_eq!(cache.cached().await.unwrap().len(), 1);
        cache.clear(true, false).await.unwrap();
        assert_eq!(cache.cached().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_copy_that_was_taken_out_of_the_queue_does_not_appear() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::open(folder.path(), 100).unwrap();
        let id = Uuid::new_v4();
        cache.queue(id).await.unwrap();
        let copy = cache.begin(id).await.unwrap();
        assert!(cache.remove(id).await.unwrap());
        copy.finish().await.unwrap();
        assert_eq!(cache.cached().await.unwrap(), []);
        assert_eq!(
            fs::read_dir(folder.path().join("incomplete"))
                .unwrap()
                .count(),
            0
        );
    }
}
