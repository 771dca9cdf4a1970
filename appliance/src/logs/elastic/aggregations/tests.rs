//! Aggregations against a reference that looks at every record for every bucket.

use std::collections::BTreeMap;

use backlot_windows::{Document, Value};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: Now = Now { mono_ms: 0, wall_ms: 1_763_812_800_000 };
const SECOND: i64 = 1_000_000_000;

fn aggregations(value: &Json) -> Vec<Aggregation> {
    read(value, NOW).unwrap_or_else(|error| panic!("{value}: {error:?}"))
}

fn record(time_s: i64, level: Option<&str>, took: Option<f64>) -> Document {
    let mut document = Document::new(time_s * SECOND, 0);
    if let Some(level) = level {
        document.add("level", Value::Keyword(level.to_owned()));
    }
    if let Some(took) = took {
        document.add("took", Value::Number(took));
    }
    document
}

fn ran(value: &Json, records: &[Document]) -> Json {
    let aggregations = aggregations(value);
    let mut collected = Collected::default();
    for record in records {
        collected.take(&aggregations, record).unwrap();
    }
    collected.answer(&aggregations).unwrap()
}

proptest! {
    #[test]
    fn buckets_and_numbers_are_those_of_a_scan(
        records in prop::collection::vec((0_i64..100, prop::sample::select(vec![None, Some("error"), Some("info")]), prop::option::of(0_u32..50)), 0..40),
        interval_s in 1_i64..30,
    ) {
        let documents: Vec<_> = records.iter().map(|(at, level, took)| record(*at, *level, took.map(f64::from))).collect();
        let request = json!({"levels": {"terms": {"field": "level", "missing": "none", "order": {"_key": "asc"}}, "aggs": {
            "times": {"date_histogram": {"field": "@timestamp", "fixed_interval": format!("{interval_s}s"), "min_doc_count": 1}, "aggs": {
                "took": {"stats": {"field": "took"}}, "p": {"percentiles": {"field": "took", "percents": [50]}}, "n": {"cardinality": {"field": "took"}},
            }},
        }}});
        let answer = ran(&request, &documents);
        let mut expected = BTreeMap::<(&str, i64), Vec<Option<u32>>>::new();
        for (at, level, took) in &records {
            let begin_ms = at.div_euclid(interval_s) * interval_s * 1000;
            expected.entry((level.unwrap_or("none"), begin_ms)).or_default().push(*took);
        }
        let mut found = 0;
        for level in answer["levels"]["buckets"].as_array().unwrap() {
            for bucket in level["times"]["buckets"].as_array().unwrap() {
                let key = (level["key"].as_str().unwrap(), bucket["key"].as_i64().unwrap());
                let all = &expected[&key];
                prop_assert_eq!(bucket["doc_count"].as_u64().unwrap(), all.len() as u64);
                let mut took: Vec<_> = all.iter().flatten().copied().collect();
                took.sort_unstable();
                prop_assert_eq!(bucket["took"]["count"].as_u64().unwrap(), took.len() as u64);
                prop_assert_eq!(bucket["took"]["sum"].as_f64().unwrap(), f64::from(took.iter().sum::<u32>()));
                prop_assert_eq!(bucket["took"]["max"].as_f64(), took.last().copied().map(f64::from));
                if !took.is_empty() {
                    let middle = (f64::from(took[(took.len() - 1) / 2]) + f64::from(took[took.len() / 2])) / 2.0;
                    prop_assert_eq!(bucket["p"]["values"]["50.0"].as_f64().unwrap(), middle);
                }
                took.dedup();
                prop_assert_eq!(bucket["n"]["value"].as_u64().unwrap(), took.len() as u64);
                found += 1;
            }
        }
        prop_assert_eq!(found, expected.len());
    }
}

#[test]
fn empty_buckets_stand_between_the_bounds() {
    let request = |more: Json| {
        let mut dates =
            json!({"field": "@timestamp", "fixed_interval": "10s", "min_doc_count": 0, "format": "epoch_millis"});
        dates.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"t": {"date_histogram": dates}})
    };
    let counts = |answer: &Json| -> Vec<(i64, u64)> {
        let buckets = answer["t"]["buckets"].as_array().unwrap().iter();
        buckets.map(|bucket| (bucket["key"].as_i64().unwrap() / 1000, bucket["doc_count"].as_u64().unwrap())).collect()
    };
    let records = [record(12, None, None), record(41, None, None), record(43, None, None)];
    assert_eq!(counts(&ran(&request(json!({})), &records)), [(10, 1), (20, 0), (30, 0), (40, 2)]);
    let bounds = json!({"extended_bounds": {"min": 5000, "max": "52000"}});
    assert_eq!(counts(&ran(&request(bounds.clone()), &records)), [(0, 0), (10, 1), (20, 0), (30, 0), (40, 2), (50, 0)]);
    assert_eq!(counts(&ran(&request(bounds), &[])).len(), 6);
    assert_eq!(ran(&request(json!({})), &records)["t"]["buckets"][0]["key_as_string"], "10000");
    let endless = json!({"t": {"date_histogram": {"field": "@timestamp", "fixed_interval": "1ms", "extended_bounds": {"min": 0, "max": 10_000_000}}}});
    let error = Collected::default().answer(&aggregations(&endless)).unwrap_err();
    assert_eq!(error.kind, "too_many_buckets_exception");
}

