//! A question that only the sources answer reads as many of them as it must, however many segments a window is made of.
#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]

use std::sync::atomic::{AtomicUsize, Ordering};

use backlot_windows::{Cancel, Document, Options, Order, Query, Search, Value, Windows};

const BATCHES: u64 = 12;
const EACH: u64 = 50;
const LIMIT: usize = 5;
const ARRIVED_MS: u64 = 1_763_812_800_000;

static READ: AtomicUsize = AtomicUsize::new(0);

fn read(source: &[u8]) -> Document {
    READ.fetch_add(1, Ordering::Relaxed);
    described(0, 0, &String::from_utf8_lossy(source))
}

fn described(time_ns: i64, seq: u64, body: &str) -> Document {
    let mut document = Document::new(time_ns, seq);
    document.add("body", Value::Text(body.to_owned()));
    document.source = body.as_bytes().to_vec();
    document
}

#[test]
fn a_phrase_of_which_every_record_has_the_words_is_read_only_as_often_as_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (windows, _) = Windows::open(Options::new(dir.path(), read)).unwrap();
    for batch in 0..BATCHES {
        let documents = (batch * EACH..(batch + 1) * EACH).map(|seq| {
            let time_ns = i64::try_from((ARRIVED_MS + seq) * 1_000_000).unwrap();
            described(time_ns, seq, "ran out of memory")
        });
        windows.add(documents.collect(), ARRIVED_MS + batch, (batch + 1) * EACH, ARRIVED_MS).unwrap();
        windows.commit().unwrap(); // a segment of its own
    }
    for order in [Order::Newest, Order::Oldest] {
        READ.store(0, Ordering::Relaxed);
        let query = Query::text("body", "out of memory");
        let (from_ns, to_ns) = (i64::MIN, i64::MAX);
        let search = Search { query, from_ns, to_ns, order, limit: LIMIT, after: None, bytes_max: usize::MAX };
        let found = windows.search(&search, &Cancel::default()).unwrap();
        let seqs: Vec<_> = found.hits.iter().map(|hit| hit.position.seq).collect();
        let all = 0..BATCHES * EACH;
        let expected: Vec<_> = match order {
            Order::Newest => all.rev().take(LIMIT).collect(),
            Order::Oldest => all.take(LIMIT).collect(),
        };
        assert_eq!(seqs, expected);
        // One more tells that there is more.
        let read = READ.load(Ordering::Relaxed);
        assert!(read <= LIMIT + 1, "{read} records were read for {LIMIT}, {order:?}");
    }
}
