//! Compares a pool with the rows of its volumes: what neither a row nor a clone explains, and what
//! rows miss. Where there is no doubt it can be put right; what may be another service's, which
//! shares the pool, is only told.
//!
//! Nothing that a flow works on counts, and the caller looks twice: what is made or removed
//! meanwhile is no fault.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use database::Database;
use storage::{Error, ImageInfo, ImageSpec, ImageStore, SnapshotInfo, SnapshotSpec};
use taskflow::TaskError;
use uuid::Uuid;

use crate::backup::chain::BackupSnapshot;
use crate::db::volumes::{self, Volume};
use crate::db::{backups, snapshots, status};
use crate::flows::removal::{is_kept, release_kept};
use crate::flows::steps::{remove_image, remove_snapshot, store_failure};
use crate::flows::sweep::is_stray;
use crate::manager::{snapshot_id_of_name, snapshot_name, volume_id_of_image, volume_image_name};

/// The states in which no flow works on a volume.
const RESTING: &[&str] = &[
    status::AVAILABLE,
    status::IN_USE,
    status::RESERVED,
    status::AWAITING_TRANSFER,
    status::ERROR,
    status::ERROR_DELETING,
    status::ERROR_EXTENDING,
    status::ERROR_RESTORING,
];
/// Resting, and whole.
const WHOLE: &[&str] = &[status::AVAILABLE, status::IN_USE, status::RESERVED];

/// A pool, and who has volumes in it.
pub struct PoolCheck<'a> {
    pub database: &'a Database,
    pub store: &'a dyn ImageStore,
    pub pool: &'a str,
    /// `host@backend#pool`, as the rows of its volumes name it.
    pub host: &'a str,
    /// Store and pool of the backups.
    pub backups: (&'a dyn ImageStore, &'a str),
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Finding {
    /// A volume was cloned through it, which does not hang on it any more.
    StraySnapshot(SnapshotSpec),
    /// Of a backup that has gone.
    BackupSnapshot(SnapshotSpec),
    /// Can be removed by anybody, which would take the row's bytes.
    Unprotected(SnapshotSpec),
    /// Kept for clones, of which there is none.
    Kept(ImageSpec),
    /// A name without an image: the rest of one that was being made or removed.
    Remains(ImageSpec),
    /// No row has it, and it may be somebody else's.
    UnknownImage(ImageSpec),
    UnknownSnapshot(SnapshotSpec),
    /// A row has none.
    NoImage(Uuid),
    NoSnapshot(Uuid),
    /// Smaller than its row says.
    TooSmall(ImageSpec),
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::StraySnapshot(at) => write!(formatter, "{at}: its clone has gone"),
            Finding::BackupSnapshot(at) => write!(formatter, "{at}: its backup has gone"),
            Finding::Unprotected(at) => write!(formatter, "{at}: not protected"),
            Finding::Kept(image) => write!(formatter, "{image}: kept for clones that have gone"),
            Finding::Remains(image) => write!(formatter, "{image}: a name without an image"),
            Finding::UnknownImage(image) => write!(formatter, "{image}: no volume has this image"),
            Finding::UnknownSnapshot(at) => write!(formatter, "{at}: nobody knows it"),
            Finding::NoImage(id) => write!(formatter, "volume {id}: it has no image"),
            Finding::NoSnapshot(id) => write!(formatter, "snapshot {id}: it is not in the pool"),
            Finding::TooSmall(image) => write!(formatter, "{image}: smaller than its volume"),
        }
    }
}

impl Finding {
    /// Whether there is no doubt what is to be done.
    pub fn can_be_repaired(&self) -> bool {
        use Finding::*;
        match self {
            StraySnapshot(_) | BackupSnapshot(_) | Unprotected(_) | Kept(_) | Remains(_) => true,
            UnknownImage(_) | UnknownSnapshot(_) | NoImage(_) | NoSnapshot(_) | TooSmall(_) => {
                false
            }
        }
    }

    /// Puts it right. Run again, it does nothing more.
    pub async fn repair(&self, store: &dyn ImageStore) -> Result<(), TaskError> {
        match self {
            Finding::StraySnapshot(snapshot) | Finding::BackupSnapshot(snapshot) => {
                remove_snapshot(store, snapshot).await
            }
            Finding::Unprotected(snapshot) => {
                let protected = store.protect_snapshot(snapshot).await;
                protected.map_err(store_failure)
            }
            Finding::Kept(image) => release_kept(store, image).await.map(drop),
            Finding::Remains(image) => remove_image(store, image).await,
            _ => Ok(()),
        }
    }
}

