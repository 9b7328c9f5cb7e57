//! The keys of images of encrypted volumes: who made the image says in its properties whether its
//! key goes with it (Glance's `cinder_encryption_key_deletion_policy`).

use std::sync::Arc;

use async_trait::async_trait;
use rest::Secret;
use uuid::Uuid;

use crate::image::Image;

const KEY_ID: &str = "cinder_encryption_key_id";
const DELETION_POLICY: &str = "cinder_encryption_key_deletion_policy";
const ON_IMAGE_DELETION: &str = "on_image_deletion";

/// A key manager, as far as images need one.
#[async_trait]
pub trait KeyManager: Send + Sync {
    /// Deletes a key as the owner of `token`; one that is gone is no error. The text of an error
    /// is for the log.
    async fn delete(&self, token: &Secret, id: Uuid) -> Result<(), String>;
}

/// The key that is to go with the image; `None` where it says nothing of that, or names no key.
fn key_to_delete(image: &Image) -> Option<Uuid> {
    let property = |name: &str| image.properties.get(name)?.as_deref();
    if property(DELETION_POLICY)? != ON_IMAGE_DELETION {
        return None;
    }
    Uuid::try_parse(property(KEY_ID)?).ok()
}

/// Deletes the key of an image that is deleted. The image is gone whatever becomes of the key: an
/// operator reads of a failure in the log, as with Glance.
pub async fn delete_with(keys: Option<&Arc<dyn KeyManager>>, token: &Secret, image: &Image) {
    let (Some(keys), Some(key)) = (keys, key_to_delete(image)) else {
        return;
    };
    if let Err(error) = keys.delete(token, key).await {
        tracing::warn!(image = %image.id, %key, error, "the key of a deleted image is still there");
    }
}
