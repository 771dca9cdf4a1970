//! Windows against a naive scan, over crashes and with damage.
#![allow(clippy::disallowed_methods, reason = "the tests' own edge")]
#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]

use std::collections::HashMap;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backlot_windows::{
    Cache, Cancel, Class, Cold, Document, Far, FarError, Greatest, Image, Options, Order, Pattern, Position, Query,
    Ranked, Reach, Reason, Search, Told, Value, Want, Windows,
};
use proptest::prelude::*;

const HOUR_MS: u64 = 3_600_000;
const ARRIVED_MS: u64 = 1_763_812_800_000;

fn options(dir: &Path) -> Options {
    let filtered = &["level", "span", "gpu"];
    Options { span_ms: HOUR_MS, stray_ms: HOUR_MS, filtered, ..Options::new(dir, unpacked) }
}

/// Classes as an operator may have them at one time or another.
fn classes(number: usize) -> Vec<Class> {
    let class = |name: &str, query| Class {
        name: name.into(),
        query,
        retention_ms: 1000 * HOUR_MS,
        disk_bytes_max: u64::MAX,
        cold_after_ms: Some(0),
    };
    let out = || Query::KeywordPrefix { name: "level".into(), prefix: "o".into() };
    let gpu = || Query::Exists { name: "gpu".into() };
    match number {
        0 => Vec::new(),
        1 => vec![class("out", out()), class("gpu", gpu())],
        2 => vec![class("gpu", Query::Not(Box::new(gpu())))],
        _ => vec![class("errors", Query::keyword("level", "error")), class("out", out())],
    }
}

const NAMES: [&str; 5] = ["body", "level", "gpu.index", "gpu", "span"];

/// A source that a document can be read back from.
fn packed(document: &Document) -> Vec<u8> {
    let of = |name: &'static str| {
        document.values(name).map(move |value| match value {
            Value::Keyword(text) => serde_json::json!([name, "k", text]),
            Value::Id(text) => serde_json::json!([name, "i", text]),
            Value::Text(text) => serde_json::json!([name, "t", text]),
            Value::Number(number) => serde_json::json!([name, "n", number]),
        })
    };
    let values: Vec<_> = NAMES.into_iter().flat_map(of).collect();
    serde_json::json!([document.seq, values]).to_string().into_bytes()
}

fn unpacked(source: &[u8]) -> Document {
    let (seq, values): (u64, Vec<(String, String, serde_json::Value)>) = serde_json::from_slice(source).unwrap();
    let mut document = Document::new(0, seq);
    for (name, kind, value) in values {
        let text = value.as_str().unwrap_or_default().to_owned();
        let value = match kind.as_str() {
            "k" => Value::Keyword(text),
            "i" => Value::Id(text),
            "t" => Value::Text(text),
            _ => Value::Number(value.as_f64().unwrap()),
        };
        document.add(name, value);
    }
    document
}

fn all(query: Query) -> Search {
    Search {
        query,
        from_ns: i64::MIN,
        to_ns: i64::MAX,
        order: Order::Newest,
        limit: 100_000,
        after: None,
        bytes_max: usize::MAX,
    }
}

fn line(seq: u64, time_ns: i64, body: &str) -> Document {
    let mut document = Document::new(time_ns, seq);
    document.add("level", Value::Keyword(if seq.is_multiple_of(3) { "error" } else { "info" }.into()));
    document.add("body", Value::Text(body.into()));
    document.source = packed(&document);
    document
}

fn seqs(windows: &Windows, search: &Search) -> Vec<u64> {
    let found = windows.search(search, &Cancel::default()).unwrap();
    found.hits.iter().map(|hit| hit.position.seq).collect()
}

fn arrived_ns(ms: u64) -> i64 {
    i64::try_from(ms * 1_000_000).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// Documents that arrive this much later than those before.
    Add(Vec<(Document, i64)>, u64),
    Commit,
    /// Dropped without a commit, opened again, and fed again from where it stood.
    Crash,
    Housekeep,
    /// Everything that rests goes far away.
    Move,
    /// As after a crash, with other classes.
    Classes(usize),
}

