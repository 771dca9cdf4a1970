//! What windows do as time goes by, and what damage does to them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use backlot_windows::{Cancel, Class, Options, Position, Query, Reason, Search, Windows};

use crate::{ARRIVED_MS, HOUR_MS, all, arrived_ns, classes, line, options, seqs};

#[test]
fn what_was_not_committed_is_fed_again_and_stands_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let feed = |windows: &Windows, seqs: Range<u64>| {
        for seq in seqs {
            let off = if seq % 5 == 0 { -HOUR_MS.cast_signed() * 9_000_000 } else { 0 };
            let document = line(seq, arrived_ns(ARRIVED_MS + seq) + off, "frame written");
            windows.add(vec![document], ARRIVED_MS + seq, seq + 1, ARRIVED_MS + seq).unwrap();
        }
    };
    let (windows, opened) = Windows::open(options(dir.path())).unwrap();
    assert_eq!((opened.windows, windows.applied()), (0, 0));
    feed(&windows, 0..100);
    assert_eq!(windows.commit().unwrap(), 100);
    feed(&windows, 100..150);
    assert_eq!(seqs(&windows, &all(Query::All)).len(), 150, "the ring is searched too");
    drop(windows);

    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    assert_eq!(windows.applied(), 100);
    feed(&windows, 90..200); // from a little before, as a journal whose reader is careful
    let mut found = seqs(&windows, &all(Query::All));
    found.sort_unstable();
    assert_eq!(found, (0..200).collect::<Vec<_>>());
    windows.commit().unwrap();
    assert_eq!(seqs(&windows, &all(Query::keyword("level", "error"))).len(), 67);
}

#[test]
fn a_cursor_stays_where_it_is_while_newer_documents_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    let add = |seq: u64| {
        windows.add(vec![line(seq, arrived_ns(ARRIVED_MS), "same moment")], ARRIVED_MS, seq + 1, ARRIVED_MS).unwrap();
    };
    (0..10).for_each(add);
    let first = windows.search(&Search { limit: 4, ..all(Query::All) }, &Cancel::default()).unwrap();
    let at = first.hits.last().map(|hit| hit.position);
    assert_eq!(at, Some(Position { time_ns: arrived_ns(ARRIVED_MS), seq: 6 }));
    windows.commit().unwrap();
    (10..20).for_each(add);
    assert_eq!(seqs(&windows, &Search { limit: 4, after: at, ..all(Query::All) }), [5, 4, 3, 2]);
}

#[test]
fn a_page_ends_early_when_its_sources_are_large() {
    let dir = tempfile::tempdir().unwrap();
    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    for seq in 0..5 {
        let mut document = line(seq, arrived_ns(ARRIVED_MS) + seq.cast_signed(), "large");
        document.source = vec![b'x'; 1000];
        windows.add(vec![document], ARRIVED_MS, seq + 1, ARRIVED_MS).unwrap();
    }
    let found = windows.search(&Search { bytes_max: 2500, ..all(Query::All) }, &Cancel::default()).unwrap();
    assert_eq!((found.hits.len(), found.more), (2, true));
    let found = windows.search(&Search { bytes_max: 10, ..all(Query::All) }, &Cancel::default()).unwrap();
    assert_eq!((found.hits.len(), found.more), (1, true));
}

/// Three closed windows an hour apart, merged, and one that is open.
fn four_windows(dir: &Path) -> Windows {
    let (windows, _) = Windows::open(options(dir)).unwrap();
    for seq in 0..40 {
        let arrived_ms = ARRIVED_MS + seq / 10 * HOUR_MS + seq;
        windows.add(vec![line(seq, arrived_ns(arrived_ms), "frame")], arrived_ms, seq + 1, arrived_ms).unwrap();
        windows.commit().unwrap();
    }
    for _ in 0..4 {
        windows.housekeep(ARRIVED_MS + 3 * HOUR_MS).unwrap();
    }
    assert_eq!(windows.stats().windows, 4);
    windows
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("w-"))
        .collect();
    folders.sort();
    folders
}

#[test]
fn a_closed_window_rests_as_one_segment() {
    let dir = tempfile::tempdir().unwrap();
    let windows = four_windows(dir.path());
    for folder in &folders(dir.path())[..3] {
        let stores = std::fs::read_dir(folder).unwrap().flatten();
        let stores = stores.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "store"));
        assert_eq!(stores.count(), 1, "{}", folder.display());
    }
    assert_eq!(seqs(&windows, &all(Query::All)), (0..40).rev().collect::<Vec<_>>());
}

