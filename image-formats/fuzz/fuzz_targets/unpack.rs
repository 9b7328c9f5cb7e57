//! Unpacking any bytes ends in an error or in data, however much is claimed.

#![no_main]

use std::io::{Cursor, Read};

use image_formats::{ARCHIVE_DETECT_BYTES, Archive};
use libfuzzer_sys::fuzz_target;

/// A small archive may hold much.
const BYTES_MAX: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let head = input.get(..ARCHIVE_DETECT_BYTES).unwrap_or(input);
    let Some(archive) = Archive::detect(head) else {
        return;
    };
    let Ok(unpacked) = archive.unpack(Cursor::new(input.to_vec())) else {
        return;
    };
    let mut data = Vec::new();
    let _ = unpacked.take(BYTES_MAX).read_to_end(&mut data);
});