fn any_word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["out", "of", "memory", "GPU-0", "Frame", "frame_12", "Ünï", "12", "--"])
        .prop_map(str::to_owned)
}

fn any_name() -> impl Strategy<Value = String> {
    prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned)
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any_word().prop_map(Value::Keyword),
        any_word().prop_map(Value::Id),
        prop::collection::vec(any_word(), 0..6).prop_map(|words| Value::Text(words.join(" "))),
        prop::sample::select(vec![-1.5, -1.0, 0.0, -0.0, 1.0, 2.0, 1e18, f64::NAN]).prop_map(Value::Number),
    ]
}

fn any_document() -> impl Strategy<Value = (Document, i64)> {
    let off_ms =
        prop_oneof![8 => -3_000_000_i64..3_000_000, 1 => Just(-1_000_000_000_000), 1 => Just(2_000_000_000_000)];
    (prop::collection::vec((any_name(), any_value()), 0..5), off_ms).prop_map(|(values, off_ms)| {
        let mut document = Document::new(0, 0);
        for (name, value) in values {
            document.add(name, value);
        }
        (document, off_ms / 100_000 * 100_000) // many share a moment
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::collection::vec(any_document(), 0..12), 0..HOUR_MS).prop_map(|(documents, later)| Step::Add(documents, later)),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
        1 => Just(Step::Housekeep),
        2 => Just(Step::Move),
        1 => (0..4_usize).prop_map(Step::Classes),
    ]
}

fn any_bound() -> impl Strategy<Value = Bound<f64>> {
    let number = || prop::sample::select(vec![-1.5, -1.0, 0.0, 1.0, 2.0]);
    prop_oneof![number().prop_map(Bound::Included), number().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

fn any_query() -> impl Strategy<Value = Query> {
    let leaf = prop_oneof![
        Just(Query::All),
        Just(Query::Nothing),
        (any_name(), any_word()).prop_map(|(name, value)| Query::Keyword { name, value }),
        (any_name(), prop::sample::select(vec!["", "f", "G", "GPU", "1"]))
            .prop_map(|(name, prefix)| Query::KeywordPrefix { name, prefix: prefix.into() }),
        (any_name(), prop::collection::vec(any_word(), 1..4))
            .prop_map(|(name, words)| Query::text(&name, &words.join(" "))),
        (any_name(), prop::sample::select(vec!["fr", "O", "ü", "12"]))
            .prop_map(|(name, prefix)| Query::WordPrefix { name, prefix: prefix.into() }),
        (any_name(), "[a-zA-Z0-9ä]{1,3}").prop_map(|(name, part)| Query::WordInfix { name, part }),
        (any_name(), any_bound(), any_bound()).prop_map(|(name, from, to)| Query::Number { name, from, to }),
        any_name().prop_map(|name| Query::Exists { name }),
        prop::collection::vec(0_u64..60, 0..5).prop_map(Query::seqs),
        (
            any_name(),
            prop::sample::select(vec!["", "fra", "frame_12", "me_1", "of mem", "-", "GPU-0", "g"]),
            any::<bool>()
        )
            .prop_map(|(name, begin, whole)| Query::Id { name, begin: begin.into(), whole }),
        (any_name(), prop::sample::select(vec!["", "fra", "rame_12 o", "me_1", "of mem", "-", "GPU-0 ", "em", "ü"]))
            .prop_map(|(name, text)| Query::Contains { name, text: text.into() }),
        (
            any_name(),
            prop::sample::select(vec![
                "",
                "of memory",
                "(out|12) of",
                "^GPU",
                "(?i)gpu-0 f",
                "m.*y$",
                " of ",
                "[0-9]+ *-"
            ]),
            any::<bool>()
        )
            .prop_map(|(name, text, whole)| Query::Matches { name, pattern: Pattern::new(text, whole).unwrap() }),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Query::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Query::Or),
            inner.prop_map(|query| Query::Not(Box::new(query))),
        ]
    })
}

#[derive(Clone, Debug)]
struct Question {
    query: Query,
    from_ms: i64,
    to_ms: i64,
    order: Order,
    limit: usize,
}

