//! The tables beside a window, and the rows that refer to them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backlot_windows::fuzz_rows(bytes));
