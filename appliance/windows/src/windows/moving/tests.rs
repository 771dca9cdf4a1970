//! Moves that end between any two steps, stores that do not answer, give other bytes or have lost some, and windows that go.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::{
    Cache, Class, Document, Far, Greatest, Image, Options, Order, Query, Reach, Reason, Search, Unreached, Value, Want,
};

const HOUR_MS: u64 = 3_600_000;
const BEGIN_MS: u64 = 1_763_812_800_000;
const HOURS: u64 = 4;
/// Documents of one hour.
const EACH: u64 = 40;

/// A store far away that can be told to misbehave.
#[derive(Default)]
struct Shelf {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
    is_away: AtomicBool,
    /// Puts keep what they are given, and then say that they did not.
    is_forgetful: AtomicBool,
    requests: AtomicUsize,
}

impl Shelf {
    fn asked(&self) -> Result<(), FarError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let is_away = self.is_away.load(Ordering::Relaxed);
        if is_away { Err(FarError::Away("it is away".into())) } else { Ok(()) }
    }

    fn away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    fn keys(&self) -> Vec<String> {
        lock(&self.kept).keys().cloned().collect()
    }
}

impl Far for Shelf {
    fn place(&self) -> &str {
        "shelf"
    }

    fn key(&self, name: &str) -> String {
        format!("lot/{name}")
    }

    fn put(&self, key: &str, image: &Image<'_>, _: &Cancel) -> Result<(), FarError> {
        self.asked()?;
        let bytes = image.read(0..image.bytes()).map_err(FarError::Away)?;
        assert!(lock(&self.kept).insert(key.to_owned(), bytes).is_none(), "{key} is written once");
        let is_forgetful = self.is_forgetful.load(Ordering::Relaxed);
        if is_forgetful { Err(FarError::Away("who knows".into())) } else { Ok(()) }
    }

    fn read(&self, key: &str, range: Range<u64>, total: u64, _: &Cancel) -> Result<Vec<u8>, FarError> {
        self.asked()?;
        let kept = lock(&self.kept);
        let bytes = kept.get(key).ok_or(FarError::Missing)?;
        assert_eq!(bytes.len() as u64, total);
        Ok(bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec())
    }

    fn delete(&self, key: &str, _: &Cancel) -> Result<(), FarError> {
        self.asked()?;
        lock(&self.kept).remove(key);
        Ok(())
    }
}

fn read(source: &[u8]) -> Document {
    let seq = String::from_utf8_lossy(source).parse().unwrap();
    document(seq)
}

fn moment_ns(seq: u64) -> i64 {
    i64::try_from((BEGIN_MS + (seq - 1) / EACH * HOUR_MS + (seq - 1) % EACH) * 1_000_000).unwrap()
}

fn document(seq: u64) -> Document {
    let mut document = Document::new(moment_ns(seq), seq);
    document.add("body", Value::Text(format!("frame {seq} done")));
    document.add("trace", Value::Keyword(format!("t{seq}")));
    document.add("ms", Value::Number(seq as f64));
    document.source = seq.to_string().into_bytes();
    document
}

/// A folder, and the store far away that goes with it.
struct Lot {
    dir: tempfile::TempDir,
    shelf: Arc<Shelf>,
}

impl Lot {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), shelf: Arc::default() }
    }

    fn windows_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("logs")
    }

    fn options(&self) -> Options {
        let cache = Cache::open(self.dir.path().join("cache"), 1 << 20).unwrap();
        let cold = Some(Cold::new(Arc::clone(&self.shelf) as Arc<dyn Far>, cache));
        Options { span_ms: HOUR_MS, cold, cold_after_ms: Some(0), ..Options::new(self.windows_dir(), read) }
    }

    fn open(&self) -> Windows {
        self.open_with(self.options())
    }

    /// Opens the windows and feeds what they lack, as a follower does.
    fn open_with(&self, options: Options) -> Windows {
        let windows = Windows::open(options).unwrap().0;
        let applied = windows.applied();
        for hour in 0..HOURS {
            let documents: Vec<_> = (hour * EACH + 1..=(hour + 1) * EACH).map(document).collect();
            let end = (hour + 1) * EACH + 1;
            if end > applied {
                windows.add(documents, BEGIN_MS + hour * HOUR_MS, end, 0).unwrap();
            }
        }
        windows.commit().unwrap();
        windows.housekeep(now_ms()).unwrap();
        windows.housekeep(now_ms()).unwrap(); // a round merges four
        windows
    }
}

