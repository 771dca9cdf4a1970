//! A job's specification, as a queue or `POST /v1/jobs` takes it. What is taken can be read back from the journal.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| backlot::jobs::fuzz_spec(text));
