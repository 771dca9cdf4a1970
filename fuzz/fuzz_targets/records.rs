//! Records of the control journal: queues, jobs and agents, keys, alerts, log groups. The first byte says whose, as it does there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((kind, payload)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => backlot::queue::fuzz_journal(payload),
        1 => backlot::jobs::fuzz_journal(payload),
        2 => backlot::identity::fuzz_journal(payload),
        3 => backlot::alerting::fuzz_journal(payload),
        _ => backlot::logs::cloudwatch::fuzz_journal(payload),
    }
});
