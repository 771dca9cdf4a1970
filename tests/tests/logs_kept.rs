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
