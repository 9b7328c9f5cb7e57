//! What lies in the pools of managers: asked by the API to tell which images and snapshots could
//! be managed.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use storage::ImageSpec;

use crate::manager::Manager;
use crate::{Error, Result};

/// An image of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    pub name: String,
    pub size_bytes: u64,
    /// Oldest first.
    pub snapshots: Vec<StoredSnapshot>,
}

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSnapshot {
    pub name: String,
    pub size_bytes: u64,
}

/// The way to ask the managers.
#[async_trait]
pub trait Managers: Send + Sync + 'static {
    /// Every image of a pool (`host@backend#pool`), by name.
    ///
    /// Errors: [`Error::Unavailable`] when its manager does not answer.
    async fn images(&self, pool_name: &str) -> Result<Vec<StoredImage>>;
}

/// Where no manager can be asked.
pub struct NoManagers;

#[async_trait]
impl Managers for NoManagers {
    async fn images(&self, pool_name: &str) -> Result<Vec<StoredImage>> {
        Err(Error::Unavailable(format!(
            "The manager of {pool_name} cannot be asked."
        )))
    }
}

impl Manager {
    /// The answer to [`Managers::images`]. Errors: `NotFound` for a pool of somebody else.
    pub async fn images_in(&self, pool_name: &str) -> storage::Result<Vec<StoredImage>> {
        let backend = self
            .backends
            .values()
            .find(|backend| self.pool_name(backend) == pool_name);
        let backend = backend
            .ok_or_else(|| storage::Error::NotFound(format!("pool {pool_name} of this manager")))?;
        let mut found = Vec::new();
        for name in backend.store.images(&backend.pool).await? {
            let image = ImageSpec::new(&backend.pool, &name);
            let info = match backend.store.info(&image).await {
                Ok(info) => info,
                // Gone since the names were read.
                Err(storage::Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let snapshots = info.snapshots.into_iter().map(|snapshot| StoredSnapshot {
                name: snapshot.name,
                size_bytes: snapshot.size_bytes,
            });
            found.push(StoredImage {
                name,
                size_bytes: info.size_bytes,
                snapshots: snapshots.collect(),
            });
        }
        Ok(found)
    }
}
