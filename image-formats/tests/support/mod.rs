//! Images made and checked by the real qemu-img.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::StreamExt;
use image_formats::{ByteSource, DataMap, DiskExtent, DiskReader, Format, MAX_PIECE_BYTES, Result};

/// Where the kernel counts processor time in ticks, qemu-img gives up now and then while it
/// measures how often a LUKS key must be hashed.
const TOO_COARSE_A_CLOCK: &str = "Unable to get accurate CPU usage";

/// Runs qemu-img and gives what it printed.
pub fn qemu_img(arguments: &[&str]) -> String {
    let run = || Command::new("qemu-img").args(arguments).output();
    let run = || run().expect("these tests need qemu-img on the PATH (Debian package qemu-utils)");
    let mut output = run();
    for _ in 0..50 {
        if !String::from_utf8_lossy(&output.stderr).contains(TOO_COARSE_A_CLOCK) {
            break;
        }
        output = run();
    }
    assert!(
        output.status.success(),
        "qemu-img {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bytes that look random and are the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A disk with noise, text, holes of all sizes and single bytes far apart.
pub fn mixed_disk(length: usize) -> Vec<u8> {
    let mut disk = vec![0; length];
    let mut put = |offset: usize, data: &[u8]| {
        let end = length.min(offset + data.len());
        if offset < end {
            disk[offset..end].copy_from_slice(&data[..end - offset]);
        }
    };
    put(0, &noise(1, 300_000));
    put(1 << 20, &b"all work and no play ".repeat(60_000));
    put(3 << 20, &[7; 65536]);
    put((3 << 20) + 70_000, &noise(2, 5_000));
    for step in 0..40 {
        put((4 << 20) + step * 90_112, &noise(3 + step as u64, 700));
    }
    put(length - 1000, &noise(99, 1000));
    disk
}

pub struct Images {
    folder: tempfile::TempDir,
}

impl Images {
    pub fn new() -> Self {
        Images {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, data).unwrap();
        path
    }

    /// Converts a raw file into another format, with the given further arguments.
    pub fn converted(&self, raw: &Path, format: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(&format!("disk.{format}"));
        let mut all = vec!["convert", "-f", "raw", "-O", format];
        all.extend_from_slice(arguments);
        all.extend_from_slice(&[raw.to_str().unwrap(), path.to_str().unwrap()]);
        qemu_img(&all);
        path
    }

    /// Converts a raw file into qcow2 with the given further arguments.
    pub fn qcow2(&self, raw: &Path, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut all = vec!["convert", "-f", "raw", "-O", "qcow2"];
        all.extend_from_slice(arguments);
        all.extend_from_slice(&[raw.to_str().unwrap(), path.to_str().unwrap()]);
        qemu_img(&all);
        path
    }

    /// What qemu-img reads from the image.
    pub fn raw_by_qemu(&self, image: &Path) -> Vec<u8> {
        let path = self.path("by-qemu.raw");
        qemu_img(&[
            "convert",
            "-O",
            "raw",
            image.to_str().unwrap(),
            path.to_str().unwrap(),
        ]);
        std::fs::read(path).unwrap()
    }
}

/// Reads the whole virtual disk of a qcow2 image and checks the promises on extents.
pub async fn read_disk(source: impl ByteSource) -> Result<Vec<u8>> {
    read_disk_of(source, Format::Qcow2).await
}

/// The same for a file of any format.
pub async fn read_disk_of(source: impl ByteSource, format: Format) -> Result<Vec<u8>> {
    let reader = DiskReader::open(source, format).await?;
    let size = reader.virtual_size_bytes();
    let mut disk = Vec::new();
    let mut extents = std::pin::pin!(reader.into_stream());
    while let Some(extent) = extents.next().await {
        match extent? {
            DiskExtent::Data { offset, data } => {
                assert_eq!(offset, disk.len() as u64, "extents follow each other");
                assert!(!data.is_empty() && data.len() <= MAX_PIECE_BYTES);
                disk.extend_from_slice(&data);
            }
            DiskExtent::Zero { offset, length } => {
                assert_eq!(offset, disk.len() as u64, "extents follow each other");
                assert!(length > 0 && length <= 1 << 30);
                disk.resize(disk.len() + length as usize, 0);
            }
        }
    }
    assert_eq!(disk.len() as u64, size, "extents end at the virtual size");
    Ok(disk)
}

/// `assert_eq!` on megabytes would print them.
pub fn assert_same(left: &[u8], right: &[u8], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: lengths differ");
    let differs = left
        .iter()
        .zip(right)
        .position(|(left, right)| left != right);
    assert_eq!(differs, None, "{what}: the first differing byte");
}

/// Ranges of 4 KiB that are not zero.
pub fn data_map(disk: &[u8]) -> DataMap {
    let mut map = DataMap::new(disk.len() as u64).unwrap();
    for (number, block) in disk.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            map.add(number as u64 * 4096, block.len() as u64).unwrap();
        }
    }
    map
}
