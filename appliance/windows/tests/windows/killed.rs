//! A process that is killed while it feeds windows.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use backlot_windows::{Options, Query, Search, Windows};

use crate::{ARRIVED_MS, HOUR_MS, all, arrived_ns, classes, line, options, seqs};

const CHILD_DIR: &str = "WINDOWS_TEST_CHILD_DIR";

/// Not a test of its own: what the test below starts and kills.
#[test]
fn feeds_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (dir, number) = dir.rsplit_once(' ').unwrap();
    let classes = classes(number.parse().unwrap());
    let (windows, _) = Windows::open(Options { span_ms: 400, classes, ..options(Path::new(dir)) }).unwrap();
    for seq in windows.applied()..u64::MAX {
        let arrived_ms = ARRIVED_MS + seq;
        let off = if seq % 7 == 0 { -HOUR_MS.cast_signed() * 9_000_000 } else { 0 };
        windows.add(vec![line(seq, arrived_ns(arrived_ms) + off, "frame")], arrived_ms, seq + 1, arrived_ms).unwrap();
        if seq % 37 == 0 {
            windows.commit().unwrap();
        }
        if seq % 150 == 0 {
            windows.housekeep(arrived_ms).unwrap();
        }
    }
}

#[test]
fn kill_9_loses_nothing_committed_and_duplicates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut applied_before = 0;
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::feeds_until_it_is_killed", "--nocapture"])
            // Two classes, none, others: what was cut off between two chains' commits comes again under other classes.
            .env(CHILD_DIR, format!("{} {}", dir.path().display(), 3 * (round % 2)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(250 + 173 * round)); // when it dies is left to chance
        child.kill().unwrap();
        child.wait().unwrap();

        let (windows, opened) = Windows::open(options(dir.path())).unwrap();
        assert!(opened.set_aside.is_empty(), "{:?}", opened.set_aside);
        let applied = windows.applied();
        assert!(applied >= applied_before);
        let mut found = seqs(&windows, &Search { limit: 10_000_000, ..all(Query::All) });
        found.sort_unstable();
        // Some chains may have been committed further than all of them; none is behind, and nothing stands there twice.
        let before: Vec<_> = found.iter().copied().filter(|seq| *seq < applied).collect();
        assert_eq!(before, (0..applied).collect::<Vec<_>>());
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
        applied_before = applied;
    }
    assert!(applied_before > 0, "no round came as far as a commit");
}