/// The last window is open still.
fn now_ms() -> u64 {
    BEGIN_MS + HOURS * HOUR_MS - HOUR_MS / 2
}

fn move_all(windows: &Windows, copy: u64) -> usize {
    let mut moved = 0;
    while windows.move_next(now_ms(), copy, &Cancel::default()).unwrap().is_some() {
        moved += 1;
    }
    moved
}

fn all(query: Query) -> Search {
    let (from_ns, to_ns) = (i64::MIN, i64::MAX);
    Search { query, from_ns, to_ns, order: Order::Newest, limit: 1000, after: None, bytes_max: usize::MAX }
}

/// Numbers of what is found, rising, and what was out of reach.
fn found(windows: &Windows, query: Query) -> (Vec<u64>, Vec<Unreached>) {
    let found = windows.search(&all(query), &Cancel::default()).unwrap();
    assert!(found.set_aside.is_empty(), "{:?} {:?}", found.set_aside, lock(&windows.shared.state).asides);
    let mut seqs: Vec<_> = found.hits.iter().map(|hit| hit.position.seq).collect();
    seqs.sort_unstable();
    (seqs, found.unreached)
}

fn everything() -> Vec<u64> {
    (1..=HOURS * EACH).collect()
}

/// Names of the folders that hold an index.
fn folders_with_index(dir: &Path) -> usize {
    let is_window =
        |entry: &std::fs::DirEntry| crate::class::Chain::of_window(&entry.file_name().to_string_lossy()).is_some();
    let has_index = |entry: std::fs::DirEntry| {
        std::fs::read_dir(entry.path())
            .unwrap()
            .flatten()
            .any(|file| file.path().extension().is_some_and(|of| of == "store"))
    };
    std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(is_window)
        .filter_map(|entry| has_index(entry).then_some(()))
        .count()
}

#[test]
fn a_move_that_ends_between_any_two_steps_loses_nothing_and_leaves_nothing_behind() {
    for step in [Step::Noted, Step::Put, Step::Bound, Step::Told, Step::Settled] {
        let lot = Lot::new();
        let windows = lot.open();
        *lock(&windows.shared.ends_at) = Some(step);
        let ended = catch_unwind(AssertUnwindSafe(|| windows.move_next(now_ms(), 1, &Cancel::default())));
        assert!(ended.is_err(), "{step:?}");
        drop(windows);
        let windows = lot.open();
        assert_eq!(found(&windows, Query::All), (everything(), Vec::new()), "{step:?}");
        assert_eq!(windows.clean_cold(&Cancel::default()), Ok(0), "{step:?}");
        let is_there = matches!(step, Step::Bound | Step::Told | Step::Settled);
        assert_eq!(lot.shelf.keys().len(), usize::from(is_there), "{step:?}");
        assert_eq!(folders_with_index(&lot.windows_dir()), 4 - usize::from(is_there), "{step:?}");
        move_all(&windows, 2);
        assert_eq!(
            (lot.shelf.keys().len(), folders_with_index(&lot.windows_dir())),
            (3, 1),
            "{step:?}: the open one stays"
        );
        assert_eq!(found(&windows, Query::All), (everything(), Vec::new()), "{step:?}");
        assert!(Loose::list(&lot.windows_dir()).is_empty(), "{step:?}");
    }
}

#[test]
fn a_put_of_which_nobody_knows_how_it_ended_is_begun_anew_under_another_name() {
    let lot = Lot::new();
    let windows = lot.open();
    lot.shelf.is_forgetful.store(true, Ordering::Relaxed);
    assert!(windows.move_next(now_ms(), 1, &Cancel::default()).is_err());
    assert!(windows.moves_fail());
    assert_eq!(folders_with_index(&lot.windows_dir()), 4);
    lot.shelf.is_forgetful.store(false, Ordering::Relaxed);
    assert_eq!(move_all(&windows, 2), 3);
    assert!(!windows.moves_fail());
    assert_eq!(lot.shelf.keys().len(), 4);
    assert_eq!(windows.clean_cold(&Cancel::default()), Ok(0));
    assert_eq!(lot.shelf.keys().len(), 3);
    assert_eq!(found(&windows, Query::All), (everything(), Vec::new()));
}

