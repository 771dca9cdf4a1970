//! Syslog, as connections and datagrams bring it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backlot::logs::fuzz_syslog(bytes));
