//! Rounds of the fault checker by hand: `cargo run -p backlot-tests --bin faults -- --rounds 1000 --seed 7`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use backlot_tests::faults::{Fault, round};

const USAGE: &str = "usage: faults [--rounds N] [--seed N] [--fault KIND]
  --rounds N    how many, 12 by default; each kind of fault has its turn
  --seed N      of the first round; the others count on from it. By default the time
  --fault KIND  only this one: Kill, PowerCut, FullDisk, SlowDisk, FailedSync, ClockStep
Seed and kind together bring a round back, as far as the scheduling of threads allows.";

fn main() -> ExitCode {
    let Some(settings) = Settings::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    println!("{} rounds from seed {} on", settings.rounds, settings.seed);
    let (mut passed, mut broken) = (BTreeMap::<String, u64>::new(), Vec::new());
    let mut skipped = BTreeMap::<String, String>::new();
    for index in 0..settings.rounds {
        let seed = settings.seed.wrapping_add(index);
        let fault = settings.fault.unwrap_or_else(|| Fault::of_round(index));
        let name = format!("{fault:?}");
        match round(seed, fault) {
            Err(reason) => drop(skipped.insert(name, reason)),
            Ok(report) => {
                println!("{report}");
                if report.violations.is_empty() {
                    *passed.entry(name).or_default() += 1;
                } else {
                    broken.push((seed, name));
                }
            }
        }
    }
    for (name, reason) in &skipped {
        println!("skipped: {name}: {reason}");
    }
    println!("kept every promise: {passed:?}");
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("broke one: {broken:?}");
    ExitCode::FAILURE
}

struct Settings {
    rounds: u64,
    seed: u64,
    fault: Option<Fault>,
}

impl Settings {
    #[allow(clippy::disallowed_methods, reason = "a seed that nobody chose")]
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut settings = Self { rounds: 12, seed: now.as_secs(), fault: None };
        while let Some(word) = words.next() {
            let value = words.next()?;
            match word.as_str() {
                "--rounds" => settings.rounds = value.parse().ok()?,
                "--seed" => settings.seed = value.parse().ok()?,
                "--fault" => settings.fault = Some(Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == value)?),
                _ => return None,
            }
        }
        Some(settings)
    }
}
