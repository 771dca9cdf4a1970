//! ffprobe's answers about somebody's clip.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backlot_agent::frames::probe::fuzz_answers(bytes));
