//! Images made by qemu-img are read byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use image_formats::{Error, FileSource, Format, Inspector, Qcow2Reader};
use support::{Images, assert_same, mixed_disk, noise, qemu_img, read_disk};

#[tokio::test]
async fn every_kind_of_qcow2_is_read_like_qemu_does() {
    let images = Images::new();
    let disk = mixed_disk(12 << 20);
    let raw = images.write("disk.raw", &disk);
    let kinds: &[&[&str]] = &[
        &[],
        &["-o", "compat=0.10"],
        &["-o", "compat=0.10", "-c"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=512", "-c"],
        &["-o", "cluster_size=4096"],
        &["-o", "cluster_size=2M"],
        &["-o", "cluster_size=2M", "-c"],
        &["-c"],
        &["-o", "compression_type=zstd", "-c"],
        &["-o", "compression_type=zstd,cluster_size=4k", "-c"],
        &["-o", "compression_type=zstd,cluster_size=2M", "-c"],
        &["-o", "extended_l2=on"],
        &["-o", "extended_l2=on,cluster_size=16k"],
        &["-o", "extended_l2=on,cluster_size=2M"],
        &["-o", "extended_l2=on,compression_type=zstd", "-c"],
        &["-o", "preallocation=metadata"],
        &["-o", "lazy_refcounts=on,refcount_bits=64"],
        &["-S", "0"],
    ];
    for kind in kinds {
        let image = images.qcow2(&raw, "disk.qcow2", kind);
        let read = read_disk(FileSource::open(&image).await.unwrap()).await;
        assert_same(
            &read.unwrap_or_else(|error| panic!("{kind:?}: {error}")),
            &disk,
            &format!("{kind:?}"),
        );
    }
}

#[tokio::test]
async fn writes_after_creation_leave_zero_clusters_and_subclusters() {
    let images = Images::new();
    for options in [
        "cluster_size=64k",
        "extended_l2=on,cluster_size=128k",
        "compat=0.10",
    ] {
        let image = images.path("written.qcow2");
        let name = image.to_str().unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, name, "9M"]);
        let commands = [
            "write -P 17 1000k 700k",
            "write -z 1100k 37k",
            "write -P 3 4096 512",
            "discard 1300k 128k",
        ];
        let mut qemu_io = std::process::Command::new("qemu-io");
        commands.iter().for_each(|command| {
            qemu_io.args(["-c", command]);
        });
        let status = qemu_io.args(["-d", "unmap", "-f", "qcow2", name]).output();
        assert!(
            status
                .expect("these tests need qemu-io (Debian package qemu-utils)")
                .status
                .success()
        );
        let read = read_disk(FileSource::open(&image).await.unwrap())
            .await
            .unwrap();
        assert_same(&read, &images.raw_by_qemu(&image), options);
    }
}

#[tokio::test]
async fn odd_virtual_sizes_end_where_they_must() {
    let images = Images::new();
    for (size, kind) in [
        (512, "-q"),
        (65536 + 512, "-c"),
        ((3 << 20) + 1536, "-c"),
        ((4 << 20) - 512, "-q"),
    ] {
        let disk = noise(5, size);
        let image = images.qcow2(&images.write("odd.raw", &disk), "odd.qcow2", &[kind]);
        let read = read_disk(FileSource::open(&image).await.unwrap())
            .await
            .unwrap();
        assert_same(&read, &disk, &format!("{size} bytes"));
    }
}

#[tokio::test]
async fn a_huge_empty_disk_costs_nothing() {
    let images = Images::new();
    let image = images.path("huge.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "8T"]);
    let mut reader = Qcow2Reader::open(FileSource::open(&image).await.unwrap())
        .await
        .unwrap();
    let mut extents = 0;
    while reader.next_extent().await.unwrap().is_some() {
        extents += 1;
    }
    assert_eq!(extents, 8192);
}

#[tokio::test]
async fn images_that_refer_to_others_are_refused() {
    let images = Images::new();
    let base = images.write("base.raw", &noise(1, 1 << 20));
    let image = images.path("overlay.qcow2");
    let name = image.to_str().unwrap();
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        base.to_str().unwrap(),
        name,
    ]);
    assert!(matches!(open(&image).await, Err(Error::BackingFile)));

    let data_file = format!("data_file={}", images.path("data.raw").display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data_file, name, "1M"]);
    assert!(matches!(open(&image).await, Err(Error::ExternalDataFile)));

    let secret = ["--object", "secret,id=key,data=abc123"];
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    qemu_img(
        &[
            &["create", "-q"],
            &secret[..],
            &["-f", "qcow2", "-o", options, name, "1M"],
        ]
        .concat(),
    );
    assert!(matches!(open(&image).await, Err(Error::Encrypted)));

    qemu_img(&["create", "-q", "-f", "qcow2", name, "1M"]);
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[72] = 0x40;
    assert!(matches!(
        read_disk(Bytes::from(bytes)).await,
        Err(Error::UnknownFeatures(0x4000_0000_0000_0000))
    ));
}

async fn open(image: &std::path::Path) -> image_formats::Result<u64> {
    let bytes = std::fs::read(image).unwrap();
    let mut inspector = Inspector::new();
    bytes.chunks(1000).for_each(|chunk| inspector.feed(chunk));
    let inspection = inspector.finish();
    assert_eq!(inspection.format, Format::Qcow2);
    let opened = Qcow2Reader::open(FileSource::open(image).await?)
        .await
        .map(|reader| reader.virtual_size_bytes());
    assert_eq!(
        inspection.safety.is_ok(),
        opened.is_ok(),
        "inspector and reader agree"
    );
    opened
}

#[tokio::test]
async fn a_cut_image_is_an_error_wherever_it_is_cut() {
    let images = Images::new();
    let disk = noise(8, 1 << 20);
    for kind in ["-q", "-c"] {
        let image = images.qcow2(&images.write("cut.raw", &disk), "cut.qcow2", &[kind]);
        let bytes = Bytes::from(std::fs::read(image).unwrap());
        for length in (0..bytes.len() - 512).step_by(50_021) {
            assert!(
                read_disk(bytes.slice(..length)).await.is_err(),
                "{kind} cut at {length}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_may_end_within_the_last_sector_of_compressed_data() {
    let images = Images::new();
    let disk = b"all work and no play ".repeat(3121)[..65536].to_vec();
    let image = images.qcow2(&images.write("end.raw", &disk), "end.qcow2", &["-c"]);
    let bytes = std::fs::read(image).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert_ne!(end % 512, 0);
    let read = read_disk(Bytes::from(bytes).slice(..end)).await.unwrap();
    assert_same(&read, &disk, "without padding");
}
