//! Inspecting any bytes, in pieces of any size, ends in the same verdict.

#![no_main]

use image_formats::{Inspection, Inspector};
use libfuzzer_sys::fuzz_target;

fn inspect(file: &[u8], piece_bytes: usize) -> Inspection {
    let mut inspector = Inspector::new();
    file.chunks(piece_bytes)
        .for_each(|piece| inspector.feed(piece));
    inspector.finish()
}

// The first two bytes are the size of the pieces.
fuzz_target!(|input: &[u8]| {
    let Some((piece_bytes, file)) = input.split_first_chunk::<2>() else {
        return;
    };
    let piece_bytes = usize::from(u16::from_le_bytes(*piece_bytes)).max(1);
    let whole = inspect(file, file.len().max(1));
    assert_eq!(inspect(file, piece_bytes), whole);
    assert_eq!(whole.size_bytes, file.len() as u64);
});
