//! Windows against a naive scan of everything, over random steps and questions.

use std::collections::HashMap;
use std::ops::{Bound, Range};
use std::path::Path;
use std::sync::{Arc, Mutex};

use backlot_windows::{
    Cache, Cancel, Cold, Document, Far, FarError, Greatest, Image, Options, Order, Pattern, Query, Ranked, Reach,
    Search, Told, Value, Want, Windows,
};
use proptest::prelude::*;

use crate::{ARRIVED_MS, HOUR_MS, NAMES, all, arrived_ns, classes, options, packed, unpacked};

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
    let time = (-8_000_000_i64..8_000_000, -1_000_000_i64..8_000_000).prop_map(|(from_ms, length_ms)| {
        let at = |off_ms: i64| arrived_ns(ARRIVED_MS) + off_ms / 100_000 * 100_000_000_000;
        Query::Time { from_ns: at(from_ms), to_ns: at(from_ms + length_ms) }
    });
    prop_oneof![4 => leaf, 1 => time].prop_recursive(3, 16, 3, |inner| {
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
fn a_time_that_is_one_condition_of_several_is_that_of_the_index_and_not_of_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let mut fed = Fed::new(dir.path());
    let line = |body: &str| {
        let mut document = Document::new(0, 0);
        document.add("body", Value::Text(body.into()));
        document
    };
    fed.take(Step::Add(vec![(line("one"), 0), (line("two"), 600_000), (line("three"), 1_200_000)], 0));
    fed.take(Step::Commit);
    let time = |from_ms: i64, to_ms: i64| {
        let at = |off_ms: i64| arrived_ns(ARRIVED_MS) + off_ms * 1_000_000;
        Query::Time { from_ns: at(from_ms), to_ns: at(to_ms) }
    };
    // What an expression finds has to be looked up in the sources, which do not say when they are of.
    let matches = |text| Query::Matches { name: "body".into(), pattern: Pattern::new(text, false).unwrap() };
    for (query, found) in [
        (Query::Or(vec![time(500_000, 700_000), matches("^on")]), 2),
        (Query::And(vec![Query::Not(Box::new(time(500_000, 700_000))), matches("o")]), 1),
        (Query::And(vec![time(0, 700_000), matches("o")]), 2),
        (Query::And(vec![time(700_000, 1_300_000), time(0, 900_000), matches("o")]), 0),
    ] {
        let question = Question { query, from_ms: -10_000_000, to_ms: 10_000_000, order: Order::Newest, limit: 10 };
        assert_eq!(fed.pages(&question), fed.scan(&question), "{question:?}");
        assert_eq!(fed.scan(&question).len(), found, "{question:?}");
    }
}
