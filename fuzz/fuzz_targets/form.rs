//! Forms that browsers post: fields and file, cut into pieces that must change nothing.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    backlot::artifacts::api_s3::fuzz_form(bytes);
});
