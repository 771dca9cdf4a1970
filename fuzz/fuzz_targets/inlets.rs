//! Lines of a log in the protocols that are no OTLP.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    backlot::logs::fuzz_lines(bytes);
    backlot::logs::fuzz_bulk(bytes);
    backlot::logs::fuzz_push(bytes);
});
