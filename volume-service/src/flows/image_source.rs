//! Where the file of an image is read from: ranges over HTTP, or a temporary copy in the store.
//! And what a flow does about failures of the image service and of image formats.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use image_formats::ByteSource;
use storage::{ImageSpec, ImageStore, SnapshotSpec};
use taskflow::TaskError;
use uuid::Uuid;

use super::image_disk::{IMAGE_UNACCEPTABLE, PieceWriter};
use super::steps::{ensure_image, remove_image, store_failure};
use super::transfer::{HandleSource, PIECE_BYTES, Watch, check};
use crate::images::{self, Client};
use crate::manager::Placement;

/// An image file read in ranges.
pub(super) struct HttpSource {
    pub client: Client,
    pub image_id: Uuid,
    pub length_bytes: u64,
}

impl HttpSource {
    /// Whether the image service can read parts of this image.
    pub async fn takes_ranges(&self) -> images::Result<bool> {
        let length = self.length_bytes.min(512) as usize;
        match self.client.read_range(self.image_id, 0, length).await {
            Ok(_) => Ok(true),
            Err(images::Error::RangeRefused) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl ByteSource for HttpSource {
    fn len(&self) -> u64 {
        self.length_bytes
    }

    async fn read_at(&self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        if offset
            .checked_add(length as u64)
            .is_none_or(|end| end > self.length_bytes)
        {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.client
            .read_range(self.image_id, offset, length)
            .await
            .map_err(std::io::Error::other)
    }
}

/// A temporary copy of an image file beside the volume that is made of it.
pub(super) struct Spool<'a> {
    store: &'a dyn ImageStore,
    image: ImageSpec,
}

impl<'a> Spool<'a> {
    /// `volume-<id>.image`
    pub fn of(target: &'a Placement<'_>) -> Self {
        let image = ImageSpec::new(&target.image.pool, format!("{}.image", target.image.image));
        Spool {
            store: target.store(),
            image,
        }
    }

    pub async fn remove(&self) -> Result<(), TaskError> {
        remove_image(self.store, &self.image).await
    }

    /// Downloads the whole file anew.
    pub async fn fill(
        &self,
        client: &Client,
        image_id: Uuid,
        length_bytes: u64,
        watch: &dyn Watch,
    ) -> Result<HandleSource, TaskError> {
        self.remove().await?;
        ensure_image(self.store, &self.image, length_bytes).await?;
        let handle = self
            .store
            .open(&self.image, None)
            .await
            .map_err(store_failure)?;
        let mut download = client.download(image_id).await.map_err(image_failure)?;
        let piece = BytesMut::with_capacity(PIECE_BYTES);
        let mut writer = PieceWriter {
            target: handle.as_ref(),
            is_zeroed: true,
            offset: 0,
            piece,
        };
        while let Some(chunk) = Client::next_chunk(&mut download)
            .await
            .map_err(image_failure)?
        {
            check(watch)?;
            writer.push(&chunk).await?;
        }
        let arrived = writer.end();
        writer.write().await?;
        if arrived != length_bytes {
            let text = format!("{arrived} of {length_bytes} bytes of image {image_id} arrived");
            return Err(TaskError::retryable("ImageServiceUnavailable", text));
        }
        Ok(HandleSource {
            handle,
            length_bytes,
        })
    }
}

/// What a flow does about a failure of the image service.
pub(super) fn image_failure(error: images::Error) -> TaskError {
    let message = error.to_string();
    match error {
        images::Error::NotFound(_) => TaskError::new("ImageNotFound", message),
        images::Error::Unavailable(_) => TaskError::retryable("ImageServiceUnavailable", message),
        _ => TaskError::new("ImageService", message),
    }
}

/// What a flow does about an image that cannot be read.
pub(super) fn format_failure(error: image_formats::Error) -> TaskError {
    let message = error.to_string();
    let image_formats::Error::Source(source) = error else {
        return TaskError::new(IMAGE_UNACCEPTABLE, message);
    };
    if source.kind() == std::io::ErrorKind::UnexpectedEof {
        return TaskError::new(IMAGE_UNACCEPTABLE, "the image ends too early");
    }
    let inner = source.into_inner();
    match inner.map(|inner| inner.downcast::<storage::Error>()) {
        Some(Ok(error)) => store_failure(*error),
        _ => TaskError::retryable("ImageServiceUnavailable", message),
    }
}

/// The parts of `rbd://<fsid>/<pool>/<image>/<snapshot>`; `None` for any other URL.
pub(super) fn parse_location(url: &str) -> Option<(String, SnapshotSpec)> {
    let parts: Option<Vec<String>> = url
        .strip_prefix("rbd://")?
        .split('/')
        .map(unquote)
        .collect();
    let [fsid, pool, image, snapshot] = <[String; 4]>::try_from(parts?).ok()?;
    let empty = [&fsid, &pool, &image, &snapshot]
        .iter()
        .any(|part| part.is_empty());
    (!empty).then(|| (fsid, ImageSpec::new(pool, image).at(snapshot)))
}

/// Decodes `%xx`; `None` when that is not UTF-8 or cut.
fn unquote(part: &str) -> Option<String> {
    let mut bytes = part.bytes();
    let mut decoded = Vec::with_capacity(part.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_locations_of_four_parts_are_ours() {
        let (fsid, snapshot) = parse_location("rbd://f-1/im%2Fages/a%20b/snap").unwrap();
        assert_eq!(
            (fsid.as_str(), snapshot),
            ("f-1", ImageSpec::new("im/ages", "a b").at("snap"))
        );
        let others = [
            "rbd://image",
            "rbd://a/b/c",
            "rbd://a/b/c/",
            "rbd://a/b/c/d/e",
            "http://a/b/c/d",
            "rbd://a/b/c/%f",
        ];
        for other in others {
            assert_eq!(parse_location(other), None, "{other}");
        }
    }
}
