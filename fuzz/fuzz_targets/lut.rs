//! Somebody's `.cube` file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = backlot_agent::frames::work::Lut::read(bytes);
});
