//! Metrics: sent with the OpenTelemetry SDK, asked with Prometheus's API, over a kill -9.

#![allow(clippy::expect_used, reason = "a test panics with what went wrong")]
#![allow(clippy::disallowed_methods, reason = "what is sent has the time of the machine")]

use backlot_tests::{Appliance, encode, eventually, http};
use serde_json::{Value, json};

/// The elements of an instant vector.
fn query(appliance: &Appliance, expression: &str) -> Vec<Value> {
    let answer = appliance.json("GET", &format!("/api/v1/query?query={}", encode(expression)), None);
    assert_eq!(answer["status"], "success", "{expression}");
    answer["data"]["result"].as_array().cloned().unwrap_or_default()
}

/// The value of the only element, once there is one.
fn value(appliance: &Appliance, expression: &str) -> String {
    eventually(expression, || match query(appliance, expression).as_slice() {
        [one] => one["value"][1].as_str().map(str::to_owned),
        _ => None,
    })
}

#[test]
fn what_the_sdk_sends_is_answered_by_promql_also_after_a_kill() {
    let mut appliance = Appliance::start();
    for (protocol, temporality) in [("http", "cumulative"), ("http", "delta"), ("grpc", "cumulative")] {
        appliance.python("metrics.py", &[protocol, temporality]);
    }
    let check = |appliance: &Appliance, over: &str| {
        for job in ["studio-http-cumulative", "studio-http-delta", "studio-grpc-cumulative"] {
            let last = |series: &str| format!("last_over_time({series}[{over}])");
            assert_eq!(
                value(appliance, &last(&format!("render_frames_total{{job=\"{job}\", shot=\"12\"}}"))),
                "10",
                "{job}"
            );
            assert_eq!(
                value(
                    appliance,
                    &last(&format!("gpu_memory_bytes{{job=\"{job}\", gpu_index=\"0\", instance=\"py\"}}"))
                ),
                "1024"
            );
            assert_eq!(
                value(appliance, &last(&format!("render_latency_seconds_bucket{{job=\"{job}\", le=\"1\"}}"))),
                "2"
            );
            assert_eq!(
                value(appliance, &last(&format!("render_latency_seconds_bucket{{job=\"{job}\", le=\"+Inf\"}}"))),
                "4"
            );
            assert_eq!(value(appliance, &last(&format!("render_latency_seconds_sum{{job=\"{job}\"}}"))), "4.5");
            assert_eq!(value(appliance, &last(&format!("target_info{{job=\"{job}\", host_name=\"gpu-1\"}}"))), "1");
        }
        assert_eq!(value(appliance, &format!("sum(last_over_time(render_frames_total[{over}]))")), "30");
    };
    check(&appliance, "5m");
    appliance.kill();
    appliance.start_again();
    check(&appliance, "10m");
    assert_eq!(appliance.stop(), Some(0));
    appliance.start_again();
    check(&appliance, "15m");
}

