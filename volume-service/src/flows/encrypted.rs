//! The disks of encrypted volumes.

use std::sync::Arc;

use bytes::Bytes;
use rest::Secret;
use storage::ImageHandle;
use taskflow::TaskError;
use uuid::Uuid;

use super::create_volume::Encryption;
use super::steps::store_failure;
use crate::keys::KeyError;
use crate::luks::{self, Encrypted, OpenError};
use crate::manager::{Manager, Placement};

/// Enough to see how long a header is.
const START_BYTES: usize = 4096;
/// The key manager does not know the key.
const NO_KEY: &str = "NoKey";

/// Gives the image a new header; the disk behind it is opened by the key. Run again, it makes
/// another header, and what was written before is lost.
pub(super) async fn format(
    manager: &Manager,
    place: &Placement<'_>,
    encryption: Encryption,
) -> Result<Encrypted, TaskError> {
    let passphrase = passphrase(manager, encryption.key_id).await?;
    let key_bits = encryption.key_bits;
    // A moment of hashing.
    let made = tokio::task::spawn_blocking(move || luks::format(passphrase.expose(), key_bits));
    let made = made
        .await
        .map_err(|error| TaskError::new("Panic", error.to_string()))?;
    let (header, cipher) = made.map_err(|error| TaskError::new("Encryption", error.to_string()))?;
    let image: Arc<dyn ImageHandle> = place
        .store()
        .open(&place.image, None)
        .await
        .map_err(store_failure)?;
    image
        .write(0, Bytes::from(header))
        .await
        .map_err(store_failure)?;
    Ok(Encrypted::new(image, cipher))
}

/// The disk of an encrypted image, opened with its key.
pub(super) async fn open(
    manager: &Manager,
    image: Arc<dyn ImageHandle>,
    key_id: Uuid,
) -> Result<Encrypted, TaskError> {
    let passphrase = passphrase(manager, key_id).await?;
    let start = image.read(0, START_BYTES).await.map_err(store_failure)?;
    let length = luks::payload_offset(&start).map_err(header_failure)?;
    let header = image.read(0, length).await.map_err(store_failure)?;
    // As long as who made the header wanted it to take.
    let opened =
        tokio::task::spawn_blocking(move || luks::open(&header, passphrase.expose())).await;
    let cipher = opened
        .map_err(|error| TaskError::new("Panic", error.to_string()))?
        .map_err(header_failure)?;
    Ok(Encrypted::behind(image, cipher, length as u64))
}

/// Deletes a key that nothing names any more. One that cannot be deleted stays, and is logged.
pub(super) async fn forget(manager: &Manager, key_id: Uuid) {
    if let Err(error) = manager.keys.delete_as_service(key_id).await {
        tracing::warn!(key = %key_id, %error, "a key that is not needed any more stays");
    }
}

async fn passphrase(manager: &Manager, key_id: Uuid) -> Result<Secret, TaskError> {
    let key = manager.keys.get(key_id).await;
    Ok(key.map_err(key_failure)?.passphrase())
}

fn header_failure(error: OpenError) -> TaskError {
    TaskError::new("Encryption", error.to_string())
}

