//! What a file is, from its first bytes.

use crate::Format;
use crate::endian::{be_u16, be_u32, le_u16, le_u32};

/// How many first bytes of a file [`detect`] looks at.
pub const DETECT_BYTES: usize = 64 * 1024;

const SECTOR: usize = 512;
/// Both lie in the 17th sector of 2 KiB.
const ISO_DESCRIPTOR: usize = 32 * 1024;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected {
    pub format: Format,
    /// A second format whose mark is there as well: such a file means different things to
    /// different programs and must not be trusted.
    pub conflict: Option<Format>,
}

/// Recognises the format of a file from its first [`DETECT_BYTES`] bytes (or all, if it has fewer).
///
/// A fixed VHD has its mark only in the last 512 bytes: see [`Inspector`](crate::Inspector).
pub fn detect(head: &[u8]) -> Detected {
    let mut marks = container_marks(head).into_iter();
    let Some(format) = marks.next() else {
        return Detected {
            format: raw_kind(head),
            conflict: None,
        };
    };
    Detected {
        format,
        conflict: marks.next().or_else(|| partitions_beside(format, head)),
    }
}

/// A partition table in a container's header makes it a disk of its own as well. A bootable ISO
/// has one by design; a LUKS header holds random bytes where the table's mark would be.
fn partitions_beside(format: Format, head: &[u8]) -> Option<Format> {
    let allowed = matches!(format, Format::Iso | Format::Luks);
    match raw_kind(head) {
        kind @ (Format::Gpt | Format::Mbr) if !allowed => Some(kind),
        _ => None,
    }
}

/// Every container format whose mark is present.
fn container_marks(head: &[u8]) -> Vec<Format> {
    let mut marks = Vec::new();
    match (head.get(..4), be_u32(head, 4)) {
        (Some(b"QFI\xfb"), Some(1)) => marks.push(Format::Qcow),
        (Some(b"QFI\xfb"), _) => marks.push(Format::Qcow2),
        (Some(b"QED\0"), _) => marks.push(Format::Qed),
        (Some(b"KDMV" | b"COWD"), _) => marks.push(Format::Vmdk),
        _ => {}
    }
    if is_vmdk_descriptor(head) {
        marks.push(Format::Vmdk);
    }
    if head.starts_with(b"conectix") {
        marks.push(Format::Vhd);
    }
    if head.starts_with(b"vhdxfile") {
        marks.push(Format::Vhdx);
    }
    if head.starts_with(b"LUKS\xba\xbe") {
        marks.push(Format::Luks);
    }
    if head.starts_with(b"WithoutFreeSpace") || head.starts_with(b"WithouFreSpacExt") {
        marks.push(Format::Ploop);
    }
    if le_u32(head, 0x40) == Some(0xbeda_107f) {
        marks.push(Format::Vdi);
    }
    if let Some(b"CD001" | b"NSR02" | b"NSR03") = head.get(ISO_DESCRIPTOR + 1..ISO_DESCRIPTOR + 6) {
        marks.push(Format::Iso);
    }
    marks
}

/// A VMDK may be a text file that names its extents.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    let line = head.get(..head.len().min(64)).unwrap_or_default();
    line.to_ascii_lowercase()
        .starts_with(b"# disk descriptorfile")
}

fn raw_kind(head: &[u8]) -> Format {
    if be_u16(head, SECTOR - 2) != Some(0x55aa) {
        return Format::Raw;
    }
    // The header lies in the second sector, of 512 or 4096 bytes.
    let gpt = |sector: usize| {
        head.get(sector..)
            .is_some_and(|rest| rest.starts_with(b"EFI PART"))
    };
    if gpt(SECTOR) || gpt(4096) {
        return Format::Gpt;
    }
    if has_mbr_partitions(head) {
        Format::Mbr
    } else {
        Format::Raw
    }
}

