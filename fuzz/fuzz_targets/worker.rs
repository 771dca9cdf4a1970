//! A line from a worker process.
#![no_main]

libfuzzer_sys::fuzz_target!(|line: &str| {
    let _ = backlot_agent::worker::protocol::understand(line);
});
