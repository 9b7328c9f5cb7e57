//! Any bytes as superblock, checkpoint, batch of the log and page, also behind a right checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| storage::embedded::fuzzing::parse(input));
