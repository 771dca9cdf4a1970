//! Elasticsearch's reading calls, as Grafana's data source and simple clients send them: what they answer is what a scan of the lines finds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::collections::{BTreeMap, BTreeSet};

use backlot_tests::corpus::Line;
use backlot_tests::{Appliance, http};
use serde_json::{Value, json};

const KEY: (&str, &str) = ("authorization", "Basic dGVzdDp0ZXN0");

struct Filled {
    appliance: Appliance,
    /// Earliest first.
    lines: Vec<Line>,
    begin_ms: u64,
    end_ms: u64,
}

fn filled(seed: u64, count: usize) -> Filled {
    let (appliance, lines, begin_ns) = backlot_tests::filled(seed, count);
    let end_ms = lines.last().unwrap().time_ns / 1_000_000 + 1;
    Filled { appliance, lines, begin_ms: begin_ns / 1_000_000, end_ms }
}

fn call(appliance: &Appliance, method: &str, path: &str, body: &str) -> (u16, Value) {
    let headers = [KEY, ("content-type", "application/json")];
    let (status, text) = http(&appliance.addresses.http, method, &format!("/es{path}"), &headers, body.as_bytes());
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")))
}

fn ask(appliance: &Appliance, path: &str, body: &Value) -> Value {
    let (status, answer) = call(appliance, "POST", path, &body.to_string());
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer
}

impl Filled {
    /// The filter that Grafana puts around a query.
    fn query(&self, query: &str) -> Value {
        json!({"bool": {"filter": [
            {"range": {"@timestamp": {"format": "epoch_millis", "gte": self.begin_ms, "lte": self.end_ms}}},
            {"query_string": {"analyze_wildcard": true, "query": format!("({query}) -service:backlot")}},
        ]}})
    }

    /// One search as Grafana sends it, in `_msearch`.
    fn grafana(&self, body: &Value) -> Value {
        let head = json!({"ignore_unavailable": true, "index": "*", "search_type": "query_then_fetch"});
        let (status, mut answer) =
            call(&self.appliance, "POST", "/_msearch?max_concurrent_shard_requests=5", &format!("{head}\n{body}\n"));
        assert_eq!((status, &answer["responses"][0]["status"]), (200, &json!(200)), "{body}: {answer}");
        answer["responses"][0].take()
    }
}

