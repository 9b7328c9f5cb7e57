//! Snapshots and who was cloned from them.

use super::CephStore;
use super::native::{Errno, Image, USER_NAMESPACE};
use crate::{Error, ImageSpec, Result, SnapshotSpec};

impl CephStore {
    /// A short call that changes a snapshot of an open head.
    pub(super) async fn on_snapshot<T: Send + 'static>(
        &self,
        snapshot: &SnapshotSpec,
        call: impl FnOnce(&Image) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        self.on_head(&snapshot.image, format!("snapshot {snapshot}"), call)
            .await
    }

    pub(super) async fn give_snapshot_name(
        &self,
        snapshot: &SnapshotSpec,
        name: &str,
    ) -> Result<()> {
        let (old, new) = (snapshot.snapshot.clone(), name.to_owned());
        let what = format!("snapshot {snapshot}");
        // A missing source is told before a taken name.
        let rename = move |image: &Image| {
            image.is_protected(&old)?;
            image.rename_snapshot(&old, &new)
        };
        let renamed = self.on_head(&snapshot.image, what, rename).await;
        match renamed {
            Err(Error::Exists(_)) => Err(Error::Exists(format!(
                "snapshot {}",
                snapshot.image.at(name)
            ))),
            Err(error) => Err(error),
            Ok(()) => {
                let connection = self.client.connection().await?;
                connection.images.snapshot_renamed(snapshot, name);
                Ok(())
            }
        }
    }

    pub(super) async fn clones_of(&self, snapshot: &SnapshotSpec) -> Result<Vec<ImageSpec>> {
        let list = |image: &Image| image.children();
        let links = self
            .peek_at(&snapshot.image, Some(&snapshot.snapshot), list)
            .await?;
        let mut clones: Vec<ImageSpec> = links
            .into_iter()
            .filter(|link| !link.trashed)
            .map(|link| ImageSpec::new(link.pool, link.image))
            .collect();
        clones.sort();
        Ok(clones)
    }

    pub(super) async fn unprotect(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let clones = self.clones_of(snapshot).await?;
        let busy = |children| Error::Busy {
            what: format!("snapshot {snapshot}"),
            children,
        };
        if !clones.is_empty() {
            return Err(busy(clones));
        }
        let name = snapshot.snapshot.clone();
        let unprotect = move |image: &Image| match image.unprotect_snapshot(&name) {
            // It is not protected.
            Err(Errno::INVAL) => Ok(()),
            other => other,
        };
        self.on_snapshot(snapshot, unprotect).await
    }

    pub(super) async fn drop_snapshot(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let (connection, _) = self.head(&snapshot.image).await?;
        let name = snapshot.snapshot.clone();
        let protected = self
            .on_snapshot(snapshot, move |image| image.is_protected(&name))
            .await?;
        let images = &connection.images;
        if protected || images.has_users(&snapshot.image, Some(&snapshot.snapshot)) {
            return Err(Error::Busy {
                what: format!("snapshot {snapshot}"),
                children: self.clones_of(snapshot).await?,
            });
        }
        images.forget_snapshot(snapshot);
        let name = snapshot.snapshot.clone();
        self.on_snapshot(snapshot, move |image| image.remove_snapshot(&name))
            .await
    }

    /// By a handle of its own that takes the exclusive lock: for every other change librbd asks
    /// the client that has the lock for it, or to make the change, but this one it refuses.
    pub(super) async fn return_to(&self, snapshot: &SnapshotSpec) -> Result<()> {
        let (connection, pool) = self.pool(&snapshot.image.pool).await?;
        let slot = connection.images.slot(&snapshot.image, None);
        // This process's other handle is neither opened nor closed meanwhile.
        let opened = slot.lock().await;
        let other = opened.clone();
        let (image, name) = (snapshot.image.image.clone(), snapshot.snapshot.clone());
        let roll_back = move || {
            let image = pool.open(&image, None, false)?;
            image.take_lock()?;
            image.roll_back(&name)?;
            drop(image);
            other.map_or(Ok(()), |other| other.refresh_size())
        };
        let what = format!("snapshot {snapshot}");
        self.client.long_call(&connection, what, roll_back).await
    }

    /// Ids of two snapshots of an image, for their order in time.
    pub(super) fn snapshot_id(image: &Image, name: &str) -> Result<u64, Errno> {
        let snapshots = image.snapshots()?;
        let mut of_users = snapshots
            .iter()
            .filter(|one| one.namespace == USER_NAMESPACE);
        let found = of_users.find(|one| one.name == name);
        found.map(|one| one.id).ok_or(Errno::NOENT)
    }
}
