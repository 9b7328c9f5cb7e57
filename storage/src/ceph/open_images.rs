//! The images that this process has open, each once: a second open would take the exclusive lock
//! away from the first. An image that nobody uses is closed after a while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use super::blocking::Blocking;
use super::native::{Errno, Image, Pool};
use crate::{ImageSpec, SnapshotSpec};

/// How long to wait for calls of this process on an image that is to be removed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An open head or snapshot. Closed, on a thread of the pool, when the last owner drops it.
pub(super) struct OpenImage {
    image: Option<Image>,
    blocking: Blocking,
    size_bytes: AtomicU64,
}

impl OpenImage {
    /// Blocks.
    pub(super) fn open(
        pool: &Arc<Pool>,
        name: &str,
        snapshot: Option<&str>,
        read_only: bool,
        blocking: &Blocking,
    ) -> Result<Arc<Self>, Errno> {
        let image = pool.open(name, snapshot, read_only)?;
        let size_bytes = AtomicU64::new(image.size()?);
        Ok(Arc::new(OpenImage {
            image: Some(image),
            blocking: blocking.clone(),
            size_bytes,
        }))
    }

    pub(super) fn image(&self) -> Result<&Image, Errno> {
        // Taken only when it is dropped.
        self.image.as_ref().ok_or(Errno::INVAL)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Reads the size again after a change. Blocks.
    pub(super) fn refresh_size(&self) -> Result<(), Errno> {
        let size = self.image()?.size()?;
        self.size_bytes.store(size, Ordering::Release);
        Ok(())
    }
}

impl Drop for OpenImage {
    fn drop(&mut self) {
        let image = self.image.take();
        self.blocking.detach(move || drop(image));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    image: ImageSpec,
    snapshot: Option<String>,
}

type Opened = Option<Arc<OpenImage>>;

/// A place for one open image. Whoever holds its lock decides whether it is open.
#[derive(Default)]
pub(super) struct Slot {
    opened: Arc<tokio::sync::Mutex<Opened>>,
    /// One clone with each handle that a caller of the store has.
    users: Arc<()>,
    last_used: Mutex<Option<Instant>>,
}

/// A handle's share in a slot: as long as it lives the image counts as open.
pub(super) type User = Arc<()>;

impl Slot {
    pub(super) fn user(&self) -> User {
        Arc::clone(&self.users)
    }

    pub(super) fn has_users(&self) -> bool {
        Arc::strong_count(&self.users) > 1
    }

    pub(super) async fn lock(&self) -> OwnedMutexGuard<Opened> {
        *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Arc::clone(&self.opened).lock_owned().await
    }

    /// Closes it when nobody uses it; `None` when somebody does.
    fn idle_since(&self) -> Option<Instant> {
        let last_used = *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.has_users() { None } else { last_used }
    }
}

pub(super) struct OpenImages {
    blocking: Blocking,
    idle: Duration,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

impl OpenImages {
    pub(super) fn new(blocking: Blocking, idle: Duration) -> Self {
        OpenImages {
            blocking,
            idle,
            slots: Mutex::default(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(&self, image: &ImageSpec, snapshot: Option<&str>) -> Arc<Slot> {
        let key = Key {
            image: image.clone(),
            snapshot: snapshot.map(str::to_owned),
        };
        Arc::clone(self.slots().entry(key).or_default())
    }

    /// Whether a caller has a handle of it.
    pub(super) fn has_users(&self, image: &ImageSpec, snapshot: Option<&str>) -> bool {
        let key = Key {
            image: image.clone(),
            snapshot: snapshot.map(str::to_owned),
        };
        self.slots().get(&key).is_some_and(|slot| slot.has_users())
    }

    /// What was opened under one name is found under another.
    pub(super) fn renamed(&self, image: &ImageSpec, name: &str) {
        let mut slots = self.slots();
        let keys: Vec<Key> = slots
            .keys()
            .filter(|key| key.image == *image)
            .cloned()
            .collect();
        for key in keys {
            if let Some(slot) = slots.remove(&key) {
                let image = ImageSpec::new(&image.pool, name);
                slots.insert(Key { image, ..key }, slot);
            }
        }
    }

    pub(super) fn snapshot_renamed(&self, snapshot: &SnapshotSpec, name: &str) {
        let key = |name: &str| Key {
            image: snapshot.image.clone(),
            snapshot: Some(name.to_owned()),
        };
        let mut slots = self.slots();
        if let Some(slot) = slots.remove(&key(&snapshot.snapshot)) {
            slots.insert(key(name), slot);
        }
    }

    /// Snapshots that nobody has open are opened anew: their image was changed in a way that
    /// handles of snapshots do not learn of.
    pub(super) fn forget_snapshot(&self, snapshot: &SnapshotSpec) {
        let key = Key {
            image: snapshot.image.clone(),
            snapshot: Some(snapshot.snapshot.clone()),
        };
        self.slots().remove(&key);
    }

    /// Closes what was not used for a while.
    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        self.slots().retain(|_, slot| {
            let idle = slot.idle_since();
            let long = idle.is_some_and(|since| now.duration_since(since) >= self.idle);
            // Somebody else's clone of the slot is about to use it.
            if !long || Arc::strong_count(slot) > 1 {
                return true;
            }
            match slot.opened.try_lock() {
                // A call that runs owns the image, too.
                Ok(opened) => opened
                    .as_ref()
                    .is_some_and(|open| Arc::strong_count(open) > 1),
                Err(_) => true,
            }
        });
    }

    pub(super) async fn close_all(&self) {
        let slots: Vec<Arc<Slot>> = self.slots().drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            close(&mut *slot.lock().await, &self.blocking).await;
        }
    }

    /// Closes what the locked slot has open and waits until it is closed. False: a call of this
    /// process keeps it open.
    pub(super) async fn close(&self, opened: &mut Opened) -> bool {
        close(opened, &self.blocking).await
    }
}

async fn close(opened: &mut Opened, blocking: &Blocking) -> bool {
    let Some(mut open) = opened.take() else {
        return true;
    };
    let began = Instant::now();
    loop {
        match Arc::try_unwrap(open) {
            Ok(mut owned) => {
                let image = owned.image.take();
                return blocking.run(PATIENCE, move || drop(image)).await.is_ok();
            }
            Err(shared) if began.elapsed() > PATIENCE => {
                *opened = Some(shared);
                return false;
            }
            Err(shared) => open = shared,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