#[test]
fn terms_are_ordered_and_the_rest_is_counted() {
    let records: Vec<_> = [("a", 1.0), ("a", 2.0), ("b", 30.0), ("c", 5.0), ("c", 5.0), ("c", 5.0)]
        .into_iter()
        .map(|(level, took)| record(0, Some(level), Some(took)))
        .collect();
    let order = |order: Json, size: usize| {
        let answer = ran(
            &json!({"x": {"terms": {"field": "level", "size": size, "order": order}, "aggs": {"m": {"max": {"field": "took"}}}}}),
            &records,
        );
        let buckets = answer["x"]["buckets"].as_array().unwrap().iter();
        let keys: String = buckets.map(|bucket| bucket["key"].as_str().unwrap().to_owned()).collect();
        (keys, answer["x"]["sum_other_doc_count"].as_u64().unwrap())
    };
    assert_eq!(order(json!({"_count": "desc"}), 2), ("ca".to_owned(), 1));
    assert_eq!(order(json!({"_key": "desc"}), 10), ("cba".to_owned(), 0));
    assert_eq!(order(json!({"m": "desc"}), 1), ("b".to_owned(), 5));
    let answer = ran(
        &json!({"f": {"filters": {"filters": {"slow": {"query_string": {"query": "took:>4"}}, "a": {"term": {"level": "a"}}}}},
            "h": {"histogram": {"field": "took", "interval": 10, "min_doc_count": 0}}}),
        &records,
    );
    assert_eq!(
        (&answer["f"]["buckets"]["slow"]["doc_count"], &answer["f"]["buckets"]["a"]["doc_count"]),
        (&json!(4), &json!(2))
    );
    let counts: Vec<_> =
        answer["h"]["buckets"].as_array().unwrap().iter().map(|bucket| bucket["doc_count"].clone()).collect();
    assert_eq!(counts, [json!(5), json!(0), json!(0), json!(1)]);
}

#[test]
fn aggregations_that_are_not_known_are_refused() {
    for (request, reason) in [
        (json!({"a": {"moving_avg": {}}}), "Unknown aggregation type [moving_avg]"),
        (json!({"a": {}}), "Expected one aggregation type in [a]"),
        (json!({"a": {"avg": {}}}), "Required one of fields"),
        (json!({"a": {"avg": {"field": "x", "script": "y"}}}), "does not support [script]"),
        (json!({"a": {"avg": {"field": "x"}, "aggs": {}}}), "cannot accept sub-aggregations"),
        (json!({"a": {"date_histogram": {"field": "@timestamp"}}}), "Invalid interval"),
        (json!({"a": {"date_histogram": {"field": "other", "fixed_interval": "1m"}}}), "only field of dates"),
        (
            json!({"a": {"date_histogram": {"field": "@timestamp", "fixed_interval": "1m", "time_zone": "Europe/Berlin"}}}),
            "time zone",
        ),
        (json!({"a": {"terms": {"field": "x", "order": {"gone": "asc"}}}}), "Invalid aggregation order path [gone]"),
        (json!({"a": {"terms": {"field": "x", "size": -1}}}), "[size] of [terms]"),
    ] {
        let error = read(&request, NOW).unwrap_err();
        assert!(error.reason.contains(reason), "{request}: {error:?}");
    }
    let deep = (0..20).fold(json!({}), |inner, _| json!({"a": {"terms": {"field": "x"}, "aggs": inner}}));
    assert!(read(&deep, NOW).is_err());
}

/// Values of a pipeline in each bucket; `None` where it told nothing.
fn pipeline(pipeline: &Json, records: &[Document]) -> Vec<Option<Json>> {
    let request = json!({"times": {"date_histogram": {"field": "@timestamp", "fixed_interval": "10s"}, "aggs": {
        "p": pipeline, "most": {"max": {"field": "took"}}, "of": {"percentiles": {"field": "took", "percents": [50]}},
    }}});
    let answer = ran(&request, records);
    let buckets = answer["times"]["buckets"].as_array().unwrap().iter();
    buckets.map(|bucket| bucket.get("p").map(|told| told["value"].clone())).collect()
}

