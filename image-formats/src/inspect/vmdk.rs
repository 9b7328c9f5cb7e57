//! VMDK: a binary header, and a text descriptor that says how the extents are stored.

use super::Unsafe;
use crate::endian::{le_u32, le_u64};

const SECTOR: usize = 512;
/// QEMU's own limit.
const MAX_DESCRIPTOR_BYTES: usize = (1 << 20) - 1;
const DIRECTORY_AT_END: u64 = u64::MAX;
const MARKER_END_OF_STREAM: u32 = 0;
const MARKER_FOOTER: u32 = 3;
/// The kinds that keep everything in one file; the image service's default list.
const ALLOWED_TYPES: [&str; 2] = ["monolithicsparse", "streamoptimized"];

/// How many first bytes are needed: header and descriptor.
pub(crate) fn head_bytes(head: &[u8]) -> usize {
    SECTOR + descriptor_bytes(head)
}

fn descriptor_bytes(header: &[u8]) -> usize {
    let sectors = le_u64(header, 36).unwrap_or(0);
    usize::try_from(sectors.saturating_mul(SECTOR as u64))
        .unwrap_or(usize::MAX)
        .min(MAX_DESCRIPTOR_BYTES)
}

pub(crate) fn judge(head: &[u8], tail: &[u8]) -> (Option<u64>, Result<(), Unsafe>) {
    let size_bytes = le_u64(head, 12).and_then(|sectors| sectors.checked_mul(SECTOR as u64));
    match check(head, tail) {
        Ok(()) => (size_bytes, Ok(())),
        Err(reason) => (None, Err(reason)),
    }
}

fn check(head: &[u8], tail: &[u8]) -> Result<(), Unsafe> {
    if !head.starts_with(b"KDMV") {
        return Err(Unsafe::because(
            "a VMDK image that is only a descriptor is not allowed",
        ));
    }
    if !matches!(le_u32(head, 4), Some(1..=3)) {
        return Err(Unsafe::because("an unknown version of VMDK"));
    }
    if le_u64(head, 28) != Some(1) {
        return Err(Unsafe::because(
            "the VMDK descriptor is not where it must be",
        ));
    }
    if le_u64(head, 56) == Some(DIRECTORY_AT_END) {
        check_footer(head, tail)?;
    }
    let descriptor = head.get(SECTOR..SECTOR + descriptor_bytes(head));
    check_descriptor(descriptor.ok_or_else(|| Unsafe::because("the VMDK file is cut"))?)
}

/// A footer takes the header's place when the file is opened, so it must say the same.
fn check_footer(head: &[u8], tail: &[u8]) -> Result<(), Unsafe> {
    let footer = tail.get(SECTOR..2 * SECTOR).unwrap_or_default();
    // Magic, version, flags, capacity, grain size, descriptor's place and size, table size.
    if footer
        .get(..48)
        .is_none_or(|fields| head.get(..48) != Some(fields))
    {
        return Err(Unsafe::because(
            "the VMDK footer is missing or contradicts the header",
        ));
    }
    if le_u64(footer, 56) == Some(DIRECTORY_AT_END) {
        return Err(Unsafe::because("the VMDK footer names another footer"));
    }
    // A reader goes by these markers, so they must say what this check took for granted.
    let is_marker = |marker: &[u8], kind: u32| {
        let (size, found) = (le_u32(marker, 8), le_u32(marker, 12));
        let rest = marker.get(16..SECTOR).unwrap_or_default();
        (size, found) == (Some(0), Some(kind)) && rest.iter().all(|byte| *byte == 0)
    };
    let end = tail.get(2 * SECTOR..).unwrap_or_default();
    if !is_marker(tail, MARKER_FOOTER)
        || !is_marker(end, MARKER_END_OF_STREAM)
        || le_u64(end, 0) != Some(0)
    {
        return Err(Unsafe::because("the VMDK footer has broken markers"));
    }
    Ok(())
}

/// Every line must be understood; a file name that leads elsewhere is refused.
fn check_descriptor(descriptor: &[u8]) -> Result<(), Unsafe> {
    // Text after the first NUL is nobody's: QEMU leaves some there when it shortens the CID.
    let text = descriptor.split(|byte| *byte == 0).next();
    let text = std::str::from_utf8(text.unwrap_or_default())
        .ok()
        .filter(|text| text.is_ascii());
    let text = text
        .ok_or_else(|| Unsafe::because("the VMDK descriptor is not text"))?
        .to_ascii_lowercase();
    let (mut create_type, mut extents) = (None, 0);
    for line in text.lines().map(str::trim) {
        let word = line.split(' ').next().unwrap_or_default();
        if line.is_empty() || line.starts_with('#') || line.starts_with("ddb") {
            continue;
        } else if matches!(word, "rw" | "rdonly" | "noaccess") {
            if line.contains('/') {
                return Err(Unsafe::because("the VMDK image refers to another file"));
            }
            extents += 1;
        } else if let Some((key, value)) = line
            .split_once('=')
            .filter(|(key, _)| !key.trim_end().contains(' '))
        {
            match key.trim_end() {
                "createtype" => create_type = Some(value.trim().trim_matches('"')),
                "parentfilenamehint" => return Err(Unsafe::because("the VMDK image has a parent")),
                "parentcid" if value.trim() != "ffffffff" => {
                    return Err(Unsafe::because("the VMDK image has a parent"));
                }
                _ => {}
            }
        } else {
            return Err(Unsafe::because(
                "the VMDK descriptor has a line that is not understood",
            ));
        }
    }
    match create_type {
        None => return Err(Unsafe::because("the VMDK descriptor names no type")),
        Some(kind) if !ALLOWED_TYPES.contains(&kind) => {
            let shown: String = kind.chars().take(64).collect();
            return Err(Unsafe::because(format!(
                "VMDK images of type {shown} are not allowed"
            )));
        }
        Some(_) => {}
    }
    if extents != 1 {
        return Err(Unsafe::because("the VMDK descriptor must name one extent"));
    }
    Ok(())
}
