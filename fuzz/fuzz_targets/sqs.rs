//! Bodies of SQS calls, in AWS JSON and in Query.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backlot::queue::fuzz_parse(bytes));
