//! Traces as those who look for them see them: searched, put together, asked for in Jaeger's words.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use backlot_tests::{Appliance, encode, eventually, http};
use serde_json::{Value, json};

/// One span of OTLP's JSON.
fn span(trace: &str, id: u64, parent: Option<u64>, name: &str, start_ns: u64, ns: u64) -> Value {
    let parent = parent.map(|parent| format!("{parent:016x}")).unwrap_or_default();
    json!({
        "traceId": trace, "spanId": format!("{id:016x}"), "parentSpanId": parent, "name": name, "kind": 1,
        "startTimeUnixNano": start_ns.to_string(), "endTimeUnixNano": (start_ns + ns).to_string(),
    })
}

fn send(appliance: &Appliance, service: &str, spans: &[Value]) {
    let service = json!({"key": "service.name", "value": {"stringValue": service}});
    let request = json!({"resourceSpans": [{"resource": {"attributes": [service]}, "scopeSpans": [{"spans": spans}]}]});
    let headers = [("content-type", "application/json")];
    let (status, text) =
        http(&appliance.addresses.otlp_http, "POST", "/v1/traces", &headers, request.to_string().as_bytes());
    assert_eq!(status, 200, "{text}");
}

fn trace_id(number: u64) -> String {
    format!("{:032x}", 0xabc0_0000_0000_0000_u64 + number)
}

/// The ids that a list finds, in its order.
fn found(appliance: &Appliance, parameters: &str) -> Vec<String> {
    let list = appliance.json("GET", &format!("/v1/traces?{parameters}"), None);
    let traces = list["traces"].as_array().unwrap();
    traces.iter().map(|trace| trace["trace_id"].as_str().unwrap().to_owned()).collect()
}

const SECOND: u64 = 1_000_000_000;
const BEGIN: u64 = 1_763_812_800 * SECOND;

