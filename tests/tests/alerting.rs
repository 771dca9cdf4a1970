//! Alerts: pending, firing, told, resolved, told; over a kill -9; by webhook and by SNS.

#![allow(clippy::expect_used, reason = "a test panics with what went wrong")]
#![allow(clippy::disallowed_methods, reason = "what is sent has the time of the machine")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;

use backlot_tests::{Appliance, PATIENCE, Port, Process, eventually, http, python};
use serde_json::{Value, json};

const RULES: &str = r#"
groups:
  - name: test
    interval: 1s
    rules:
      - alert: Bad
        expr: last_over_time(studio_bad[10m]) > 0
        for: 4s
        labels: {severity: page}
        annotations: {summary: "{{ $labels.place }} is bad: {{ $value }}"}
"#;

/// A gauge with one point now.
fn push(appliance: &Appliance, number: f64) {
    let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    let point = json!({"timeUnixNano": now_ns.to_string(), "asDouble": number, "attributes": [{"key": "place", "value": {"stringValue": "lot"}}]});
    let body = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "studio_bad", "gauge": {"dataPoints": [point]}}]}]}]});
    let headers = [("content-type", "application/json"), ("authorization", "Basic dGVzdDp0ZXN0")];
    let (status, answer) =
        http(&appliance.addresses.otlp_http, "POST", "/v1/metrics", &headers, body.to_string().as_bytes());
    assert_eq!(status, 200, "{answer}");
}

fn state(appliance: &Appliance) -> Option<String> {
    state_of(appliance, "Bad")
}

fn state_of(appliance: &Appliance, name: &str) -> Option<String> {
    let alerts = appliance.json("GET", "/v1/alerts", None);
    let alert = alerts["alerts"].as_array()?.iter().find(|alert| alert["name"] == name)?;
    alert["state"].as_str().map(str::to_owned)
}

/// A webhook that answers 200 and hands on the head and the body of each request.
fn webhook() -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://user:secret@{}/alerts", listener.local_addr().expect("an address"));
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            let _ = reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            if sender.send((head, serde_json::from_slice(&body).expect("an envelope"))).is_err() {
                return;
            }
        }
    });
    (url, receiver)
}

/// The next notification that was not there yet: delivery is at least once, and what comes again has the same id.
fn next(told: &mpsc::Receiver<(String, Value)>, seen: &mut Vec<Value>) -> (String, Value) {
    loop {
        let (head, envelope) = told.recv_timeout(PATIENCE).expect("a notification");
        if !seen.contains(&envelope["MessageId"]) {
            seen.push(envelope["MessageId"].clone());
            return (head, envelope);
        }
    }
}

/// Carries connections from `from` to `to`: an address that begins to answer when the test wants it to.
fn forward(from: &Port, to: u16) {
    let listener = TcpListener::bind(from.address()).expect("the port that was chosen");
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", to))) else { return };
            for (mut source, mut sink) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))]
                .into_iter()
                .filter_map(|(source, sink)| Some((source.ok()?, sink.ok()?)))
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut source, &mut sink);
                    let _ = sink.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

fn message(envelope: &Value) -> Value {
    serde_json::from_str(envelope["Message"].as_str().expect("a text")).expect("JSON in a text")
}

#[test]
fn an_alert_is_pending_firing_told_and_resolved_over_a_kill_in_between() {
    let dir = tempfile::tempdir().expect("a folder");
    let rules = dir.path().join("rules.yml");
    std::fs::write(&rules, RULES).expect("a file");
    let (url, told) = webhook();
    let mut appliance = Appliance::start_with(&[
        ("BACKLOT_ALERTING_RULES_FILES", rules.to_str().expect("a path")),
        ("BACKLOT_ALERTING_WEBHOOK_URLS", &url),
        ("BACKLOT_ALERTING_GROUP_WAIT_S", "1"),
        ("BACKLOT_ALERTING_GROUP_INTERVAL_S", "1"),
    ]);
    assert_eq!(state(&appliance), None);
    push(&appliance, 3.0);
    eventually("the alert is pending", || (state(&appliance)? == "pending").then_some(()));
    let since = |appliance: &Appliance| appliance.json("GET", "/v1/alerts", None)["alerts"][0]["active_at"].clone();
    let active_at = since(&appliance);
    appliance.kill();
    appliance.start_again();
    assert!(matches!(state(&appliance).as_deref(), Some("pending" | "firing")), "a restart does not forget it");
    assert_eq!(since(&appliance), active_at, "nor begins its wait again");
    eventually("the alert is firing", || (state(&appliance)? == "firing").then_some(()));

    let mut seen = Vec::new();
    let (head, envelope) = next(&told, &mut seen);
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /alerts http/1.1"), "{head}");
    assert!(head.contains("x-amz-sns-message-type: notification"), "{head}");
    assert!(head.contains("authorization: basic dxnlcjpzzwnyzxq="), "{head}");
    assert_eq!((&envelope["Type"], &envelope["Subject"]), (&json!("Notification"), &json!("[FIRING] lot is bad: 3")));
    assert_eq!(
        message(&envelope)["alerts"][0]["labels"],
        json!({"alertname": "Bad", "place": "lot", "severity": "page"})
    );

    appliance.kill();
    appliance.start_again();
    assert_eq!(state(&appliance).as_deref(), Some("firing"));
    push(&appliance, 0.0);
    eventually("the alert is resolved", || (state(&appliance)? == "resolved").then_some(()));
    let (_, envelope) = next(&told, &mut seen);
    assert_eq!(message(&envelope)["status"], "resolved", "what fires and was told is not told again at once");

    let rules = eventually("nothing waits any more", || {
        let rules = appliance.json("GET", "/v1/rules", None);
        (rules["receivers"][0]["waiting"] == 0).then_some(rules)
    });
    assert_eq!(rules["receivers"][0]["error"], Value::Null);
    assert!(!rules.to_string().contains("secret") && !appliance.log().contains("secret"));
}