fn key_failure(error: KeyError) -> TaskError {
    let message = error.to_string();
    match error {
        KeyError::Unavailable(_) => TaskError::retryable("KeyManagerUnavailable", message),
        KeyError::Absent | KeyError::NotFound(_) => TaskError::new(NO_KEY, message),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::process::Command;

    use super::super::create_volume::{CreateVolume, CreateVolumeParams, VolumeSource};
    use super::super::reimage_volume::{ReimageVolume, ReimageVolumeParams};
    use super::super::testbed::{HOST, World, pattern, requester, volume_image};
    use super::super::volume_queue;
    use super::*;

    const MIB: usize = 1 << 20;

    fn params(volume_id: Uuid, source: VolumeSource) -> CreateVolumeParams {
        CreateVolumeParams {
            volume_id,
            size_gib: 1,
            source,
            encryption: Some(Encryption {
                key_id: Uuid::nil(),
                key_bits: 256,
            }),
        }
    }

    async fn volume(world: &World, source: VolumeSource) -> Uuid {
        let volume_id = world.volume_row(1, None).await;
        let params = params(volume_id, source);
        let flow = CreateVolume::new_flow(&params, &volume_queue(HOST), &requester());
        assert_eq!(world.run::<CreateVolume>(flow).await, "SUCCESS");
        volume_id
    }

    async fn reads(world: &World, volume_id: Uuid, expected: &[u8]) {
        let opened = world.store.open(&volume_image(volume_id), None).await;
        let handle = opened.unwrap();
        assert_eq!(handle.size_bytes(), 1 << 30);
        qemu_reads(&handle.read(0, 16 * MIB).await.unwrap(), expected);
    }

    /// Whether QEMU opens an image that begins so with the key, and reads these bytes.
    pub(in crate::flows) fn qemu_reads(bytes: &[u8], expected: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        let (luks, raw) = (folder.path().join("luks"), folder.path().join("raw"));
        std::fs::write(&luks, bytes).unwrap();
        // The fixed key of the test bed, in digits.
        let secret = format!("secret,id=k,data={}", "5a".repeat(32));
        let image = format!("driver=luks,key-secret=k,file.filename={}", luks.display());
        let convert = Command::new("qemu-img")
            .args([
                "convert",
                "--object",
                &secret,
                "--image-opts",
                &image,
                "-O",
                "raw",
            ])
            .arg(&raw)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&convert.stderr).into_owned();
        assert!(convert.status.success(), "{text}");
        let decrypted = std::fs::read(&raw).unwrap();
        assert_eq!(decrypted.len(), 14 * MIB);
        assert!(decrypted.starts_with(expected), "other bytes");
    }

    #[tokio::test]
    async fn an_empty_volume_has_a_header() {
        let world = World::new().await;
        let id = volume(&world, VolumeSource::Empty).await;
        reads(&world, id, &[]).await;
    }

    #[tokio::test]
    async fn an_image_is_encrypted_on_its_way_zeroes_too() {
        let world = World::new().await;
        let mut disk = vec![0; 5 * MIB + 700];
        disk[4096..4096 + 10_000].copy_from_slice(&pattern(3, 10_000));
        disk[5 * MIB..].copy_from_slice(&pattern(9, 700));
        let image = world.images.add("raw", Some(disk.clone().into()), None);
        let id = volume(&world, VolumeSource::Image { image }).await;
        reads(&world, id, &disk).await;
    }

    #[tokio::test]
    async fn an_image_replaces_an_encrypted_disk() {
        let world = World::new().await;
        let id = volume(&world, VolumeSource::Empty).await;
        let disk = pattern(8, 9000).to_vec();
        let image = world.images.add("raw", Some(disk.clone().into()), None);
        world
            .set_status("volumes", id, crate::db::status::DOWNLOADING)
            .await;
        let params = ReimageVolumeParams {
            volume_id: id,
            image,
            snapshot: None,
            encryption: params(id, VolumeSource::Empty).encryption,
            previous_status: crate::db::status::AVAILABLE.to_owned(),
        };
        let flow = ReimageVolume::new_flow(&params, &volume_queue(HOST), &requester());
        assert_eq!(world.run::<ReimageVolume>(flow).await, "SUCCESS");
        reads(&world, id, &disk).await;
    }

    #[tokio::test]
    async fn without_its_key_there_is_no_volume() {
        let world = World::with(|manager| manager.keys = Default::default()).await;
        let volume_id = world.volume_row(1, None).await;
        let params = params(volume_id, VolumeSource::Empty);
        let flow = CreateVolume::new_flow(&params, &volume_queue(HOST), &requester());
        assert_eq!(world.run::<CreateVolume>(flow).await, "REVERTED");
        let status = world.column("volumes", volume_id, "status").await;
        assert_eq!(status.as_deref(), Some("error"));
        assert!(world.store.images("volumes").await.unwrap().is_empty());
    }
}