fn any_question() -> impl Strategy<Value = Question> {
    let edge = || prop_oneof![2 => -8_000_000_i64..8_000_000, 1 => Just(i64::MAX / 2_000_000), 1 => Just(i64::MIN / 2_000_000)];
    (any_query(), edge(), edge(), any::<bool>(), 1_usize..40).prop_map(|(query, a, b, newest, limit)| Question {
        query,
        from_ms: a.min(b),
        to_ms: a.max(b),
        order: if newest { Order::Newest } else { Order::Oldest },
        limit,
    })
}

/// A store far away that keeps what it is given.
#[derive(Default)]
struct Shelf(Mutex<HashMap<String, Vec<u8>>>);

impl Far for Shelf {
    fn place(&self) -> &str {
        "shelf"
    }

    fn key(&self, name: &str) -> String {
        format!("lot/{name}")
    }

    fn put(&self, key: &str, image: &Image<'_>, _: &Cancel) -> Result<(), FarError> {
        let bytes = image.read(0..image.bytes()).unwrap();
        assert!(self.0.lock().unwrap().insert(key.to_owned(), bytes).is_none(), "{key} is written once");
        Ok(())
    }

    fn read(&self, key: &str, range: Range<u64>, total: u64, _: &Cancel) -> Result<Vec<u8>, FarError> {
        let kept = self.0.lock().unwrap();
        let bytes = kept.get(key).ok_or(FarError::Missing)?;
        assert_eq!(bytes.len() as u64, total);
        Ok(bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec())
    }

    fn delete(&self, key: &str, _: &Cancel) -> Result<(), FarError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
}

/// A follower with its journal: what was fed, and what a scan of all of it finds.
struct Fed {
    windows: Option<Windows>,
    options: Options,
    journal: Vec<(Vec<Document>, u64)>,
    next: u64,
    now_ms: u64,
}

impl Fed {
    fn new(dir: &Path) -> Self {
        // So small that what one search reads drives out what another has read.
        let cache = Cache::open(dir.join("cache"), 20_000).unwrap();
        let cold = Some(Cold::new(Arc::new(Shelf::default()), cache));
        let options = Options { cold, cold_after_ms: Some(0), ..options(dir) };
        let windows = Some(Windows::open(options.clone()).unwrap().0);
        Self { windows, options, journal: Vec::new(), next: 1, now_ms: ARRIVED_MS }
    }

    fn windows(&self) -> &Windows {
        self.windows.as_ref().unwrap()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Add(documents, later_ms) => {
                self.now_ms += later_ms;
                let mut batch = Vec::new();
                for (mut document, off_ms) in documents {
                    document.time_ns = arrived_ns(self.now_ms) + off_ms * 1_000_000;
                    document.seq = self.next;
                    document.source = packed(&document);
                    self.next += 1;
                    batch.push(document);
                }
                self.windows().add(batch.clone(), self.now_ms, self.next, self.now_ms).unwrap();
                self.journal.push((batch, self.now_ms));
            }
            Step::Commit => {
                assert_eq!(self.windows().commit().unwrap(), self.next.max(1) * u64::from(!self.journal.is_empty()))
            }
            Step::Classes(number) => {
                self.options.classes = classes(number);
                self.take(Step::Crash);
            }
            Step::Crash => {
                self.windows = None; // two handles on one folder would lock each other out
                self.windows = Some(Windows::open(self.options.clone()).unwrap().0);
                let applied = self.windows().applied();
                for (batch, arrived_ms) in &self.journal {
                    let end = batch.last().map_or(0, |document| document.seq + 1);
                    if end > applied {
                        self.windows().add(batch.clone(), *arrived_ms, end, self.now_ms).unwrap();
                    }
                }
                self.windows()
                    .add(Vec::new(), self.now_ms, self.next * u64::from(!self.journal.is_empty()), self.now_ms)
                    .unwrap();
            }
            Step::Housekeep => drop(self.windows().housekeep(self.now_ms).unwrap()),
            Step::Move => {
                self.windows().housekeep(self.now_ms).unwrap();
                while let Some(moved) = self.windows().move_next(self.now_ms, self.next, &Cancel::default()).unwrap() {
                    assert!(moved.documents > 0 && moved.bytes > 0);
                }
            }
        }
    }

    fn scan(&self, question: &Question) -> Vec<u64> {
        let (from_ns, to_ns) = self.range(question);
        let mut matching: Vec<_> = self
            .journal
            .iter()
            .flat_map(|(batch, _)| batch)
            .filter(|document| {
                document.time_ns >= from_ns && document.time_ns <= to_ns && question.query.matches(document)
            })
            .map(|document| (document.time_ns, document.seq))
            .collect();
        matching.sort_unstable();
        if question.order == Order::Newest {
            matching.reverse();
        }
        matching.into_iter().map(|(_, seq)| seq).collect()
    }

    fn range(&self, question: &Question) -> (i64, i64) {
        let at = |off_ms: i64| arrived_ns(self.now_ms).saturating_add(off_ms.saturating_mul(1_000_000));
        (at(question.from_ms), at(question.to_ms))
    }

    /// All pages of the answer, one after the other.
    fn pages(&self, question: &Question) -> Vec<u64> {
        let (from_ns, to_ns) = self.range(question);
        let mut search =
            Search { from_ns, to_ns, order: question.order, limit: question.limit, ..all(question.query.clone()) };
        let mut found = Vec::new();
        loop {
            let page = self.windows().search(&search, &Cancel::default()).unwrap();
            assert!(page.hits.len() <= question.limit && page.set_aside.is_empty());
            assert!(page.hits.iter().all(|hit| unpacked(&hit.source).seq == hit.position.seq));
            found.extend(page.hits.iter().map(|hit| hit.position.seq));
            if !page.more {
                return found;
            }
            search.after = page.hits.last().map(|hit| hit.position);
        }
    }
}