/// Buckets by key: their counts.
fn counts(buckets: &Value) -> BTreeMap<String, u64> {
    let buckets = buckets.as_array().unwrap().iter();
    buckets
        .map(|bucket| (bucket["key"].to_string(), bucket["doc_count"].as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn grafanas_requests_are_answered() {
    let filled = filled(41, 3000);
    let Filled { appliance, lines, begin_ms, end_ms } = &filled;
    // The source is tested, and its fields are listed.
    assert_eq!(call(appliance, "GET", "", "").1["version"]["number"], "8.11.0");
    assert_eq!(call(appliance, "GET", "/_cluster/health?wait_for_status=yellow", "").1["status"], "green");
    let caps = call(appliance, "GET", "/logs/_field_caps?fields=@timestamp,duration_ms", "").1;
    assert_eq!(caps["fields"]["@timestamp"]["date"]["aggregatable"], true);
    assert_eq!(caps["fields"]["duration_ms"]["double"]["type"], "double");
    let mapping = call(appliance, "GET", "/logs/_mapping", "").1;
    let properties = &mapping["logs"]["mappings"]["properties"];
    assert_eq!((&properties["@timestamp"]["type"], &properties["message"]["type"]), (&json!("date"), &json!("text")));
    assert_eq!(properties["gpu"]["properties"]["index"]["type"], "long");

    // Lines in Explore.
    let body = json!({
        "docvalue_fields": ["@timestamp"], "query": filled.query("level:error OR CUDA"), "script_fields": {}, "size": 500,
        "highlight": {"fields": {"*": {}}, "fragment_size": 2_147_483_647, "post_tags": ["@/HIGHLIGHT@"], "pre_tags": ["@HIGHLIGHT@"]},
        "sort": [{"@timestamp": {"order": "desc", "unmapped_type": "boolean"}}, {"_doc": {"order": "desc"}}],
    });
    let answer = filled.grafana(&body);
    let errors: Vec<_> = lines.iter().filter(|line| line.severity >= 17 || line.body.contains("CUDA")).collect();
    let found = answer["hits"]["hits"].as_array().unwrap();
    assert_eq!(answer["hits"]["total"], json!({"value": errors.len(), "relation": "eq"}));
    for (hit, line) in found.iter().zip(errors.iter().rev()) {
        let source = &hit["_source"];
        assert_eq!((&source["message"], &source["level"]), (&json!(line.body), &json!(line.level())));
        assert_eq!((&source["service.name"], &source["host"]), (&json!(line.service), &json!(line.host)));
        assert_eq!((&hit["_index"], &hit["sort"][0]), (&json!("logs"), &json!(line.time_ns / 1_000_000)));
        assert_eq!(hit["fields"]["@timestamp"][0], source["@timestamp"]);
    }

    // The volume of logs by level, above them; nothing is read for it.
    let dates = |more: Value| {
        let bounds = json!({"min": begin_ms, "max": end_ms});
        let dates = json!({"field": "@timestamp", "fixed_interval": "2s", "min_doc_count": 0, "extended_bounds": bounds, "format": "epoch_millis"});
        json!({"date_histogram": dates, "aggs": more})
    };
    let of_level = json!({"terms": {"field": "level", "size": 500, "order": {"_count": "desc"}, "min_doc_count": 0, "missing": "unknown"},
        "aggs": {"3": dates(json!({}))}});
    let answer = filled.grafana(&json!({"aggs": {"2": of_level}, "query": filled.query("*"), "size": 0}));
    let mut expected = BTreeMap::<(&str, u64), u64>::new();
    for line in lines {
        *expected.entry((line.level(), line.time_ns / 1_000_000 / 2000 * 2000)).or_default() += 1;
    }
    let mut volume = BTreeMap::new();
    for level in answer["aggregations"]["2"]["buckets"].as_array().unwrap() {
        for bucket in level["3"]["buckets"].as_array().unwrap() {
            let (at, count) = (bucket["key"].as_u64().unwrap(), bucket["doc_count"].as_u64().unwrap());
            assert_eq!(bucket["key_as_string"], at.to_string());
            if count > 0 {
                volume.insert((level["key"].as_str().unwrap(), at), count);
            }
        }
    }
    assert_eq!(volume, expected);

    // A panel: means and percentiles of a number over time, by host, the busiest hosts first.
    let metrics = json!({"1": {"avg": {"field": "duration_ms"}}, "4": {"percentiles": {"field": "duration_ms", "percents": ["50", "99"]}},
        "5": {"extended_stats": {"field": "duration_ms"}}, "6": {"cardinality": {"field": "http.request.method"}}});
    let hosts = json!({"terms": {"field": "host", "size": "2", "order": {"1": "desc"}, "min_doc_count": "1"},
        "aggs": {"1": {"avg": {"field": "duration_ms"}}, "2": dates(metrics)}});
    let answer = filled.grafana(&json!({"aggs": {"3": hosts}, "query": filled.query("service:studio-api"), "size": 0}));
    let took = |host: &str| -> Vec<(u64, f64)> {
        let of_host = lines.iter().filter(|line| line.service == "studio-api" && line.host == host);
        of_host
            .map(|line| (line.time_ns / 1_000_000 / 2000 * 2000, line.attributes["duration_ms"].as_f64().unwrap()))
            .collect()
    };
    let mean = |took: &[f64]| took.iter().sum::<f64>() / took.len() as f64;
    let mut means: Vec<_> = ["api-0", "api-1", "api-2"]
        .map(|host| (mean(&took(host).iter().map(|(_, took)| *took).collect::<Vec<_>>()), host))
        .to_vec();
    means.sort_by(|a, b| b.0.total_cmp(&a.0));
    let buckets = answer["aggregations"]["3"]["buckets"].as_array().unwrap();
    assert_eq!(
        buckets.iter().map(|bucket| bucket["key"].as_str().unwrap()).collect::<Vec<_>>(),
        [means[0].1, means[1].1]
    );
    for bucket in buckets {
        let took = took(bucket["key"].as_str().unwrap());
        for inner in bucket["2"]["buckets"].as_array().unwrap() {
            let at = inner["key"].as_u64().unwrap();
            let within: Vec<f64> = took.iter().filter(|(of, _)| *of == at).map(|(_, took)| *took).collect();
            assert_eq!(inner["doc_count"], within.len());
            let greatest = within.iter().copied().reduce(f64::max);
            assert_eq!(inner["5"]["max"].as_f64(), greatest);
            if let Some(greatest) = greatest {
                assert!((inner["1"]["value"].as_f64().unwrap() - mean(&within)).abs() < 1e-6);
                assert!(inner["4"]["values"]["99.0"].as_f64().unwrap() <= greatest);
                assert!((1..=4).contains(&inner["6"]["value"].as_u64().unwrap()));
            }
        }
    }
}

/// Whether a line answers.
type Holds = fn(&Line) -> bool;

#[test]
fn queries_find_what_a_scan_finds() {
    let filled = filled(42, 3000);
    let Filled { appliance, lines, .. } = &filled;
    let span = lines[1234].span_id.clone().unwrap();
    let cases: [(Value, Holds); 13] = [
        (json!({"term": {"service": "ffmpeg"}}), |line| line.service == "ffmpeg"),
        (json!({"terms": {"level.keyword": ["warn", "error"]}}), |line| line.severity >= 13),
        (json!({"match": {"message": "interruption renewed"}}), |line| {
            line.body.contains("interruption") || line.body.contains("renewed")
        }),
        (json!({"match": {"message": {"query": "spot none", "operator": "and"}}}), |line| line.body.contains("spot")),
        (json!({"match_phrase": {"message": "lease renewed"}}), |line| line.body.contains("lease renewed")),
        (json!({"prefix": {"host": "gpu-0"}}), |line| line.host.starts_with("gpu-0")),
        (json!({"wildcard": {"host.keyword": {"value": "*-0?"}}}), |line| line.host.starts_with("gpu-0")),
        (json!({"regexp": {"host": "api-[12]"}}), |line| line.host == "api-1" || line.host == "api-2"),
        (json!({"range": {"duration_ms": {"gte": 100, "lt": 200}}}), |line| {
            line.attributes.get("duration_ms").and_then(Value::as_f64).is_some_and(|ms| (100.0..200.0).contains(&ms))
        }),
        (json!({"exists": {"field": "gpu.index"}}), |line| line.attributes.contains_key("gpu.index")),
        (json!({"term": {"http.response.status_code": 404}}), |line| {
            line.attributes.get("http.response.status_code").is_some_and(|code| *code == 404)
        }),
        (json!({"term": {"phase": "load"}}), |line| line.attributes.get("phase").is_some_and(|phase| phase == "load")),
        (
            json!({"bool": {"must": [{"term": {"service": "studio-api"}}], "must_not": {"term": {"level": "info"}},
                "filter": {"bool": {"should": [{"term": {"host": "api-0"}}, {"term": {"host": "api-2"}}]}}}}),
            |line| line.service == "studio-api" && line.level() != "info" && line.host != "api-1",
        ),
    ];
    let of_studio =
        |query: &Value| json!({"query": {"bool": {"filter": [query], "must_not": [{"term": {"service": "backlot"}}]}}});
    for (query, holds) in cases {
        let expected = lines.iter().filter(|line| holds(line)).count();
        assert!(expected > 0, "{query} tests nothing");
        assert_eq!(ask(appliance, "/_count", &of_studio(&query))["count"], expected, "{query}");
    }
    let found = ask(appliance, "/_search", &json!({"query": {"term": {"span_id": span}}}));
    assert_eq!(found["hits"]["hits"][0]["_source"]["message"], lines[1234].body);
    let (_, found) =
        call(appliance, "GET", "/logs/_search?q=service:ffmpeg&size=1&_source=message,level&sort=@timestamp:asc", "");
    let first = lines.iter().find(|line| line.service == "ffmpeg").unwrap();
    assert_eq!(found["hits"]["hits"][0]["_source"], json!({"message": first.body, "level": first.level()}));

    // Page by page, every record once and in order.
    let (mut bodies, mut after) = (Vec::new(), None);
    loop {
        let mut body = json!({"size": 700, "query": {"bool": {"must_not": [{"term": {"service": "backlot"}}]}}, "track_total_hits": false,
            "_source": {"includes": ["mess*"]}, "sort": [{"@timestamp": "asc"}, {"_doc": "asc"}]});
        if let Some(after) = after {
            body["search_after"] = after;
        }
        let mut answer = ask(appliance, "/logs/_search", &body);
        assert!(answer["hits"]["total"].is_null());
        let hits = answer["hits"]["hits"].as_array_mut().unwrap();
        let Some(last) = hits.last() else { break };
        after = Some(last["sort"].clone());
        bodies.extend(hits.iter().map(|hit| hit["_source"]["message"].as_str().unwrap().to_owned()));
    }
    assert_eq!(bodies, lines.iter().map(|line| line.body.clone()).collect::<Vec<_>>());
    let second = ask(
        appliance,
        "/_search",
        &json!({"from": 2000, "size": 2, "query": {"bool": {"must_not": {"term": {"service": "backlot"}}}}, "sort": {"@timestamp": "asc"}}),
    );
    assert_eq!(second["hits"]["hits"][1]["_source"]["message"], lines[2001].body);

    // What the windows count is what reading every record counts: a metric makes it read.
    for (field, missing) in [("service", None), ("job", Some("none")), ("level", None)] {
        let mut terms = json!({"field": field, "size": 500});
        if let Some(missing) = missing {
            terms["missing"] = json!(missing);
        }
        let inner = |more: Value| json!({"t": {"date_histogram": {"field": "@timestamp", "fixed_interval": "1s"}, "aggs": more}});
        let counted = json!({"a": {"terms": terms, "aggs": inner(json!({}))}});
        let read = json!({"a": {"terms": terms, "aggs": inner(json!({"n": {"value_count": {"field": "message"}}}))}});
        let [counted, read] = [counted, read].map(|aggs| {
            let answer = filled.grafana(&json!({"size": 0, "query": filled.query("*"), "aggs": aggs}));
            let buckets = answer["aggregations"]["a"]["buckets"].as_array().unwrap().iter();
            let inner = buckets.map(|bucket| (bucket["key"].clone().to_string(), counts(&bucket["t"]["buckets"])));
            (counts(&answer["aggregations"]["a"]["buckets"]), inner.collect::<BTreeMap<_, _>>())
        });
        assert_eq!(counted, read, "{field}");
        assert_eq!(
            counted.0.len(),
            lines
                .iter()
                .map(|line| match field {
                    "service" => line.service.to_owned(),
                    "job" => line.job.clone().unwrap_or_default(),
                    _ => line.level().to_owned(),
                })
                .collect::<BTreeSet<_>>()
                .len()
        );
    }
}

#[test]
fn hits_are_sorted_by_fields_page_by_page() {
    let filled = filled(43, 1500);
    let Filled { appliance, lines, .. } = &filled;
    // Where a line stands: those without a duration last.
    let mut expected: Vec<_> = lines
        .iter()
        .map(|line| {
            (line.attributes.get("duration_ms").and_then(Value::as_f64), line.host.clone(), line.time_ns / 1_000_000)
        })
        .collect();
    expected.sort_by(|a, b| {
        let rank = |duration: Option<f64>| duration.map_or(f64::INFINITY, |duration| -duration);
        rank(a.0).total_cmp(&rank(b.0)).then_with(|| a.1.cmp(&b.1)).then_with(|| a.2.cmp(&b.2))
    });
    assert!(expected.iter().filter(|line| line.0.is_some()).count() > 50, "the corpus has durations");
    let (mut seen, mut after) = (Vec::new(), None::<Value>);
    while seen.len() < 300 {
        let mut body = json!({"query": filled.query("*"), "size": 70, "_source": ["host", "duration_ms"],
            "sort": [{"duration_ms": {"order": "desc", "unmapped_type": "double"}}, {"host.keyword": "asc"}, {"@timestamp": "asc"}, "_doc"]});
        if let Some(after) = &after {
            body["search_after"] = after.clone();
        }
        let answer = filled.grafana(&body);
        assert_eq!(answer["hits"]["total"]["value"], json!(lines.len()));
        let hits = answer["hits"]["hits"].as_array().unwrap();
        for hit in hits {
            assert_eq!(hit["sort"][1], hit["_source"]["host"]);
            seen.push((
                hit["sort"][0].as_f64(),
                hit["sort"][1].as_str().unwrap().to_owned(),
                hit["sort"][2].as_u64().unwrap(),
            ));
        }
        after = hits.last().map(|hit| hit["sort"].clone());
    }
    assert_eq!(seen, expected[..seen.len()]);
    let least =
        ask(appliance, "/_search?sort=duration_ms:asc&size=1", &json!({"query": {"exists": {"field": "duration_ms"}}}));
    let durations = lines.iter().filter_map(|line| line.attributes.get("duration_ms").and_then(Value::as_f64));
    assert_eq!(least["hits"]["hits"][0]["sort"][0].as_f64(), durations.reduce(f64::min));
}

#[test]
fn grafanas_pipelines_are_made_of_counts_and_metrics() {
    let filled = filled(44, 2000);
    let body = json!({"size": 0, "query": filled.query("*"), "aggs": {"2": {
        "date_histogram": {"field": "@timestamp", "fixed_interval": "1s", "min_doc_count": 0, "format": "epoch_millis",
            "extended_bounds": {"min": filled.begin_ms, "max": filled.end_ms}},
        "aggs": {
            "3": {"derivative": {"buckets_path": "_count"}},
            "4": {"cumulative_sum": {"buckets_path": "_count"}},
            "5": {"moving_fn": {"buckets_path": "_count", "window": 3, "script": "MovingFunctions.unweightedAvg(values)"}},
        },
    }}});
    let answer = filled.grafana(&body);
    let buckets = answer["aggregations"]["2"]["buckets"].as_array().unwrap();
    let counts: Vec<f64> = buckets.iter().map(|bucket| bucket["doc_count"].as_f64().unwrap()).collect();
    assert_eq!((counts.iter().sum::<f64>(), counts.len() > 3), (filled.lines.len() as f64, true));
    for (at, bucket) in buckets.iter().enumerate() {
        let change = at.checked_sub(1).map(|before| counts[at] - counts[before]);
        assert_eq!(bucket.get("3").and_then(|told| told["value"].as_f64()), change);
        assert_eq!(bucket["4"]["value"].as_f64(), Some(counts[..=at].iter().sum()));
        let before = &counts[at.saturating_sub(3)..at];
        let mean = (!before.is_empty()).then(|| before.iter().sum::<f64>() / before.len() as f64);
        assert_eq!(bucket["5"]["value"].as_f64(), mean);
    }
}

#[test]
fn the_python_client_writes_with_its_bulk_helper_and_finds() {
    let said = Appliance::start().python("logs_elastic.py", &[]);
    assert!(said.contains("elasticsearch is as it should be"), "{said}");
}

#[test]
fn indexes_are_those_that_were_written_to() {
    let appliance = Appliance::start();
    let lines = "{\"create\":{}}\n{\"@timestamp\":\"2026-01-02T03:04:05Z\",\"message\":\"made a proxy\",\"host\":{\"name\":\"edit-1\"},\"took\":3}\n";
    for index in ["studio-a", "studio-b"] {
        let headers = [KEY, ("content-type", "application/x-ndjson")];
        let (status, text) =
            http(&appliance.addresses.http, "POST", &format!("/es/{index}/_bulk"), &headers, lines.as_bytes());
        assert_eq!(status, 200, "{text}");
    }
    let found = |index: &str| {
        let answer = ask(&appliance, &format!("/{index}/_search"), &json!({"query": {"match": {"message": "proxy"}}}));
        let hits = answer["hits"]["hits"].as_array().unwrap().iter();
        hits.map(|hit| hit["_index"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from(["studio-a".to_owned(), "studio-b".to_owned()]);
    assert_eq!((found("studio-*"), found("_all"), found("studio-a,studio-b")), (both.clone(), both.clone(), both));
    assert_eq!(found("studio-b"), BTreeSet::from(["studio-b".to_owned()]));
    assert!(found("logs").is_empty());
    let mapping = call(&appliance, "GET", "/studio-*/_mapping", "").1;
    assert_eq!(mapping.as_object().unwrap().keys().collect::<Vec<_>>(), ["studio-a", "studio-b"]);
    assert_eq!(mapping["studio-a"]["mappings"]["properties"]["took"]["type"], "long");
    let (status, answer) = call(&appliance, "POST", "/gone/_search", "{}");
    assert_eq!((status, &answer["error"]["type"]), (404, &json!("index_not_found_exception")));
    assert_eq!(ask(&appliance, "/gone/_search?ignore_unavailable=true", &json!({}))["hits"]["total"]["value"], 0);
}

#[test]
fn mistakes_are_answered_as_elasticsearch_does_and_a_key_is_needed() {
    let appliance = Appliance::start();
    let refused = |path: &str, body: &str, kind: &str, reason: &str| {
        let (status, answer) = call(&appliance, "POST", path, body);
        assert!(
            status == 400
                && answer["status"] == 400
                && answer["error"]["type"] == kind
                && answer["error"]["root_cause"][0]["type"] == kind
                && answer["error"]["reason"].as_str().unwrap().contains(reason),
            "{path} {body}: {status} {answer}"
        );
    };
    refused("/_search", "{", "parse_exception", "not JSON");
    refused("/_search", r#"{"query":{"fuzzy":{"a":"b"}}}"#, "parsing_exception", "unknown query [fuzzy]");
    refused("/_search", r#"{"nonsense":1}"#, "parsing_exception", "unknown key [nonsense]");
    refused("/_search", r#"{"size":10001}"#, "illegal_argument_exception", "Result window is too large");
    refused("/_search", r#"{"sort":"message"}"#, "illegal_argument_exception", "Fielddata is disabled");
    refused("/_search", r#"{"search_after":[1]}"#, "illegal_argument_exception", "needs a `sort`");
    refused("/_search?scroll=2d", "{}", "illegal_argument_exception", "too large");
    refused("/_search?scroll=1m", r#"{"from":1}"#, "action_request_validation_exception", "[from]");
    refused("/_search/scroll", "{}", "action_request_validation_exception", "scrollId is missing");
    refused("/_search", r#"{"query":{"ids":{}}}"#, "parsing_exception", "[ids] requires");
    let gone = r#"{"scroll":"1m","scroll_id":"0123"}"#;
    let (status, answer) = call(&appliance, "POST", "/_search/scroll", gone);
    assert_eq!((status, &answer["error"]["type"]), (404, &json!("search_context_missing_exception")));
    let (status, answer) = call(&appliance, "DELETE", "/_search/scroll/_all", "");
    assert_eq!((status, answer), (404, json!({"succeeded": true, "num_freed": 0})));
    refused(
        "/_search",
        r#"{"aggs":{"a":{"moving_avg":{}}}}"#,
        "parsing_exception",
        "Unknown aggregation type [moving_avg]",
    );
    refused(
        "/_search",
        r#"{"query":{"query_string":{"query":"a AND"}}}"#,
        "query_shard_exception",
        "Failed to parse query",
    );
    refused("/_msearch", "{}\n", "parse_exception", "two lines");
    refused("/logs/_field_caps", "", "action_request_validation_exception", "no fields specified");
    // A search that fails does not take the others with it.
    let (status, answer) = call(&appliance, "POST", "/_msearch", "{}\n{\"size\":0}\n{}\n{\"query\":{\"x\":{}}}\n");
    let statuses: Vec<_> =
        answer["responses"].as_array().unwrap().iter().map(|one| one["status"].as_u64().unwrap()).collect();
    assert_eq!((status, statuses), (200, vec![200, 400]));
    let (status, _) =
        http(&appliance.addresses.http, "POST", "/es/_search", &[("content-type", "application/json")], b"{}");
    assert_eq!(status, 401);
}
