//! GPT: the protective MBR in front must protect, and nothing else (UEFI, "Protective MBR"). A
//! table that shows one disk to a reader of MBRs and another to a reader of GPTs is refused.

use super::Unsafe;
use crate::endian::le_u32;

const FIRST_ENTRY: usize = 446;
const ENTRY_BYTES: usize = 16;
const PROTECTIVE: u8 = 0xee;

pub(super) fn check(head: &[u8]) -> Result<(), Unsafe> {
    let entry = |number: usize| {
        let start = FIRST_ENTRY + number * ENTRY_BYTES;
        head.get(start..start + ENTRY_BYTES).unwrap_or_default()
    };
    let kind = |number: usize| entry(number).get(4).copied().unwrap_or(0);
    for number in 0..4 {
        if !matches!(entry(number).first(), Some(0 | 0x80)) {
            return Err(Unsafe::because("the MBR before the GPT has a broken entry"));
        }
    }
    if kind(0) != PROTECTIVE || (1..4).any(|number| kind(number) != 0) {
        return Err(Unsafe::because(
            "the MBR before the GPT must have one entry that protects it, and no other",
        ));
    }
    if entry(0).get(1..4) != Some(&[0, 2, 0]) || le_u32(entry(0), 8) != Some(1) {
        return Err(Unsafe::because(
            "the entry that protects the GPT does not start where the GPT does",
        ));
    }
    Ok(())
}
