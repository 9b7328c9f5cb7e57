//! Files made by qemu-img are recognised, in any chunk size, with their virtual size.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use image_formats::{Format, Inspection, Inspector};
use support::{Images, mixed_disk, noise, qemu_img};

const SIZE: u64 = 6 << 20;

fn inspect(file: &[u8], chunk_bytes: usize) -> Inspection {
    let mut inspector = Inspector::new();
    file.chunks(chunk_bytes)
        .for_each(|chunk| inspector.feed(chunk));
    inspector.finish()
}

/// Converts a disk with qemu-img and inspects the result with several chunk sizes.
fn converted(arguments: &[&str]) -> Inspection {
    let images = Images::new();
    let raw = images.write("disk.raw", &mixed_disk(SIZE as usize));
    let image = images.path("image");
    let mut all = vec!["convert", "-f", "raw", "-O"];
    all.extend_from_slice(arguments);
    all.extend_from_slice(&[raw.to_str().unwrap(), image.to_str().unwrap()]);
    qemu_img(&all);
    let file = std::fs::read(image).unwrap();
    let inspection = inspect(&file, file.len());
    for chunk_bytes in [513, 65_536, 1_000_003] {
        assert_eq!(
            inspect(&file, chunk_bytes),
            inspection,
            "{arguments:?} in chunks of {chunk_bytes}"
        );
    }
    assert_eq!(inspection.size_bytes, file.len() as u64);
    inspection
}

#[test]
fn formats_with_their_virtual_size() {
    let cases: &[(&[&str], Format)] = &[
        (&["raw"], Format::Raw),
        (&["qcow2"], Format::Qcow2),
        (&["qcow2", "-c"], Format::Qcow2),
        (&["vdi"], Format::Vdi),
        (&["vhdx"], Format::Vhdx),
        (&["vpc", "-o", "force_size=on"], Format::Vhd),
        (&["vpc", "-o", "force_size=on,subformat=fixed"], Format::Vhd),
        (&["vmdk"], Format::Vmdk),
        (&["vmdk", "-o", "subformat=streamOptimized"], Format::Vmdk),
        (&["parallels"], Format::Ploop),
    ];
    for (arguments, format) in cases {
        let inspection = converted(arguments);
        assert_eq!(inspection.format, *format, "{arguments:?}");
        assert_eq!(inspection.safety, Ok(()), "{arguments:?}");
        assert_eq!(inspection.virtual_size_bytes, Some(SIZE), "{arguments:?}");
    }
}

/// What `qemu-img create` makes of nothing but a name and a size.
fn created(format: &str, arguments: &[&str]) -> Vec<u8> {
    let images = Images::new();
    let image = images.path("image");
    let mut all = vec!["create", "-q", "-f", format];
    all.extend_from_slice(arguments);
    all.extend_from_slice(&[image.to_str().unwrap(), "8M"]);
    qemu_img(&all);
    std::fs::read(image).unwrap()
}

#[test]
fn formats_that_qemu_img_creates_are_recognised() {
    let secret: &[&str] = &[
        "--object",
        "secret,id=s,data=abc",
        "-o",
        "key-secret=s,iter-time=10",
    ];
    type Known<'a> = (&'a str, &'a [&'a str], Format);
    let known: &[Known] = &[
        ("raw", &[], Format::Raw),
        ("qcow", &[], Format::Qcow),
        ("qcow2", &[], Format::Qcow2),
        ("qed", &[], Format::Qed),
        ("vmdk", &[], Format::Vmdk),
        ("vpc", &[], Format::Vhd),
        ("vpc", &["-o", "subformat=fixed"], Format::Vhd),
        ("vhdx", &[], Format::Vhdx),
        ("vdi", &[], Format::Vdi),
        ("parallels", &[], Format::Ploop),
        ("luks", secret, Format::Luks),
    ];
    for (name, arguments, format) in known {
        let file = created(name, arguments);
        assert_eq!(inspect(&file, 4096).format, *format, "{name}");
    }
}

#[test]
fn what_is_no_container_is_recognised_by_its_beginning() {
    type Marks<'a> = &'a [(usize, &'a [u8])];
    let disk = |marks: Marks| {
        let mut disk = vec![0; 1 << 20];
        for (at, mark) in marks {
            disk[*at..at + mark.len()].copy_from_slice(mark);
        }
        inspect(&disk, 10_000)
    };
    let boot: (usize, &[u8]) = (510, &[0x55, 0xaa]);
    // The one entry of a protective MBR: type EE, sectors 1 to the end.
    let protective: (usize, &[u8]) = (
        446,
        &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 255, 7],
    );
    let cases: &[(Marks, Format)] = &[
        (&[(0x8001, b"CD001")], Format::Iso),
        (&[boot, protective, (512, b"EFI PART")], Format::Gpt),
        // A kernel (aki) has the mark of a boot sector, and code where a table would be.
        (&[boot, (446, &[0xb8; 64]), (0x202, b"HdrS")], Format::Raw),
        // A file system (ami), and a packed archive (ari).
        (&[(0x438, &[0x53, 0xef])], Format::Raw),
        (&[(0, b"\x1f\x8b\x08")], Format::Raw),
    ];
    for (marks, format) in cases {
        let inspection = disk(marks);
        assert_eq!(inspection.format, *format, "{marks:?}");
        assert_eq!(inspection.safety, Ok(()), "{marks:?}");
    }
}

#[test]
fn formats_that_are_refused() {
    for arguments in [
        &["qed"][..],
        &["qcow"],
        &["vmdk", "-o", "subformat=monolithicFlat"],
        &["vmdk", "-o", "subformat=twoGbMaxExtentSparse"],
    ] {
        let inspection = converted(arguments);
        assert!(inspection.safety.is_err(), "{arguments:?}: {inspection:?}");
    }
}

#[test]
fn a_vmdk_that_names_another_file_is_refused() {
    let images = Images::new();
    let image = images.path("disk.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", image.to_str().unwrap(), "4M"]);
    let mut file = std::fs::read(image).unwrap();
    assert_eq!(inspect(&file, 4096).safety, Ok(()));
    let place = file
        .windows(9)
        .position(|window| window == b"disk.vmdk")
        .unwrap();
    file[place] = b'/';
    assert!(
        inspect(&file, 4096)
            .safety
            .unwrap_err()
            .reason
            .contains("another file")
    );
}

#[test]
fn a_differencing_vhdx_or_a_cut_one_is_refused() {
    let images = Images::new();
    let image = images.path("disk.vhdx");
    qemu_img(&["create", "-q", "-f", "vhdx", image.to_str().unwrap(), "4M"]);
    let file = std::fs::read(image).unwrap();
    assert_eq!(inspect(&file, 4096).safety, Ok(()));
    assert!(inspect(&file[..300_000], 4096).safety.is_err());
    let size_item = [0x24, 0x42, 0xa5, 0x2f];
    let mut differing = file.clone();
    let place = differing
        .windows(4)
        .position(|window| window == size_item)
        .unwrap();
    let parent = [
        0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab,
        0x0c,
    ];
    differing[place..place + 16].copy_from_slice(&parent);
    assert!(
        inspect(&differing, 4096)
            .safety
            .unwrap_err()
            .reason
            .contains("parent")
    );
}

#[test]
fn short_files_are_raw() {
    for length in [0, 1, 511, 512, 70_000] {
        let inspection = inspect(&noise(7, length), 100);
        assert_eq!(
            (inspection.format, inspection.virtual_size_bytes),
            (Format::Raw, Some(length as u64))
        );
    }
}
