//! Images that we write are accepted by qemu-img.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use futures_util::StreamExt;
use image_formats::{DataMap, Format, Inspector, MAX_PIECE_BYTES, Qcow2Writer};
use support::{Images, assert_same, data_map, mixed_disk, noise, qemu_img, read_disk};

async fn written(disk: &[u8]) -> Vec<u8> {
    let writer = Qcow2Writer::new(data_map(disk));
    let length = writer.file_length_bytes();
    let mut file = Vec::new();
    let mut pieces = std::pin::pin!(writer.into_stream(Bytes::copy_from_slice(disk)));
    while let Some(piece) = pieces.next().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= MAX_PIECE_BYTES);
        file.extend_from_slice(&piece);
    }
    assert_eq!(file.len() as u64, length, "the announced length");
    file
}

#[tokio::test]
async fn qemu_accepts_and_reads_what_we_write() {
    let images = Images::new();
    let disks = [
        mixed_disk(20 << 20),
        vec![0; 5 << 20],
        noise(4, 512),
        noise(4, (1 << 20) + 1536),
        noise(4, 40 << 20),
        Vec::new(),
    ];
    for disk in disks {
        let file = written(&disk).await;
        let image = images.write("ours.qcow2", &file);
        qemu_img(&["check", "-f", "qcow2", image.to_str().unwrap()]);
        assert_same(&images.raw_by_qemu(&image), &disk, "read by qemu-img");
        assert_same(
            &read_disk(Bytes::from(file)).await.unwrap(),
            &disk,
            "read by ourselves",
        );
    }
}

#[tokio::test]
async fn a_large_sparse_disk_has_tables_for_its_data_only() {
    let images = Images::new();
    let size = 6_u64 << 40;
    let mut map = DataMap::new(size).unwrap();
    for offset in [0, 700 << 30, (3 << 40) + 5, size - 1] {
        map.add(offset, 1).unwrap();
    }
    let writer = Qcow2Writer::new(map);
    assert!(writer.file_length_bytes() < 4 << 20);
    let mut file = Vec::new();
    let mut pieces = std::pin::pin!(writer.into_stream(Pattern(size)));
    while let Some(piece) = pieces.next().await {
        file.extend_from_slice(&piece.unwrap());
    }
    let image = images.write("large.qcow2", &file);
    qemu_img(&["check", "-f", "qcow2", image.to_str().unwrap()]);
    let map = qemu_img(&["map", "-f", "qcow2", image.to_str().unwrap()]);
    assert_eq!(map.lines().count(), 5, "a heading and four extents: {map}");
    let mut inspector = Inspector::new();
    inspector.feed(&file);
    let inspection = inspector.finish();
    assert_eq!(
        (inspection.format, inspection.virtual_size_bytes),
        (Format::Qcow2, Some(size))
    );
}

/// A disk of ones, of any size.
struct Pattern(u64);

#[async_trait::async_trait]
impl image_formats::ByteSource for Pattern {
    fn len(&self) -> u64 {
        self.0
    }

    async fn read_at(&self, _offset: u64, length: usize) -> std::io::Result<Bytes> {
        Ok(vec![1; length].into())
    }
}