/// Boot sectors of file systems end in 55 AA as well; a partition table has sane entries.
fn has_mbr_partitions(head: &[u8]) -> bool {
    let entries = (0..4).filter_map(|index| head.get(446 + index * 16..462 + index * 16));
    let mut used = 0;
    for entry in entries {
        let (Some(boot), Some(kind)) = (entry.first(), entry.get(4)) else {
            return false;
        };
        if !matches!(boot, 0 | 0x80) {
            return false;
        }
        if *kind != 0 && (le_u16(entry, 12), le_u16(entry, 14)) != (Some(0), Some(0)) {
            used += 1;
        }
    }
    used > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(marks: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; DETECT_BYTES];
        for (offset, mark) in marks {
            head[*offset..offset + mark.len()].copy_from_slice(mark);
        }
        head
    }

    #[test]
    fn marks_are_recognised() {
        type Marks<'a> = &'a [(usize, &'a [u8])];
        let cases: &[(Marks, Format)] = &[
            (&[], Format::Raw),
            (&[(0, b"QFI\xfb\0\0\0\x01")], Format::Qcow),
            (&[(0, b"QFI\xfb\0\0\0\x03")], Format::Qcow2),
            (&[(0, b"QED\0")], Format::Qed),
            (&[(0, b"KDMV")], Format::Vmdk),
            (&[(0, b"# Disk DescriptorFile\n")], Format::Vmdk),
            (&[(0, b"conectix")], Format::Vhd),
            (&[(0, b"vhdxfile")], Format::Vhdx),
            (&[(0, b"LUKS\xba\xbe\0\x01")], Format::Luks),
            (&[(0x40, &0xbeda_107f_u32.to_le_bytes())], Format::Vdi),
            (&[(0x8001, b"CD001")], Format::Iso),
            (
                &[(0x8001, b"NSR03"), (510, &[0x55, 0xaa]), (512, b"EFI PART")],
                Format::Iso,
            ),
            (&[(510, &[0x55, 0xaa]), (512, b"EFI PART")], Format::Gpt),
            (
                &[
                    (510, &[0x55, 0xaa]),
                    (450, &[0x83]),
                    (458, &[0, 1, 0, 0, 0]),
                ],
                Format::Mbr,
            ),
            (
                &[(510, &[0x55, 0xaa]), (446, &[0x12]), (450, &[0x83])],
                Format::Raw,
            ),
        ];
        for (marks, format) in cases {
            assert_eq!(
                detect(&head(marks)),
                Detected {
                    format: *format,
                    conflict: None
                },
                "{marks:?}"
            );
        }
    }

    #[test]
    fn two_marks_are_a_conflict() {
        let detected = detect(&head(&[(0, b"QFI\xfb\0\0\0\x03"), (0x8001, b"CD001")]));
        assert_eq!(
            detected,
            Detected {
                format: Format::Qcow2,
                conflict: Some(Format::Iso)
            }
        );
    }

    #[test]
    fn a_partition_table_in_a_header_is_a_conflict_but_not_in_an_iso() {
        let table: [(usize, &[u8]); 2] = [(510, &[0x55, 0xaa]), (512, b"EFI PART")];
        let with = |offset: usize, mark: &'static [u8]| {
            detect(&head(&[(offset, mark), table[0], table[1]])).conflict
        };
        assert_eq!(with(0, b"QFI\xfb\0\0\0\x03"), Some(Format::Gpt));
        assert_eq!(with(0, b"KDMV"), Some(Format::Gpt));
        assert_eq!(with(0x8001, b"CD001"), None);
        assert_eq!(with(0, b"LUKS\xba\xbe\0\x01"), None);
    }

    #[test]
    fn every_length_is_accepted() {
        let full = head(&[(0, b"QFI\xfb\0\0\0\x03"), (510, &[0x55, 0xaa])]);
        for length in (0..600).chain([4096, 32768, 32770, 65535]) {
            detect(&full[..length]);
        }
    }
}
