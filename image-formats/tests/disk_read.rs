//! Disks in files that qemu-img made are read byte for byte, and what must not be read is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use image_formats::{DiskReader, Error, FileSource, Format};
use support::{Images, assert_same, mixed_disk, noise, qemu_img, read_disk_of};

const KINDS: &[(Format, &str, &[&str])] = &[
    (Format::Raw, "raw", &[]),
    (Format::Qcow2, "qcow2", &["-c"]),
    (Format::Vmdk, "vmdk", &[]),
    (Format::Vmdk, "vmdk", &["-o", "subformat=streamOptimized"]),
    (Format::Vmdk, "vmdk", &["-o", "zeroed_grain=on"]),
    (Format::Vhd, "vpc", &["-o", "force_size=on"]),
    (Format::Vhd, "vpc", &["-o", "force_size=on,subformat=fixed"]),
    (Format::Vhdx, "vhdx", &[]),
    (Format::Vhdx, "vhdx", &["-o", "block_size=1M"]),
    (Format::Vhdx, "vhdx", &["-o", "subformat=fixed"]),
    (Format::Vdi, "vdi", &[]),
    (Format::Vdi, "vdi", &["-o", "static=on"]),
];

#[tokio::test]
async fn every_format_is_read_like_qemu_does() {
    let images = Images::new();
    for size in [12 << 20, (5 << 20) + 512] {
        let disk = mixed_disk(size);
        let raw = images.write("disk", &disk);
        for (format, name, more) in KINDS {
            let image = images.converted(&raw, name, more);
            let read = read_disk_of(FileSource::open(&image).await.unwrap(), *format).await;
            let mut read = read.unwrap_or_else(|error| panic!("{name} {more:?}: {error}"));
            // Some formats count in larger units than sectors; the rest is zero.
            assert!(
                read.len() >= size && read.len() < size + (1 << 20),
                "{name}"
            );
            let rest = read.split_off(size);
            assert!(rest.iter().all(|byte| *byte == 0), "{name}");
            assert_same(&read, &disk, &format!("{name} {more:?} of {size} bytes"));
        }
    }
}

#[tokio::test]
async fn a_large_sparse_disk_is_mostly_zero_extents() {
    let images = Images::new();
    for (format, name) in [
        (Format::Vmdk, "vmdk"),
        (Format::Vhd, "vpc"),
        (Format::Vhdx, "vhdx"),
        (Format::Vdi, "vdi"),
    ] {
        let image = images.path(name);
        let path = image.to_str().unwrap();
        qemu_img(&["create", "-q", "-f", name, path, "100G"]);
        let source = FileSource::open(&image).await.unwrap();
        let mut reader = DiskReader::open(source, format).await.unwrap();
        let mut extents = 0;
        while reader.next_extent().await.unwrap().is_some() {
            extents += 1;
        }
        assert!((100..=110).contains(&extents), "{name}: {extents} extents");
    }
}

/// The image with bytes changed; what opening it says.
async fn opened(image: &[u8], format: Format, changes: &[(usize, &[u8])]) -> Result<(), Error> {
    let mut image = image.to_vec();
    for (offset, bytes) in changes {
        image[*offset..*offset + bytes.len()].copy_from_slice(bytes);
    }
    let mut reader = DiskReader::open(Bytes::from(image), format).await?;
    while reader.next_extent().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn children_and_unfinished_files_are_refused() {
    let images = Images::new();
    let raw = images.write("disk", &noise(3, 3 << 20));
    let file = |format: &str| std::fs::read(images.converted(&raw, format, &[])).unwrap();

    let vdi = file("vdi");
    opened(&vdi, Format::Vdi, &[]).await.unwrap();
    for changes in [
        (0x4c, &[4, 0, 0, 0][..]),          // a differencing image
        (0x178, &[1, 0, 0, 0][..]),         // blocks of a byte
        (0x154, &[0xff, 0xff, 0xff, 0xff]), // a table past the end
        (0x170, &[0, 0, 0, 0, 0, 0, 0, 0x7f]),
    ] {
        opened(&vdi, Format::Vdi, &[changes]).await.unwrap_err();
    }

    let vhd = file("vpc");
    opened(&vhd, Format::Vhd, &[]).await.unwrap();
    let footer = vhd.len() - 512;
    for changes in [
        (footer + 60, &[0, 0, 0, 4][..]), // a differencing image
        (footer, b"connetix"),
        (512, b"cxsparsf"),
        (512 + 32, &[0, 0, 0, 1]),
    ] {
        opened(&vhd, Format::Vhd, &[changes]).await.unwrap_err();
    }

    let vhdx = file("vhdx");
    opened(&vhdx, Format::Vhdx, &[]).await.unwrap();
    for changes in [
        &[(64 << 10, &b"HEAD"[..]), (128 << 10, b"HEAD")][..],
        &[(192 << 10, b"REGI")],
    ] {
        opened(&vhdx, Format::Vhdx, changes).await.unwrap_err();
    }

    let vmdk = file("vmdk");
    opened(&vmdk, Format::Vmdk, &[]).await.unwrap();
    for changes in [
        (20, &[3, 0][..]), // grains of three sectors
        (44, &[0, 0x10]),  // tables of 4096 entries
        (56, &[0xff; 7]),  // a directory past the end
        (12, &[0xff; 7]),  // a disk that the directory does not cover
    ] {
        opened(&vmdk, Format::Vmdk, &[changes]).await.unwrap_err();
    }
    let base = images.converted(&raw, "vmdk", &[]);
    let child = images.path("child.vmdk");
    let base = base.to_str().unwrap();
    let path = child.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", base, path]);
    let child = std::fs::read(child).unwrap();
    let error = opened(&child, Format::Vmdk, &[]).await.unwrap_err();
    assert!(error.to_string().contains("parent"), "{error}");

    for format in [Format::Qed, Format::Luks, Format::Ploop, Format::Qcow] {
        let error = opened(&vdi, format, &[]).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)));
    }
}
