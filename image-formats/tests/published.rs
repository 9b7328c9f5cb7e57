//! The tricks that have been published against OpenStack and QEMU, each by its CVE: a file that
//! makes whoever opens it read another file, or that is one thing here and another there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use image_formats::{Format, Inspection, Inspector};
use support::{Images, qemu_img};

fn inspect(file: &[u8]) -> Inspection {
    let mut inspector = Inspector::new();
    file.chunks(65_536).for_each(|chunk| inspector.feed(chunk));
    inspector.finish()
}

#[track_caller]
fn assert_refused(file: &[u8], format: Format, because: &str) {
    let inspection = inspect(file);
    assert_eq!(inspection.format, format);
    let reason = inspection.safety.unwrap_err().reason;
    assert!(reason.contains(because), "{reason}");
}

/// A qcow2 image with bytes changed.
fn qcow2(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let images = Images::new();
    let path = images.path("a.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "4M"]);
    let mut file = std::fs::read(path).unwrap();
    for (offset, bytes) in changes {
        file[*offset..*offset + bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// CVE-2013-1922, CVE-2015-1851, CVE-2015-5163: a backing file.
#[test]
fn a_qcow2_with_a_backing_file() {
    let file = qcow2(&[
        (8, &512_u64.to_be_bytes()),
        (16, &11_u32.to_be_bytes()),
        (512, b"/etc/passwd"),
    ]);
    assert_refused(&file, Format::Qcow2, "backing file");
    // The name may be left out: the offset alone makes a reader look.
    let file = qcow2(&[(8, &512_u64.to_be_bytes())]);
    assert_refused(&file, Format::Qcow2, "backing file");
}

/// CVE-2024-32498: an external data file, by its feature bit or by its name alone.
#[test]
fn a_qcow2_with_an_external_data_file() {
    let by_bit = qcow2(&[(72, &4_u64.to_be_bytes())]);
    assert_refused(&by_bit, Format::Qcow2, "data file");
    let name = [b"DATA".as_slice(), &11_u32.to_be_bytes(), b"/etc/passwd"].concat();
    let by_name = qcow2(&[(112, &name)]);
    assert_refused(&by_name, Format::Qcow2, "data file");
    let images = Images::new();
    let (image, data) = (images.path("a.qcow2"), images.path("a.raw"));
    let option = format!("data_file={},data_file_raw=on", data.display());
    let path = image.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, path, "4M"]);
    assert_refused(&std::fs::read(image).unwrap(), Format::Qcow2, "data file");
}

/// CVE-2024-4467: a data file in the `json:` notation. That it is named at all is enough.
#[test]
fn a_qcow2_with_a_json_data_file() {
    let name = br#"json:{"driver":"file","filename":"/etc/shadow"}"#;
    let length = u32::try_from(name.len()).unwrap().to_be_bytes();
    let extension = [b"DATA".as_slice(), &length, name].concat();
    let file = qcow2(&[(72, &4_u64.to_be_bytes()), (112, &extension)]);
    assert_refused(&file, Format::Qcow2, "data file");
}

/// CVE-2014-0143, CVE-2014-0144: sizes in the header that overflow.
#[test]
fn a_qcow2_with_absurd_sizes() {
    for change in [
        (24, &u64::MAX.to_be_bytes()[..]), // the virtual size
        (20, &[0, 0, 0, 63][..]),          // the cluster size
        (36, &[0, 0, 0, 0][..]),           // no L1 table for the disk
        (40, &u64::MAX.to_be_bytes()[..]), // an L1 table past the end
        (100, &u32::MAX.to_be_bytes()),    // the header's own length
    ] {
        assert!(inspect(&qcow2(&[change])).safety.is_err(), "{change:?}");
    }
}

/// CVE-2022-47951, CVE-2024-40767: a VMDK descriptor whose extents are other files.
#[test]
fn a_vmdk_with_foreign_extents() {
    let descriptor = |kind: &str, extent: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=c0ffee00\nparentCID=ffffffff\n\
             createType=\"{kind}\"\n\n# Extent description\n{extent}\n\nddb.adapterType = \"ide\"\n"
        )
    };
    let flat = descriptor("monolithicFlat", "RW 4192256 FLAT \"/etc/passwd\" 0");
    assert_refused(flat.as_bytes(), Format::Vmdk, "only a descriptor");
    // The same inside of a sparse file: the header is there, the data is not.
    let embedded = |kind: &str, extent: &str| {
        let mut file = vec![0_u8; 1 << 20];
        let header: [(usize, &[u8]); 7] = [
            (0, b"KDMV"),
            (4, &1_u32.to_le_bytes()),
            (12, &8192_u64.to_le_bytes()),
            (20, &128_u64.to_le_bytes()),
            (28, &1_u64.to_le_bytes()),
            (36, &20_u64.to_le_bytes()),
            (44, &512_u32.to_le_bytes()),
        ];
        for (offset, bytes) in header {
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        let text = descriptor(kind, extent);
        file[512..512 + text.len()].copy_from_slice(text.as_bytes());
        file
    };
    let good = embedded("monolithicSparse", "RW 8192 SPARSE \"a.vmdk\"");
    assert_eq!(inspect(&good).safety, Ok(()));
    // What QEMU leaves when it writes a shorter CID.
    let mut shortened = good.clone();
    let end = 512 + good[512..].iter().position(|byte| *byte == 0).unwrap();
    shortened[end + 1] = b'\n';
    assert_eq!(inspect(&shortened).safety, Ok(()));
    for (kind, extent, because) in [
        ("monolithicFlat", "RW 8192 FLAT \"a\" 0", "not allowed"),
        ("twoGbMaxExtentFlat", "RW 8192 FLAT \"a\" 0", "not allowed"),
        ("vmfs", "RW 8192 VMFS \"a\"", "not allowed"),
        ("custom", "RW 8192 FLAT \"a\" 0", "not allowed"),
        (
            "monolithicSparse",
            "RW 8192 FLAT \"/dev/sda\" 0",
            "another file",
        ),
        (
            "streamOptimized",
            "RW 8192 SPARSE \"../../x\"",
            "another file",
        ),
        (
            "monolithicSparse",
            "RW 1 SPARSE \"a\"\nRW 1 SPARSE \"b\"",
            "one extent",
        ),
        ("monolithicSparse", "include /etc/passwd", "not understood"),
        (
            "monolithicSparse",
            "parentFileNameHint=\"/etc/passwd\"\nRW 8192 SPARSE \"a\"",
            "parent",
        ),
    ] {
        assert_refused(&embedded(kind, extent), Format::Vmdk, because);
    }
}

/// CVE-2024-44082: a file that is one format to the check and another to the converter.
#[test]
fn a_file_that_is_two_formats() {
    let vdi: (usize, &[u8]) = (0x40, &[0x7f, 0x10, 0xda, 0xbe]);
    let iso: (usize, &[u8]) = (0x8001, b"CD001");
    let gpt: [(usize, &[u8]); 2] = [(510, &[0x55, 0xaa]), (512, b"EFI PART")];
    for changes in [&[vdi][..], &[iso], &gpt] {
        assert_refused(&qcow2(changes), Format::Qcow2, "matches both");
    }
    let mut vmdk = vec![0; 70_000];
    vmdk[..4].copy_from_slice(b"KDMV");
    vmdk[0x8001..0x8006].copy_from_slice(b"CD001");
    assert_refused(&vmdk, Format::Vmdk, "matches both");
}

/// Formats that no service has to read.
#[test]
fn banned_formats() {
    let with = |mark: &[u8]| [mark, &[0; 4096]].concat();
    assert_refused(&with(b"QED\0"), Format::Qed, "not allowed");
    assert_refused(&with(b"QFI\xfb\0\0\0\x01"), Format::Qcow, "not allowed");
    assert_refused(&with(b"LUKS\xba\xbe\0\x07"), Format::Luks, "version 7");
}

/// A partition table that hides another disk from readers of MBRs.
#[test]
fn a_gpt_behind_an_mbr_that_does_not_protect_it() {
    let disk = |changes: &[(usize, &[u8])]| {
        let mut disk = vec![0; 1 << 20];
        let good: [(usize, &[u8]); 4] = [
            (446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]),
            (458, &[0xff, 7, 0, 0]),
            (510, &[0x55, 0xaa]),
            (512, b"EFI PART"),
        ];
        for (offset, bytes) in good.iter().chain(changes) {
            disk[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        disk
    };
    assert_eq!(inspect(&disk(&[])).safety, Ok(()));
    assert_eq!(inspect(&disk(&[])).format, Format::Gpt);
    for (change, because) in [
        ((462, &[0, 0, 0, 0, 0x83][..]), "no other"),
        ((450, &[0x83][..]), "no other"),
        ((446, &[0x12][..]), "broken"),
        ((447, &[1][..]), "does not start"),
        ((454, &[9][..]), "does not start"),
    ] {
        assert_refused(&disk(&[change]), Format::Gpt, because);
    }
}
