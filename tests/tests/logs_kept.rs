//! What is kept of logs and traces, for how long, and what never gets in: with a configuration of its own, over every door.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::Path;
use std::process::Command;

use backlot_tests::{Appliance, binary, eventually, http};
use serde_json::{Value, json};

const CONFIGURATION: &str = r#"
[[logs.class]]
name = "debug"
match = "level:<=debug"
days = 2
[[logs.class]]
name = "ffmpeg"
match = "service:ffmpeg"
bytes = 100_000_000
[[redaction.rule]]
name = "key-id"
pattern = 'AKIA[0-9A-Z]{16}'
"#;
/// What must be nowhere afterwards: one behind a name, one that a pattern matches.
const PASSWORD: &str = "hunter2-hunter2";
const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";

fn started(dir: &Path, text: &str) -> Appliance {
    let file = dir.join("backlot.toml");
    std::fs::write(&file, text).unwrap();
    Appliance::start_with(&[("BACKLOT_CONFIG", file.to_str().unwrap()), ("BACKLOT_SYSLOG_TCP", "127.0.0.1:0")])
}

fn post(base: &str, path: &str, kind: &str, body: &str) {
    let headers = [("content-type", kind), ("authorization", "Basic dGVzdDp0ZXN0")];
    let (status, answer) = http(base, "POST", path, &headers, body.as_bytes());
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
}

fn found(appliance: &Appliance, query: &str) -> Vec<Value> {
    let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let page = appliance.json("GET", &format!("/v1/logs?limit=1000&query={query}"), None);
    page["records"].as_array().unwrap().clone()
}

/// The files below `dir` that hold `text`.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(holding(&path, text));
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            files.push(path.display().to_string());
        }
    }
    files
}

#[test]
fn no_secret_that_came_by_any_door_is_anywhere_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut appliance = started(dir.path(), CONFIGURATION);
    let (door, otlp) = (appliance.addresses.http.clone(), appliance.addresses.otlp_http.clone());
    let secret = |marker: &str| format!("{marker} and {KEY_ID}");
    let pair = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let attributes = |marker: &str| {
        json!([
            pair("http.request.header.Authorization", PASSWORD),
            pair("note", &secret(marker)),
            pair("kept", "plain")
        ])
    };
    let resource = json!({"attributes": [pair("service.name", "sender"), pair("db.password", PASSWORD)]});
    let record = json!({"body": {"stringValue": format!("{{\"msg\":\"otlp here\",\"Password\":\"{PASSWORD}\"}}")}, "attributes": attributes("otlp")});
    let logs = json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [record]}]}]});
    post(&otlp, "/v1/logs", "application/json", &logs.to_string());
    let span = json!({"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": secret("span"),
        "startTimeUnixNano": "1763812800000000000", "endTimeUnixNano": "1763812800000000001", "attributes": attributes("span"),
        "events": [{"name": "e", "attributes": attributes("event")}]});
    let traces = json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]});
    post(&otlp, "/v1/traces", "application/json", &traces.to_string());
    let line = json!({"message": secret("lines here"), "api-key": PASSWORD, "deep": {"token": [PASSWORD]}});
    post(&door, "/v1/logs?service.name=sender", "application/json", &line.to_string());
    let bulk = json!({"message": format!("bulk here {{'cookie': '{PASSWORD}'}}"), "secret": PASSWORD});
    post(&door, "/es/logs/_bulk", "application/x-ndjson", &format!("{{\"index\":{{}}}}\n{bulk}\n"));
    let stream = json!({"stream": {"service": "sender", "token": PASSWORD}, "values": [["1763812800000000000", secret("loki here")]]});
    post(&door, "/loki/api/v1/push", "application/json", &json!({"streams": [stream]}).to_string());
    {
        use std::io::Write as _;
        let mut syslog = std::net::TcpStream::connect(appliance.addresses.syslog_tcp.clone().unwrap()).unwrap();
        writeln!(syslog, "<14>1 - h sender - - [a token=\"{PASSWORD}\"] syslog here {KEY_ID}").unwrap();
    }
    for door in ["otlp", "lines", "bulk", "loki", "syslog"] {
        let record = eventually(door, || found(&appliance, &format!("\"{door} here\"")).pop());
        let text = record.to_string();
        assert!(text.contains("[redacted]") && !text.contains(PASSWORD) && !text.contains(KEY_ID), "{text}");
    }
    let trace = appliance.json("GET", "/v1/traces/0af7651916cd43dd8448eb211c80319c", None);
    assert_eq!(trace["spans"][0]["name"], "span and [redacted]");
    let metrics = appliance.http("GET", "/metrics", None).1;
    for rule in [r#"rule="key-id""#, r#"rule="authorization""#, r#"rule="password""#] {
        assert!(
            metrics.lines().any(|line| line.starts_with("backlot_redacted_total") && line.contains(rule)),
            "{rule}"
        );
    }
    appliance.stop();
    for secret in [PASSWORD, KEY_ID] {
        assert_eq!(holding(&appliance.data(), secret), Vec::<String>::new(), "{secret}");
    }
    assert!(!holding(&appliance.data(), "lines here").is_empty(), "the search finds what is there");
}

