//! kill -9, for real and often: a child appends and tells what was acknowledged; it is killed at any moment; the journal
//! that it leaves behind holds all of that, and no record or submit in part.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use backlot_journal::{Class, Journal, Lsn, Options};

use support::{Dice, all, check_whole, number_of, numbered};

/// Tells the child its folder and the first of its numbers.
const CHILD: &str = "BACKLOT_JOURNAL_KILL_CHILD";
const ROUNDS: u64 = 40;
const CALLERS: u64 = 6;

fn options(dir: &std::path::Path) -> Options {
    Options {
        segment_bytes: 128 * 1024,
        record_bytes_max: 8 * 1024,
        pending_bytes_max: 64 * 1024,
        reserve_bytes: 64 * 1024,
        ..Options::new(dir)
    }
}

#[test]
fn whatever_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut acknowledged: HashMap<u64, Lsn> = HashMap::new();
    let mut released = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(CHILD, format!("{} {}", dir.path().display(), round << 32))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // The child has opened what the one before left; from now on it may die.
        while !line.starts_with("open") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child ended: {:?}", child.wait());
        }
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            loop {
                line.clear();
                match lines.read_line(&mut line) {
                    Ok(1..) if line.ends_with('\n') => said.push(line.trim_end().to_owned()),
                    _ => return said, // the end, perhaps in the middle of a line
                }
            }
        });
        std::thread::sleep(Duration::from_millis(1 + dice.below(80))); // the moment is what is tried
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["ack", number, lsn] => {
                    _ = acknowledged.insert(number.parse().unwrap(), Lsn(lsn.parse().unwrap()));
                }
                ["release", lsn] => released = released.max(lsn.parse().unwrap()),
                _ => {}
            }
        }

        let (journal, opened) = Journal::open(options(dir.path())).unwrap();
        acknowledged.retain(|_, lsn| lsn.0 >= released);
        let found = all(&journal, Lsn(0));
        check_whole(&found);
        assert_eq!(opened.end, journal.durable());
        let mut missing = acknowledged.clone();
        for (lsn, record) in &found {
            let (number, index, _) = number_of(record).unwrap();
            if index == 0
                && let Some(expected) = missing.remove(&number)
            {
                assert_eq!(expected, *lsn);
            }
        }
        assert!(missing.is_empty(), "round {round} lost {missing:?}");
    }
    assert!(acknowledged.len() > ROUNDS as usize, "only {} survived to be looked for", acknowledged.len());
    assert!(released > 0);
}

#[test]
#[ignore = "the child of the test above, which starts it and kills it"]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (dir, first) = told.rsplit_once(' ').unwrap();
    let first: u64 = first.parse().unwrap();
    let (journal, _) = Journal::open(options(dir.as_ref())).unwrap();
    // One write for each line: lines shorter than a pipe's buffer arrive whole or not at all.
    let say = |line: String| std::io::stdout().write_all(line.as_bytes()).unwrap();
    say("open\n".to_owned());
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let journal = &journal;
            scope.spawn(move || {
                let mut dice = Dice(first + caller + 1);
                for number in (first + caller..).step_by(CALLERS as usize) {
                    let count = 1 + dice.below(4) as u8;
                    let records: Vec<_> =
                        (0..count).map(|index| numbered(number, index, count, dice.below(2000) as usize)).collect();
                    let bytes = records.iter().map(Vec::len).sum();
                    let Ok(permit) = journal.reserve_blocking(bytes, Class::Growing) else { return };
                    let slices: Vec<_> = records.iter().map(Vec::as_slice).collect();
                    let submitted = permit.submit(&slices);
                    if submitted.durable_blocking().is_ok() {
                        say(format!("ack {number} {}\n", submitted.lsns[0].0));
                    }
                    let segments = journal.segments();
                    if segments.len() > 6 && caller == 0 {
                        say(format!("release {}\n", segments[3].base.0));
                        journal.release_before(segments[3].base).unwrap();
                    }
                }
            });
        }
    });
}
