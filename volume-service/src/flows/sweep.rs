//! Gives back what was kept in a pool for volumes that have gone since, whoever left it there: a
//! Cinder service leaves the image and the snapshot that a clone hung on when it deletes the
//! clone by its short way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use database::Database;
use storage::{Error, ImageSpec, ImageStore, SnapshotInfo, SnapshotSpec};
use taskflow::TaskError;

use super::create_from_volume::CLONE_SUFFIX;
use super::create_volume::CREATING;
use super::removal::{is_kept, release_kept};
use super::steps::{BUSY, remove_snapshot, store_failure};
use crate::db::volumes;
use crate::manager::volume_id_of_image;

/// Images whose snapshots are looked at in one sweep: each has to be opened.
const IMAGES_AT_ONCE: usize = 100;

/// A snapshot that has been without its clone for so long is not of a clone in the making, whoever
/// makes it.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// The sweeps of one pool, one after the other.
pub(crate) struct Sweeper {
    /// The last image whose snapshots were looked at.
    last: String,
    /// Stray snapshots, and since when they are known.
    suspects: HashMap<SnapshotSpec, Instant>,
    grace: Duration,
}

impl Sweeper {
    pub(crate) fn new(grace: Duration) -> Self {
        Sweeper {
            last: String::new(),
            suspects: HashMap::new(),
            grace,
        }
    }

    /// Answers the names of what went.
    pub(crate) async fn sweep(
        &mut self,
        database: &Database,
        store: &dyn ImageStore,
        pool: &str,
    ) -> Result<Vec<String>, TaskError> {
        let mut gone = Vec::new();
        let names = store.images(pool).await.map_err(store_failure)?;
        for name in names.iter().filter(|name| is_kept(name)) {
            if release_kept(store, &ImageSpec::new(pool, name)).await? {
                gone.push(name.clone());
            }
        }
        if !store.flattens_instantly() {
            for image in self.next_images(pool, &names) {
                gone.extend(self.release_snapshots(database, store, &image).await?);
            }
        }
        gone.extend(store.purge(pool).await.map_err(store_failure)?);
        Ok(gone)
    }

    /// Some images of volumes; after the last of them, the first again.
    fn next_images(&mut self, pool: &str, names: &[String]) -> Vec<ImageSpec> {
        let of_volumes = |name: &&String| volume_id_of_image(name).is_some();
        let behind = names.iter().filter(of_volumes);
        let behind = behind.filter(|name| name.as_str() > self.last.as_str());
        let images: Vec<_> = behind.take(IMAGES_AT_ONCE).collect();
        self.last = match images.last() {
            Some(last) if images.len() == IMAGES_AT_ONCE => (*last).clone(),
            _ => String::new(),
        };
        let images = images.into_iter();
        images.map(|name| ImageSpec::new(pool, name)).collect()
    }