#[test]
fn classes_have_windows_of_their_own_and_are_changed_without_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let mut appliance = started(dir.path(), CONFIGURATION);
    let send = |appliance: &Appliance, round: usize| {
        for (service, level) in [("agent", "debug"), ("agent", "info"), ("ffmpeg", "info"), ("ffmpeg", "debug")] {
            let line = json!({"message": format!("round {round}"), "level": level});
            post(
                &appliance.addresses.http,
                &format!("/v1/logs?service.name={service}"),
                "application/json",
                &line.to_string(),
            );
        }
    };
    let classes = |appliance: &Appliance| {
        let output = appliance.cli(&["logs", "kept", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let windows = told["windows"].as_array().unwrap().clone();
        let of_logs =
            windows.iter().filter(|window| window["signal"] == "logs" && window["records"].as_u64() > Some(0));
        let mut classes: Vec<_> = of_logs.map(|window| window["class"].as_str().unwrap().to_owned()).collect();
        classes.sort();
        classes
    };
    send(&appliance, 1);
    assert_eq!(found(&appliance, "\"round 1\"").len(), 4);
    eventually("each class has its window", || (classes(&appliance) == ["debug", "default", "ffmpeg"]).then_some(()));
    assert_eq!(found(&appliance, "\"round 1\" level:debug").len(), 2, "classes are no part of a search");

    // Without classes, after a kill: what is there stays where it is.
    appliance.kill();
    std::fs::write(dir.path().join("backlot.toml"), "").unwrap();
    appliance.start_again();
    send(&appliance, 2);
    assert_eq!((found(&appliance, "\"round 1\"").len(), found(&appliance, "\"round 2\"").len()), (4, 4));
    assert_eq!(classes(&appliance), ["debug", "default", "ffmpeg"]);
    appliance.stop();
    let doctor = Command::new(binary("backlot")).arg("doctor").arg("--data").arg(appliance.data()).output().unwrap();
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let line = told.lines().find(|line| line.contains("log windows")).unwrap_or_else(|| panic!("{told}"));
    assert!(line.starts_with("ok") && line.contains("debug: 1 windows, 2 records"), "{line}");
}

/// Two classes with windows of four megabytes, one of which is kept for a year.
const TWO_CLASSES: &str = r#"
[[logs.class]]
name = "year"
match = "service:auditor"
days = 365
bytes = 16_000_000
[[logs.class]]
name = "days"
match = "service:chatter"
days = 2
bytes = 16_000_000
[[logs.class]]
name = "short"
match = "service:\"/studio/short\""
days = 1
"#;

/// Lines of a kilobyte that do not compress to nothing, and of one word each: an index of many would take a class over its own bytes, and
/// the appliance is to be over those of all together.
fn noise(seed: u64, lines: u64) -> String {
    let line = |at: u64| {
        let words = (0..60).map(|word| {
            let mixed = (seed << 40 ^ at << 8 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("{:x}", mixed ^ mixed >> 29)
        });
        json!({"message": words.collect::<String>()}).to_string()
    };
    (0..lines).map(line).collect::<Vec<_>>().join("\n")
}

/// The windows of logs as they are told: class, name, bytes, whether they are closed.
fn kept(appliance: &Appliance) -> (u64, Vec<(String, String, bool)>) {
    let told = appliance.json("GET", "/v1/retention", None);
    let windows = told["windows"].as_array().unwrap().iter().filter(|window| window["records"].as_u64() > Some(0));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |window: &Value| (text(&window["class"]), text(&window["window"]), window["closed"] == true);
    (told["disk_bytes"].as_u64().unwrap(), windows.map(one).collect())
}

/// The windows that the log says went, in that order.
fn went(appliance: &Appliance, of: &[(String, String, bool)]) -> Vec<String> {
    let log = appliance.log();
    let lines = log.lines().filter(|line| line.contains("dropped a window"));
    lines
        .filter_map(|line| of.iter().find(|(_, name, _)| line.contains(name.as_str())))
        .map(|window| window.1.clone())
        .collect()
}

fn metric(appliance: &Appliance, name: &str, labels: &[&str]) -> f64 {
    let text = appliance.http("GET", "/metrics", None).1;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label)));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn a_store_over_its_budget_drops_windows_in_the_written_order_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut appliance = started(dir.path(), TWO_CLASSES);
    let send = |appliance: &Appliance, service: &str, seed: u64| {
        let path = format!("/v1/logs?service.name={service}");
        post(&appliance.addresses.http, &path, "text/plain", &noise(seed, 1000));
    };
    let matched = |appliance: &Appliance, service: &str| {
        appliance.json("GET", &format!("/v1/logs/histogram?query=service:{service}"), None)["matched"].as_u64().unwrap()
    };
    // What is kept for a year comes first, so that only its long time keeps it.
    for (service, class, windows) in [("auditor", "year", 1), ("chatter", "days", 2)] {
        let is_there = |appliance: &Appliance| {
            kept(appliance).1.iter().filter(|(of, _, closed)| of == class && *closed).count() >= windows
        };
        for round in 0.. {
            assert!(round < 40, "no window was closed: {:?}", kept(&appliance));
            send(&appliance, service, round);
            eventually("what was sent", || (matched(&appliance, service) == (round + 1) * 1000).then_some(()));
            if is_there(&appliance) {
                break;
            }
        }
    }
    let (sent, audited) = (matched(&appliance, "chatter"), matched(&appliance, "auditor"));
    let (bytes, order) = kept(&appliance);
    let closed: Vec<_> = order.iter().filter(|window| window.2).cloned().collect();
    let classes: Vec<_> = closed.iter().map(|window| window.0.as_str()).collect();
    assert!(
        classes.len() > 2 && classes.starts_with(&["days", "days"]) && classes.last() == Some(&"year"),
        "{order:?}"
    );

    // Room for somewhat less than there is: some of what is kept for days goes, the oldest of it first.
    assert_eq!(appliance.stop(), Some(0));
    let bytes_max = bytes * 6 / 10;
    appliance.set("BACKLOT_SIGNALS_DISK_BYTES_MAX", &bytes_max.to_string());
    appliance.start_again();
    eventually("room", || (!went(&appliance, &closed).is_empty() && kept(&appliance).0 <= bytes_max).then_some(()));
    let gone = went(&appliance, &closed);
    let names: Vec<_> = closed.iter().map(|window| window.1.clone()).collect();
    assert_eq!(gone, names[..gone.len()], "in the order that was told");
    let left = kept(&appliance).1;
    assert!(left.iter().any(|window| window.0 == "year" && window.2), "{left:?}");
    assert!(gone.iter().all(|name| !left.iter().any(|window| window.1 == *name)), "{left:?}");
    let labels = [r#"class="days""#, r#"reason="total""#, r#"signal="logs""#];
    assert_eq!(metric(&appliance, "backlot_windows_dropped_total", &labels), gone.len() as f64);
    let lost = metric(&appliance, "backlot_windows_dropped_records_total", &labels);
    assert_eq!(matched(&appliance, "chatter") as f64 + lost, sent as f64, "and nothing else is gone");
    assert_eq!(matched(&appliance, "auditor"), audited);

    // Room for nothing: what is closed goes, what is kept for a year last; what is being written stays.
    assert_eq!(appliance.stop(), Some(0));
    appliance.set("BACKLOT_SIGNALS_DISK_BYTES_MAX", "1");
    appliance.start_again();
    eventually("all that is closed to go", || (went(&appliance, &closed).len() == closed.len()).then_some(()));
    assert_eq!(went(&appliance, &closed), names);
    let left = kept(&appliance).1;
    assert!(!left.is_empty() && left.iter().all(|window| !window.2), "{left:?}");
    assert_eq!(metric(&appliance, "backlot_windows_dropped_total", &[r#"class="year""#, r#"reason="total""#]), 1.0);
}

#[test]
fn a_log_group_has_its_disk_back_by_a_class_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let appliance = started(dir.path(), TWO_CLASSES);
    let said = appliance.python("logs_cloudwatch.py", &["kept"]);
    assert!(said.contains("kept is as it should be"), "{said}");
    // Its two events of now, and the one that is hours off, which has a window of its own; and as many of another group.
    eventually("the windows", || {
        let classes: Vec<_> = kept(&appliance).1.into_iter().map(|window| window.0).collect();
        let of = |class: &str| classes.iter().filter(|of| *of == class).count();
        (of("short") == 2 && of("default") == 2).then_some(())
    });
    let told = appliance.json("GET", "/v1/retention", None);
    let short = told["windows"].as_array().unwrap().iter().filter(|window| window["class"] == "short");
    let records: u64 = short.map(|window| window["records"].as_u64().unwrap()).sum();
    assert_eq!(records, 3, "those of one group, and no others: {told}");
}

#[test]
fn a_rule_or_class_that_is_wrong_stops_the_start_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    for (text, words) in [
        ("[[redaction.rule]]\nname = \"open\"\npattern = \"a(b\"\n", ["redaction", "open"]),
        ("[[logs.class]]\nname = \"odd\"\nmatch = \"level:(\"\ndays = 1\n", ["logs.class", "odd"]),
    ] {
        let file = dir.path().join("wrong.toml");
        std::fs::write(&file, text).unwrap();
        let output = Command::new(binary("backlot"))
            .args(["serve", "--config", file.to_str().unwrap(), "--data", dir.path().join("data").to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}
