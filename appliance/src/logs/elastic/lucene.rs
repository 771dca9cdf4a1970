//! Lucene's query strings as this house reads them: the language of the log search, with Elasticsearch's names of fields.

use std::ops::Bound;

use backlot_windows::{Dialect, Query};

use super::Refused;
use super::fields::{self, INDEX};
use crate::clock::Now;
use crate::logs::query::Records;

/// Reads a query of Lucene's language.
pub(super) fn lucene(text: &str, now: Now) -> Result<Query, Refused> {
    backlot_windows::parse(text, &Lucene(Records { now: Some(now) })).map_err(|error| {
        Refused::new(
            "query_shard_exception",
            format!("Failed to parse query [{}]: {error}", backlot_windows::clip(text, 200)),
        )
    })
}

struct Lucene(Records);

impl Dialect for Lucene {
    fn field(&self, written: &str) -> String {
        self.0.field(written.strip_suffix(".keyword").unwrap_or(written))
    }

    fn text(&self) -> &str {
        self.0.text()
    }

    fn is_keyword(&self, name: &str) -> bool {
        name == INDEX || self.0.is_keyword(name)
    }

    fn is_id(&self, name: &str) -> bool {
        self.0.is_id(name)
    }

    fn takes_patterns(&self) -> bool {
        self.0.takes_patterns()
    }

    fn keyword_prefix(&self, name: &str, prefix: &str) -> String {
        self.0.keyword_prefix(name, prefix)
    }

    /// A level that there is none of has no records, as in Elasticsearch.
    fn value(&self, name: &str, value: &str) -> Option<Result<Query, String>> {
        match name {
            "_id" => Some(Ok(fields::ids([value]))),
            "level" => {
                let unknown = |_| Query::keyword(name, &value.to_lowercase());
                self.0.value(name, value).map(|query| Ok(query.unwrap_or_else(unknown)))
            }
            _ => self.0.value(name, value),
        }
    }

    fn beginning(&self, name: &str, begin: &str) -> Option<Result<Query, String>> {
        match (name, begin) {
            ("_id" | INDEX, "") => Some(Ok(Query::All)),
            ("_id", _) => Some(Err("an id is asked for as a whole".to_owned())),
            _ => self.0.beginning(name, begin),
        }
    }

    fn moment(&self, name: &str, text: &str, end: bool) -> Option<Result<i64, String>> {
        self.0.moment(name, text, end)
    }

    fn edge(&self, name: &str, text: &str, end: bool) -> Option<Result<f64, String>> {
        self.0.edge(name, text, end)
    }

    fn range(&self, name: &str, from: Bound<f64>, to: Bound<f64>) -> Query {
        self.0.range(name, from, to)
    }
}

#[cfg(test)]
mod tests {
    use backlot_windows::Pattern;

    use super::*;

    #[test]
    fn names_are_elasticsearchs_and_texts_stay_as_they_are() {
        let read = |text| lucene(text, Now { mono_ms: 0, wall_ms: 3_600_000 });
        let keyword = |name: &str, value: &str| Query::keyword(name, value);
        for (text, expected) in [
            ("_index:web-1", keyword("_index", "web-1")),
            ("_index:\"web-1\"", keyword("_index", "web-1")),
            ("_index:web-*", Query::KeywordPrefix { name: "_index".into(), prefix: "web-".into() }),
            ("_index:*", Query::All),
            (
                "_index:/web-[01]/",
                Query::Matches { name: "_index".into(), pattern: Pattern::new("web-[01]", true).unwrap() },
            ),
            ("_id:00000000000000ff", Query::seqs([255])),
            ("level.keyword:error", keyword("level", "error")),
            ("level:unknown", keyword("level", "unknown")),
            ("\"a.keyword: @timestamp: b\"", Query::text("body", "a keyword timestamp b")),
            ("@timestamp:[now-1h TO now]", Query::Time { from_ns: 0, to_ns: 3_600_000_000_000 }),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        assert!(read("_id:00*").unwrap_err().reason.ends_with("at character 5"));
    }
}
