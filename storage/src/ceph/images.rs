//! Images as a whole: create, inspect, rename, resize, clone, flatten, remove.

use std::sync::Arc;

use super::connection::Connection;
use super::native::{Errno, Image, Link, Pool, USER_NAMESPACE};
use super::open_images::OpenImage;
use super::{CephStore, features};
use crate::{Error, ImageInfo, ImageSpec, Result, SnapshotInfo, SnapshotSpec};

impl CephStore {
    /// The open head, opened for writing when it is not.
    pub(super) async fn head(
        &self,
        image: &ImageSpec,
    ) -> Result<(Arc<Connection>, Arc<OpenImage>)> {
        let (connection, pool) = self.pool(&image.pool).await?;
        let slot = connection.images.slot(image, None);
        let mut opened = slot.lock().await;
        if let Some(open) = &*opened {
            return Ok((connection, Arc::clone(open)));
        }
        let open = self
            .open_image(&connection, pool, image, None, false)
            .await?;
        *opened = Some(Arc::clone(&open));
        Ok((connection, open))
    }

    pub(super) async fn open_image(
        &self,
        connection: &Arc<Connection>,
        pool: Arc<Pool>,
        image: &ImageSpec,
        snapshot: Option<&str>,
        read_only: bool,
    ) -> Result<Arc<OpenImage>> {
        let what = match snapshot {
            None => format!("image {image}"),
            Some(name) => format!("snapshot {}", image.at(name)),
        };
        let (name, snapshot) = (image.image.clone(), snapshot.map(str::to_owned));
        let blocking = self.client.blocking.clone();
        let open = move || OpenImage::open(&pool, &name, snapshot.as_deref(), read_only, &blocking);
        self.client.call(connection, what, open).await
    }

