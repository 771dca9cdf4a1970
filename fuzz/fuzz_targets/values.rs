//! Single values of requests: ranges, moments, paging tokens, cursors, receipt handles, filters, forms.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    backlot::artifacts::api_s3::fuzz_values(text);
    backlot::artifacts::door::fuzz(text);
    backlot::logs::fuzz_values(text);
    backlot::traces::fuzz_values(text);
    backlot::metrics::fuzz_values(text);
    backlot::queue::fuzz_receipt(text);
    let pairs: Vec<_> = text.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let _ = backlot::jobs::Filter::parse(&pairs);
});
