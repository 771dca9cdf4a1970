//! Logs and traces as their senders and readers see them: the OpenTelemetry SDK in, search, tail and traces out, over kill -9.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use backlot_tests::{Appliance, PATIENCE, Process, binary, encode, eventually, http};
use serde_json::{Value, json};

fn search(appliance: &Appliance, query: &str) -> Vec<Value> {
    let page = appliance.json("GET", &format!("/v1/logs?limit=1000&query={}", encode(query)), None);
    page["records"].as_array().cloned().unwrap_or_default()
}

/// Sends one record as OTLP JSON; returns the status.
fn send(appliance: &Appliance, body: &str) -> u16 {
    let request = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": body}}]}]}]});
    let headers = [("content-type", "application/json")];
    http(&appliance.addresses.otlp_http, "POST", "/v1/logs", &headers, request.to_string().as_bytes()).0
}

#[test]
fn the_python_sdk_ships_logs_traces_and_metrics_over_both_transports() {
    let appliance = Appliance::start();
    for transport in ["http", "grpc"] {
        let said = appliance.python("otlp.py", &[transport, transport]);
        let said: Value = serde_json::from_str(said.trim()).unwrap();
        let service = format!("service:renderer-{transport}");

        let records = search(&appliance, &format!("{service} frame"));
        assert_eq!(records.len(), 21, "{records:?}");
        assert_eq!(search(&appliance, &format!("{service} gpu.index:[2 TO 3] level:info")).len(), 10);
        let failed = search(&appliance, &format!("{service} level:>=error exception.message:\"out of memory\""));
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0]["trace_id"], said["trace_id"]);
        assert_eq!((&failed[0]["host"], &failed[0]["job"]), (&json!("gpu-7"), &json!(format!("job-{transport}"))));

        let trace = appliance.json("GET", &format!("/v1/traces/{}", said["trace_id"].as_str().unwrap()), None);
        let spans = trace["spans"].as_array().unwrap();
        assert_eq!(spans.iter().map(|span| span["name"].as_str().unwrap()).collect::<Vec<_>>(), ["attempt", "infer"]);
        assert_eq!(spans[1]["parent_span_id"], spans[0]["span_id"]);
        assert_eq!(spans[0]["status"], json!({"code": "error", "message": "out of memory"}));
        assert_eq!(spans[1]["events"][0]["name"], "first frame");
        assert_eq!(trace["missing"], json!([]));
        let list = appliance.json("GET", &format!("/v1/traces?job=job-{transport}"), None);
        assert_eq!(list["traces"][0]["trace_id"], said["trace_id"]);
        assert_eq!((&list["traces"][0]["spans"], &list["traces"][0]["errors"]), (&json!(2), &json!(1)));

        let query = encode(&format!("sum(render_frames_total{{instance=\"{transport}\"}})"));
        eventually("the frames are counted", || {
            let answer = appliance.json("GET", &format!("/api/v1/query?query={query}"), None);
            (answer["data"]["result"][0]["value"][1] == "20").then_some(())
        });
    }
}

#[test]
fn what_was_answered_with_200_is_found_once_after_kill_9() {
    let mut appliance = Appliance::start();
    let mut sent = 0;
    for round in 0..3 {
        for _ in 0..25 {
            assert_eq!(send(&appliance, &format!("survivor number {sent}")), 200);
            sent += 1;
        }
        if round == 1 {
            assert_eq!(search(&appliance, "survivor").len(), sent);
        }
        appliance.kill();
        appliance.start_again();
    }
    let records = search(&appliance, "survivor");
    let mut bodies: Vec<_> = records.iter().map(|record| record["body"].as_str().unwrap().to_owned()).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!((records.len(), bodies.len()), (sent, sent));
}