impl Fed {
    /// All pages of the documents with the greatest numbers.
    fn greatest(&self, question: &Question, name: &str) -> Vec<(f64, u64)> {
        let (from_ns, to_ns) = self.range(question);
        let (query, limit) = (question.query.clone(), question.limit);
        let mut search =
            Greatest { query, from_ns, to_ns, name: name.into(), limit, after: None, bytes_max: usize::MAX };
        let mut found = Vec::new();
        loop {
            let page = self.windows().greatest(&search, &Cancel::default()).unwrap();
            assert!(page.hits.len() <= question.limit && page.set_aside.is_empty());
            assert!(page.hits.iter().all(|(_, hit)| unpacked(&hit.source).seq == hit.position.seq));
            found.extend(page.hits.iter().map(|(number, hit)| (*number, hit.position.seq)));
            if !page.more {
                return found;
            }
            search.after = page.hits.last().map(|(number, hit)| Ranked { number: *number, position: hit.position });
        }
    }

    fn scan_greatest(&self, question: &Question, name: &str) -> Vec<(f64, u64)> {
        let newest_first = Question { order: Order::Newest, ..question.clone() };
        let documents: Vec<_> = self.journal.iter().flat_map(|(batch, _)| batch).collect();
        let number_of = |seq: u64| {
            let document = documents.iter().find(|document| document.seq == seq).unwrap();
            let numbers = document.values(name).filter_map(|value| match value {
                Value::Number(number) => Some(*number),
                _ => None,
            });
            numbers.reduce(f64::max)
        };
        let found = self.scan(&newest_first).into_iter();
        let mut found: Vec<_> = found.filter_map(|seq| Some((number_of(seq)?, seq))).collect();
        found.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap()); // stable: the newest first among equals
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_search_finds_what_a_scan_of_everything_finds(
        steps in prop::collection::vec(any_step(), 1..12),
        questions in prop::collection::vec(any_question(), 12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut fed = Fed::new(dir.path());
        for step in steps {
            fed.take(step);
        }
        for question in &questions {
            prop_assert_eq!(fed.pages(question), fed.scan(question), "{:?}", question);
            prop_assert_eq!(fed.greatest(question, "level"), fed.scan_greatest(question, "level"), "{:?}", question);
        }
    }
}

/// Where a stretch of the histograms begins.
const ORIGIN_NS: i64 = 3;

/// How many match; stretch, value and count; value and count; numbers, sorted.
type Scanned = (u64, Vec<(i64, String, u64)>, Vec<(String, u64)>, Vec<f64>);

impl Fed {
    /// What a scan of everything counts: in each stretch, those of level, the values of a name, the numbers of another.
    fn count(&self, question: &Question, step_ns: i64, name: &str) -> Scanned {
        use std::collections::BTreeMap;
        let (from_ns, to_ns) = self.range(question);
        let (mut matched, mut stretches, mut values, mut numbers) = (0, BTreeMap::new(), BTreeMap::new(), Vec::new());
        for document in self.journal.iter().flat_map(|(batch, _)| batch) {
            if document.time_ns < from_ns || document.time_ns > to_ns || !question.query.matches(document) {
                continue;
            }
            matched += 1;
            let at = (document.time_ns - ORIGIN_NS).div_euclid(step_ns) * step_ns + ORIGIN_NS;
            *stretches.entry((at, "all".to_owned())).or_insert(0) += 1;
            let mut keywords = std::collections::BTreeSet::new();
            for value in document.values("level") {
                if let Value::Keyword(value) = value {
                    keywords.insert(value.clone());
                }
            }
            for value in keywords {
                *stretches.entry((at, format!("={value}"))).or_insert(0) += 1;
            }
            let mut keywords = std::collections::BTreeSet::new();
            for value in document.values(name) {
                match value {
                    Value::Keyword(value) => drop(keywords.insert(value.clone())),
                    Value::Text(value) | Value::Id(value) => *values.entry(value.clone()).or_insert(0) += 1,
                    Value::Number(number) => numbers.push(*number),
                }
            }
            for value in keywords {
                *values.entry(value).or_insert(0) += 1;
            }
        }
        numbers.sort_by(f64::total_cmp);
        let stretches = stretches.into_iter().map(|((at, value), count)| (at, value, count)).collect();
        (matched, stretches, values.into_iter().collect(), numbers)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_tally_counts_what_a_scan_of_everything_counts(
        steps in prop::collection::vec(any_step(), 1..12),
        questions in prop::collection::vec((any_question(), prop::sample::select(vec!["level", "gpu", "span"])), 6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut fed = Fed::new(dir.path());
        for step in steps {
            fed.take(step);
        }
        for (question, name) in &questions {
            let (from_ns, to_ns) = fed.range(question);
            let Some((from_ns, to_ns)) = fed.windows().extent(from_ns, to_ns) else {
                prop_assert!(fed.scan(question).is_empty());
                continue;
            };
            let step_ns = ((to_ns - from_ns) / 50).max(7);
            let wants = [
                Want::Histogram { step_ns, origin_ns: ORIGIN_NS, by: Some("level".into()) },
                Want::Values { name: (*name).into(), limit: 100 },
                Want::Numbers { name: (*name).into() },
            ];
            let counts = fed.windows().tally(&question.query, (from_ns, to_ns), &wants, Reach::Everywhere, &Cancel::default()).unwrap();
            let (matched, stretches, values, numbers) = fed.count(question, step_ns, name);
            prop_assert_eq!(counts.matched, matched);
            let [Told::Histogram(histogram), Told::Values(told), Told::Numbers(of)] = counts.told.as_slice() else {
                panic!("{:?}", counts.told)
            };
            let mut found = Vec::new();
            let mut take = |value: String, counts: &[u64]| {
                for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                    found.push((histogram.begin_ns + step_ns * index as i64, value.clone(), *count));
                }
            };
            take("all".into(), &histogram.counts);
            histogram.by.iter().for_each(|(value, counts)| take(format!("={value}"), counts));
            found.sort();
            prop_assert_eq!(found, stretches, "{:?}", question);
            let mut top = told.top.clone();
            top.sort();
            prop_assert_eq!((top, told.others), (values, 0), "{:?}", question);
            prop_assert_eq!(of.count, numbers.len() as u64);
            if let (Some(min), Some(max)) = (numbers.first(), numbers.last()) {
                prop_assert_eq!((of.min, of.max), (*min + 0.0, *max));
                for (_, number) in &of.percentiles {
                    prop_assert!(*number >= min - min.abs() * 0.02 && *number <= max + max.abs() * 0.02);
                }
            }
        }
    }
}

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
            .args(["--exact", "feeds_until_it_is_killed", "--nocapture"])
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
