//! Policies of buckets and queues, judged after they were read; the configurations of buckets that are XML; the names of hosts.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    backlot::policy::fuzz_policy(text);
    backlot::artifacts::api_s3::fuzz_configurations(text);
});
