//! Expressions of PromQL, as `/api/v1/query` reads them.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = backlot::metrics::promql::parse(text);
});
