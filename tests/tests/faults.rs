//! A dozen rounds of the fault checker: every kind of fault twice. `cargo run -p backlot-tests --bin faults` plays more of them.

use backlot_tests::faults::{Fault, round};

/// Of the first round. `FAULTS_SEED` gives another.
const SEED: u64 = 1;
const ROUNDS: u64 = 12;

#[test]
fn a_dozen_rounds_of_faults_break_no_promise() {
    let seed = std::env::var("FAULTS_SEED").map_or(SEED, |seed| seed.parse().expect("FAULTS_SEED is a number"));
    let mut broken = Vec::new();
    for index in 0..ROUNDS {
        let fault = Fault::of_round(index);
        match round(seed + index, fault) {
            Err(reason) => eprintln!("skipped: a round of {fault:?}: {reason}"),
            Ok(report) => {
                println!("{report}");
                if !report.violations.is_empty() {
                    broken.push(report.to_string());
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
