//! Loki's reading calls, as Grafana and logcli send them: what they answer is what a scan of the lines finds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use backlot_tests::corpus::Line;
use backlot_tests::{Appliance, PATIENCE, encode, eventually, http, now_ns};
use serde_json::{Value, json};

const SECOND_NS: u64 = 1_000_000_000;
const KEY: (&str, &str) = ("authorization", "Basic dGVzdDp0ZXN0");
/// What Grafana sends with each query for lines.
const CATEGORIZE: (&str, &str) = ("x-loki-response-encoding-flags", "categorize-labels");

struct Filled {
    appliance: Appliance,
    /// Earliest first.
    lines: Vec<Line>,
    begin_ns: u64,
    end_ns: u64,
}

fn filled(seed: u64, count: usize) -> Filled {
    let (appliance, lines, begin_ns) = backlot_tests::filled(seed, count);
    let end_ns = lines.last().unwrap().time_ns / SECOND_NS * SECOND_NS + SECOND_NS;
    Filled { appliance, lines, begin_ns, end_ns }
}

fn get(appliance: &Appliance, path: &str, parameters: &[(&str, &str)], headers: &[(&str, &str)]) -> (u16, String) {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let path = format!("/loki/api/v1/{path}?{}", parameters.join("&"));
    let headers: Vec<_> = [KEY].into_iter().chain(headers.iter().copied()).collect();
    http(&appliance.addresses.http, "GET", &path, &headers, b"")
}

fn read(appliance: &Appliance, path: &str, parameters: &[(&str, &str)], headers: &[(&str, &str)]) -> Value {
    let (status, text) = get(appliance, path, parameters, headers);
    assert_eq!(status, 200, "{path} {parameters:?}: {text}");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    answer
}

impl Filled {
    fn range(&self, query: &str, more: &[(&str, &str)], headers: &[(&str, &str)]) -> Value {
        let (start, end) = (self.begin_ns.to_string(), self.end_ns.to_string());
        let mut parameters = vec![("query", query), ("start", &start), ("end", &end)];
        parameters.extend(more);
        read(&self.appliance, "query_range", &parameters, headers)["data"].clone()
    }

    /// The lines that a query finds, newest first, with the labels of their streams.
    fn lines_of(&self, query: &str) -> Vec<(u64, String)> {
        let data = self.range(query, &[("limit", "5000")], &[CATEGORIZE]);
        assert_eq!(data["resultType"], "streams");
        let values = data["result"].as_array().unwrap().iter().flat_map(|stream| stream["values"].as_array().unwrap());
        let mut lines: Vec<_> = values
            .map(|value| (value[0].as_str().unwrap().parse().unwrap(), value[1].as_str().unwrap().to_owned()))
            .collect();
        lines.sort();
        lines
    }

    /// Labels and value of each series at the end.
    fn instant(&self, query: &str) -> BTreeMap<String, f64> {
        let time = self.end_ns.to_string();
        let data = read(&self.appliance, "query", &[("query", query), ("time", &time)], &[])["data"].clone();
        assert_eq!(data["resultType"], "vector", "{query}");
        let series = data["result"].as_array().unwrap().iter();
        series.map(|one| (one["metric"].to_string(), one["value"][1].as_str().unwrap().parse().unwrap())).collect()
    }
}

