//! Any bytes as a segment of the journal.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let found = backlot_journal::inspect(bytes);
    assert!(found.end_offset <= bytes.len() as u64);
});
