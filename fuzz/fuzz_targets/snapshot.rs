//! A snapshot of the catalogue, as `backlot rebuild` reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backlot::catalogue::fuzz_snapshot(bytes));
