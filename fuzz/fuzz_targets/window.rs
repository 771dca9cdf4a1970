//! `meta.json` of a window of logs or spans, and the payload of its last commit.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| backlot_windows::fuzz_meta(text));