    /// A short call that changes the image, by the one handle that this process has of it.
    pub(super) async fn on_head<T: Send + 'static>(
        &self,
        image: &ImageSpec,
        what: String,
        call: impl FnOnce(&Image) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let (connection, open) = self.head(image).await?;
        let call = move || call(open.image()?);
        self.client.call(&connection, what, call).await
    }

    /// The same for one that takes as long as there is data, and may change the size.
    pub(super) async fn long_on_head(
        &self,
        image: &ImageSpec,
        what: String,
        call: impl FnOnce(&Image) -> Result<(), Errno> + Send + 'static,
    ) -> Result<()> {
        let (connection, open) = self.head(image).await?;
        let call = move || {
            let done = call(open.image()?);
            open.refresh_size()?;
            done
        };
        self.client.long_call(&connection, what, call).await
    }

    /// A short call that reads what is known of the image. It is opened for reading, which no
    /// other client notices.
    pub(super) async fn peek<T: Send + 'static>(
        &self,
        image: &ImageSpec,
        call: impl FnOnce(&Image) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        self.peek_at(image, None, call).await
    }

    pub(super) async fn peek_at<T: Send + 'static>(
        &self,
        image: &ImageSpec,
        snapshot: Option<&str>,
        call: impl FnOnce(&Image) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let what = match snapshot {
            None => format!("image {image}"),
            Some(name) => format!("snapshot {}", image.at(name)),
        };
        let (name, snapshot) = (image.image.clone(), snapshot.map(str::to_owned));
        let look = move |pool: &Arc<Pool>| call(&pool.open(&name, snapshot.as_deref(), true)?);
        self.on_pool(&image.pool, what, look).await
    }

    pub(super) async fn create_image(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        let (connection, pool) = self.pool(&image.pool).await?;
        let (features, order) = (connection.features, self.order);
        let name = image.image.clone();
        let create = move || pool.create(&name, size_bytes, features, order);
        let what = format!("image {image}");
        self.client.call(&connection, what, create).await
    }

    pub(super) async fn image_info(&self, image: &ImageSpec) -> Result<ImageInfo> {
        self.peek(image, |image| {
            let mut snapshots = Vec::new();
            let all = image.snapshots()?;
            for one in all
                .into_iter()
                .filter(|one| one.namespace == USER_NAMESPACE)
            {
                snapshots.push(SnapshotInfo {
                    protected: image.is_protected(&one.name)?,
                    name: one.name,
                    size_bytes: one.size,
                });
            }
            Ok(ImageInfo {
                size_bytes: image.size()?,
                parent: image.parent()?.map(parent_spec),
                snapshots,
            })
        })
        .await
    }

    pub(super) async fn resize_image(&self, image: &ImageSpec, size_bytes: u64) -> Result<()> {
        let resize = move |image: &Image| image.resize(size_bytes);
        self.long_on_head(image, format!("image {image}"), resize)
            .await
    }

    pub(super) async fn rename_image(&self, image: &ImageSpec, name: &str) -> Result<()> {
        let (connection, pool) = self.pool(&image.pool).await?;
        let slot = connection.images.slot(image, None);
        // Nobody opens it by the old name meanwhile.
        let _opened = slot.lock().await;
        let (old, new) = (image.image.clone(), name.to_owned());
        let what = format!("image {image}");
        let renamed = self
            .client
            .call(&connection, what, move || rename(&pool, &old, &new))
            .await;
        match renamed {
            Err(Error::Exists(_)) => Err(Error::Exists(format!("image {}/{name}", image.pool))),
            Err(error) => Err(error),
            Ok(()) => {
                connection.images.renamed(image, name);
                Ok(())
            }
        }
    }

    pub(super) async fn make_clone(&self, parent: &SnapshotSpec, child: &ImageSpec) -> Result<()> {
        let name = parent.snapshot.clone();
        let state = self
            .peek(&parent.image, move |image| {
                Ok((image.is_protected(&name)?, image.stripe_unit()?))
            })
            .await;
        let (protected, unit_bytes) = match state {
            Err(Error::NotFound(_)) => return Err(missing_parent(self, parent).await),
            other => other?,
        };
        if !protected {
            return Err(Error::Invalid(format!(
                "snapshot {parent} is not protected"
            )));
        }
        // Cinder's rule for clones over pools: no smaller objects than the parent has.
        let order = self.order.max(unit_bytes.trailing_zeros() as u8);
        let (connection, source) = self.pool(&parent.image.pool).await?;
        let target = self.client.pool(&connection, &child.pool).await?;
        let features = connection.features;
        let (parent, name) = (parent.clone(), child.image.clone());
        let clone = move || {
            let from = (parent.image.image.as_str(), parent.snapshot.as_str());
            source.clone_to(from, (&target, &name), features, order)
        };
        let what = format!("image {child}");
        self.client.call(&connection, what, clone).await
    }

    /// Whether clients write to it at the same time: then it does without an exclusive lock and
    /// what needs one.
    pub(super) async fn share_image(&self, image: &ImageSpec, shared: bool) -> Result<()> {
        let (connection, _) = self.pool(&image.pool).await?;
        let of_one_writer = connection.features & features::OF_ONE_WRITER;
        let change = move |image: &Image| {
            let present = image.features()? & features::OF_ONE_WRITER;
            if shared {
                return match present {
                    0 => Ok(()),
                    present => image.update_features(present, false),
                };
            }
            let missing = of_one_writer & !present;
            if missing == 0 {
                return Ok(());
            }
            image.update_features(missing, true)?;
            if missing & features::OBJECT_MAP == 0 {
                return Ok(());
            }
            image.rebuild_object_map()
        };
        self.long_on_head(image, format!("image {image}"), change)
            .await
    }

    pub(super) async fn flatten_image(&self, image: &ImageSpec) -> Result<()> {
        if self.peek(image, |image| image.parent()).await?.is_none() {
            return Ok(());
        }
        let permit = self.client.flattening.acquire().await;
        let _permit = permit.map_err(|_| Error::Unavailable("it is closed".into()))?;
        let flatten = |image: &Image| match image.flatten() {
            // Another was faster.
            Err(Errno::INVAL) if matches!(image.parent(), Ok(None)) => Ok(()),
            other => other,
        };
        self.long_on_head(image, format!("image {image}"), flatten)
            .await
    }
}

/// Blocks. A rename writes the new name, turns the directory's entry, and removes the old name;
/// one that a crash has ended in between is finished.
fn rename(pool: &Pool, old: &str, new: &str) -> Result<(), Errno> {
    match pool.rename(old, new) {
        Err(Errno::EXIST) if pool.is_same_image(old, new)? => {
            if pool.images()?.iter().any(|listed| listed == new) {
                return pool.remove_name(old);
            }
            pool.remove_name(new)?;
            pool.rename(old, new)
        }
        other => other,
    }
}

/// Whether the image is missing, or its snapshot.
async fn missing_parent(store: &CephStore, parent: &SnapshotSpec) -> Error {
    match store.peek(&parent.image, |_| Ok(())).await {
        Err(error) => error,
        Ok(()) => Error::NotFound(format!("snapshot {parent}")),
    }
}

pub(super) fn parent_spec(link: Link) -> SnapshotSpec {
    ImageSpec::new(link.pool, link.image).at(link.snapshot)
}
