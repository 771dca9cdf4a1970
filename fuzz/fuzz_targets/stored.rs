//! What the artifact store keeps: labels in front of blobs and pack entries, records of the journal, rows of the catalogue.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backlot::artifacts::fuzz_stored(bytes));
