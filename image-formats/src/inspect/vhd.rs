//! VHD: a footer of 512 bytes, at the end, and in dynamic disks also at the start.

use super::Unsafe;
use crate::endian::{be_u32, be_u64};

const FOOTER_BYTES: usize = 512;
const CHECKSUM: usize = 64;

/// Whether the last 512 bytes are a footer with a right checksum. The mark alone would not do:
/// every raw disk's last bytes are looked at.
pub(super) fn has_footer(tail: &[u8]) -> bool {
    let Some(footer) = tail
        .len()
        .checked_sub(FOOTER_BYTES)
        .and_then(|start| tail.get(start..))
    else {
        return false;
    };
    if !footer.starts_with(b"conectix") {
        return false;
    }
    let sum = |range: std::ops::Range<usize>| -> u32 {
        footer
            .get(range)
            .unwrap_or_default()
            .iter()
            .map(|byte| u32::from(*byte))
            .sum()
    };
    be_u32(footer, CHECKSUM) == Some(!(sum(0..CHECKSUM) + sum(CHECKSUM + 4..FOOTER_BYTES)))
}

pub(super) fn judge(head: &[u8], tail: &[u8]) -> (Option<u64>, Result<(), Unsafe>) {
    let at_start = head.starts_with(b"conectix");
    let footer = if at_start {
        head
    } else {
        tail.get(tail.len().saturating_sub(FOOTER_BYTES)..)
            .unwrap_or_default()
    };
    let safety = match be_u32(footer, 60) {
        // Fixed and dynamic.
        Some(2 | 3) => Ok(()),
        Some(4) => Err(Unsafe::because("the VHD image has a parent")),
        Some(kind) => Err(Unsafe::because(format!(
            "VHD images of type {kind} are not allowed"
        ))),
        None => Err(Unsafe::because("the VHD file is cut")),
    };
    (be_u64(footer, 48), safety)
}
