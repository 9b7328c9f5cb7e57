//! Broken and hostile images end in an error or in data, never in a panic, a hang or much memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::OnceLock;

use bytes::Bytes;
use image_formats::{ByteSource, DiskReader, Format, Inspector, MAX_PIECE_BYTES};
use proptest::prelude::*;
use support::{Images, mixed_disk};

/// Small images of several kinds.
fn originals() -> &'static [(Format, Vec<u8>)] {
    static IMAGES: OnceLock<Vec<(Format, Vec<u8>)>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let images = Images::new();
        let raw = images.write("disk.raw", &mixed_disk(5 << 20));
        let kinds: &[(Format, &str, &[&str])] = &[
            (Format::Qcow2, "qcow2", &["-o", "cluster_size=512"]),
            (Format::Qcow2, "qcow2", &["-c"]),
            (
                Format::Qcow2,
                "qcow2",
                &["-o", "compression_type=zstd,cluster_size=4k", "-c"],
            ),
            (
                Format::Qcow2,
                "qcow2",
                &["-o", "extended_l2=on,cluster_size=16k"],
            ),
            (Format::Vmdk, "vmdk", &[]),
            (Format::Vmdk, "vmdk", &["-o", "subformat=streamOptimized"]),
            (Format::Vhd, "vpc", &[]),
            (Format::Vhdx, "vhdx", &["-o", "block_size=1M"]),
            (Format::Vdi, "vdi", &[]),
        ];
        let read = |path| std::fs::read(path).unwrap();
        kinds
            .iter()
            .map(|(format, name, more)| (*format, read(images.converted(&raw, name, more))))
            .collect()
    })
}

/// Fails a test that asks for more than a piece with its surroundings.
struct Bounded(Bytes);

#[async_trait::async_trait]
impl ByteSource for Bounded {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        assert!(length <= 3 * MAX_PIECE_BYTES, "a read of {length} bytes");
        self.0.read_at(offset, length).await
    }
}

/// Reads until the end, an error, or 64 extents: a mutated size may be legal and huge.
fn read(format: Format, image: Vec<u8>) {
    let mut inspector = Inspector::new();
    image.chunks(7777).for_each(|chunk| inspector.feed(chunk));
    let _ = inspector.finish();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Ok(mut reader) = DiskReader::open(Bounded(image.into()), format).await else {
            return;
        };
        for _ in 0..64 {
            if !matches!(reader.next_extent().await, Ok(Some(_))) {
                return;
            }
        }
    });
}

fn mutation() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..9),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        Just(vec![0x7f, 0xff, 0xff, 0xff]),
        any::<u32>().prop_map(|value| u64::from(value).to_be_bytes().to_vec()),
    ];
    let place = prop_oneof![3 => 0..128_usize, 3 => 0..400_000_usize, 1 => 0..8_000_000_usize];
    (place, value)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn mutated_images(which in 0..9_usize, mutations in proptest::collection::vec(mutation(), 1..6), cut in any::<Option<u16>>()) {
        let (format, mut image) = originals()[which].clone();
        for (place, value) in mutations {
            let start = place % (image.len() - 8);
            image[start..start + value.len()].copy_from_slice(&value);
        }
        if let Some(cut) = cut {
            let length = image.len() * usize::from(cut) / 65536;
            image.truncate(length);
        }
        read(format, image);
    }

    #[test]
    fn random_bytes_behind_every_mark(mark in 0..9_usize, body in proptest::collection::vec(any::<u8>(), 0..2000), cuts in proptest::collection::vec(1..900_usize, 1..20)) {
        let marks: [&[u8]; 9] = [b"", b"QFI\xfb\0\0\0\x03", b"QFI\xfb\0\0\0\x02", b"KDMV\x01\0\0\0", b"conectix", b"vhdxfile", b"QED\0", b"LUKS\xba\xbe", b"# Disk DescriptorFile"];
        let file = [marks[mark], &body].concat();
        let mut inspector = Inspector::new();
        let mut rest = file.as_slice();
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() { break }
            let (chunk, after) = rest.split_at(cut.min(rest.len()));
            inspector.feed(chunk);
            rest = after;
        }
        prop_assert_eq!(inspector.finish().size_bytes, file.len() as u64);
    }
}
