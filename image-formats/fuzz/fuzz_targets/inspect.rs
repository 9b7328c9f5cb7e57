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

fuzz_target!(|input: (u16, &[u8])| {
    let (piece_bytes, file) = input;
    let whole = inspect(file, file.len().max(1));
    assert_eq!(inspect(file, usize::from(piece_bytes).max(1)), whole);
    assert_eq!(whole.size_bytes, file.len() as u64);
});
