//! Opening what a client names, if it may have it.

use std::sync::Arc;

use super::admission::{Admission, Grant, Peer, split_secret};
use super::wire::transmission_flag as flag;
use crate::{Error, ImageHandle, ImageStore, Result};

/// How many exports LIST names at most.
const MAX_LISTED: usize = 4096;

/// The images of a store, by export name.
pub(super) struct Exports {
    store: Arc<dyn ImageStore>,
    admission: Arc<dyn Admission>,
}

/// An opened export.
#[derive(Clone)]
pub(super) struct Export {
    /// As the client gave it. It may hold a secret: [`split_secret`] is for logs.
    pub name: String,
    pub handle: Arc<dyn ImageHandle>,
    pub grant: Grant,
}

impl Exports {
    pub fn new(store: Arc<dyn ImageStore>, admission: Arc<dyn Admission>) -> Self {
        Exports { store, admission }
    }

    /// Opens by name. `NotFound` also for names that cannot be and for those that the client may
    /// not use: who may not read a volume is not told that it exists.
    pub async fn open(&self, name: &str, peer: &Peer) -> Result<Export> {
        let Some(grant) = self.admission.admit(name, peer).await? else {
            let shown = split_secret(name).0;
            tracing::warn!(export = shown, ?peer, "NBD export not admitted");
            return Err(Error::NotFound(format!("export {shown:?}")));
        };
        let snapshot = grant.snapshot.as_deref();
        let handle = self.store.open(&grant.image, snapshot).await?;
        Ok(Export {
            name: name.to_owned(),
            handle,
            grant,
        })
    }

    /// Resolves when the client would not be given this any more.
    pub async fn revoked(&self, name: &str, grant: &Grant, peer: &Peer) {
        let Some(valid_for) = self.admission.valid_for() else {
            return std::future::pending().await;
        };
        let shown = split_secret(name).0;
        loop {
            tokio::time::sleep(valid_for).await;
            match self.admission.admit(name, peer).await {
                Ok(Some(now)) if now == *grant => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(export = shown, %error, "NBD admission not renewed, kept");
                }
            }
        }
        tracing::info!(
            export = shown,
            "NBD connection ends: its admission was withdrawn"
        );
    }

    /// The heads that the client may know of, at most 4096; `None` when it may know of none.
    pub async fn list(&self, peer: &Peer) -> Result<Option<Vec<String>>> {
        let Some(pool) = self.admission.listed_pool(peer) else {
            return Ok(None);
        };
        match self.store.images(pool).await {
            Ok(mut images) => {
                images.truncate(MAX_LISTED);
                Ok(Some(images))
            }
            // Made with the first volume.
            Err(Error::NotFound(_)) => Ok(Some(Vec::new())),
            Err(error) => Err(error),
        }
    }
}

impl Export {
    pub fn read_only(&self) -> bool {
        self.grant.read_only || self.handle.read_only()
    }

    /// The flags that the client is told.
    pub fn flags(&self, structured_replies: bool) -> u16 {
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE;
        if structured_replies {
            flags |= flag::SEND_DF;
        }
        if self.read_only() {
            flags | flag::READ_ONLY
        } else {
            flags | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
        }
    }
}
