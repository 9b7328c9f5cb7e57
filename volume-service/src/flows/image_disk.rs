//! The disk in an image of the image service: its formats, and its way into a volume.

use bytes::{Bytes, BytesMut};
use image_formats::{ByteSource, DiskExtent, Qcow2Reader};
use storage::{ImageHandle, SnapshotSpec};
use taskflow::TaskError;

use super::image_source::{HttpSource, Spool, format_failure, image_failure};
use super::steps::store_failure;
use super::transfer::{HandleSource, PIECE_BYTES, Watch, check, write_sparse};
use crate::images::{Client, Image};
use crate::manager::Placement;

/// The image cannot become a volume, whatever is tried.
pub(super) const IMAGE_UNACCEPTABLE: &str = "ImageUnacceptable";
/// The image's disk is larger than the volume.
pub(super) const IMAGE_TOO_BIG: &str = "ImageTooBig";

/// The disk in an image, on its way to a volume.
pub(super) struct ImageDisk<'a> {
    pub client: &'a Client,
    pub image: &'a Image,
    /// The target reads as zeroes, so that these need not be written.
    pub is_zeroed: bool,
    pub watch: &'a dyn Watch,
}

impl ImageDisk<'_> {
    /// Writes what is not zero, and flushes. `location`: a copy of the image's file in the store
    /// of `place`, where the target is.
    pub async fn write_to(
        &self,
        target: &dyn ImageHandle,
        location: Option<&SnapshotSpec>,
        place: &Placement<'_>,
    ) -> Result<(), TaskError> {
        if is_raw(self.image) {
            self.copy_raw(target).await?;
        } else {
            self.copy_qcow2(location, place, target).await?;
        }
        target.flush().await.map_err(store_failure)
    }

    /// The file of a raw image, as it arrives.
    async fn copy_raw(&self, target: &dyn ImageHandle) -> Result<(), TaskError> {
        let download = self.client.download(self.image.id).await;
        let mut download = download.map_err(image_failure)?;
        let mut writer = PieceWriter {
            target,
            is_zeroed: self.is_zeroed,
            offset: 0,
            piece: BytesMut::with_capacity(PIECE_BYTES),
        };
        let length_bytes = self.image.size.unwrap_or(u64::MAX).max(1);
        while let Some(chunk) = Client::next_chunk(&mut download)
            .await
            .map_err(image_failure)?
        {
            check(self.watch)?;
            let end = writer.end().saturating_add(chunk.len() as u64);
            check_room(end, target.size_bytes())?;
            writer.push(&chunk).await?;
            self.watch.progress(end as f64 / length_bytes as f64).await;
        }
        let length_bytes = writer.end();
        writer.write().await?;
        check_complete(length_bytes, self.image)
    }

    /// The disk of a qcow2 image, read from its copy in this store, or in ranges over HTTP, or,
    /// where the image service refuses ranges, from a temporary copy in the store.
    async fn copy_qcow2(
        &self,
        location: Option<&SnapshotSpec>,
        place: &Placement<'_>,
        target: &dyn ImageHandle,
    ) -> Result<(), TaskError> {
        if let Some(location) = location {
            let opened = place
                .store()
                .open(&location.image, Some(&location.snapshot));
            let handle = opened.await.map_err(store_failure)?;
            let size_bytes = handle.size_bytes();
            let length_bytes = self.image.size.unwrap_or(size_bytes).min(size_bytes);
            let source = HandleSource {
                handle,
                length_bytes,
            };
            return self.copy_disk(source, target).await;
        }
        let length_bytes = match self.image.size {
            Some(size) => size,
            None => {
                let shown = self.client.show_as_service(self.image.id).await;
                shown.map_err(image_failure)?.size.unwrap_or(0)
            }
        };
        let source = HttpSource {
            client: self.client.clone(),
            image_id: self.image.id,
            length_bytes,
        };
        if source.takes_ranges().await.map_err(image_failure)? {
            return self.copy_disk(source, target).await;
        }
        let spool = Spool::of(place);
        let source = spool
            .fill(self.client, self.image.id, length_bytes, self.watch)
            .await?;
        self.copy_disk(source, target).await?;
        spool.remove().await
    }

    async fn copy_disk(
        &self,
        source: impl ByteSource,
        target: &dyn ImageHandle,
    ) -> Result<(), TaskError> {
        let mut reader = Qcow2Reader::open(source).await.map_err(format_failure)?;
        let size_bytes = reader.virtual_size_bytes();
        check_room(size_bytes, target.size_bytes())?;
        while let Some(extent) = reader.next_extent().await.map_err(format_failure)? {
            check(self.watch)?;
            let end = match extent {
                DiskExtent::Data { offset, data } => {
                    write(target, self.is_zeroed, offset, &data).await?;
                    offset.saturating_add(data.len() as u64)
                }
                DiskExtent::Zero { offset, length } => {
                    if !self.is_zeroed {
                        let zeroed = target.write_zeroes(offset, length).await;
                        zeroed.map_err(store_failure)?;
                    }
                    offset.saturating_add(length)
                }
            };
            let fraction = end as f64 / size_bytes.max(1) as f64;
            self.watch.progress(fraction).await;
        }
        Ok(())
    }
}