impl PoolCheck<'_> {
    /// Looks once.
    pub async fn look(&self) -> Result<HashSet<Finding>, TaskError> {
        let rows = volumes::of_host(self.database, self.host).await?;
        let mut rows: BTreeMap<String, Volume> = rows
            .into_iter()
            .map(|row| (volume_image_name(row.id), row))
            .collect();
        let alive = self.backup_snapshots().await?;
        let mut found = HashSet::new();
        for name in self.store.images(self.pool).await.map_err(store_failure)? {
            let image = ImageSpec::new(self.pool, &name);
            let row = rows.remove(&name);
            if row.as_ref().is_some_and(|row| !is_resting(row)) {
                continue;
            }
            match (self.store.info(&image).await, row) {
                (Err(Error::NotFound(_)), None) => {
                    found.insert(Finding::Remains(image));
                }
                (Err(Error::NotFound(_)), Some(row)) => {
                    found.insert(Finding::NoImage(row.id));
                }
                (Err(error), _) => return Err(store_failure(error)),
                (Ok(info), None) if is_kept(&name) => {
                    self.look_at_kept(image, info, &mut found).await?;
                }
                (Ok(_), None) => {
                    if self.is_unknown(&name).await? {
                        found.insert(Finding::UnknownImage(image));
                    }
                }
                (Ok(info), Some(row)) => {
                    self.look_at_volume(&row, image, info, &alive, &mut found)
                        .await?;
                }
            }
        }
        let without = rows.into_values().filter(is_whole);
        found.extend(without.map(|row| Finding::NoImage(row.id)));
        Ok(found)
    }

    /// The names of all snapshots of backups that are in the backups' pool, whoever made them.
    async fn backup_snapshots(&self) -> Result<HashSet<String>, TaskError> {
        let (store, pool) = self.backups;
        let mut names = HashSet::new();
        for image in store.images(pool).await.map_err(store_failure)? {
            match store.info(&ImageSpec::new(pool, image)).await {
                Ok(info) => names.extend(info.snapshots.into_iter().map(|one| one.name)),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        Ok(names)
    }

    async fn look_at_kept(
        &self,
        image: ImageSpec,
        info: ImageInfo,
        found: &mut HashSet<Finding>,
    ) -> Result<(), TaskError> {
        for SnapshotInfo { name, .. } in info.snapshots {
            match self.store.children(&image.at(name)).await {
                Ok(children) if children.is_empty() => {}
                Ok(_) => return Ok(()),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        found.insert(Finding::Kept(image));
        Ok(())
    }

    /// Whether an image is named as a volume's, and no row is this volume's, in whatever state.
    async fn is_unknown(&self, name: &str) -> Result<bool, TaskError> {
        let Some(id) = volume_id_of_image(name) else {
            return Ok(false);
        };
        Ok(volumes::get(self.database, id).await?.is_none())
    }

    async fn look_at_volume(
        &self,
        row: &Volume,
        image: ImageSpec,
        info: ImageInfo,
        alive: &HashSet<String>,
        found: &mut HashSet<Finding>,
    ) -> Result<(), TaskError> {
        if is_whole(row) && info.size_bytes < u64::from(row.size_gib) << 30 {
            found.insert(Finding::TooSmall(image.clone()));
        }
        for held in snapshots::of_volume(self.database, row.id).await? {
            let name = snapshot_name(held.id);
            let is_there = info.snapshots.iter().any(|one| one.name == name);
            if held.status == status::AVAILABLE && !is_there {
                found.insert(Finding::NoSnapshot(held.id));
            }
        }
        for snapshot in info.snapshots {
            let fault = self
                .fault_of_snapshot(image.at(&snapshot.name), snapshot.protected, alive)
                .await?;
            found.extend(fault);
        }
        Ok(())
    }

    async fn fault_of_snapshot(
        &self,
        at: SnapshotSpec,
        protected: bool,
        alive: &HashSet<String>,
    ) -> Result<Option<Finding>, TaskError> {
        let name = at.snapshot.as_str();
        if let Some(id) = snapshot_id_of_name(name) {
            return Ok(match snapshots::get(self.database, id).await? {
                None => Some(Finding::UnknownSnapshot(at)),
                Some(row) if row.status == status::AVAILABLE && !protected => {
                    Some(Finding::Unprotected(at))
                }
                Some(_) => None,
            });
        }
        if let Some(backup) = BackupSnapshot::parse(name) {
            let is_ours = backups::get(self.database, backup.backup_id)
                .await?
                .is_some();
            let is_alive = is_ours || alive.contains(name);
            return Ok((!is_alive).then_some(Finding::BackupSnapshot(at)));
        }
        if name.ends_with(crate::flows::CLONE_SUFFIX) {
            let is_stray = is_stray(self.database, self.store, &at).await?;
            return Ok(is_stray.then_some(Finding::StraySnapshot(at)));
        }
        Ok(Some(Finding::UnknownSnapshot(at)))
    }
}

fn is_resting(row: &Volume) -> bool {
    RESTING.contains(&row.status.as_str())
}

fn is_whole(row: &Volume) -> bool {
    WHOLE.contains(&row.status.as_str())
}

#[cfg(test)]
mod tests {
    use storage::memory::MemoryStore;
    use storage::testing::TestStore;

    use super::*;
    use crate::flows::VolumeSource;
    use crate::flows::testbed::{HOST, World, volume_image};

    async fn look(world: &World) -> HashSet<Finding> {
        let store = world.store.as_ref();
        let check = PoolCheck {
            database: &world.database,
            store,
            pool: "volumes",
            host: HOST,
            backups: (store, "backups"),
        };
        check.look().await.unwrap()
    }

    /// Everything that flows leave is as it should be, on an engine that flattens slowly.
    async fn world() -> (World, Uuid, Uuid) {
        let world = World::on(
            TestStore::new(MemoryStore::new().flattening_slowly()).await,
            |_| {},
        )
        .await;
        let volume_id = world.filled_volume(3).await;
        let snapshot_id = world.snapshot(volume_id).await;
        world.backup(volume_id, None).await;
        let source = VolumeSource::Volume { volume_id };
        world.volume(1, source).await;
        assert_eq!(look(&world).await, HashSet::new());
        (world, volume_id, snapshot_id)
    }

    #[tokio::test]
    async fn leftovers_are_found_and_repaired() {
        let (world, volume_id, snapshot_id) = world().await;
        let store = world.store.as_ref();
        let image = volume_image(volume_id);
        let stray = image.at(format!("volume-{}.clone_snap", Uuid::new_v4()));
        let of_backup = image.at(format!("backup.{}.snap.1.00", Uuid::new_v4()));
        // A backup that another service knows.
        let base = ImageSpec::new("backups", "volume-x.backup.y");
        let of_others = format!("backup.{}.snap.2.00", Uuid::new_v4());
        store.create(&base, 1).await.unwrap();
        for made in [
            &stray,
            &of_backup,
            &image.at(&of_others),
            &base.at(&of_others),
        ] {
            store.create_snapshot(made).await.unwrap();
        }
        store.protect_snapshot(&stray).await.unwrap();
        let snapshot = image.at(snapshot_name(snapshot_id));
        store.unprotect_snapshot(&snapshot).await.unwrap();
        let name = format!("volume-{}.deleted", Uuid::new_v4());
        let kept = ImageSpec::new("volumes", name);
        store.create(&kept, 1).await.unwrap();
        let found = look(&world).await;
        let expected = [
            Finding::StraySnapshot(stray),
            Finding::BackupSnapshot(of_backup),
            Finding::Unprotected(snapshot),
            Finding::Kept(kept),
        ];
        assert_eq!(found, expected.into());
        for finding in found {
            assert!(finding.can_be_repaired());
            finding.repair(store).await.unwrap();
        }
        assert_eq!(look(&world).await, HashSet::new());
    }

    #[tokio::test]
    async fn what_may_be_somebody_elses_and_what_is_missing_is_told() {
        let (world, volume_id, _) = world().await;
        let store = world.store.as_ref();
        let image = volume_image(volume_id);
        let other = volume_image(Uuid::new_v4());
        store.create(&other, 1).await.unwrap();
        let mine = ImageSpec::new("volumes", "an operators");
        store.create(&mine, 1).await.unwrap();
        let unknown = image.at("by-hand");
        store.create_snapshot(&unknown).await.unwrap();
        let small = world.filled_volume(1).await;
        store.resize(&volume_image(small), 1 << 20).await.unwrap();
        let lost = world.filled_volume(1).await;
        store.remove(&volume_image(lost)).await.unwrap();
        let lost_snapshot = world.snapshot_row(volume_id).await;
        world
            .set_status("snapshots", lost_snapshot, status::AVAILABLE)
            .await;
        let making = world.volume_row(1, None).await;
        let expected = HashSet::from([
            Finding::UnknownImage(other),
            Finding::UnknownSnapshot(unknown),
            Finding::TooSmall(volume_image(small)),
            Finding::NoImage(lost),
            Finding::NoSnapshot(lost_snapshot),
        ]);
        let found = look(&world).await;
        assert_eq!(found, expected, "{making}");
        assert!(found.iter().all(|finding| !finding.can_be_repaired()));
    }
}