#[test]
fn pages_follow_one_another_while_records_arrive() {
    let appliance = Appliance::start();
    (0..25).for_each(|i| assert_eq!(send(&appliance, &format!("paged {i}")), 200));
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = appliance.json("GET", &format!("/v1/logs?query=paged&limit=10&cursor={cursor}"), None);
        seen.extend(
            page["records"].as_array().unwrap().iter().map(|record| record["body"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next_cursor"].as_str() else { break };
        next.clone_into(&mut cursor);
        assert_eq!(send(&appliance, "paged later"), 200);
    }
    assert_eq!(seen, (0..25).rev().map(|i| format!("paged {i}")).collect::<Vec<_>>());
}

#[test]
fn the_tail_shows_what_arrives_and_only_what_was_asked_for() {
    let appliance = Appliance::start();
    let host = appliance.addresses.http.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET /v1/logs/tail?query=wanted HTTP/1.1\r\nhost: {host}\r\nauthorization: Basic dGVzdDp0ZXN0\r\n\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.find(|line| line.contains("following")).unwrap();
    for body in ["not this", "wanted this", "nor this", "wanted that"] {
        assert_eq!(send(&appliance, body), 200);
    }
    let records = lines.filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let bodies: Vec<_> = records.take(2).map(|record| record["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(bodies, ["wanted this", "wanted that"]);
    let (status, refused) = appliance.http("GET", "/v1/logs/tail?query=wanted%20time:%5Bnow-1h%20TO%20now%5D", None);
    assert!(status == 400 && refused.contains("as they come"), "a tail that would stay silent: {status} {refused}");
}

#[test]
fn the_command_line_follows_the_log_until_it_is_interrupted() {
    let appliance = Appliance::start();
    let dir = tempfile::tempdir().unwrap();
    let tail = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(binary("backlot"));
        command.args(["logs", "tail"]).args(arguments).envs(appliance.environment());
        Process::start(&mut command, dir.path(), name)
    };
    let (people, mut json) = (tail("people", &["wanted"]), tail("json", &["--json", "wanted level:error"]));
    let mut number = 0;
    // It follows from the moment at which it is connected.
    eventually("both show something", || {
        number += 1;
        let record = json!({"body": {"stringValue": format!("wanted {number} \u{1b}[31m")}, "severityNumber": 17});
        let request = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]});
        let headers = [("content-type", "application/json")];
        let body = request.to_string();
        assert_eq!(http(&appliance.addresses.otlp_http, "POST", "/v1/logs", &headers, body.as_bytes()).0, 200);
        assert_eq!(send(&appliance, "not this"), 200);
        let is_whole = |said: String| said.contains("wanted") && said.ends_with('\n');
        (is_whole(people.log()) && is_whole(json.log())).then_some(())
    });
    let said = people.log();
    let line = said.lines().next().unwrap();
    assert!(line.contains(" error ") && line.contains("wanted"), "{said}");
    assert!(!said.contains("not this") && !said.contains('\u{1b}'), "{said}");
    let record: Value = serde_json::from_str(json.log().lines().next().unwrap()).unwrap();
    assert!(record["body"].as_str().unwrap().starts_with("wanted") && record["level"] == "error");
    json.signal(libc::SIGINT);
    assert!(!json.wait().success(), "an interrupted command says so");
    assert!(!appliance.log().contains("panicked"));
}

#[test]
fn odd_requests_are_answered_in_the_senders_own_encoding() {
    let appliance = Appliance::start();
    let door = &appliance.addresses.otlp_http;
    let json_type = ("content-type", "application/json");
    let proto_type = ("content-type", "application/x-protobuf");
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    for (headers, body, expected) in [
        (vec![json_type], &b"{\"resourceLogs\":["[..], 400),
        (vec![json_type], deep.as_bytes(), 400),
        (vec![json_type], b"\xff\xfe", 400),
        (vec![proto_type], b"\xff\xff\xff\xff", 400),
        (vec![proto_type, ("content-encoding", "gzip")], b"not gzip", 400),
        (vec![proto_type, ("content-encoding", "br")], b"", 415),
        (vec![("content-type", "text/plain")], b"hello", 415),
        (vec![proto_type], b"", 200),
    ] {
        let (status, text) = http(door, "POST", "/v1/logs", &headers, body);
        assert_eq!(status, expected, "{text}");
        if headers.contains(&json_type) {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["code"], 3, "INVALID_ARGUMENT");
        }
    }
    for (query, at) in [("level:error (oops", 13), ("x:", 3), ("a ~", 3)] {
        let (status, text) = appliance.http("GET", &format!("/v1/logs?query={}", encode(query)), None);
        assert!(status == 400 && text.contains(&format!("at character {at}")), "{status} {text}");
    }
    for path in ["/v1/logs?limit=0", "/v1/logs?from=never", "/v1/logs?cursor=x", "/v1/logs?colour=red", "/v1/traces/zz"]
    {
        assert_eq!(appliance.http("GET", path, None).0, 400, "{path}");
    }
    assert_eq!(appliance.http("GET", &format!("/v1/traces/{}", "ab".repeat(16)), None).0, 404);
    assert!(!appliance.log().contains("panicked"));
    let refused = http(&appliance.addresses.http, "GET", "/metrics", &[], b"").1;
    assert!(
        refused.lines().any(|line| line.starts_with("backlot_telemetry_refused_total") && line.contains("invalid"))
    );
}

#[test]
fn the_appliance_finds_its_own_log_and_does_not_feed_itself() {
    let appliance = Appliance::start();
    eventually("its own words are found", || {
        (!search(&appliance, "service:backlot opened logs").is_empty()).then_some(())
    });
    let own = || search(&appliance, "service:backlot").len();
    let before = own();
    (0..20).for_each(|i| assert_eq!(send(&appliance, &format!("quiet {i}")), 200));
    let searches = (0..5).map(|_| own()).max().unwrap_or(0);
    assert!(searches <= before + 5, "{before} became {searches}");
    let output = appliance.cli(&["logs", "search", "quiet", "--json", "--limit", "5"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 5);
}
