//! What the writers make of any disk is what the readers read out of it.

#![no_main]

use bytes::Bytes;
use futures_util::TryStreamExt;
use image_formats::{DataMap, DiskExtent, DiskReader, Format, Qcow2Writer, VmdkWriter};
use libfuzzer_sys::fuzz_target;

const SECTOR: usize = 512;
const DISK_BYTES_MAX: usize = 3 << 20;

/// A disk, and the map of its data: every three bytes are a place, a length and what lies there.
fn disk_of(input: &[u8]) -> Option<(Vec<u8>, DataMap)> {
    let (size, ranges) = input.split_first_chunk::<2>()?;
    let sectors = usize::from(u16::from_le_bytes(*size)) % (DISK_BYTES_MAX / SECTOR);
    let mut disk = vec![0; (sectors + 1) * SECTOR];
    let mut map = DataMap::new(disk.len() as u64).ok()?;
    for range in ranges.chunks_exact(3) {
        let offset = disk.len() * usize::from(range[0]) / 256;
        let end = disk.len().min(offset + usize::from(range[1]) * 97);
        disk[offset..end].fill(range[2]);
        map.add(offset as u64, (end - offset) as u64).ok()?;
    }
    Some((disk, map))
}

async fn read(file: Vec<u8>, format: Format) -> Vec<u8> {
    let reader = DiskReader::open(Bytes::from(file), format).await;
    let mut reader = reader.expect("a file of our own");
    let mut disk = Vec::new();
    while let Some(extent) = reader.next_extent().await.expect("an extent") {
        match extent {
            DiskExtent::Data { data, .. } => disk.extend_from_slice(&data),
            DiskExtent::Zero { length, .. } => disk.resize(disk.len() + length as usize, 0),
        }
    }
    disk
}

async fn write_and_read(disk: Vec<u8>, map: DataMap) {
    let source = Bytes::from(disk.clone());
    let qcow2 = Qcow2Writer::new(map.clone()).into_stream(source.clone());
    let qcow2: Vec<Bytes> = qcow2.try_collect().await.expect("a qcow2 file");
    assert!(read(qcow2.concat(), Format::Qcow2).await == disk);
    let vmdk = VmdkWriter::new(map).expect("a small disk");
    let vmdk: Vec<Bytes> = vmdk.into_stream(source).try_collect().await.expect("a VMDK file");
    assert!(read(vmdk.concat(), Format::Vmdk).await == disk);
}

fuzz_target!(|input: &[u8]| {
    let Some((disk, map)) = disk_of(input) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(write_and_read(disk, map));
});
