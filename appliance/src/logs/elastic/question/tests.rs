//! Queries that become questions, those that do not, and JSON of any kind.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: Now = Now { mono_ms: 0, wall_ms: 1_763_812_800_000 };
const MS: i64 = 1_000_000;

fn read(query: Json) -> Result<Question, Refused> {
    Question::read(&query, NOW)
}

#[test]
fn queries_become_questions() {
    // As Grafana sends it.
    let question = read(json!({"bool": {"filter": [
        {"range": {"@timestamp": {"format": "epoch_millis", "gte": 1_763_812_000_000_i64, "lte": "1763812800000"}}},
        {"query_string": {"analyze_wildcard": true, "query": "level:error"}},
    ]}}))
    .unwrap();
    assert_eq!(question.range, (1_763_812_000_000 * MS, 1_763_812_800_001 * MS - 1));
    assert_eq!(question.query, Query::keyword("level", "error"));
    let since = read(json!({"range": {"@timestamp": {"gt": "now-15m", "lt": "now"}}})).unwrap();
    assert_eq!(since, Question { query: Query::All, range: (1_763_811_900_000 * MS + 1, 1_763_812_800_000 * MS - 1) });
    for (query, expected) in [
        (json!({"match_all": {}}), Query::All),
        (json!({"term": {"service": {"value": "ffmpeg"}}}), Query::keyword("service", "ffmpeg")),
        (json!({"term": {"trace_id.keyword": "ab"}}), Query::keyword("trace", "ab")),
        (
            json!({"bool": {"must_not": [{"range": {"@timestamp": {"gte": 1000, "lt": 2000}}}]}}),
            Query::Not(Box::new(Query::Time { from_ns: 1000 * MS, to_ns: 2000 * MS - 1 })),
        ),
        (json!({"term": {"_index": "web-1"}}), Query::keyword("_index", "web-1")),
        (json!({"term": {"level": "WARNING"}}), Query::keyword("level", "warn")),
        (
            json!({"terms": {"level": ["WARN", "error"]}}),
            Query::Or(vec![Query::keyword("level", "warn"), Query::keyword("level", "error")]),
        ),
        (
            json!({"match": {"message": "out memory"}}),
            Query::Or(vec![Query::text("body", "out"), Query::text("body", "memory")]),
        ),
        (
            json!({"match": {"message": {"query": "out memory", "operator": "and"}}}),
            Query::And(vec![Query::text("body", "out"), Query::text("body", "memory")]),
        ),
        (json!({"match_phrase": {"message": "out of memory"}}), Query::text("body", "out of memory")),
        (json!({"prefix": {"host": "gpu-"}}), Query::KeywordPrefix { name: "host".into(), prefix: "gpu-".into() }),
        (json!({"exists": {"field": "gpu.index"}}), Query::Exists { name: "gpu.index".into() }),
        (
            json!({"range": {"gpu.index": {"gte": 1, "lt": "3"}}}),
            Query::Number { name: "gpu.index".into(), from: Bound::Included(1.0), to: Bound::Excluded(3.0) },
        ),
        (
            json!({"bool": {"must_not": {"term": {"level": "debug"}}, "should": [{"term": {"job": "a"}}, {"term": {"job": "b"}}]}}),
            Query::And(vec![
                Query::Not(Box::new(Query::keyword("level", "debug"))),
                Query::Or(vec![Query::keyword("job", "a"), Query::keyword("job", "b")]),
            ]),
        ),
        (json!({"bool": {"must": [{"match_all": {}}], "should": [{"term": {"job": "a"}}]}}), Query::All),
    ] {
        assert_eq!(read(query.clone()).map(|question| question.query), Ok(expected), "{query}");
    }
}

#[test]
fn what_is_not_known_is_refused_in_elasticsearchs_words() {
    for (query, kind, reason) in [
        (json!({"fuzzy": {"a": "b"}}), "parsing_exception", "unknown query [fuzzy]"),
        (json!({}), "illegal_argument_exception", "empty clause"),
        (json!({"term": {"a": "b"}, "match": {}}), "parsing_exception", "found more"),
        (json!([]), "parsing_exception", "must be an object"),
        (json!({"bool": {"musty": []}}), "parsing_exception", "[bool] does not support [musty]"),
        (
            json!({"match": {"message": {"query": "x", "fuzziness": "AUTO"}}}),
            "parsing_exception",
            "does not support [fuzziness]",
        ),
        (json!({"range": {"@timestamp": {"gte": "soon"}}}), "parse_exception", "failed to parse date field [soon]"),
        (json!({"range": {"gpu": {"gte": "soon"}}}), "illegal_argument_exception", "one of numbers"),
        (json!({"query_string": {"query": "(open"}}), "query_shard_exception", "Failed to parse query [(open]"),
        (json!({"query_string": {"query": "@timestamp:[soon TO now]"}}), "query_shard_exception", "at character 13"),
        (json!({"regexp": {"host": "("}}), "illegal_argument_exception", "unclosed"),
    ] {
        let error = read(query.clone()).unwrap_err();
        assert!(error.kind == kind && error.reason.contains(reason), "{query}: {error:?}");
    }
    let deep = (0..100).fold(json!({"match_all": {}}), |inner, _| json!({"bool": {"must": [inner]}}));
    assert!(read(deep).is_err());
}

/// Any JSON with the words of the language in it.
fn any_query() -> impl Strategy<Value = Json> {
    let names = || {
        prop::sample::select(vec![
            "bool",
            "must",
            "filter",
            "should",
            "must_not",
            "range",
            "@timestamp",
            "gte",
            "lt",
            "term",
            "terms",
            "match",
            "query",
            "query_string",
            "exists",
            "field",
            "wildcard",
            "prefix",
            "regexp",
            "message",
            "level",
            "gpu.index",
            "value",
            "format",
        ])
    };
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        "[ -~é]{0,12}".prop_map(Json::from),
        prop::sample::select(vec!["now-1M/d", "*a?", "error", "2026-01-01"]).prop_map(Json::from),
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::vec((names(), inner), 0..3).prop_map(|pairs| {
                Json::Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_query_makes_it_panic(query in any_query()) {
        let _ = read(query);
    }
}
