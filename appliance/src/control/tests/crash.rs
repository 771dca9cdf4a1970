//! kill -9 and power cuts for journal, catalogue and compaction together: a child works, tells what was acknowledged, and
//! dies at any moment; the next start must have all of it, each row applied once. Every third time the catalogue is
//! thrown away and rebuilt, and must come back the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use super::*;
use crate::catalogue::Pair;
use crate::catalogue::tests::disk::{Disk, disk_or_skip};
use crate::crash_testing::Work;

/// Tells the child its folder and the first of its numbers.
const CHILD: &str = "BACKLOT_CONTROL_CRASH_CHILD";
const CALLERS: u64 = 4;
const ROWS_OF_A_CALLER: u64 = 25;

/// What the child has said so far, over all rounds.
#[derive(Default)]
struct Told {
    /// Newest acknowledged number of each row.
    rows: BTreeMap<String, u64>,
    members: BTreeSet<String>,
    /// Members whose removal was begun; they may or may not be there, until it is acknowledged.
    leaving: BTreeSet<String>,
    gone: BTreeSet<String>,
}

impl Told {
    fn take(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["row", key, number] => _ = self.rows.insert(key.into(), number.parse().unwrap()),
            ["in", name] => _ = self.members.insert(name.into()),
            ["leaving", name] => {
                self.members.remove(name);
                self.leaving.insert(name.into());
            }
            ["out", name] => _ = self.gone.insert(name.into()),
            _ => {} // the test harness's own lines
        }
    }

    fn check(&self, house: &House, round: u64) {
        for (key, acknowledged) in &self.rows {
            let row = house.row(key).unwrap_or_else(|| panic!("round {round}: row {key} is gone"));
            // Newest first; a row that was cut to its limit may end in the middle of a number.
            let mut numbers: Vec<u64> = row.split(',').map(|number| number.parse().unwrap_or(0)).collect();
            numbers.pop();
            assert!(numbers[0] >= *acknowledged, "round {round}: row {key} is at {numbers:?}, not {acknowledged}");
            assert!(
                numbers.is_sorted_by(|newer, older| newer > older),
                "round {round}: row {key} was applied twice: {row}"
            );
        }
        let held = house.members.held.lock();
        for name in &self.members {
            let lsn = held.get(name.as_bytes()).unwrap_or_else(|| panic!("round {round}: member {name} is gone"));
            assert_eq!(house.control.read(*lsn).unwrap()[1..], *name.as_bytes());
        }
        for name in &self.gone {
            assert!(!held.contains_key(name.as_bytes()), "round {round}: member {name} came back");
        }
    }
}

fn rows(house: &House) -> Vec<Pair> {
    house.control.catalogue().range(Table::Keys, b"", b"", usize::MAX).unwrap()
}

/// Lets a child work in `data` and ends it at a moment that `round` chooses.
fn round(data: &Path, round: u64, told: &mut Told, power: Option<&Disk>) {
    let work = Work {
        test: "control::tests::crash::child",
        told: (CHILD, format!("{} {}", data.display(), round << 20)),
        begins_with: "row",
        pause: Duration::from_millis(20 + round * 7919 % 300),
        power,
    };
    let said = work.until_the_end();
    for (at, line) in said.lines.iter().enumerate() {
        // What was begun while the power went may have happened.
        if at < said.heard || line.starts_with("leaving") {
            told.take(line);
        }
    }
}

/// Opens what a round left behind and looks at it, on every third round through a rebuild.
fn look(data: &Path, round: u64, told: &Told) -> Lsn {
    let house = open(data);
    told.check(&house, round);
    let oldest = house.control.journal().segments()[0].base;
    let before = rows(&house);
    house.control.close();
    drop(house);
    if round % 3 == 2 {
        std::fs::remove_dir_all(data.join("catalogue")).unwrap();
        rebuild(data).unwrap();
        let house = open(data);
        assert_eq!(rows(&house), before, "round {round}: the rebuilt catalogue differs");
        told.check(&house, round);
        house.control.close();
    }
    oldest
}

/// Rounds until they have done enough to mean something: on a slow disk, one does little.
fn rounds(data: &Path, at_least: u64, power: Option<&Disk>) {
    let mut told = Told::default();
    for number in 0..60 {
        round(data, number, &mut told, power);
        if let Some(disk) = power {
            disk.power_on();
        }
        let oldest = look(data, number, &told);
        // Once a segment is gone, what it held must come from the catalogue's flush and from the records that moved.
        let enough = oldest > Lsn(0) && told.rows.len() > 50 && told.gone.len() > 50;
        if enough && number + 1 >= at_least {
            return;
        }
    }
    panic!("the rounds did too little: {} rows, {} members gone", told.rows.len(), told.gone.len());
}

#[test]
fn whatever_was_acknowledged_survives_kill_9_in_journal_and_catalogue() {
    let data = tempfile::tempdir().unwrap();
    rounds(data.path(), 12, None);
}

#[test]
fn whatever_was_acknowledged_survives_a_power_cut_in_journal_and_catalogue() {
    let name = "control: whatever_was_acknowledged_survives_a_power_cut_in_journal_and_catalogue";
    let Some(disk) = disk_or_skip(name, 128 << 20) else { return };
    rounds(&disk.path().join("data"), 9, Some(&disk));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the tests above, which start it and kill it"]
async fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (data, first) = told.rsplit_once(' ').unwrap();
    let first: u64 = first.parse().unwrap();
    let house = Arc::new(open(data.as_ref()));
    // One write for each line: lines shorter than a pipe's buffer arrive whole or not at all.
    let say = |line: String| std::io::stdout().write_all(line.as_bytes()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let house = Arc::clone(&house);
        tasks.spawn(async move {
            for number in first + 1.. {
                let key = format!("{caller}-{}", number % ROWS_OF_A_CALLER);
                Rows::put(&house.control, &format!("{key}={number},")).await.unwrap();
                say(format!("row {key} {number}\n"));
                let name = format!("{caller}-{number}-{}", "x".repeat(1500));
                house.members.add(&house.control, &name).await;
                say(format!("in {name}\n"));
                if number % 40 != 3 {
                    say(format!("leaving {name}\n"));
                    house.members.remove(&house.control, &name).await;
                    say(format!("out {name}\n"));
                }
            }
        });
    }
    let collector = Arc::clone(&house);
    tasks.spawn(async move {
        let mut survivors = compaction::Survivors::default();
        loop {
            tokio::time::sleep(Duration::from_millis(15)).await;
            collector.control.look_after(&mut survivors).await.unwrap();
        }
    });
    while tasks.join_next().await.is_some() {}
}
