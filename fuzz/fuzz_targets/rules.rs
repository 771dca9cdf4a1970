//! Rule files, as `alerting.rules_files` names them.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = backlot_alerts::rules::parse(text);
});