/// Gathers chunks of any length into pieces worth writing.
pub(super) struct PieceWriter<'a> {
    pub target: &'a dyn ImageHandle,
    /// As in [`ImageDisk`].
    pub is_zeroed: bool,
    pub offset: u64,
    pub piece: BytesMut,
}

impl PieceWriter<'_> {
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.piece.len() as u64)
    }

    pub async fn push(&mut self, mut chunk: &[u8]) -> Result<(), TaskError> {
        while !chunk.is_empty() {
            let (now, later) = chunk.split_at(chunk.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            chunk = later;
            if self.piece.len() == PIECE_BYTES {
                self.write().await?;
            }
        }
        Ok(())
    }

    pub async fn write(&mut self) -> Result<(), TaskError> {
        let piece: Bytes = self.piece.split().freeze();
        write(self.target, self.is_zeroed, self.offset, &piece).await?;
        self.offset = self.offset.saturating_add(piece.len() as u64);
        self.piece.reserve(PIECE_BYTES);
        Ok(())
    }
}

async fn write(
    target: &dyn ImageHandle,
    is_zeroed: bool,
    offset: u64,
    data: &Bytes,
) -> Result<(), TaskError> {
    if is_zeroed {
        return write_sparse(target, offset, data).await;
    }
    if data.is_empty() {
        return Ok(());
    }
    let written = target.write(offset, data.clone()).await;
    written.map_err(store_failure)
}

/// Formats whose file is the disk.
pub(super) fn is_raw(image: &Image) -> bool {
    matches!(
        image.disk_format.as_deref(),
        Some("raw" | "iso" | "ami" | "ari" | "aki")
    )
}

pub(super) fn check_formats(image: &Image) -> Result<(), TaskError> {
    let known = is_raw(image) || image.disk_format.as_deref() == Some("qcow2");
    let bare = matches!(
        image.container_format.as_deref(),
        Some("bare" | "ami" | "ari" | "aki")
    );
    if known && bare {
        return Ok(());
    }
    let (disk, container) = (
        image.disk_format.as_deref(),
        image.container_format.as_deref(),
    );
    let formats = format!(
        "{} in {}",
        disk.unwrap_or("none"),
        container.unwrap_or("none")
    );
    let text = format!(
        "image {}: format {formats} cannot become a volume, only raw and qcow2 can",
        image.id
    );
    Err(TaskError::new(IMAGE_UNACCEPTABLE, text))
}

/// Whether a disk fits into a volume's image, or behind its header.
pub(super) fn check_room(disk_bytes: u64, room_bytes: u64) -> Result<(), TaskError> {
    if disk_bytes <= room_bytes {
        return Ok(());
    }
    let text = format!("the image's disk of {disk_bytes} bytes does not fit into {room_bytes}");
    Err(TaskError::new(IMAGE_TOO_BIG, text))
}

fn check_complete(length_bytes: u64, image: &Image) -> Result<(), TaskError> {
    match image.size {
        Some(size) if size != length_bytes => {
            let text = format!(
                "{length_bytes} of {size} bytes of image {} arrived",
                image.id
            );
            Err(TaskError::retryable("ImageServiceUnavailable", text))
        }
        _ => Ok(()),
    }
}