/// A gauge with one point now.
fn push(appliance: &Appliance, name: &str, number: f64) {
    let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    let body = json!({"resourceMetrics": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "test"}}]},
        "scopeMetrics": [{"metrics": [{"name": name, "gauge": {"dataPoints": [{"timeUnixNano": now_ns.to_string(), "asDouble": number}]}}]}],
    }]});
    let headers = [("content-type", "application/json"), ("authorization", "Basic dGVzdDp0ZXN0")];
    let (status, answer) =
        http(&appliance.addresses.otlp_http, "POST", "/v1/metrics", &headers, body.to_string().as_bytes());
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn the_api_has_the_shapes_that_grafana_and_promtool_know() {
    let appliance = Appliance::start();
    push(&appliance, "shape.a", 1.5);
    push(&appliance, "shape.b", 2.0);
    assert_eq!(value(&appliance, "shape_a"), "1.5");
    assert_eq!(value(&appliance, "shape_b"), "2");

    let form = |path: &str, body: &str| {
        let headers = [("authorization", "Basic dGVzdDp0ZXN0"), ("content-type", "application/x-www-form-urlencoded")];
        let (status, text) = http(&appliance.addresses.http, "POST", path, &headers, body.as_bytes());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let range = form(
        "/api/v1/query_range",
        &format!("query=shape_a%20%2B%201&start={}&end={}&step=15s", now_s - 60, now_s + 60),
    );
    assert_eq!(range["data"]["resultType"], "matrix");
    let series = &range["data"]["result"][0];
    assert_eq!(series["metric"], json!({"job": "test"}));
    assert_eq!(series["values"].as_array().and_then(|values| values.last()).map(|last| &last[1]), Some(&json!("2.5")));

    let scalar = form("/api/v1/query", "query=1%2B1&time=1700000000.5");
    assert_eq!(scalar["data"], json!({"resultType": "scalar", "result": [1_700_000_000.5, "2"]}));
    let text = form("/api/v1/query", "query=%22hi%22&time=2023-11-14T22:13:20Z");
    assert_eq!(text["data"], json!({"resultType": "string", "result": [1_700_000_000, "hi"]}));

    let names = appliance.json("GET", "/api/v1/label/__name__/values?match[]=%7B__name__%3D~%22shape_.*%22%7D", None);
    assert_eq!(names["data"], json!(["shape_a", "shape_b"]));
    let labels = appliance.json("GET", "/api/v1/labels?match[]=shape_a", None);
    assert_eq!(labels["data"], json!(["__name__", "job"]));
    let series = appliance.json("GET", "/api/v1/series?match[]=shape_a&match[]=shape_b&limit=1", None);
    assert_eq!(series["data"], json!([{"__name__": "shape_a", "job": "test"}]));
    assert_eq!(series["warnings"][0], "results truncated due to limit");
    let metadata = appliance.json("GET", "/api/v1/metadata?metric=shape_a", None);
    assert_eq!(metadata["data"]["shape_a"][0]["type"], "gauge");
    assert!(appliance.json("GET", "/api/v1/status/buildinfo", None)["data"]["version"].is_string());
    let rules = appliance.json("GET", "/api/v1/rules", None);
    assert_eq!(rules["data"]["groups"][0]["name"], "backlot");
    assert_eq!(rules["data"]["groups"][0]["rules"][0]["type"], "alerting");
    eventually("the rules were evaluated", || {
        let rules = appliance.json("GET", "/api/v1/rules", None);
        let group = &rules["data"]["groups"][0];
        let mut all = group["rules"].as_array()?.iter().chain([group]);
        let now = |one: &Value| one["lastEvaluation"].as_str().is_some_and(|at| !at.starts_with("0001"));
        all.all(|one| now(one) && one["evaluationTime"].is_number()).then_some(())
    });
}

#[test]
fn a_bad_question_is_answered_in_prometheus_words() {
    let appliance = Appliance::start();
    for (path, status, kind, says) in [
        ("query?query=sum(", 400, "bad_data", "invalid parameter \"query\": "),
        ("query?query=nosuch(up)", 400, "bad_data", "parse error"),
        ("query", 400, "bad_data", "no expression found"),
        (
            "query?query=up&time=soon",
            400,
            "bad_data",
            "invalid parameter \"time\": cannot parse \"soon\" to a valid timestamp",
        ),
        ("query_range?query=up&start=2&end=1&step=1", 400, "bad_data", "end timestamp must not be before start time"),
        ("query_range?query=up&start=0&end=1&step=0", 400, "bad_data", "zero or negative query resolution step widths"),
        (
            "query_range?query=up&start=0&end=100000&step=1",
            400,
            "bad_data",
            "exceeded maximum resolution of 11,000 points",
        ),
        ("query_range?query=up[5m]&start=0&end=1&step=1", 400, "bad_data", "invalid expression type"),
        ("series", 400, "bad_data", "no match[] parameter provided"),
        ("series?match[]=1", 400, "bad_data", "invalid parameter \"match[]\""),
        ("query?query=topk(NaN,vector(1))", 422, "execution", "Parameter value is NaN"),
        ("query?query=%ff", 400, "bad_data", "UTF-8"),
        (
            "query_range?query=sum_over_time(vector(1)[1000000h:1ms])&start=0&end=1&step=1",
            422,
            "execution",
            "too many samples",
        ),
    ] {
        let (got, text) = appliance.http("GET", &format!("/api/v1/{path}"), None);
        assert_eq!(got, status, "{path}: {text}");
        let body: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&body["status"], &body["errorType"]), (&json!("error"), &json!(kind)), "{path}");
        assert!(body["error"].as_str().is_some_and(|error| error.contains(says)), "{path}: {text}");
    }
    let (status, _) = http(&appliance.addresses.http, "GET", "/api/v1/query?query=1", &[], b"");
    assert_eq!(status, 401);
}

#[test]
fn garbage_is_refused_and_nothing_falls() {
    let appliance = Appliance::start();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let alphabet: Vec<char> = "ab1(){}[]\"'`\\,=~!<>+-*/%^@:. \n#é\u{0}_$|".chars().collect();
    for _ in 0..300 {
        let text: String = (0..40)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                alphabet[(seed % alphabet.len() as u64) as usize]
            })
            .collect();
        let (status, body) = appliance.http("GET", &format!("/api/v1/query?query={}", encode(&text)), None);
        assert!(matches!(status, 200 | 400 | 422), "{text:?}: {status} {body}");
    }
    assert_eq!(value(&appliance, "vector(1)"), "1", "it still answers");
}