#[test]
fn pipelines_are_made_of_the_buckets_that_they_stand_in() {
    // Buckets with 1, 2, 0 and 3 records, and 4, 9, nothing and 2 as their greatest.
    let at = [(1, 4.0), (11, 9.0), (12, 1.0), (31, 1.0), (32, 2.0), (33, 1.0)];
    let records: Vec<_> = at.iter().map(|(at, took)| record(*at, None, Some(*took))).collect();
    let some = |values: &[f64]| values.iter().map(|value| Some(json!(value))).collect::<Vec<_>>();
    let told = |kind: &str, options: Json| pipeline(&json!({ kind: options }), &records);
    assert_eq!(told("cumulative_sum", json!({"buckets_path": "_count"})), some(&[1.0, 3.0, 3.0, 6.0]));
    assert_eq!(told("cumulative_sum", json!({"buckets_path": "most"})), some(&[4.0, 13.0, 13.0, 15.0]));
    assert_eq!(told("derivative", json!({"buckets_path": "_count"}))[..2], [None, Some(json!(1.0))]);
    // A bucket without records is a gap, unless gaps are zeros.
    assert_eq!(told("derivative", json!({"buckets_path": "most"})), [None, Some(json!(5.0)), None, None]);
    let zeros = json!({"buckets_path": "most", "gap_policy": "insert_zeros"});
    assert_eq!(told("derivative", zeros), [None, Some(json!(5.0)), Some(json!(-9.0)), Some(json!(2.0))]);
    assert_eq!(told("serial_diff", json!({"buckets_path": "_count", "lag": 2}))[2..], some(&[-1.0, 1.0]));
    let moving = |script: &str| told("moving_fn", json!({"buckets_path": "_count", "window": "2", "script": script}));
    let mean = moving("MovingFunctions.unweightedAvg(values)");
    assert_eq!(mean, [Some(json!(null)), Some(json!(1.0)), Some(json!(1.5)), Some(json!(1.0))]);
    assert_eq!(moving("MovingFunctions.sum(values)"), some(&[0.0, 1.0, 3.0, 2.0]));
    let shifted = json!({"buckets_path": "_count", "window": 2, "shift": 1, "script": "MovingFunctions.max(values)"});
    assert_eq!(told("moving_fn", shifted), some(&[1.0, 2.0, 2.0, 3.0]));
    let ratio = json!({"buckets_path": {"a": "most", "b": "_count", "c": "of[50.0]"}, "script": "params.a / params.b + params.c"});
    assert_eq!(told("bucket_script", ratio), [Some(json!(8.0)), Some(json!(9.5)), None, Some(json!(2.0 / 3.0 + 1.0))]);
}

#[test]
fn a_pipeline_may_be_made_of_another_and_stands_where_it_can() {
    let records: Vec<_> = [1, 11, 12, 21].iter().map(|at| record(*at, Some("info"), None)).collect();
    let request = json!({"times": {"date_histogram": {"field": "@timestamp", "fixed_interval": "10s"}, "aggs": {
        "a": {"cumulative_sum": {"buckets_path": "b"}}, "b": {"derivative": {"buckets_path": "_count", "unit": "1s"}},
    }}});
    let answer = ran(&request, &records);
    let sums = answer["times"]["buckets"].as_array().unwrap().iter().map(|bucket| bucket["a"]["value"].clone());
    assert_eq!(sums.collect::<Vec<_>>(), [json!(0.0), json!(1.0), json!(0.0)]);
    assert_eq!(answer["times"]["buckets"][1]["b"]["normalized_value"], json!(0.1));
    let within = |parent: Json, pipelines: Json| {
        let mut parent = parent;
        parent["aggs"] = pipelines;
        read(&json!({"x": parent}), NOW)
    };
    let (levels, times) = (
        json!({"terms": {"field": "level"}}),
        json!({"date_histogram": {"field": "@timestamp", "fixed_interval": "1s"}}),
    );
    let script =
        json!({"s": {"bucket_script": {"buckets_path": {"n": "_count"}, "script": {"source": "params.n * 2"}}}});
    assert!(within(levels.clone(), script).is_ok());
    for (parent, pipelines) in [
        (&levels, json!({"d": {"derivative": {"buckets_path": "_count"}}})),
        (&times, json!({"d": {"derivative": {"buckets_path": "none"}}})),
        (&times, json!({"d": {"derivative": {"buckets_path": "e"}}, "e": {"derivative": {"buckets_path": "d"}}})),
        (&times, json!({"d": {"derivative": {"buckets_path": "a>b"}}})),
        (
            &times,
            json!({"d": {"moving_fn": {"buckets_path": "_count", "window": 0, "script": "MovingFunctions.max(values)"}}}),
        ),
        (&times, json!({"d": {"moving_fn": {"buckets_path": "_count", "window": 5, "script": "values.length"}}})),
        (&times, json!({"d": {"bucket_script": {"buckets_path": {"n": "_count"}, "script": "params.m"}}})),
        (&times, json!({"d": {"moving_avg": {"buckets_path": "_count"}}})),
    ] {
        assert!(within(parent.clone(), pipelines.clone()).is_err(), "{pipelines}");
    }
    assert!(read(&json!({"d": {"derivative": {"buckets_path": "_count"}}}), NOW).is_err());
}
