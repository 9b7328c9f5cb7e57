//! VMDK images that we write are what qemu-img reads, and what we read.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use futures_util::TryStreamExt;
use image_formats::{DataMap, Format, Inspection, Inspector, VmdkWriter};
use support::{Images, assert_same, data_map, mixed_disk, noise, qemu_img, read_disk_of};

fn inspect(file: &[u8]) -> Inspection {
    let mut inspector = Inspector::new();
    inspector.feed(file);
    inspector.finish()
}

async fn written(disk: &[u8]) -> Vec<u8> {
    let writer = VmdkWriter::new(data_map(disk)).unwrap();
    let length = writer.file_length_bytes();
    let pieces = writer.into_stream(Bytes::copy_from_slice(disk));
    let file = pieces.try_collect::<Vec<Bytes>>().await.unwrap().concat();
    assert_eq!(file.len() as u64, length, "the announced length");
    file
}

#[tokio::test]
async fn qemu_accepts_and_compares_what_we_write() {
    let images = Images::new();
    let disks = [
        mixed_disk(90 << 20),
        vec![0; 5 << 20],
        noise(4, 512),
        noise(4, (1 << 20) + 1536),
        noise(4, 40 << 20),
    ];
    for disk in disks {
        let file = written(&disk).await;
        let (image, raw) = (
            images.write("ours.vmdk", &file),
            images.write("disk.raw", &disk),
        );
        let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
        qemu_img(&["check", "-f", "vmdk", image]);
        qemu_img(&["compare", "-f", "vmdk", "-F", "raw", image, raw]);
        let inspection = inspect(&file);
        assert_eq!(inspection.safety, Ok(()));
        assert_eq!(
            (inspection.format, inspection.virtual_size_bytes),
            (Format::Vmdk, Some(disk.len() as u64))
        );
        let read = read_disk_of(Bytes::from(file), Format::Vmdk).await.unwrap();
        assert_same(&read, &disk, "read by ourselves");
    }
}

#[tokio::test]
async fn both_directories_lead_to_the_same_data() {
    let images = Images::new();
    let disk = mixed_disk(40 << 20);
    let mut file = written(&disk).await;
    let field = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let (first, second) = (field(48), field(56));
    file[48..56].copy_from_slice(&second.to_le_bytes());
    file[56..64].copy_from_slice(&first.to_le_bytes());
    let image = images.write("swapped.vmdk", &file);
    let raw = images.write("disk.raw", &disk);
    let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
    qemu_img(&["compare", "-f", "vmdk", "-F", "raw", image, raw]);
}

#[test]
fn a_part_of_a_sector_is_rounded_up_and_too_much_data_refused() {
    let writer = VmdkWriter::new(DataMap::new(1000).unwrap()).unwrap();
    assert_eq!(writer.virtual_size_bytes(), 1024);
    let mut map = DataMap::new(3 << 40).unwrap();
    map.add(0, 1).unwrap();
    let writer = VmdkWriter::new(map.clone()).unwrap();
    assert!(writer.file_length_bytes() < 4 << 20);
    map.add(0, 3 << 40).unwrap();
    assert!(VmdkWriter::new(map).is_err());
}
