//! The query language of the log search, and Loki's.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    backlot::logs::fuzz_logql(text);
    if let Err(error) = backlot::logs::parse(text) {
        assert!(error.at <= text.chars().count(), "points outside of the query");
    }
});