    async fn release_snapshots(
        &mut self,
        database: &Database,
        store: &dyn ImageStore,
        image: &ImageSpec,
    ) -> Result<Vec<String>, TaskError> {
        let mut gone = Vec::new();
        let stray = stray_snapshots(database, store, image).await?;
        let mut known: HashMap<_, _> = self
            .suspects
            .extract_if(|suspect, _| suspect.image == *image)
            .collect();
        for snapshot in stray {
            let since = known.remove(&snapshot);
            if since.is_none_or(|since| since.elapsed() < self.grace) {
                let since = since.unwrap_or_else(Instant::now);
                self.suspects.insert(snapshot, since);
                continue;
            }
            match remove_snapshot(store, &snapshot).await {
                Ok(()) => gone.push(snapshot.to_string()),
                // Something hangs on it after all.
                Err(error) if error.class == BUSY => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }
}

/// The snapshots of an image through which volumes were cloned that do not hang on them any more.
async fn stray_snapshots(
    database: &Database,
    store: &dyn ImageStore,
    image: &ImageSpec,
) -> Result<Vec<SnapshotSpec>, TaskError> {
    let info = match store.info(image).await {
        Ok(info) => info,
        Err(Error::NotFound(_)) => return Ok(Vec::new()),
        Err(error) => return Err(store_failure(error)),
    };
    let mut stray = Vec::new();
    for SnapshotInfo { name, .. } in info.snapshots {
        if is_stray(database, store, &image.at(&name)).await? {
            stray.push(image.at(name));
        }
    }
    Ok(stray)
}

/// Whether a snapshot was made to clone a volume through it, and nothing hangs on it.
pub(crate) async fn is_stray(
    database: &Database,
    store: &dyn ImageStore,
    snapshot: &SnapshotSpec,
) -> Result<bool, TaskError> {
    let clone = snapshot.snapshot.strip_suffix(CLONE_SUFFIX);
    let Some(clone) = clone.and_then(volume_id_of_image) else {
        return Ok(false);
    };
    let clone = volumes::get(database, clone).await?;
    if clone.is_some_and(|clone| CREATING.contains(&clone.status.as_str())) {
        return Ok(false);
    }
    match store.children(snapshot).await {
        Ok(children) => Ok(children.is_empty()),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(store_failure(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use storage::memory::MemoryStore;
    use storage::testing::TestStore;
    use uuid::Uuid;

    use super::super::testbed::{World, volume_image};
    use super::*;

    async fn world() -> World {
        World::on(
            TestStore::new(MemoryStore::new().flattening_slowly()).await,
            |_| {},
        )
        .await
    }

    async fn sweep(sweeper: &mut Sweeper, world: &World) -> Vec<String> {
        let store = world.store.as_ref();
        let swept = sweeper.sweep(&world.database, store, "volumes").await;
        swept.unwrap()
    }

    /// A protected snapshot to clone this volume through.
    async fn snapshot_for(store: &dyn ImageStore, image: &ImageSpec, clone: Uuid) -> SnapshotSpec {
        let through = image.at(format!("volume-{clone}.clone_snap"));
        store.create_snapshot(&through).await.unwrap();
        store.protect_snapshot(&through).await.unwrap();
        through
    }

    /// A chain of kept volumes whose last clone a Cinder service deleted by its short way.
    #[tokio::test]
    async fn what_cinder_left_of_a_chain_goes() {
        let world = world().await;
        let store = world.store.as_ref();
        let image = |id: u128, suffix: &str| {
            ImageSpec::new("volumes", format!("volume-{}{suffix}", Uuid::from_u128(id)))
        };
        store.create(&image(1, ".deleted"), 1).await.unwrap();
        for id in 1..4 {
            let clone = image(id + 1, if id < 3 { ".deleted" } else { "" });
            let source = image(id, ".deleted");
            let through = snapshot_for(store, &source, Uuid::from_u128(id + 1)).await;
            store.clone_image(&through, &clone).await.unwrap();
        }
        let mut sweeper = Sweeper::new(Duration::ZERO);
        assert!(sweep(&mut sweeper, &world).await.is_empty());
        store.remove(&image(4, "")).await.unwrap();
        sweep(&mut sweeper, &world).await;
        assert!(store.images("volumes").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn snapshots_that_lost_their_clone_go_in_the_second_round() {
        let world = world().await;
        let store = world.store.as_ref();
        let image = volume_image(world.filled_volume(1).await);
        // A clone of another service that lives, one that has gone, and one in the making here.
        let (alive, gone) = (Uuid::new_v4(), Uuid::new_v4());
        let through = snapshot_for(store, &image, alive).await;
        store
            .clone_image(&through, &volume_image(alive))
            .await
            .unwrap();
        let stray = snapshot_for(store, &image, gone).await;
        let making = world.volume_row(1, None).await;
        snapshot_for(store, &image, making).await;
        let mut sweeper = Sweeper::new(Duration::ZERO);
        assert!(sweep(&mut sweeper, &world).await.is_empty());
        let mut patient = Sweeper::new(GRACE);
        for _ in 0..2 {
            assert!(sweep(&mut patient, &world).await.is_empty());
        }
        assert_eq!(sweep(&mut sweeper, &world).await, [stray.to_string()]);
        assert!(sweep(&mut sweeper, &world).await.is_empty());
        let left = store.info(&image).await.unwrap().snapshots;
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn every_image_has_its_turn() {
        let mut names: Vec<String> = (0..250u128)
            .map(|id| format!("volume-{}", Uuid::from_u128(id)))
            .collect();
        names.push("somebody-elses".into());
        names.sort();
        let mut sweeper = Sweeper::new(Duration::ZERO);
        let mut lengths = [0; 4];
        let mut seen = HashSet::new();
        for length in &mut lengths {
            let images = sweeper.next_images("volumes", &names);
            *length = images.len();
            seen.extend(images);
        }
        assert_eq!((lengths, seen.len()), ([100, 100, 50, 100], 250));
    }
}
