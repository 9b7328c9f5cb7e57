//! A store with any changes in its files, with and without checksums that fit: it is refused, or
//! opened and used.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| storage::embedded::fuzzing::recover(input));
