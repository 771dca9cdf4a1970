//! The query languages of the log search: the house's, Loki's, Elasticsearch's, filter patterns and Insights. What comes after the first line
//! break are lines.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    backlot::logs::fuzz_logql(text);
    backlot::logs::fuzz_elastic(text.as_bytes());
    if let Err(error) = backlot::logs::parse(text) {
        assert!(error.at <= text.chars().count(), "points outside of the query");
    }
    let (query, lines) = text.split_once('\n').unwrap_or((text, ""));
    backlot::logs::cloudwatch::fuzz_filter(query, lines);
    backlot::logs::cloudwatch::fuzz_insights(query, lines);
});
