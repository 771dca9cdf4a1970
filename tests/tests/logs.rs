//! Log search over a studio's lines: what is counted, listed around a record and exported is what a scan of the lines finds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::collections::BTreeMap;

use backlot_tests::corpus::Line;
use backlot_tests::{Appliance, encode, filled, http, now_ns, repository};
use serde_json::{Value, json};

const SECOND_NS: u64 = 1_000_000_000;

/// Whether a line answers to a question.
type Holds = Box<dyn Fn(&Line) -> bool>;

/// The answer to a query of the studio's lines: the appliance writes a few of its own.
fn ask(appliance: &Appliance, path: &str, parameters: &[(&str, &str)]) -> Value {
    let mut parameters = parameters.to_vec();
    let query = parameters.iter().find(|(name, _)| *name == "query").map_or("*", |(_, value)| value);
    let query = format!("({query}) -service:backlot");
    if path != "/around" {
        parameters.retain(|(name, _)| *name != "query");
        parameters.push(("query", &query));
    }
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    appliance.json("GET", &format!("/v1/logs{path}?{}", parameters.join("&")), None)
}

/// Values of the lines that pass, with their numbers, as `/v1/logs/values` tells them.
fn counted<'a>(lines: &'a [Line], value: impl Fn(&'a Line) -> Option<&'a str>) -> Vec<Value> {
    let mut counts = BTreeMap::<_, u64>::new();
    for value in lines.iter().filter_map(value) {
        *counts.entry(value).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(value, count)| (std::cmp::Reverse(*count), *value));
    counts.into_iter().map(|(value, count)| json!({"value": value, "count": count})).collect()
}

#[test]
fn counts_of_all_kinds_are_those_of_a_scan() {
    let (appliance, lines, _) = filled(11, 3000);

    let told = ask(&appliance, "/values", &[("name", "host"), ("limit", "100")]);
    assert_eq!((&told["matched"], &told["others"]), (&json!(3000), &json!(0)));
    assert_eq!(told["values"], json!(counted(&lines, |line| Some(&line.host))));
    let told = ask(&appliance, "/values", &[("query", "service:ffmpeg"), ("name", "job"), ("limit", "100")]);
    let of_ffmpeg = lines.iter().filter(|line| line.service == "ffmpeg").cloned().collect::<Vec<_>>();
    assert_eq!(told["values"], json!(counted(&of_ffmpeg, |line| line.job.as_deref())));
    // An attribute has no terms of its own: its values are counted in the records.
    let told = ask(&appliance, "/values", &[("name", "phase")]);
    assert_eq!(told["values"], json!(counted(&lines, |line| line.attributes.get("phase")?.as_str())));
    let with_a_phase = lines.iter().filter(|line| line.attributes.contains_key("phase")).count();
    assert_eq!(told["sampled"], with_a_phase);

    let told = ask(&appliance, "/histogram", &[("by", "level"), ("step", "2s")]);
    let begin_ns = lines[0].time_ns / (2 * SECOND_NS) * (2 * SECOND_NS);
    let begin = backlot_wire::Timestamp(begin_ns / 1_000_000).to_rfc3339();
    assert_eq!(told["begin"].as_str().unwrap()[..19], begin[..19]);
    let mut expected = BTreeMap::<(&str, usize), u64>::new();
    for line in &lines {
        let at = usize::try_from((line.time_ns - begin_ns) / (2 * SECOND_NS)).unwrap();
        *expected.entry((line.level(), at)).or_default() += 1;
    }
    for series in told["by"].as_array().unwrap() {
        for (at, count) in series["counts"].as_array().unwrap().iter().enumerate() {
            let level = series["value"].as_str().unwrap();
            let expected =
                expected.iter().find(|((of, stretch), _)| *of == level && *stretch == at).map_or(0, |(_, n)| *n);
            assert_eq!(count.as_u64().unwrap(), expected, "{level} in stretch {at}");
        }
    }
    let total: u64 = told["counts"].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
    assert_eq!((total, told["matched"].as_u64().unwrap()), (3000, 3000));

    let told = ask(&appliance, "/numbers", &[("query", "service:studio-api"), ("name", "duration_ms")]);
    let of_api = lines.iter().filter(|line| line.service == "studio-api");
    let mut took: Vec<_> = of_api.map(|line| line.attributes["duration_ms"].as_f64().unwrap()).collect();
    took.sort_by(f64::total_cmp);
    assert_eq!((told["count"].as_u64().unwrap() as usize, told["max"].as_f64()), (took.len(), took.last().copied()));
    let median = told["percentiles"]["p50"].as_f64().unwrap();
    let exact = took[(took.len() - 1) / 2];
    assert!((median - exact).abs() <= exact * 0.03, "{median} is not near {exact}");

    let told = ask(&appliance, "/patterns", &[("query", "service:inference")]);
    let steps = lines.iter().filter(|line| line.body.starts_with("step ")).count();
    assert_eq!(
        (&told["patterns"][0]["text"], &told["patterns"][0]["count"]),
        (&json!("step ␣ of ␣ took ␣ ms"), &json!(steps))
    );
    let key = told["patterns"][0]["key"].as_str().unwrap();
    let told = ask(&appliance, "/values", &[("query", &format!("pattern:{key}")), ("name", "service")]);
    assert_eq!(told["values"], json!([{"value": "inference", "count": steps}]));
}