#[test]
fn grafanas_pages_of_services_fields_and_patterns_are_answered() {
    let filled = filled(32, 2000);
    let Filled { appliance, lines, begin_ns, end_ns } = &filled;
    let (start, end) = (begin_ns.to_string(), end_ns.to_string());
    let of = |path: &str, more: &[(&str, &str)]| {
        read(appliance, path, &[&[("start", start.as_str()), ("end", end.as_str())], more].concat(), &[])
    };
    let own = r#"{service_name=~"ffmpeg|studio-api|agent|model"}"#;
    let services: BTreeMap<_, u64> = lines.iter().fold(BTreeMap::new(), |mut all, line| {
        *all.entry(line.service).or_default() += 1;
        all
    });
    let volumes = |data: &Value, label: &str| -> BTreeMap<String, f64> {
        let of = |one: &Value| {
            let values = one["values"].as_array().cloned().unwrap_or_else(|| vec![one["value"].clone()]);
            values.iter().map(|value| value[1].as_str().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        };
        data["result"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["metric"][label].as_str().unwrap().to_owned(), of(one)))
            .collect()
    };
    let told =
        of("index/volume", &[("query", r#"{service_name=~".+", service_name!="backlot"}"#), ("limit", "50")])["data"]
            .clone();
    let total = volumes(&told, "service_name");
    assert_eq!(total.keys().map(String::as_str).collect::<Vec<_>>(), services.keys().copied().collect::<Vec<_>>());
    let sizes: Vec<_> = told["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["value"][1].as_str().unwrap().parse::<f64>().unwrap())
        .collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes.iter().all(|size| *size > 100.0), "{sizes:?}");
    for (service, count) in &services {
        // A record is some hundred bytes as it is stored.
        let size = total[*service] / *count as f64;
        assert!((100.0..3000.0).contains(&size), "{service}: {size}");
    }
    let mut ranged =
        of("index/volume_range", &[("query", own), ("targetLabels", "service_name"), ("step", "1s")])["data"].clone();
    assert_eq!(ranged["resultType"], "matrix");
    for (service, volume) in volumes(&ranged.take(), "service_name") {
        assert!((volume / total[&service] - 1.0).abs() < 0.5, "{service}: {volume} {}", total[&service]);
    }
    let by_level = volumes(&of("index/volume", &[("query", own), ("targetLabels", "level")])["data"], "level");
    assert!(by_level["info"] > by_level["error"], "{by_level:?}");
    let labels = of("index/volume", &[("query", own), ("aggregateBy", "labels")])["data"]["result"].clone();
    let labels: BTreeSet<String> = labels
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["metric"].as_object().unwrap().keys().next().unwrap().clone())
        .collect();
    assert!(labels.contains("service_name") && labels.contains("host_name") && labels.contains("level"), "{labels:?}");
    assert_eq!(of("index/volume", &[("query", own), ("limit", "1")])["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(get(appliance, "index/volume", &[("query", own), ("aggregateBy", "hosts")], &[]).0, 400);

    let fields = of("detected_fields", &[("query", own), ("line_limit", "2000")]);
    let of_name =
        |name: &str| fields["fields"].as_array().unwrap().iter().find(|field| field["label"] == name).cloned();
    let durations: BTreeSet<_> = lines
        .iter()
        .rev()
        .take(2000)
        .filter_map(|line| line.attributes.get("duration_ms"))
        .map(Value::to_string)
        .collect();
    let duration = of_name("duration_ms").unwrap_or_else(|| panic!("{fields}"));
    assert!(["int", "float"].contains(&duration["type"].as_str().unwrap()), "{duration}");
    let values = of("detected_field/duration_ms/values", &[("query", own), ("line_limit", "2000"), ("limit", "5000")]);
    assert_eq!(values["values"].as_array().unwrap().len(), duration["cardinality"].as_u64().unwrap() as usize);
    assert!(!durations.is_empty() && duration["cardinality"].as_u64().unwrap() as usize <= durations.len() + 1);

    let patterns = of("patterns", &[("query", r#"{service_name="ffmpeg"}"#), ("step", "10s")])["data"].clone();
    let patterns = patterns.as_array().unwrap();
    let count = |pattern: &Value| {
        pattern["samples"].as_array().unwrap().iter().map(|sample| sample[1].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(patterns.iter().map(count).sum::<u64>(), services["ffmpeg"]);
    for pattern in patterns.iter().take(3) {
        // Its lines are found by it.
        let query = format!("{{service_name=\"ffmpeg\"}} |> {}", pattern["pattern"]);
        assert!(filled.lines_of(&query).len() as u64 >= count(pattern), "{pattern}");
    }
    let formatted = read(appliance, "format_query", &[("query", "{app=\"x\"}\n   |=  `a  b`")], &[]);
    assert_eq!(formatted["data"], "{app=\"x\"} |= `a  b`");
    assert_eq!(get(appliance, "format_query", &[("query", "{app=")], &[]).0, 400);
}

#[test]
fn grafanas_health_check_labels_and_volume_are_answered() {
    let filled = filled(31, 2000);
    let Filled { appliance, lines, begin_ns, end_ns } = &filled;
    let health = [("direction", "backward"), ("query", "vector(1)+vector(1)"), ("time", "4000000000")];
    let told = read(appliance, "query", &health, &[]);
    assert_eq!((&told["status"], &told["data"]["resultType"]), (&json!("success"), &json!("vector")));
    assert_eq!(told["data"]["result"], json!([{"metric": {}, "value": [4_000_000_000_u64, "2"]}]));
    assert_eq!(read(appliance, "status/buildinfo", &[], &[])["version"], "3.0.0");

    let (start, end) = (begin_ns.to_string(), end_ns.to_string());
    let range = [("start", start.as_str()), ("end", end.as_str())];
    let of =
        |path: &str, more: &[(&str, &str)]| read(appliance, path, &[&range[..], more].concat(), &[])["data"].clone();
    let names = of("labels", &[]);
    for name in ["host_name", "level", "service_name"] {
        assert!(names.as_array().unwrap().contains(&json!(name)), "{names}");
    }
    let hosts: BTreeSet<_> =
        lines.iter().filter(|line| line.service == "ffmpeg").map(|line| line.host.clone()).collect();
    assert_eq!(of("label/host_name/values", &[("query", r#"{service_name="ffmpeg"}"#)]), json!(hosts));
    let levels: BTreeSet<_> = lines.iter().filter(|line| line.service == "studio-api").map(Line::level).collect();
    assert_eq!(of("label/level/values", &[("query", r#"{service_name="studio-api"}"#)]), json!(levels));
    let found = of("series", &[("match[]", r#"{service_name="ffmpeg", level="warn"}"#)]);
    let expected: BTreeSet<_> = lines
        .iter()
        .filter(|line| line.service == "ffmpeg" && line.level() == "warn")
        .map(|line| (line.host.as_str(), line.level()))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(host, level)| json!({"host_name": host, "level": level, "service_name": "ffmpeg"}))
        .collect();
    assert_eq!(found, json!(expected));
    let ffmpeg = lines.iter().filter(|line| line.service == "ffmpeg").count();
    let stats = read(appliance, "index/stats", &[&range[..], &[("query", r#"{service_name="ffmpeg"}"#)]].concat(), &[]);
    assert_eq!((&stats["streams"], &stats["entries"]), (&json!(hosts.len()), &json!(ffmpeg)));
    assert!(stats["bytes"].as_u64().unwrap() > 50 * ffmpeg as u64);

    // The histogram above the lines: Grafana drops errors that there are none of.
    let volume = r#"sum by (level, detected_level) (count_over_time({service_name="studio-api"} |= `/v1` | drop __error__[2s]))"#;
    let data = filled.range(volume, &[("step", "2000ms")], &[]);
    assert_eq!(data["resultType"], "matrix");
    let mut expected = BTreeMap::<(&str, u64), u64>::new();
    for line in lines.iter().filter(|line| line.service == "studio-api" && line.body.contains("/v1")) {
        // A step's range ends with it, and its beginning is not part of it.
        let at = begin_ns + (line.time_ns - begin_ns).div_ceil(2 * SECOND_NS) * 2 * SECOND_NS;
        if at <= *end_ns {
            *expected.entry((line.level(), at)).or_default() += 1;
        }
    }
    let mut found = BTreeMap::new();
    for series in data["result"].as_array().unwrap() {
        let level = series["metric"]["level"].as_str().unwrap();
        for value in series["values"].as_array().unwrap() {
            let at = value[0].as_u64().unwrap() * SECOND_NS;
            found.insert((level, at), value[1].as_str().unwrap().parse::<u64>().unwrap());
        }
    }
    assert_eq!(found, expected);
    assert_eq!(data["stats"]["summary"]["totalLinesProcessed"], 0, "no record was read for it");
}

/// Whether a line answers.
type Holds = fn(&Line) -> bool;

#[test]
fn lines_are_found_as_a_scan_finds_them() {
    let filled = filled(32, 3000);
    let lines = &filled.lines;
    let number = |line: &Line, name: &str| line.attributes.get(name).and_then(Value::as_f64).unwrap_or(-1.0);
    let cases: [(&str, Holds); 9] = [
        (r#"{service_name="ffmpeg"}"#, |line| line.service == "ffmpeg"),
        (r#"{host_name=~"gpu-0[1-3]", level!="info", service_name!="backlot"}"#, |line| {
            ["gpu-01", "gpu-02", "gpu-03"].contains(&line.host.as_str()) && line.level() != "info"
        }),
        (r#"{service_name=~".+", service_name!="backlot"} |= "spot" or "CUDA" != "none""#, |line| {
            (line.body.contains("spot") || line.body.contains("CUDA")) && !line.body.contains("none")
        }),
        (r#"{service_name="inference"} |~ "of (20|30) took""#, |line| {
            line.service == "inference" && (line.body.contains("of 20 took") || line.body.contains("of 30 took"))
        }),
        (r#"{service_name="inference"} |> "step <_> of <_> took <_>""#, |line| {
            line.service == "inference" && line.body.starts_with("step ") && line.body.contains(" of ")
        }),
        (r#"{service_name="studio-api"} | http_response_status_code >= 404 and duration_ms < 200"#, |line| {
            let number = |name: &str| line.attributes[name].as_f64().unwrap();
            line.service == "studio-api"
                && number("http.response.status_code") >= 404.0
                && number("duration_ms") < 200.0
        }),
        (r#"{service_name="studio-api"} | pattern "<verb> <_> <code> <took> ms" | verb="GET", code=~"4..""#, |line| {
            line.service == "studio-api"
                && line.body.starts_with("GET")
                && line.body.contains(" 40")
                && line.attributes["http.response.status_code"].as_u64().unwrap() / 100 == 4
        }),
        (r#"{service_name="ffmpeg"} | regexp "fps=\\s*(?P<fps>\\d+)" | fps > 200 | __error__="""#, |line| {
            let fps = line.body.split("fps=").nth(1).and_then(|rest| rest.trim_start().split(' ').next());
            line.service == "ffmpeg" && fps.and_then(|fps| fps.parse::<u32>().ok()).is_some_and(|fps| fps > 200)
        }),
        (r#"{service_name="backlot-agent"} | json | took_s > 45 or phase="upload""#, |line| {
            line.service == "backlot-agent"
                && (line.attributes["took_s"].as_f64().unwrap() > 45.0 || line.attributes["phase"] == "upload")
        }),
    ];
    for (query, holds) in cases {
        let mut expected: Vec<_> =
            lines.iter().filter(|line| holds(line)).map(|line| (line.time_ns, line.body.clone())).collect();
        expected.sort();
        assert!(!expected.is_empty() || query.contains("CUDA"), "{query} tests nothing");
        assert_eq!(filled.lines_of(query), expected, "{query}");
    }
    let trace = lines[1500].trace_id.clone().unwrap();
    let of_trace = lines.iter().filter(|line| line.trace_id.as_ref() == Some(&trace)).count();
    assert_eq!(filled.lines_of(&format!(r#"{{service_name=~".+"}} | trace_id="{trace}""#)).len(), of_trace);

    // Newest first, oldest first, and no more than was asked for; the end is not part of the range.
    let bodies = |data: &Value| -> Vec<String> {
        let values = data["result"].as_array().unwrap().iter().flat_map(|stream| stream["values"].as_array().unwrap());
        values.map(|value| value[1].as_str().unwrap().to_owned()).collect()
    };
    let of_api: Vec<_> = lines
        .iter()
        .filter(|line| line.service == "studio-api" && line.host == "api-1" && line.level() == "info")
        .collect();
    let query = r#"{service_name="studio-api", host_name="api-1", level="info"}"#;
    let newest = filled.range(query, &[("limit", "3"), ("direction", "backward")], &[CATEGORIZE]);
    assert_eq!(bodies(&newest), of_api.iter().rev().take(3).map(|line| line.body.clone()).collect::<Vec<_>>());
    let oldest = filled.range(query, &[("limit", "3"), ("direction", "FORWARD")], &[CATEGORIZE]);
    assert_eq!(bodies(&oldest), of_api.iter().take(3).map(|line| line.body.clone()).collect::<Vec<_>>());

    // With the header labels stand where they come from; without it all are the stream's.
    let stream = &newest["result"][0];
    assert_eq!(newest["encodingFlags"], json!(["categorize-labels"]));
    assert_eq!(stream["stream"], json!({"service_name": "studio-api", "host_name": "api-1", "level": "info"}));
    let last = of_api.last().unwrap();
    assert_eq!(stream["values"][0][0], last.time_ns.to_string());
    let own = &stream["values"][0][2]["structuredMetadata"];
    assert_eq!(own["duration_ms"].as_str().unwrap().parse::<f64>().unwrap(), number(last, "duration_ms"));
    assert_eq!(own["span_id"], *last.span_id.as_ref().unwrap());
    let flat = filled.range(query, &[("limit", "1")], &[]);
    assert_eq!(flat["result"][0]["stream"]["span_id"], *last.span_id.as_ref().unwrap());
    assert_eq!(flat["result"][0]["values"][0].as_array().unwrap().len(), 2);
    let written = filled.range(
        r#"{service_name="studio-api"} | pattern "<verb> <path> <code> <_>" | line_format "{{.code}} {{.verb | lower}}""#,
        &[("limit", "1")],
        &[CATEGORIZE],
    );
    let last = lines.iter().rev().find(|line| line.service == "studio-api").unwrap();
    let words: Vec<_> = last.body.split(' ').collect();
    assert_eq!(written["result"][0]["values"][0][1], format!("{} {}", words[2], words[0].to_lowercase()));
    assert_eq!(written["result"][0]["values"][0][2]["parsed"]["path"], words[1]);
}

#[test]
fn series_are_computed_as_a_scan_computes_them_with_and_without_reading() {
    let filled = filled(33, 3000);
    let lines = &filled.lines;
    // All lines are within the ten minutes before the end.
    let counts = filled.instant(
        r#"sum by (service_name, level) (count_over_time({service_name=~".+", service_name!="backlot"}[10m]))"#,
    );
    let mut expected = BTreeMap::<String, f64>::new();
    for line in lines {
        let labels = json!({"level": line.level(), "service_name": line.service}).to_string();
        *expected.entry(labels).or_default() += 1.0;
    }
    assert_eq!(counts, expected);

    let api: Vec<_> = lines.iter().filter(|line| line.service == "studio-api").collect();
    let took = |host: &str| -> Vec<f64> {
        let of_host = api.iter().filter(|line| line.host == host);
        of_host.map(|line| line.attributes["duration_ms"].as_f64().unwrap()).collect()
    };
    let means =
        filled.instant(r#"avg_over_time({service_name="studio-api"} | unwrap duration_ms [10m]) by (host_name)"#);
    let greatest =
        filled.instant(r#"max by (host_name) (max_over_time({service_name="studio-api"} | unwrap duration_ms [10m]))"#);
    for host in ["api-0", "api-1", "api-2"] {
        let (labels, took) = (json!({"host_name": host}).to_string(), took(host));
        assert!((means[&labels] - took.iter().sum::<f64>() / took.len() as f64).abs() < 1e-6);
        assert_eq!(greatest[&labels], took.iter().copied().fold(0.0, f64::max));
    }
    let bytes = filled.instant(r#"sum(bytes_over_time({service_name="studio-api"}[10m]))"#);
    assert_eq!(bytes["{}"], api.iter().map(|line| line.body.len()).sum::<usize>() as f64);
    let busiest =
        filled.instant(r#"topk(1, sum by (service_name) (rate({service_name=~".+", service_name!="backlot"}[10m])))"#);
    assert_eq!(busiest.keys().collect::<Vec<_>>(), [&json!({"service_name": "studio-api"}).to_string()]);
    // A label of the records themselves, which parts them because the query names it.
    let phases = filled.instant(r#"sum by (phase) (count_over_time({service_name="backlot-agent"}[10m]))"#);
    let loads = lines.iter().filter(|line| line.attributes.get("phase").is_some_and(|phase| phase == "load")).count();
    assert_eq!(phases[&json!({"phase": "load"}).to_string()], loads as f64);
    let share = filled.instant(
        r#"sum(count_over_time({service_name="studio-api", level="error"}[10m])) / sum(count_over_time({service_name="studio-api"}[10m])) * 100"#,
    );
    let failed = api.iter().filter(|line| line.level() == "error").count();
    assert!((share["{}"] - 100.0 * failed as f64 / api.len() as f64).abs() < 1e-9);
    assert_eq!(
        filled.instant(r#"absent_over_time({service_name="nobody"}[10m])"#),
        BTreeMap::from([(json!({"service_name": "nobody"}).to_string(), 1.0)])
    );
    assert!(filled.instant(r#"absent_over_time({service_name="ffmpeg"}[10m])"#).is_empty());

    // What the windows count is what reading every record counts.
    for query in [
        r#"count_over_time({service_name=~"ffmpeg|studio-api"} STAGE [2s])"#,
        r#"sum by (level) (rate({service_name=~".+", service_name!="backlot"} |= "e" STAGE [5s]))"#,
        r#"sum by (host_name) (count_over_time({service_name="ffmpeg"} |~ "fps=.*9" STAGE [3s] offset 1s))"#,
        r#"sum without (host_name) (count_over_time({service_name=~"ffmpeg|inference"} STAGE [4s]))"#,
        r#"sum(count_over_time({level=~"warn|error", service_name!="backlot"} != "DTS" STAGE [1m]))"#,
    ] {
        let (counted, read) =
            (query.replace("STAGE ", ""), query.replace("STAGE", r#"| line_format "{{ __line__ }}""#));
        let [counted, read] = [counted, read].map(|query| filled.range(&query, &[("step", "1")], &[]));
        assert!(!counted["result"].as_array().unwrap().is_empty(), "{query}");
        assert_eq!(counted["result"], read["result"], "{query}");
        let processed = |data: &Value| data["stats"]["summary"]["totalLinesProcessed"].as_u64().unwrap();
        assert!(processed(&counted) == 0 && processed(&read) > 0, "{query}");
    }
}

#[test]
fn lines_that_were_pushed_as_json_are_asked_for_as_json() {
    let appliance = Appliance::start();
    let now = now_ns();
    let push = json!({"streams": [{"stream": {"app": "caddy", "env": "stage", "level": "info"}, "values": [
        [now.to_string(), r#"{"msg":"handled","status":502,"level":"error","request":{"uri":"/x"},"took":"1.5s"}"#],
        [(now + 1).to_string(), "plain text", {"port": "443"}],
    ]}]});
    let headers = [KEY, ("content-type", "application/json")];
    let pushed = http(&appliance.addresses.http, "POST", "/loki/api/v1/push", &headers, push.to_string().as_bytes());
    assert_eq!(pushed.0, 204);
    let lines = |query: &str| -> Vec<String> {
        let data = read(&appliance, "query_range", &[("query", query)], &[])["data"].clone();
        let values = data["result"].as_array().unwrap().iter().flat_map(|stream| stream["values"].as_array().unwrap());
        values.map(|value| value[1].as_str().unwrap().to_owned()).collect()
    };
    let one = |text: &str| vec![text.to_owned()];
    assert_eq!(
        lines(r#"{app="caddy", level="error"} | json | status=502 | request_uri="/x" | took > 1s"#),
        one("handled")
    );
    assert_eq!(lines(r#"{service_name="caddy", env="stage"} | status >= 500"#), one("handled"));
    assert_eq!(lines(r#"{app="caddy"} | port="443""#), one("plain text"));
    assert_eq!(
        lines(r#"{app="caddy"} | logfmt | line_format "{{.level}}: {{ __line__ }}" | level="info""#),
        one("info: plain text")
    );
    assert!(lines(r#"{app="caddy", env!~"stage|x"}"#).is_empty());
}

#[test]
fn mistakes_are_answered_in_lokis_words_and_a_key_is_needed() {
    let appliance = Appliance::start();
    let refused = |path: &str, parameters: &[(&str, &str)], expected: &str| {
        let (status, text) = get(&appliance, path, parameters, &[]);
        assert!(status == 400 && text.contains(expected), "{path} {parameters:?}: {status} {text}");
    };
    refused(
        "query_range",
        &[("query", r#"{app="x"} |= y"#)],
        "parse error at line 1, col 14: syntax error: unexpected IDENTIFIER, expecting STRING",
    );
    refused("query_range", &[], "unexpected $end");
    refused("query", &[("query", r#"{app="x"}"#)], "log queries are not supported as an instant query type");
    refused("query_range", &[("query", r#"{app=~".*"}"#)], "queries require at least one regexp or equality matcher");
    refused("query_range", &[("query", r#"{app="x"}"#), ("limit", "10000")], "max entries limit per query exceeded");
    refused(
        "query_range",
        &[("query", r#"rate({app="x"}[1m])"#), ("start", "1"), ("end", "900000"), ("step", "1")],
        "exceeded maximum resolution of 11,000 points",
    );
    refused(
        "query_range",
        &[("query", r#"{app="x"}"#), ("start", "20"), ("end", "10")],
        "end timestamp must not be before",
    );
    refused("query_range", &[("query", r#"{app="x"}"#), ("direction", "up")], "invalid direction");
    refused("label/app/values", &[("query", "{app=")], "parse error at line 1, col 6");
    refused("series", &[("match[]", "app")], "unexpected IDENTIFIER, expecting {");
    refused("tail", &[("query", r#"{app="x"}"#)], "a tail is a WebSocket");
    let (status, _) = http(&appliance.addresses.http, "GET", "/loki/api/v1/labels", &[], b"");
    assert_eq!(status, 401);
    // A form says the same as the query of an address.
    let headers = [KEY, ("content-type", "application/x-www-form-urlencoded")];
    let (status, text) = http(&appliance.addresses.http, "POST", "/loki/api/v1/query", &headers, b"query=1%2B1&time=7");
    assert!(status == 200 && text.contains(r#""resultType":"scalar","result":[7,"2"]"#), "{status} {text}");
}

/// A WebSocket as far as a tail needs one: it reads texts.
struct Tail {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Tail {
    fn open(appliance: &Appliance, query: &str) -> Self {
        let host = appliance.addresses.http.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "GET /loki/api/v1/tail?query={}&limit=10 HTTP/1.1\r\nhost: {host}\r\n{}: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            encode(query),
            KEY.0,
            KEY.1
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut tail = Self { stream, buffer: Vec::new() };
        let end = loop {
            if let Some(at) = tail.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            tail.fill();
        };
        let head = String::from_utf8_lossy(&tail.buffer[..end]).to_lowercase();
        assert!(head.starts_with("http/1.1 101 ") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        tail.buffer.drain(..end);
        tail
    }

    fn fill(&mut self) {
        let mut bytes = [0; 4096];
        let read = self.stream.read(&mut bytes).unwrap();
        assert!(read > 0, "the tail has ended");
        self.buffer.extend(&bytes[..read]);
    }

    /// The next text message; pings are passed over.
    fn next(&mut self) -> Value {
        loop {
            while self.buffer.len() < 2 {
                self.fill();
            }
            let (kind, short) = (self.buffer[0] & 0x0f, usize::from(self.buffer[1]));
            let extended = match short {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            while self.buffer.len() < 2 + extended {
                self.fill();
            }
            let length = self.buffer[2..2 + extended].iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte));
            let length = if extended == 0 { short } else { length };
            while self.buffer.len() < 2 + extended + length {
                self.fill();
            }
            let frame: Vec<u8> = self.buffer.drain(..2 + extended + length).skip(2 + extended).collect();
            if kind == 1 {
                return serde_json::from_slice(&frame).unwrap();
            }
        }
    }
}

#[test]
fn a_tail_sends_what_is_there_and_then_what_arrives() {
    let appliance = Appliance::start();
    let push = |lines: &[&str]| {
        let now = now_ns();
        let values: Vec<_> =
            lines.iter().enumerate().map(|(at, line)| json!([(now + at as u64).to_string(), line])).collect();
        let body = json!({"streams": [{"stream": {"app": "render", "host": "gpu-7"}, "values": values}]}).to_string();
        let headers = [KEY, ("content-type", "application/json")];
        assert_eq!(http(&appliance.addresses.http, "POST", "/loki/api/v1/push", &headers, body.as_bytes()).0, 204);
    };
    push(&["shot 1 done", "noise", "shot 2 done"]);
    eventually("the lines are found", || {
        let found = read(&appliance, "query_range", &[("query", r#"{app="render"}"#)], &[]);
        (!found["data"]["result"].as_array().unwrap().is_empty()).then_some(())
    });
    let mut tail = Tail::open(&appliance, r#"{app="render"} |= "shot" | pattern "shot <n> <_>" | label_format shot=n"#);
    let lines = |message: &Value| -> Vec<(String, String)> {
        let streams = message["streams"].as_array().unwrap().iter();
        let lines = streams.flat_map(|stream| {
            let shot = stream["stream"]["shot"].as_str().unwrap().to_owned();
            assert_eq!(stream["stream"]["host"], "gpu-7");
            stream["values"]
                .as_array()
                .unwrap()
                .iter()
                .map(move |value| (shot.clone(), value[1].as_str().unwrap().to_owned()))
        });
        lines.collect()
    };
    let line = |n: u32| (n.to_string(), format!("shot {n} done"));
    let mut found = Vec::new();
    while found.len() < 2 {
        found.extend(lines(&tail.next()));
    }
    assert_eq!(found, [line(1), line(2)]);
    push(&["more noise", "shot 3 done"]);
    push(&["shot 4 done"]);
    while found.len() < 4 {
        found.extend(lines(&tail.next()));
    }
    assert_eq!(found, [line(1), line(2), line(3), line(4)]);
}
