//! Windows are passed by that cannot hold what is asked for, and only those.
#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]

use std::path::{Path, PathBuf};

use backlot_windows::{Cancel, Document, Greatest, Options, Order, Query, Reach, Search, Value, Windows};

const HOUR_MS: u64 = 3_600_000;
const ARRIVED_MS: u64 = 1_763_812_800_000;
const FILE: &str = "terms.filter";

fn options(dir: &Path) -> Options {
    fn read(source: &[u8]) -> Document {
        let (trace, span): (String, String) = serde_json::from_slice(source).unwrap();
        described(0, 0, &trace, &span)
    }
    let filtered = &["trace", "span"];
    Options { span_ms: HOUR_MS, stray_ms: HOUR_MS, readers_max: 0, filtered, ..Options::new(dir, read) }
}

fn described(time_ns: i64, seq: u64, trace: &str, span: &str) -> Document {
    let mut document = Document::new(time_ns, seq);
    document.add("trace", Value::Keyword(trace.to_owned()));
    document.add("span", Value::Id(span.to_owned()));
    document.add("took", Value::Number(seq as f64));
    document
}

fn span(seq: u64) -> String {
    format!("{:016x}", seq.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Three closed windows of ten documents, an hour apart, which rest and have filters. The trace of each document has two
/// spans, but for trace 9, which is in the first window and in the second.
fn filled(dir: &Path) -> Windows {
    let (windows, _) = Windows::open(options(dir)).unwrap();
    for seq in 0..31 {
        let arrived_ms = ARRIVED_MS + seq / 10 * HOUR_MS + seq;
        let time_ns = i64::try_from(arrived_ms * 1_000_000).unwrap();
        let trace = if seq == 10 { 9 } else { seq / 2 * 2 + 1 };
        let mut document = described(time_ns, seq, &format!("t{trace}"), &span(seq));
        document.source = serde_json::to_vec(&(format!("t{trace}"), span(seq))).unwrap();
        windows.add(vec![document], arrived_ms, seq + 1, arrived_ms).unwrap();
        windows.commit().unwrap();
    }
    for _ in 0..6 {
        windows.housekeep(ARRIVED_MS + 3 * HOUR_MS).unwrap();
    }
    windows
}

fn closed(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.join("meta.json").exists()).collect();
    folders.sort();
    folders.truncate(3);
    folders
}

/// Takes the dictionaries of a window away, so that whoever opens it sets it aside.
fn break_index(window: &Path) {
    for entry in std::fs::read_dir(window).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|of| of == "term" || of == "store") {
            std::fs::remove_file(entry).unwrap();
        }
    }
}

fn asked(query: Query) -> Search {
    let (from_ns, to_ns, bytes_max) = (i64::MIN, i64::MAX, usize::MAX);
    Search { query, from_ns, to_ns, order: Order::Newest, limit: 100, after: None, bytes_max }
}

/// Numbers of the documents that were found, and how many windows were set aside on the way.
fn found(windows: &Windows, query: Query) -> (Vec<u64>, usize) {
    let found = windows.search(&asked(query), &Cancel::default()).unwrap();
    (found.hits.iter().map(|hit| hit.position.seq).collect(), found.set_aside.len())
}

#[test]
fn a_window_without_the_id_is_not_opened_and_one_with_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let windows = filled(dir.path());
    let folders = closed(dir.path());
    assert!(folders.iter().all(|folder| folder.join(FILE).exists()));
    break_index(&folders[1]);
    let trace = |name: &str| Query::keyword("trace", name);
    let id = |seq| Query::Id { name: "span".into(), begin: span(seq), whole: true };
    assert_eq!(found(&windows, trace("t3")), (vec![3, 2], 0));
    assert_eq!(found(&windows, Query::And(vec![trace("t25"), Query::Not(Box::new(id(24)))])), (vec![25], 0));
    assert_eq!(found(&windows, Query::Or(vec![trace("t3"), trace("t25"), id(30)])), (vec![30, 25, 24, 3, 2], 0));
    let greatest = Greatest {
        query: trace("t25"),
        from_ns: i64::MIN,
        to_ns: i64::MAX,
        name: "took".into(),
        limit: 1,
        after: None,
        bytes_max: usize::MAX,
    };
    let longest = windows.greatest(&greatest, &Cancel::default()).unwrap();
    assert_eq!((longest.hits[0].0, longest.set_aside.len()), (25.0, 0));
    let counted =
        windows.tally(&trace("t3"), (i64::MIN, i64::MAX), &[], Reach::Everywhere, &Cancel::default()).unwrap();
    assert_eq!((counted.matched, counted.set_aside.len()), (2, 0));
    // What may be in it makes it be opened, and found broken.
    assert_eq!(found(&windows, trace("t9")), (vec![9, 8], 1));
}

#[test]
fn what_is_asked_of_other_names_opens_every_window() {
    let dir = tempfile::tempdir().unwrap();
    let windows = filled(dir.path());
    break_index(&closed(dir.path())[1]);
    let begins = Query::KeywordPrefix { name: "trace".into(), prefix: "t3".into() };
    assert_eq!(found(&windows, begins), (vec![30, 3, 2], 1));
}

#[test]
fn a_filter_that_is_missing_or_of_other_names_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let folders = closed(dir.path());
    std::fs::remove_file(folders[0].join(FILE)).unwrap();
    std::fs::write(folders[1].join(FILE), b"torn").unwrap();
    let before = std::fs::read(folders[2].join(FILE)).unwrap();
    let (windows, _) = Windows::open(options(dir.path())).unwrap();
    assert_eq!(found(&windows, Query::keyword("trace", "t9")), (vec![10, 9, 8], 0));
    for _ in 0..3 {
        windows.housekeep(ARRIVED_MS + 3 * HOUR_MS).unwrap();
    }
    break_index(&folders[0]);
    break_index(&folders[1]);
    assert_eq!(found(&windows, Query::keyword("trace", "t25")), (vec![25, 24], 0));
    assert_eq!(std::fs::read(folders[2].join(FILE)).unwrap(), before);
    drop(windows);
    let other = Options { filtered: &["span"], ..options(dir.path()) };
    let (windows, _) = Windows::open(other).unwrap();
    for _ in 0..3 {
        windows.housekeep(ARRIVED_MS + 3 * HOUR_MS).unwrap();
    }
    drop(windows);
    assert_ne!(std::fs::read(folders[2].join(FILE)).unwrap(), before);
}
