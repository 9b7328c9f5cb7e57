//! Which images are exported, under which names.

use std::sync::Arc;

use super::wire::transmission_flag as flag;
use crate::{Error, ImageHandle, ImageSpec, ImageStore, Result};

/// How many exports LIST names at most.
const MAX_LISTED: usize = 4096;

/// The images of a store, by export name.
pub(super) struct Exports {
    store: Arc<dyn ImageStore>,
    default_pool: String,
}

/// An opened export.
#[derive(Clone)]
pub(super) struct Export {
    pub name: String,
    pub handle: Arc<dyn ImageHandle>,
}

impl Exports {
    pub fn new(store: Arc<dyn ImageStore>, default_pool: String) -> Self {
        Exports {
            store,
            default_pool,
        }
    }

    /// Opens by name. `NotFound` also for names that cannot be.
    pub async fn open(&self, name: &str) -> Result<Export> {
        let (image, snapshot) = self
            .parse(name)
            .ok_or_else(|| Error::NotFound(format!("export {name:?}")))?;
        let handle = self.store.open(&image, snapshot).await?;
        Ok(Export {
            name: name.to_owned(),
            handle,
        })
    }

    /// The heads in the default pool, at most 4096.
    pub async fn list(&self) -> Result<Vec<String>> {
        match self.store.images(&self.default_pool).await {
            Ok(mut images) => {
                images.truncate(MAX_LISTED);
                Ok(images)
            }
            // Made with the first volume.
            Err(Error::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// `[pool/]image[@snapshot]`.
    fn parse<'a>(&self, name: &'a str) -> Option<(ImageSpec, Option<&'a str>)> {
        let (pool, rest) = name.split_once('/').unwrap_or((&self.default_pool, name));
        let (image, snapshot) = match rest.split_once('@') {
            Some((image, snapshot)) => (image, Some(snapshot)),
            None => (rest, None),
        };
        let parts = [Some(pool), Some(image), snapshot];
        let valid =
            |part: &str| !part.is_empty() && part.len() <= 255 && !part.contains(['/', '@']);
        parts
            .into_iter()
            .flatten()
            .all(valid)
            .then(|| (ImageSpec::new(pool, image), snapshot))
    }
}

impl Export {
    /// The flags that the client is told.
    pub fn flags(&self, structured_replies: bool) -> u16 {
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN;
        if structured_replies {
            flags |= flag::SEND_DF;
        }
        if self.handle.read_only() {
            flags | flag::READ_ONLY
        } else {
            flags | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    #[test]
    fn names() {
        let exports = Exports::new(Arc::new(MemoryStore::new()), "volumes".into());
        let parsed = |name| {
            exports
                .parse(name)
                .map(|(image, snapshot)| (image.pool, image.image, snapshot))
        };
        let expect =
            |pool: &str, image: &str, snapshot| Some((pool.to_owned(), image.to_owned(), snapshot));
        assert_eq!(parsed("volume-1"), expect("volumes", "volume-1", None));
        assert_eq!(
            parsed("volume-1@snapshot-2"),
            expect("volumes", "volume-1", Some("snapshot-2"))
        );
        assert_eq!(parsed("images/a@snap"), expect("images", "a", Some("snap")));
        for name in [
            "", "/", "a/", "/a", "a@", "@a", "a/b/c", "a@b@c", "a@b/c", "a/b@",
        ] {
            assert_eq!(parsed(name), None, "{name}");
        }
    }
}
