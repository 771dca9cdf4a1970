//! The query language of the log search.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(error) = backlot::logs::parse(text) {
        assert!(error.at <= text.chars().count(), "points outside of the query");
    }
});