#[test]
fn rare_values_are_ruled_out_and_opening_takes_no_request() {
    let lot = Lot::new();
    let windows = lot.open();
    move_all(&windows, 1);
    let requests = || lot.shelf.requests.swap(0, Ordering::Relaxed);
    requests();
    for query in [Query::keyword("trace", "t999"), Query::text("body", "frame 999"), Query::Nothing] {
        assert_eq!(found(&windows, query), (Vec::new(), Vec::new()));
    }
    assert!(requests() <= 1, "a filter may be wrong once in a hundred times");
    assert_eq!(found(&windows, Query::keyword("trace", "t7")), (vec![7], Vec::new()));
    assert!((1..=3).contains(&requests()), "one window was asked: its dictionary, its postings, its sources");
    let entries = lock(&windows.shared.state).entries.clone();
    for entry in entries.iter().filter(|entry| entry.folder.moved.is_some()) {
        entry.folder.shut();
        entry.folder.window().unwrap();
    }
    assert_eq!(requests(), 0);
}

#[test]
fn a_cold_window_without_a_filter_of_its_kind_gets_one_from_there() {
    let lot = Lot::new();
    let windows = lot.open();
    move_all(&windows, 1);
    let folders: Vec<_> = lock(&windows.shared.state).entries.iter().map(|entry| Arc::clone(&entry.folder)).collect();
    let cold: Vec<_> =
        folders.iter().filter(|folder| folder.moved.is_some()).map(|folder| folder.path.clone()).collect();
    // One of an earlier kind, one that is damaged, and one that is as it should be.
    std::fs::rename(cold[0].join("terms.filter"), cold[0].join("cold.filter")).unwrap();
    std::fs::write(cold[1].join("terms.filter"), "BLTERMS1").unwrap();
    drop(windows);
    let windows = lot.open();
    lot.shelf.away(true);
    assert!(matches!(windows.filter_cold(&Cancel::default()), Err(ColdFault::Far(FarError::Away(_)))));
    lot.shelf.away(false);
    let requests = || lot.shelf.requests.swap(0, Ordering::Relaxed);
    requests();
    let nowhere = || found(&windows, Query::keyword("trace", "t999"));
    assert_eq!(nowhere(), (Vec::new(), Vec::new()));
    assert!(requests() > 0, "there is nothing to rule them out by");
    while windows.filter_cold(&Cancel::default()).unwrap() {}
    requests();
    assert_eq!(nowhere(), (Vec::new(), Vec::new()));
    assert_eq!(found(&windows, Query::text("body", "frame 999")), (Vec::new(), Vec::new()));
    assert_eq!(requests(), 0);
    assert!(!cold[0].join("cold.filter").exists());
    assert_eq!(found(&windows, Query::All), (everything(), Vec::new()));
}

#[test]
fn when_the_store_is_away_the_answer_says_which_windows_it_lacks_and_is_whole_again_afterwards() {
    let lot = Lot::new();
    let windows = lot.open();
    move_all(&windows, 1);
    drop(windows);
    let windows = lot.open(); // with nothing in the cache
    lot.shelf.away(true);
    let newest: Vec<_> = (3 * EACH + 1..=4 * EACH).collect();
    let (seqs, unreached) = found(&windows, Query::All);
    assert_eq!((&seqs, unreached.len()), (&newest, 3));
    assert!(unreached.iter().all(|of| of.window.starts_with("w-") && of.reason == "it is away"), "{unreached:?}");
    let range = (i64::MIN, i64::MAX);
    let wants = [Want::Values { name: "trace".into(), limit: 3 }];
    let tally = |reach| windows.tally(&Query::All, range, &wants, reach, &Cancel::default()).unwrap();
    assert_eq!((tally(Reach::Everywhere).matched, tally(Reach::Everywhere).unreached.len()), (EACH, 3));
    assert_eq!((tally(Reach::Here).matched, tally(Reach::Here).unreached.len()), (EACH, 0));
    let (query, name) = (Query::All, "ms".to_owned());
    let greatest =
        Greatest { query, from_ns: range.0, to_ns: range.1, name, limit: 5, after: None, bytes_max: 1 << 20 };
    assert_eq!(windows.greatest(&greatest, &Cancel::default()).unwrap().unreached.len(), 3);
    // Nobody asks for what is outside of the range, or when there is enough already.
    let some = Search { limit: 10, ..all(Query::All) };
    assert!(windows.search(&some, &Cancel::default()).unwrap().unreached.is_empty());
    let here = Search { from_ns: moment_ns(3 * EACH + 1), ..all(Query::All) };
    assert!(windows.search(&here, &Cancel::default()).unwrap().unreached.is_empty());
    lot.shelf.away(false);
    assert_eq!(found(&windows, Query::All), (everything(), Vec::new()));
    assert_eq!(tally(Reach::Everywhere).matched, HOURS * EACH);
    assert_eq!(windows.greatest(&greatest, &Cancel::default()).unwrap().hits.len(), 5);
    lot.shelf.away(true);
    assert_eq!(found(&windows, Query::All), (everything(), Vec::new()), "the cache has it");
}