#[test]
fn questions_of_all_kinds_find_what_a_scan_finds() {
    let (appliance, lines, _) = filled(12, 3000);
    let is = |service: &'static str| move |line: &Line| line.service == service;
    let number = |line: &Line, name: &str| line.attributes.get(name).and_then(Value::as_f64);
    let span = lines[77].span_id.clone().unwrap();
    let cases: Vec<(String, Holds)> = vec![
        ("service:ffmpeg".into(), Box::new(is("ffmpeg"))),
        (r#""spot interruption""#.into(), Box::new(|line| line.body.contains("spot interruption"))),
        (r#""interruption spot""#.into(), Box::new(|_| false)),
        (
            "body:/of (20|30) took/".into(),
            Box::new(|line| line.body.contains("of 20 took") || line.body.contains("of 30 took")),
        ),
        ("host:/gpu-0[1-3]/".into(), Box::new(|line| ["gpu-01", "gpu-02", "gpu-03"].contains(&line.host.as_str()))),
        (
            "duration_ms:[100 TO 200}".into(),
            Box::new(move |line| number(line, "duration_ms").is_some_and(|ms| (100.0..200.0).contains(&ms))),
        ),
        (
            "gpu.memory:* -model:sdxl".into(),
            Box::new(|line| line.attributes.contains_key("gpu.memory") && line.attributes["model"] != "sdxl"),
        ),
        (
            format!("span:{span}"),
            Box::new({
                let span = span.clone();
                move |line| line.span_id.as_ref() == Some(&span)
            }),
        ),
        (
            "NOT (service:ffmpeg OR service:inference) level:>=warn".into(),
            Box::new(|line| line.service != "ffmpeg" && line.service != "inference" && line.severity >= 13),
        ),
    ];
    for (query, holds) in cases {
        let told = ask(&appliance, "/values", &[("query", &query), ("name", "service")]);
        let expected = lines.iter().filter(|line| holds(line)).count();
        assert_eq!(told["matched"], expected, "{query}");
    }
    let (status, text) = appliance.http("GET", "/v1/logs?query=body%3A%2F%28%2F", None);
    assert!(status == 400 && text.contains("unclosed group"), "{text}");
}

#[test]
fn the_lines_around_a_record_are_those_of_its_stream() {
    let (appliance, lines, _) = filled(13, 1500);
    let stream: Vec<_> = lines.iter().filter(|line| line.service == "ffmpeg" && line.host == lines[700].host).collect();
    let middle = stream[stream.len() / 2];
    let found = ask(&appliance, "", &[("query", &format!("span:{}", middle.span_id.as_ref().unwrap()))]);
    let record = &found["records"][0];
    assert_eq!(record["body"], middle.body);
    let (id, time) = (record["id"].as_str().unwrap(), record["time"].as_str().unwrap());
    let around = ask(&appliance, "/around", &[("id", id), ("time", time), ("before", "4"), ("after", "3")]);
    let bodies = |name: &str| -> Vec<_> {
        around[name].as_array().unwrap().iter().map(|record| record["body"].as_str().unwrap().to_owned()).collect()
    };
    let at = stream.len() / 2;
    let expected = |lines: &[&Line]| lines.iter().map(|line| line.body.clone()).collect::<Vec<_>>();
    assert_eq!(around["record"], *record);
    assert_eq!((bodies("before"), bodies("after")), (expected(&stream[at - 4..at]), expected(&stream[at + 1..at + 4])));
    assert_eq!(appliance.http("GET", &format!("/v1/logs/around?id=ffff&time={}", encode(time)), None).0, 404);
}

#[test]
fn an_export_has_every_record_once_in_order() {
    let (appliance, lines, _) = filled(14, 3500);
    let (status, text) = appliance.http("GET", "/v1/logs/export?order=oldest&query=-service%3Abacklot", None);
    assert_eq!(status, 200);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bodies = |records: &[Value]| {
        records.iter().map(|record| record["body"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(bodies(&records), lines.iter().map(|line| line.body.clone()).collect::<Vec<_>>());
    let (status, text) = appliance.http("GET", "/v1/logs/export?format=csv&query=service%3Astudio-api", None);
    assert_eq!(status, 200);
    let rows = lines.iter().filter(|line| line.service == "studio-api").count();
    assert_eq!(text.lines().count(), rows + 1, "a head and a row for each");
    assert!(text.starts_with("time,level,service,"));
}

#[test]
fn lines_elastic_and_loki_are_taken_and_found_by_their_names() {
    let appliance = Appliance::start();
    let post = |path: &str, kind: &str, body: &str| {
        let headers = [("authorization", "Basic dGVzdDp0ZXN0"), ("content-type", kind)];
        http(&appliance.addresses.http, "POST", path, &headers, body.as_bytes())
    };
    let lines = "{\"level\":\"warn\",\"msg\":\"slow disk\",\"job\":\"j-1\",\"took_s\":3.5}\nTraceback (most recent call last):\n  File \"a.py\", line 3\nValueError: no\nplain\n";
    let (status, text) = post("/v1/logs?service.name=renderer&host.name=gpu-7", "application/x-ndjson", lines);
    assert_eq!((status, text.as_str()), (200, r#"{"accepted":5}"#));
    let bulk = "{\"create\":{}}\n{\"@timestamp\":\"2026-01-02T03:04:05Z\",\"message\":\"made a proxy\",\"host\":{\"name\":\"edit-1\"},\"log\":{\"level\":\"error\"}}\n{\"delete\":{\"_id\":\"1\"}}\n";
    let (status, text) = post("/es/studio/_bulk", "application/x-ndjson", bulk);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &told["errors"], &told["items"][0]["create"]["status"]),
        (200, &json!(true), &json!(201)),
        "{text}"
    );
    let now = now_ns();
    let push = json!({"streams": [{"stream": {"service_name": "caddy", "host": "edge-1", "level": "info"},
        "values": [[now.to_string(), "{\"msg\":\"handled\",\"status\":502,\"level\":\"error\"}"], [(now + 1).to_string(), "listening", {"port": "443"}]]}]});
    assert_eq!(post("/loki/api/v1/push", "application/json", &push.to_string()).0, 204);

    let found = |query: &str| -> Vec<String> {
        let page = ask_plainly(&appliance, query);
        page["records"].as_array().unwrap().iter().map(|record| record["body"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found("service:renderer host:gpu-7 level:warn job:j-1 took_s:>3"), ["slow disk"]);
    assert_eq!(
        found("service:renderer ValueError"),
        ["Traceback (most recent call last):\n  File \"a.py\", line 3\nValueError: no"]
    );
    assert_eq!(found("index:studio host:edit-1 level:error"), ["made a proxy"]);
    assert_eq!(found("service:caddy level:error status:502"), ["handled"]);
    assert_eq!(found("service:caddy host:edge-1 level:info port:443"), ["listening"]);

    // Bad input is named in the sender's dialect, and a viewer may not send.
    let (status, text) = post("/es/_bulk", "application/x-ndjson", "nonsense\n");
    assert!(status == 400 && text.contains("illegal_argument_exception") && text.contains("line [1]"), "{text}");
    let (status, text) = post("/loki/api/v1/push", "application/x-protobuf", "nonsense");
    assert!(status == 400 && text.contains("snappy"), "{text}");
    assert_eq!(
        http(&appliance.addresses.http, "POST", "/loki/api/v1/push", &[("content-type", "application/json")], b"{}").0,
        401
    );
}

fn ask_plainly(appliance: &Appliance, query: &str) -> Value {
    appliance.json("GET", &format!("/v1/logs?query={}", encode(query)), None)
}

/// That the last record shows is what following means; how soon it did and how busy the page was is told, and decides nothing.
#[test]
fn the_page_of_logs_keeps_up_with_a_thousand_records_a_second() {
    const SECONDS: u64 = 5;
    let web = repository().join("dashboards/web");
    if !web.join("dist/index.html").exists() || !web.join("node_modules/playwright-core").exists() {
        println!("SKIPPED the page of logs: the dashboard is not built; `cargo xtask ui` does that");
        return;
    }
    let appliance = Appliance::start();
    let mut follow = std::process::Command::new("node");
    follow.current_dir(web).args(["test/live.mjs", &appliance.addresses.http, &SECONDS.to_string()]);
    let output = follow.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    let told: Value = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
    println!("the page of logs: {told}");
    let number = |name: &str| told[name].as_u64().unwrap();
    assert_eq!(told["complaints"], json!([]), "{told}");
    assert!(number("rate") > 0 && number("lines") <= 500 && number("dropped") <= SECONDS * 1000, "{told}");
}