#[test]
fn retention_drops_whole_windows_and_never_the_open_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(four_windows(dir.path()));
    let short = Options { retention_ms: 90 * 60_000, ..options(dir.path()) };
    let (windows, _) = Windows::open(short).unwrap();
    windows.housekeep(ARRIVED_MS + 3 * HOUR_MS + 100).unwrap();
    assert_eq!(seqs(&windows, &all(Query::All)), (20..40).rev().collect::<Vec<_>>());
    assert_eq!(folders(dir.path()).len(), 2);
    drop(windows);
    let tiny = Options { disk_bytes_max: 1, ..options(dir.path()) };
    let (windows, _) = Windows::open(tiny).unwrap();
    windows.housekeep(ARRIVED_MS + 3 * HOUR_MS + 100).unwrap();
    assert_eq!(seqs(&windows, &all(Query::All)), (30..40).rev().collect::<Vec<_>>());
}

#[test]
fn a_damaged_window_is_set_aside_by_name_and_the_rest_stays_searchable() {
    for damage in [Damage::Bytes("term"), Damage::Bytes("store"), Damage::Missing("fast"), Damage::Meta] {
        let dir = tempfile::tempdir().unwrap();
        drop(four_windows(dir.path()));
        let victim = folders(dir.path())[1].clone();
        damage.inflict(&victim);
        let (windows, _) = Windows::open(options(dir.path())).unwrap();
        let found = windows.search(&all(Query::keyword("level", "error")), &Cancel::default()).unwrap();
        let expected: Vec<_> = (0..40).filter(|seq| !(10..20).contains(seq) && seq % 3 == 0).rev().collect();
        assert_eq!(found.hits.iter().map(|hit| hit.position.seq).collect::<Vec<_>>(), expected, "{damage:?}");
        let name = victim.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(found.set_aside, [name.as_str()], "{damage:?}");
        assert!(dir.path().join("aside").join(&name).join("reason.json").exists());
        // It is still named after a restart, and a search of other times does not mind it.
        drop(windows);
        let (windows, opened) = Windows::open(options(dir.path())).unwrap();
        assert_eq!(opened.set_aside, [name]);
        assert_eq!(windows.stats().documents, 30);
    }
}

#[derive(Debug)]
enum Damage {
    Bytes(&'static str),
    Missing(&'static str),
    Meta,
}

impl Damage {
    fn inflict(&self, window: &Path) {
        let file = |extension: &str| {
            let files = std::fs::read_dir(window).unwrap().map(|entry| entry.unwrap().path());
            files.into_iter().find(|path| path.extension().is_some_and(|of| of == extension)).unwrap()
        };
        match self {
            Self::Bytes(extension) => {
                let path = file(extension);
                let mut bytes = std::fs::read(&path).unwrap();
                let keep = bytes.len().min(200); // the footer says what the bytes were
                let end = bytes.len() - keep.min(bytes.len() / 2);
                bytes[..end].iter_mut().for_each(|byte| *byte ^= 0xa5);
                std::fs::write(&path, bytes).unwrap();
            }
            Self::Missing(extension) => std::fs::remove_file(file(extension)).unwrap(),
            Self::Meta => std::fs::write(window.join("meta.json"), b"{\"index_settings\":").unwrap(),
        }
    }
}

#[test]
fn a_stray_does_not_make_every_search_open_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    for (seq, time_ns) in [(0, 0), (1, arrived_ns(ARRIVED_MS)), (2, i64::MAX)] {
        windows.add(vec![line(seq, time_ns, "when")], ARRIVED_MS, seq + 1, ARRIVED_MS).unwrap();
    }
    windows.commit().unwrap();
    assert_eq!(seqs(&windows, &all(Query::All)), [2, 1, 0]);
    windows.housekeep(ARRIVED_MS + 2 * HOUR_MS).unwrap();
    drop(windows);
    let stray = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let stray = stray.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("s-")).unwrap();
    Damage::Missing("fast").inflict(&stray);
    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    let near = Search { limit: 1, from_ns: 1, ..all(Query::Keyword { name: "level".into(), value: "info".into() }) };
    let near = Search { to_ns: arrived_ns(ARRIVED_MS), from_ns: arrived_ns(ARRIVED_MS - 1), ..near };
    let _ = windows.search(&near, &Cancel::default()).unwrap();
    // Its span of moments is all of time, so it is looked at, but only when the regular windows had not enough.
    let recent = Search { to_ns: i64::MAX, from_ns: i64::MIN, ..near };
    let found = windows.search(&recent, &Cancel::default()).unwrap();
    assert_eq!(found.set_aside.len(), 1);
}