#[test]
fn a_search_that_loses_the_store_half_way_tells_only_whole_windows() {
    let lot = Lot::new();
    let windows = lot.open();
    move_all(&windows, 1);
    for many in 0..12 {
        let windows = lot.open();
        let (left, shelf) = (Arc::new(AtomicUsize::new(many)), Arc::clone(&lot.shelf));
        let cancel = Cancel::asking(move || {
            let is_over = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
            if is_over { Err("patience is over".into()) } else { Ok(()) }
        });
        let answer = windows.search(&all(Query::Exists { name: "trace".into() }), &cancel).unwrap();
        let whole = HOURS - answer.unreached.len() as u64;
        assert_eq!(answer.hits.len() as u64, whole * EACH, "{many}: {:?}", answer.unreached);
        assert!(shelf.requests.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn a_cancelled_search_asks_nobody() {
    let lot = Lot::new();
    let windows = lot.open();
    move_all(&windows, 1);
    lot.shelf.requests.store(0, Ordering::Relaxed);
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(windows.search(&all(Query::All), &cancel), Err(WindowsError::Cancelled)));
    assert_eq!(lot.shelf.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn other_bytes_than_were_put_set_the_window_aside_by_name_and_lost_ones_are_out_of_reach() {
    let lot = Lot::new();
    let windows = lot.open();
    move_all(&windows, 1);
    let keys = lot.shelf.keys();
    for byte in lock(&lot.shelf.kept).get_mut(&keys[0]).unwrap() {
        *byte ^= 1;
    }
    lock(&lot.shelf.kept).remove(&keys[1]);
    let windows = {
        drop(windows);
        lot.open()
    };
    let answer = windows.search(&all(Query::All), &Cancel::default()).unwrap();
    assert_eq!(answer.hits.len() as u64, 2 * EACH);
    assert_eq!(answer.set_aside.len(), 1);
    assert!(keys[0].contains(&answer.set_aside[0]), "{:?}", answer.set_aside);
    assert_eq!(answer.unreached.len(), 1);
    assert!(keys[1].contains(&answer.unreached[0].window) && answer.unreached[0].reason.contains("missing"));
    assert!(lot.shelf.keys().contains(&keys[0]), "what is set aside is kept, there as here");
}

#[test]
fn what_stays_here_of_a_window_is_compared_too() {
    let (whole, less) = (HOURS * EACH, (HOURS - 1) * EACH);
    for (file, expected) in [("cold.json", (less, 1)), ("cold.head", (less, 1)), ("terms.filter", (whole, 0))] {
        let lot = Lot::new();
        let windows = lot.open();
        move_all(&windows, 1);
        drop(windows);
        let folder = std::fs::read_dir(lot.windows_dir()).unwrap().flatten();
        let path = folder.map(|entry| entry.path().join(file)).find(|path| path.exists()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 0x55;
        std::fs::write(&path, bytes).unwrap();
        let windows = lot.open();
        let answer = windows.search(&all(Query::text("body", "frame")), &Cancel::default()).unwrap();
        assert_eq!((answer.hits.len() as u64, answer.set_aside.len()), expected, "{file}");
        assert!(answer.unreached.is_empty());
    }
}

#[test]
fn windows_go_from_there_when_their_time_is_over_and_the_store_may_be_away_then() {
    let lot = Lot::new();
    let options = Options { retention_ms: 5 * HOUR_MS, ..lot.options() };
    let windows = lot.open_with(options.clone());
    move_all(&windows, 1);
    lot.shelf.away(true);
    let dropped = windows.housekeep(BEGIN_MS + 6 * HOUR_MS + 1).unwrap();
    assert_eq!(dropped.iter().map(|of| of.reason).collect::<Vec<_>>(), [Reason::Age, Reason::Age]);
    assert!(windows.clean_cold(&Cancel::default()).is_err());
    assert_eq!(lot.shelf.keys().len(), 3);
    drop(windows);
    let windows = Windows::open(options).unwrap().0;
    lot.shelf.away(false);
    assert_eq!(windows.clean_cold(&Cancel::default()), Ok(0));
    assert_eq!(lot.shelf.keys().len(), 1, "those that went are deleted, and nothing else");
    let (seqs, unreached) = found(&windows, Query::All);
    assert_eq!((seqs, unreached.len()), ((2 * EACH + 1..=4 * EACH).collect(), 0));
}

#[test]
fn only_what_rests_and_is_old_and_of_a_class_that_moves_is_moved() {
    let lot = Lot::new();
    let class = |name: &str, trace: &str, cold_after_ms| Class {
        name: name.into(),
        query: Query::KeywordPrefix { name: "trace".into(), prefix: trace.into() },
        retention_ms: 1000 * HOUR_MS,
        disk_bytes_max: u64::MAX,
        cold_after_ms,
    };
    let classes = vec![class("ones", "t1", None)];
    let windows = lot.open_with(Options { classes, cold_after_ms: Some(2 * HOUR_MS), ..lot.options() });
    let moved = |windows: &Windows| windows.move_next(now_ms(), 1, &Cancel::default()).unwrap();
    let names: Vec<_> = std::iter::from_fn(|| moved(&windows)).map(|moved| moved.class).collect();
    assert_eq!(names, ["default", "default"], "of the first three hours, those that are two hours old");
    let kept = windows.kept();
    let ready: Vec<_> = kept.iter().filter(|kept| kept.may_move).map(|kept| kept.window.clone()).collect();
    assert_eq!(ready.len(), 1);
    windows.move_early(kept.iter().map(|kept| kept.window.clone()));
    assert_eq!(moved(&windows).map(|moved| moved.window), ready.first().cloned());
    assert_eq!(moved(&windows), None);
    assert_eq!(found(&windows, Query::All).0, everything());
}

#[test]
fn a_class_with_too_many_bytes_moves_windows_and_drops_them_only_where_that_fails() {
    let lot = Lot::new();
    let windows = lot.open();
    let bytes: u64 = windows.kept().iter().map(|kept| kept.bytes).sum();
    drop(windows);
    let options =
        |bytes_max| Options { disk_bytes_max: bytes_max, cold_after_ms: Some(1000 * HOUR_MS), ..lot.options() };
    let windows = lot.open_with(options(bytes * 9 / 10));
    assert_eq!(windows.housekeep(now_ms()).unwrap(), []);
    assert_eq!(move_all(&windows, 1), 1, "as many as make room");
    assert_eq!(found(&windows, Query::All).0, everything());
    drop(windows);
    lot.shelf.away(true);
    let here: u64 = lot.open().kept().iter().map(|kept| kept.bytes).sum();
    let windows = lot.open_with(options(here * 9 / 10));
    windows.housekeep(now_ms()).unwrap();
    assert!(windows.move_next(now_ms(), 2, &Cancel::default()).is_err());
    let dropped = windows.housekeep(now_ms()).unwrap();
    assert_eq!(dropped.iter().map(|of| of.reason).collect::<Vec<_>>(), [Reason::ClassBytes]);
}

#[test]
fn without_the_place_it_was_put_in_a_window_says_where_it_is() {
    let lot = Lot::new();
    move_all(&lot.open(), 1);
    let windows = lot.open_with(Options { cold: None, ..lot.options() });
    let (seqs, unreached) = found(&windows, Query::All);
    assert_eq!((seqs.len() as u64, unreached.len()), (EACH, 3));
    assert!(unreached[0].reason.contains("shelf"), "{unreached:?}");
    assert_eq!(crate::examine(&lot.options()).unwrap().kept.iter().filter(|kept| kept.cold_bytes > 0).count(), 3);
}

#[test]
fn closed_windows_that_nobody_searches_are_let_go() {
    let lot = Lot::new();
    let windows = lot.open();
    let opened = || {
        let state = lock(&windows.shared.state);
        state.entries.iter().filter(|entry| entry.summary.closed && entry.folder.is_opened()).count()
    };
    let all = found(&windows, Query::All);
    assert!(opened() > 0);
    windows.housekeep(now_ms()).unwrap();
    assert!(opened() > 0, "they were searched since the last round");
    windows.housekeep(now_ms()).unwrap();
    assert_eq!(opened(), 0);
    assert_eq!(found(&windows, Query::All), all);
}