#[test]
fn a_real_sns_topic_is_told_and_told_later_when_it_was_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let rules = dir.path().join("rules.yml");
    std::fs::write(&rules, RULES).expect("a file");
    let (sns_port, away) = (Port::hold(), Port::hold());
    let mut command = Command::new(python().with_file_name("moto_server"));
    let _sns = Process::start(command.args(["-H", "127.0.0.1", "-p", &sns_port.number.to_string()]), dir.path(), "sns");
    eventually("SNS answers", || TcpStream::connect(sns_port.address()).ok());
    let sns = format!("http://{}", sns_port.address());
    let appliance = Appliance::start_with(&[
        ("BACKLOT_ALERTING_RULES_FILES", rules.to_str().expect("a path")),
        ("BACKLOT_ALERTING_SNS_TOPIC_ARN", "arn:aws:sns:us-east-1:123456789012:alerts"),
        ("BACKLOT_ALERTING_SNS_ENDPOINT", &format!("http://{}", away.address())),
        ("BACKLOT_ALERTING_GROUP_WAIT_S", "0"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ]);
    let made: Value = serde_json::from_str(&appliance.python("alerting.py", &["topic", &sns])).expect("JSON");
    assert_eq!(made["topic"], "arn:aws:sns:us-east-1:123456789012:alerts");
    push(&appliance, 1.0);
    let waiting = |appliance: &Appliance| appliance.json("GET", "/v1/rules", None)["receivers"][0].clone();
    eventually("an attempt fails while SNS is away", || waiting(&appliance)["error"].as_str().map(str::to_owned));
    assert_eq!(waiting(&appliance)["waiting"], 1);

    forward(&away, sns_port.number);
    let body = appliance.python("alerting.py", &["message", &sns, made["queue"].as_str().expect("a URL")]);
    let envelope: Value = serde_json::from_str(&body).expect("an envelope of SNS");
    assert_eq!(envelope["Subject"], "[FIRING] lot is bad: 1");
    assert_eq!(message(&envelope)["alerts"][0]["labels"]["alertname"], "Bad");
    eventually("nothing waits any more", || (waiting(&appliance)["waiting"] == 0).then_some(()));
}

#[test]
fn a_dead_letter_queue_that_is_not_empty_is_told_by_the_rules_that_come_with_backlot() {
    let (url, told) = webhook();
    let appliance = Appliance::start_with(&[
        ("BACKLOT_ALERTING_INTERVAL_S", "1"),
        ("BACKLOT_ALERTING_WEBHOOK_URLS", &url),
        ("BACKLOT_ALERTING_GROUP_WAIT_S", "0"),
        ("BACKLOT_ALERTING_GROUP_INTERVAL_S", "1"),
    ]);
    appliance.python("alerting.py", &["dead"]);
    eventually("the alert is pending", || (state_of(&appliance, "DLQNotEmpty")? == "pending").then_some(()));
    let mut seen = Vec::new();
    let (_, envelope) = next(&told, &mut seen);
    assert_eq!(envelope["Subject"], "[FIRING] DLQ not empty: films-dlq");
    assert_eq!(message(&envelope)["alerts"][0]["labels"]["queue"], "films-dlq");
    appliance.python("alerting.py", &["purge"]);
    let (_, envelope) = next(&told, &mut seen);
    assert_eq!(envelope["Subject"], "[RESOLVED] DLQ not empty: films-dlq");
    assert_eq!(state_of(&appliance, "AgentSilent"), None);
}