#[test]
fn what_the_python_sdk_sends_is_found_by_all_that_a_span_says() {
    let appliance = Appliance::start();
    for transport in ["http", "grpc"] {
        let said = appliance.python("traces.py", &[transport, transport]);
        let said: Value = serde_json::from_str(said.trim()).unwrap();
        let (failed, again) = (said["first"]["trace"].as_str().unwrap(), said["again"]["trace"].as_str().unwrap());
        let farm = format!("service=farm-{transport}");
        for (parameters, expected) in [
            (farm.clone(), vec![again, failed]),
            (format!("{farm}&operation=infer"), vec![failed]),
            (format!("{farm}&status=error"), vec![failed]),
            (format!("job=job-{transport}"), vec![again, failed]),
            (format!("{farm}&min_duration=2s"), vec![failed]),
            (format!("{farm}&max_duration=1s"), vec![again]),
            (format!("{farm}&min_duration=8s&max_duration=8s"), vec![failed]),
            (format!("{farm}&min_trace_duration=11s"), vec![failed]),
            (format!("{farm}&max_trace_duration=10s"), vec![again]),
            (format!("{farm}&order=longest"), vec![failed, again]),
            (format!("{farm}&root=true"), vec![again]),
            (format!("{farm}&to={}", (BEGIN + 19 * SECOND) / 1_000_000), vec![failed]),
            (format!("{farm}&from={}", (BEGIN + 19 * SECOND) / 1_000_000), vec![again]),
            (format!("{farm}&attributes={}", encode(r#"{"gpu.index":3,"tiled":true}"#)), vec![failed]),
            (format!("{farm}&attributes={}", encode(r#"{"http.url":"/render/42?take=1"}"#)), vec![failed]),
            (format!("{farm}&attributes={}", encode(r#"{"http.url":"/render/42"}"#)), vec![]),
            (format!("{farm}&query={}", encode("gpu.index:[2 TO 4] duration:>1s")), vec![failed]),
            (format!("{farm}&query={}", encode("service.version:1.2.3 host:gpu-7 status:error")), vec![failed]),
            (format!("{farm}&query={}", encode("\"out of memory\" exception.type:MemoryError")), vec![failed]),
            (format!("{farm}&query={}", encode("\"memory of out\"")), vec![]),
            (format!("{farm}&query=link:{failed}"), vec![again]),
            (format!("service=desk-{transport}&query=shot:42"), vec![failed]),
            (format!("service=desk-{transport}&operation=infer"), vec![]),
        ] {
            assert_eq!(found(&appliance, &parameters), expected, "{parameters}");
        }
        let list = appliance.json("GET", &format!("/v1/traces?{farm}&status=error"), None);
        let summary = &list["traces"][0];
        assert_eq!(
            (&summary["name"], &summary["service"]),
            (&json!("submit shot"), &json!(format!("desk-{transport}")))
        );
        assert_eq!((&summary["duration_ns"], &summary["spans"]), (&json!(11 * SECOND), &json!(4)));
        assert_eq!((&summary["errors"], &summary["missing"]), (&json!(1), &json!(0)));
        let by_service = json!({format!("desk-{transport}"): 1, format!("farm-{transport}"): 3});
        assert_eq!(summary["spans_by_service"], by_service);

        let trace = appliance.json("GET", &format!("/v1/traces/{failed}"), None);
        let linked = &trace["linked_from"];
        assert_eq!((&linked[0]["span_id"], &linked[0]["to_span_id"]), (&said["again"]["span"], &said["first"]["span"]));
        assert_eq!((&linked[0]["attributes"], linked.as_array().unwrap().len()), (&json!({"reason": "retry"}), 1));
        let trace = appliance.json("GET", &format!("/v1/traces/{again}"), None);
        assert_eq!(trace["spans"][0]["links"][0]["trace_id"], said["first"]["trace"]);
        assert!(trace.get("linked_from").is_none());

        let path = appliance.json("GET", &format!("/v1/traces/{failed}/critical-path"), None);
        let seconds = |of: &Value| of.as_f64().unwrap() / 1e9;
        let segments = path["segments"].as_array().unwrap().iter();
        let segments: Vec<_> = segments
            .map(|part| (part["span_id"].clone(), seconds(&part["end_ns"]) - seconds(&part["start_ns"])))
            .map(|(id, s)| (id, s.round()))
            .collect();
        let id = |name: &str| said[name]["span"].clone();
        let expected =
            [(id("submit"), 1.0), (Value::Null, 2.0), (id("load"), 2.0), (id("infer"), 5.0), (id("first"), 1.0)];
        assert_eq!(segments, expected);
        assert_eq!(seconds(&path["gap_ns"]).round(), 2.0);

        let shown = appliance.cli(&["traces", "show", failed]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(
            shown.contains("in 4 spans") && shown.contains("infer 5.00s (5.00s waited for) ERROR out of memory"),
            "{shown}"
        );
        let listed = appliance.cli(&["traces", "search", "--errors", "--job", &format!("job-{transport}"), "--json"]);
        assert!(listed.stdout.is_empty(), "the span that failed has no job of its own");
        let listed = appliance.cli(&["traces", "search", "--service", &format!("farm-{transport}"), "status:error"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains(failed) && listed.contains("errors=1") && listed.lines().count() == 1, "{listed}");
    }
}

#[test]
fn an_old_slow_trace_is_found_behind_thousands_of_newer_spans() {
    let appliance = Appliance::start();
    send(&appliance, "farm", &[span(&trace_id(1), 1, None, "render", BEGIN, 9 * SECOND)]);
    // One long trace of many spans, and many of one.
    let chatty: Vec<_> =
        (0..3_000).map(|at| span(&trace_id(2), 10 + at, None, "render", BEGIN + 10 * SECOND + at, 1_000)).collect();
    let short = |at: u64| span(&trace_id(100 + at), 1, None, "render", BEGIN + 60 * SECOND + at, 1_000);
    send(&appliance, "farm", &chatty);
    send(&appliance, "farm", &(0..3_000).map(short).collect::<Vec<_>>());
    assert_eq!(found(&appliance, "service=farm&min_duration=1s"), [trace_id(1)]);
    assert_eq!(found(&appliance, "service=farm&order=longest&limit=1"), [trace_id(1)]);
    let newest: Vec<_> = (0..10).map(|at| trace_id(3_099 - at)).collect();
    assert_eq!(found(&appliance, "service=farm&limit=10"), newest);
    let to = format!("to={}", (BEGIN + 59 * SECOND) / 1_000_000);
    assert_eq!(found(&appliance, &format!("service=farm&{to}")), [trace_id(2), trace_id(1)]);
    // By the length of the whole, many are looked at; the cursor goes on until the one is found.
    let listed = appliance.cli(&["traces", "search", "--min-trace-duration", "5s", "--limit", "2"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(&trace_id(1)) && listed.lines().count() == 1, "{listed}");
}

#[test]
fn pages_show_each_trace_once_in_both_orders() {
    let appliance = Appliance::start();
    // The spans of 30 traces lie among one another, three of each.
    for at in 0..3_u64 {
        let spans = (0..30).map(|of| {
            let start = BEGIN + (of * 7 + at * 31) % 90 * SECOND;
            span(&trace_id(of), at + 1, (at > 0).then_some(1), "render", start, 1 + (of * 13 + at * 5) % 40 * SECOND)
        });
        send(&appliance, "farm", &spans.collect::<Vec<_>>());
    }
    for (order, whole) in [("newest", "start_ns"), ("longest", "duration_ns")] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let list = format!("/v1/traces?service=farm&order={order}&limit=7&cursor={cursor}");
            let page = appliance.json("GET", &list, None);
            seen.extend(page["traces"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        let mut ids: Vec<_> = seen.iter().map(|trace| trace["trace_id"].as_str().unwrap().to_owned()).collect();
        // Where each stands: by the greatest of its spans.
        let ranks: Vec<_> = ids
            .iter()
            .map(|id| {
                let trace = appliance.json("GET", &format!("/v1/traces/{id}"), None);
                let spans = trace["spans"].as_array().unwrap();
                spans.iter().map(|span| span[whole].as_u64().unwrap()).max().unwrap()
            })
            .collect();
        assert!(ranks.is_sorted_by(|a, b| a >= b), "{order}: {ranks:?}");
        ids.sort();
        ids.dedup();
        assert_eq!((seen.len(), ids.len()), (30, 30), "{order}");
    }
    let (status, _) = appliance.http("GET", "/v1/traces?order=newest&cursor=l00", None);
    assert_eq!(status, 400);
}

#[test]
fn traces_with_more_spans_than_one_search_finds_are_listed_whole() {
    let appliance = Appliance::start();
    for of in 0..4 {
        let spans =
            (0..4_000).map(|at| span(&trace_id(of), 1 + at, (at > 0).then_some(1), "infer", BEGIN + of + at, 10));
        send(&appliance, "farm", &spans.collect::<Vec<_>>());
    }
    let jaegers = (0..4).map(|of| format!("traceID={}&", trace_id(of))).collect::<String>();
    for parameters in ["service=farm&limit=4", "service=farm&limit=4&min_trace_duration=1ns"] {
        let list = appliance.json("GET", &format!("/v1/traces?{parameters}"), None);
        let traces = list["traces"].as_array().unwrap();
        let told: Vec<_> = traces.iter().map(|trace| (trace["trace_id"].clone(), trace["spans"].clone())).collect();
        let expected: Vec<_> = (0..4).rev().map(|of| (json!(trace_id(of)), json!(4_000))).collect();
        assert_eq!(told, expected, "{parameters}");
    }
    let named = appliance.json("GET", &format!("/jaeger/api/traces?{jaegers}traceID={}&traceID=77", trace_id(0)), None);
    let sizes = named["data"].as_array().unwrap().iter().map(|trace| trace["spans"].as_array().unwrap().len());
    assert_eq!(sizes.collect::<Vec<_>>(), [4_000; 4]);
    assert_eq!(named["errors"].as_array().unwrap().len(), 1, "{}", named["errors"]);
}

#[test]
fn jaegers_page_is_told_which_service_calls_which() {
    let appliance = Appliance::start();
    for at in 0..3 {
        send(&appliance, "desk", &[span(&trace_id(at), 1, None, "submit", BEGIN, 100)]);
        send(&appliance, "farm", &[span(&trace_id(at), 2, Some(1), "infer", BEGIN + 10, 50)]);
    }
    send(&appliance, "farm", &[span(&trace_id(9), 2, Some(1), "infer", BEGIN - 7_200 * SECOND, 50)]);
    let end_ms = BEGIN / 1_000_000 + 1_000;
    let told = appliance.json("GET", &format!("/jaeger/api/dependencies?endTs={end_ms}&lookback=3600000"), None);
    assert_eq!(told["data"], json!([{"parent": "desk", "child": "farm", "callCount": 3}]));
    let told = appliance.json("GET", &format!("/jaeger/api/dependencies?endTs={end_ms}&lookback=1"), None);
    assert_eq!(told["data"], json!([]));
    for wrong in ["", "?endTs=now", "?endTs=1&lookback=1d"] {
        assert_eq!(appliance.http("GET", &format!("/jaeger/api/dependencies{wrong}"), None).0, 400, "{wrong}");
    }
}

#[test]
fn a_resent_export_a_missing_parent_and_a_circle_are_put_together_as_they_are() {
    let appliance = Appliance::start();
    let id = trace_id(7);
    let spans = [
        span(&id, 1, None, "root", BEGIN, 100),
        span(&id, 2, Some(99), "orphan", BEGIN + 1, 10),
        span(&id, 3, Some(4), "one", BEGIN + 20, 10),
        span(&id, 4, Some(3), "other", BEGIN + 21, 10),
    ];
    for _ in 0..3 {
        send(&appliance, "farm", &spans);
    }
    let trace = appliance.json("GET", &format!("/v1/traces/{id}"), None);
    let names = trace["spans"].as_array().unwrap().iter().map(|span| span["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["root", "orphan", "one", "other"]);
    let hex = |id: u64| format!("{id:016x}");
    assert_eq!(trace["missing"], json!([hex(99)]));
    assert_eq!((&trace["cyclic"], &trace["roots"]), (&json!([hex(3)]), &json!([hex(1), hex(2), hex(3)])));
    let path = appliance.json("GET", &format!("/v1/traces/{id}/critical-path"), None);
    assert_eq!((&path["duration_ns"], &path["incomplete"]), (&json!(100), &json!(true)));
    let (status, text) = appliance.http("GET", &format!("/v1/traces/{}/critical-path", trace_id(8)), None);
    assert!(status == 404 && text.contains("no_such_trace"), "{status} {text}");
}

/// Jaeger's calls, below `/jaeger`.
fn jaeger(appliance: &Appliance, path: &str) -> Value {
    appliance.json("GET", &format!("/jaeger{path}"), None)
}

#[test]
fn grafanas_jaeger_source_sees_services_operations_and_traces() {
    let appliance = Appliance::start();
    let said: Value = serde_json::from_str(appliance.python("traces.py", &["http", "g"]).trim()).unwrap();
    let failed = said["first"]["trace"].as_str().unwrap();

    // "Save & test", then the query editor's lists.
    let services = jaeger(&appliance, "/api/services");
    let names: Vec<_> = services["data"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"desk-g") && names.contains(&"farm-g"), "{services}");
    assert_eq!((&services["errors"], &services["limit"]), (&Value::Null, &json!(0)));
    assert_eq!(appliance.json("GET", "/api/services", None)["data"][0], services["data"][0]);
    let operations = jaeger(&appliance, "/api/services/farm-g/operations");
    assert_eq!(operations["data"], json!(["infer", "load", "render"]));
    let operations = jaeger(&appliance, "/api/operations?service=farm-g&spanKind=consumer");
    assert_eq!(operations["data"], json!([{"name": "render", "spanKind": "consumer"}]));
    assert_eq!(jaeger(&appliance, "/api/services/nobody/operations")["data"], json!([]));

    // A search as Grafana sends it, and one as Jaeger's page does.
    let range = format!("start={}&end={}", BEGIN / 1_000, (BEGIN + 100 * SECOND) / 1_000);
    let tags = encode(r#"{"error":"true","model":"upscale-4x"}"#);
    for search in [
        format!(
            "service=farm-g&operation=infer&tags={tags}&minDuration=2s&maxDuration=10s&limit=20&{range}&lookback=custom"
        ),
        format!(
            "end={}&limit=20&lookback=1h&maxDuration&minDuration&service=desk-g&start={}",
            (BEGIN + 100 * SECOND) / 1_000,
            BEGIN / 1_000
        ),
        format!("service=farm-g&tag=gpu.index%3A3&{range}"),
        format!("traceID={failed}"),
    ] {
        let answer = jaeger(&appliance, &format!("/api/traces?{search}"));
        assert_eq!((&answer["total"], &answer["data"][0]["traceID"]), (&json!(1), &json!(failed)), "{search}");
    }
    for search in
        ["service=farm-g&operation=submit+shot", "service=farm-g&minDuration=1m", "service=farm-g&start=1&end=2"]
    {
        assert_eq!(jaeger(&appliance, &format!("/api/traces?{search}"))["data"], json!([]), "{search}");
    }

    let answer = jaeger(&appliance, &format!("/api/traces/{failed}"));
    let trace = &answer["data"][0];
    let spans = trace["spans"].as_array().unwrap();
    let names: Vec<_> = spans.iter().map(|span| span["operationName"].as_str().unwrap()).collect();
    assert_eq!(names, ["submit shot", "render", "load", "infer"]);
    let infer = &spans[3];
    assert_eq!(
        infer["references"],
        json!([{"refType": "CHILD_OF", "traceID": failed, "spanID": said["first"]["span"]}])
    );
    assert_eq!((&infer["startTime"], &infer["duration"]), (&json!(1_763_812_805_123_456_u64), &json!(5_000_000)));
    let tag = |of: &Value, key: &str| {
        let tags = of["tags"].as_array().unwrap().clone();
        tags.into_iter().find(|tag| tag["key"] == key).unwrap_or_default()
    };
    assert_eq!(tag(infer, "error"), json!({"key": "error", "type": "bool", "value": true}));
    assert_eq!(tag(&spans[1], "gpu.index"), json!({"key": "gpu.index", "type": "int64", "value": 3}));
    assert_eq!(tag(&spans[1], "span.kind")["value"], "consumer");
    let fields = infer["logs"][0]["fields"].as_array().unwrap();
    assert!(fields.iter().any(|field| field["key"] == "exception.type" && field["value"] == "MemoryError"), "{infer}");
    let process = &trace["processes"][infer["processID"].as_str().unwrap()];
    assert_eq!((&process["serviceName"], &tag(process, "host.name")["value"]), (&json!("farm-g"), &json!("gpu-7")));
    let again = jaeger(&appliance, &format!("/api/traces/{}", said["again"]["trace"].as_str().unwrap()));
    let follows = json!([{"refType": "FOLLOWS_FROM", "traceID": failed, "spanID": said["first"]["span"]}]);
    assert_eq!(again["data"][0]["spans"][0]["references"], follows);

    for (path, status) in [
        ("/api/traces", 400),
        ("/api/traces?service=a&tags=nonsense", 400),
        ("/api/traces/xyz", 400),
        ("/api/traces/1234", 404),
        ("/api/operations", 400),
    ] {
        let (answered, text) = appliance.http("GET", &format!("/jaeger{path}"), None);
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((answered, &body["errors"][0]["code"]), (status, &json!(status)), "{path}");
    }
    let (status, text) = http(&appliance.addresses.http, "GET", "/jaeger/api/services", &[], b"");
    assert!(status == 401 && !text.is_empty(), "{status} {text}");
}

/// The exemplars that an expression finds, as Grafana asks for them.
fn exemplars(appliance: &Appliance, query: &str) -> Vec<Value> {
    let path = format!("/api/v1/query_exemplars?query={}&start=0&end=9999999999", encode(query));
    let answer = appliance.json("GET", &path, None);
    assert_eq!(answer["status"], "success");
    answer["data"].as_array().unwrap().clone()
}

#[test]
fn measurements_lead_to_their_traces_also_after_kill_9() {
    let mut appliance = Appliance::start();
    for transport in ["http", "grpc"] {
        let said = appliance.python("exemplars.py", &[transport, transport]);
        let said: Value = serde_json::from_str(said.trim()).unwrap();
        for round in 0..2 {
            let query = format!(
                "histogram_quantile(0.99, sum by (le) (rate(render_latency_seconds_bucket{{job=\"studio-{transport}\"}}[5m])))"
            );
            let found = eventually("the exemplar is there", || {
                let found = exemplars(&appliance, &query);
                (!found.is_empty()).then_some(found)
            });
            assert_eq!(found.len(), 1, "{found:?}");
            let series = &found[0]["seriesLabels"];
            assert_eq!((&series["__name__"], &series["le"]), (&json!("render_latency_seconds_bucket"), &json!("2")));
            let of_series = found[0]["exemplars"].as_array().unwrap();
            assert_eq!(of_series.len(), 1, "sent twice, kept once: {of_series:?}");
            assert_eq!((&of_series[0]["labels"]["trace_id"], &of_series[0]["value"]), (&said["slow"], &json!("1.5")));
            assert!(of_series[0]["timestamp"].as_f64().unwrap() > 1.7e9);
            let found = exemplars(&appliance, &format!("render_frames_total{{job=\"studio-{transport}\"}}"));
            assert_eq!(found[0]["exemplars"][0]["labels"]["trace_id"], said["counted"]);
            if round == 0 {
                appliance.kill();
                appliance.start_again();
            }
        }
    }
    let path = "/api/v1/query_exemplars?query=render_frames_total&start=1&end=2";
    assert_eq!(appliance.json("GET", path, None)["data"], json!([]));
    for query in ["query=", "query=rate(", "query=up&start=5&end=4"] {
        assert_eq!(appliance.http("GET", &format!("/api/v1/query_exemplars?{query}"), None).0, 400, "{query}");
    }
}

/// Has boto3 receive the next job, and returns the attempt's id and its `traceparent`.
fn receive(appliance: &Appliance) -> (String, String) {
    eventually("a job comes", || {
        let received: Value = serde_json::from_str(&appliance.python("jobs_plain.py", &["receive"])).unwrap();
        let attribute = |name: &str| received["attributes"][name].as_str().map(str::to_owned);
        attribute("backlot.attempt").zip(attribute("traceparent"))
    })
}

fn report(appliance: &Appliance, attempt: &str, events: &Value) {
    let body = json!({"events": events}).to_string();
    let _ = appliance.json("POST", &format!("/v1/attempts/{attempt}/events"), Some(&body));
}

fn trace_of(appliance: &Appliance, job: &str) -> String {
    appliance.json("GET", &format!("/v1/jobs/{job}"), None)["trace_id"].as_str().unwrap().to_owned()
}

#[test]
fn retries_and_flows_are_linked_and_phases_stand_beside_those_of_other_jobs() {
    let appliance = Appliance::start();
    let order = json!({"flow_id": "f", "jobs": [
        {"name": "shot", "type": "x", "retry": {"failures": 3, "backoff_s": 0}},
        {"name": "clip", "type": "x", "inputs": [{"job": "shot", "output": 0}]},
    ]});
    assert_eq!(appliance.http("POST", "/v1/flows", Some(&order.to_string())).0, 201);
    let at = "2026-11-22T12:00:00Z";
    let done = json!([{"seq": 1, "at": at, "event": "phase", "phase": "infer"},
        {"seq": 2, "at": at, "event": "result", "outputs": [{"uri": "s3://studio/a.png"}]}]);
    let failed =
        json!([{"seq": 1, "at": at, "event": "failure", "class": "transient", "message": "CUDA: out of memory"}]);
    report(&appliance, &receive(&appliance).0, &failed);
    let (attempt, parent) = receive(&appliance);
    assert_eq!(attempt, "f.shot.2");
    report(&appliance, &attempt, &done);
    let (attempt, _) = receive(&appliance);
    assert_eq!(attempt, "f.clip.1");
    let running = appliance.json("GET", "/v1/jobs/f.clip/phases", None);
    assert_eq!((&running["phases"][0]["phase"], &running["whole"]["running"]), (&json!("queued"), &json!(true)));
    report(&appliance, &attempt, &done);

    let (shot, clip) = (trace_of(&appliance, "f.shot"), trace_of(&appliance, "f.clip"));
    let trace = eventually("both attempts and the link from the clip are in the shot's trace", || {
        let (status, text) = appliance.http("GET", &format!("/v1/traces/{shot}"), None);
        let trace: Value = serde_json::from_str(&text).unwrap();
        let spans = trace["spans"].as_array().map_or(0, Vec::len);
        (status == 200 && spans == 5 && trace["linked_from"].is_array()).then_some(trace)
    });
    let attempts: Vec<_> = trace["spans"].as_array().unwrap().iter().filter(|span| span["name"] == "attempt").collect();
    assert_eq!(attempts.len(), 2);
    assert!(attempts[0].get("links").is_none());
    assert_eq!(attempts[1]["links"][0]["span_id"], attempts[0]["span_id"]);
    assert!(parent.contains(attempts[1]["span_id"].as_str().unwrap()), "{parent}");
    let job = trace["spans"].as_array().unwrap().iter().find(|span| span["name"] == "job").unwrap();
    let linked = &trace["linked_from"][0];
    assert_eq!((&linked["trace_id"], &linked["name"]), (&json!(clip), &json!("waiting")));
    assert_eq!((&linked["to_span_id"], &linked["attributes"]), (&job["span_id"], &json!({"job.id": "f.shot"})));
    let answer = jaeger(&appliance, &format!("/api/traces/{clip}"));
    let spans = answer["data"][0]["spans"].as_array().unwrap();
    let waiting = spans.iter().find(|span| span["operationName"] == "waiting").unwrap();
    assert!(
        waiting["references"]
            .as_array()
            .unwrap()
            .iter()
            .any(|reference| { reference["refType"] == "FOLLOWS_FROM" && reference["traceID"] == json!(shot) })
    );

    let phases = appliance.json("GET", "/v1/jobs/f.shot/phases", None);
    assert_eq!(
        (&phases["attempt"], &phases["compared"], &phases["outcome"]),
        (&json!(2), &json!(1), &json!("succeeded"))
    );
    let names: Vec<_> = phases["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].clone()).collect();
    assert_eq!(names, ["queued", "infer"]);
    assert!(phases["phases"][0]["median_s"].is_number() && phases["phases"][0]["of"] == 1, "{phases}");
    let first = appliance.json("GET", "/v1/jobs/f.shot/phases?attempt=1", None);
    assert_eq!((&first["attempt"], &first["outcome"]), (&json!(1), &json!("failed")));
    let said = appliance.cli(&["job", "phases", "f.shot"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("attempt 2 of type x, beside 1 others") && said.contains("infer"), "{said}");
    for (path, status) in [("nothing/phases", 404), ("f.shot/phases?attempt=9", 404), ("f.shot/phases?attempt=x", 400)]
    {
        assert_eq!(appliance.http("GET", &format!("/v1/jobs/{path}"), None).0, status, "{path}");
    }
}