#[test]
fn a_cancelled_search_ends() {
    let dir = tempfile::tempdir().unwrap();
    let windows = four_windows(dir.path());
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(windows.search(&all(Query::All), &cancel), Err(backlot_windows::WindowsError::Cancelled)));
}

#[test]
fn a_slow_reader_of_the_tail_can_tell_how_many_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    let mut tail = windows.subscribe();
    for seq in 0..1000 {
        windows.add(vec![line(seq, arrived_ns(ARRIVED_MS), "x")], ARRIVED_MS, seq + 1, ARRIVED_MS).unwrap();
    }
    assert!(matches!(tail.try_recv(), Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_))));
    let batch = tail.try_recv().unwrap();
    assert_eq!(batch.first, 1000 - 256);
    assert_eq!(batch.documents[0].seq, batch.first);
}

#[test]
fn a_class_keeps_its_windows_for_its_own_time_and_bytes_and_after_it_is_gone_too() {
    let dir = tempfile::tempdir().unwrap();
    let class = |name: &str, level: &str, hours, disk_bytes_max| Class {
        name: name.into(),
        query: Query::keyword("level", level),
        retention_ms: hours * HOUR_MS,
        disk_bytes_max,
        cold_after_ms: None,
    };
    let with = |classes| Options { classes, retention_ms: 20 * HOUR_MS, ..options(dir.path()) };
    let short = || vec![class("errors", "error", 5, u64::MAX)];
    let feed = |windows: &Windows, hours: Range<u64>| {
        for seq in hours {
            let arrived_ms = ARRIVED_MS + seq * HOUR_MS;
            windows.add(vec![line(seq, arrived_ns(arrived_ms), "frame")], arrived_ms, seq + 1, arrived_ms).unwrap();
            windows.commit().unwrap();
        }
    };
    let at = |hour: u64| ARRIVED_MS + hour * HOUR_MS + HOUR_MS / 2;
    let errors = || all(Query::keyword("level", "error"));

    let (windows, _) = Windows::open(with(short())).unwrap();
    feed(&windows, 0..12); // those of 0, 3, 6 and 9 are errors
    let dropped = windows.housekeep(at(12)).unwrap();
    let told: Vec<_> = dropped.iter().map(|gone| (gone.class.as_str(), gone.documents, gone.reason)).collect();
    assert_eq!(told, [("errors", 1, Reason::Age), ("errors", 1, Reason::Age), ("errors", 1, Reason::Age)]);
    assert_eq!(seqs(&windows, &errors()), [9]);
    assert_eq!(seqs(&windows, &all(Query::All)).len(), 9);
    let kept = windows.kept();
    assert_eq!(
        kept.iter().filter(|kept| kept.class == "errors").map(|kept| kept.retention_ms).collect::<Vec<_>>(),
        [5 * HOUR_MS]
    );
    drop(windows);

    // Without the class its records stay where they are for the time it had; new ones are like any other.
    let (windows, _) = Windows::open(with(Vec::new())).unwrap();
    feed(&windows, 12..14);
    assert_eq!(seqs(&windows, &errors()), [12, 9]);
    assert!(windows.housekeep(at(13)).unwrap().is_empty());
    let dropped = windows.housekeep(at(14)).unwrap();
    assert_eq!((dropped.len(), dropped[0].class.as_str(), dropped[0].reason), (1, "errors", Reason::Age));
    assert_eq!(seqs(&windows, &errors()), [12]);
    drop(windows);

    let (windows, _) = Windows::open(with(vec![class("all", "info", 20, 1)])).unwrap();
    feed(&windows, 14..18);
    let dropped = windows.housekeep(at(18)).unwrap();
    assert!(
        dropped.iter().all(|gone| (gone.class.as_str(), gone.reason) == ("all", Reason::ClassBytes)),
        "{dropped:?}"
    );
    assert_eq!(dropped.len(), 3);
    assert_eq!(windows.drop_window("w-no"), None);
    let oldest = windows.kept().into_iter().find(|kept| kept.closed).unwrap();
    let gone = windows.drop_window(&oldest.window).unwrap();
    assert_eq!((gone.bytes, gone.reason), (oldest.bytes, Reason::Total));
    assert!(!dir.path().join(&oldest.window).exists());
}

