//! What metrics keep: records of the telemetry journal, the index of a block, the snapshot of the head.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backlot::metrics::fuzz_stored(bytes));
