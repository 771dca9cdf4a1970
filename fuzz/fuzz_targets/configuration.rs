//! The configuration, as a file and by the environment.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| backlot::config::fuzz_parse(text));