#[test]
fn a_chain_that_gets_nothing_has_no_window_and_one_that_gets_nothing_more_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (windows, _) = Windows::open(Options { classes: classes(3), ..options(dir.path()) }).unwrap();
    let add = |seq: u64, later_ms: u64| {
        let arrived_ms = ARRIVED_MS + later_ms;
        windows.add(vec![line(seq, arrived_ns(arrived_ms), "frame")], arrived_ms, seq + 1, arrived_ms).unwrap();
    };
    let folders = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    add(3, 0);
    add(6, 1000);
    assert_eq!(folders().len(), 1);
    assert!(folders()[0].file_name().unwrap().to_string_lossy().starts_with("w.errors-"));
    assert_eq!(windows.stats().writers, 1);
    add(7, 2000);
    windows.housekeep(ARRIVED_MS + 1_200_000).unwrap();
    assert_eq!(windows.stats().writers, 2, "what is not committed keeps its writer");
    windows.commit().unwrap();
    windows.housekeep(ARRIVED_MS + 1_200_000).unwrap();
    assert_eq!(windows.stats().writers, 0);
    assert_eq!(seqs(&windows, &all(Query::All)), [7, 6, 3]);
    add(9, 1_300_000);
    assert_eq!((folders().len(), windows.stats().writers), (2, 1), "it goes on with the window that it left");
    windows.commit().unwrap();
    assert_eq!(seqs(&windows, &all(Query::All)), [9, 7, 6, 3]);
}

#[test]
fn a_journal_that_was_made_anew_is_taken_from_its_beginning_by_every_chain() {
    let dir = tempfile::tempdir().unwrap();
    let with = Options { classes: classes(3), ..options(dir.path()) };
    let add = |windows: &Windows, seq: u64| {
        windows.add(vec![line(seq, arrived_ns(ARRIVED_MS) + seq.cast_signed(), "x")], ARRIVED_MS, seq + 1, 0).unwrap();
        windows.commit().unwrap();
    };
    let (windows, _) = Windows::open(with.clone()).unwrap();
    [300, 301].into_iter().for_each(|seq| add(&windows, seq)); // an error, and another one
    windows.rewind();
    [1, 2].into_iter().for_each(|seq| add(&windows, seq)); // none of the errors
    drop(windows);
    let (windows, _) = Windows::open(with).unwrap();
    assert_eq!(windows.applied(), 3);
    add(&windows, 3);
    assert_eq!(seqs(&windows, &all(Query::All)), [301, 300, 3, 2, 1]);
}

/// Bytes of the files below `dir` that count as memory of this process.
fn mapped_bytes(dir: &Path) -> u64 {
    let (mut is_ours, mut kib) = (false, 0);
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            kib += if is_ours { rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap() } else { 0 };
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_ours = line.contains(dir.to_str().unwrap());
        }
    }
    kib * 1024
}

#[test]
fn what_searches_have_touched_is_let_go_when_nobody_searches_and_everything_is_found_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    let add = |seqs: Range<u64>| {
        for seq in seqs {
            // Few lines are alike, so that there is something to be read.
            let body = format!("frame {seq} {:016x} {:016x}", seq.wrapping_mul(0x9e37_79b9_7f4a_7c15), seq * seq * seq);
            let arrived_ms = ARRIVED_MS + seq;
            windows.add(vec![line(seq, arrived_ns(arrived_ms), &body)], arrived_ms, seq + 1, arrived_ms).unwrap();
        }
        windows.commit().unwrap();
    };
    let everything = |count: u64| {
        assert_eq!(seqs(&windows, &all(Query::All)), (0..count).rev().collect::<Vec<_>>());
        assert_eq!(seqs(&windows, &all(Query::text("body", &(count - 1).to_string()))), [count - 1]);
    };
    add(0..20_000);
    everything(20_000);
    let touched = mapped_bytes(dir.path());
    windows.housekeep(ARRIVED_MS + 20_000).unwrap();
    assert_eq!(mapped_bytes(dir.path()), touched, "it was searched a moment ago");
    windows.housekeep(ARRIVED_MS + 20_000).unwrap();
    let rest = mapped_bytes(dir.path());
    assert!(rest < touched / 2, "{rest} of {touched} bytes are mapped still");
    // The window goes on: with what it had, and with what comes now.
    everything(20_000);
    add(20_000..20_500);
    everything(20_500);
    for _ in 0..3 {
        windows.housekeep(ARRIVED_MS + 20_500).unwrap();
    }
    everything(20_500);
}
