//! Heads of requests, as far as they are read before it is known who calls: credentials, signatures, which service is meant.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| backlot::edge::fuzz_head(text));
