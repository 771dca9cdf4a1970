//! Windows against a naive scan, over crashes and with damage.
#![allow(clippy::disallowed_methods, reason = "the tests' own edge")]
#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]

mod killed;
mod scan;
mod upkeep;

use std::path::Path;

use backlot_windows::{Cancel, Class, Document, Options, Order, Query, Search, Value, Windows};

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
