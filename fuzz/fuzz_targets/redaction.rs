//! Texts that secrets are taken out of.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| backlot::signals::redact::fuzz_text(text));
