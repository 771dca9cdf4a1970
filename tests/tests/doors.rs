//! The doors against strangers: garbage, lies, slowness and wrong keys get an error in the dialect and a count, and
//! the appliance goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use backlot_tests::{Appliance, binary, eventually, http, raw};

/// The value of a counter on `/metrics` whose line holds all of `words`.
fn counted(appliance: &Appliance, words: &[&str]) -> f64 {
    let (status, text) = http(&appliance.addresses.http, "GET", "/metrics", &[], b"");
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn is_well(appliance: &Appliance) {
    assert_eq!(http(&appliance.addresses.http, "GET", "/healthz", &[], b"").0, 200);
    assert!(!appliance.log().contains("panicked"), "{}", appliance.log());
}

#[test]
fn garbage_on_every_door_is_answered_and_counted() {
    let appliance = Appliance::start();
    let doors = &appliance.addresses;
    let json = ("content-type", "application/x-amz-json-1.0");
    let target = ("x-amz-target", "AmazonSQS.SendMessage");

    let (status, body) = http(&doors.aws, "POST", "/", &[json, target], b"{\"QueueUrl\":");
    assert!(status == 403 && body.contains("MissingAuthenticationToken"), "{status} {body}");

    let wrong = (
        "authorization",
        "AWS4-HMAC-SHA256 Credential=nobody/20261122/us-east-1/sqs/aws4_request, SignedHeaders=host;x-amz-date, Signature=00",
    );
    let (status, body) = http(&doors.aws, "POST", "/", &[json, target, wrong], b"{}");
    assert!(status == 403 && body.contains("UnrecognizedClientException"), "{status} {body}");

    let cbor = [("smithy-protocol", "rpc-v2-cbor"), ("content-type", "application/cbor")];
    let (status, body) =
        http(&doors.aws, "POST", "/service/GraniteServiceVersion20100801/operation/PutMetricData", &cbor, b"\xff\xff");
    assert!(status >= 400 && body.contains("__type"), "{status} {body}");

    let (status, body) = http(&doors.aws, "GET", "/?Action=NoSuchThing", &[], b"");
    assert!(status >= 400 && body.contains("<ErrorResponse>"), "{status} {body}");

    let (status, body) = http(&doors.aws, "GET", "/studio/key", &[], b"");
    assert!(status == 403 && body.contains("<Code>AccessDenied</Code>"), "{status} {body}");

    let dev = ("authorization", "Basic dGVzdDp0ZXN0");
    for body in [&b"{\"type\":"[..], b"\xff\xfe", b"[]", b"", b"{\"type\":\"x\",\"priority\":99}"] {
        let (status, text) = http(&doors.http, "POST", "/v1/jobs", &[dev, ("content-type", "application/json")], body);
        assert!(status == 400 && text.contains("\"error\""), "{status} {text}");
    }

    for path in ["/v1/logs", "/v1/traces", "/v1/metrics"] {
        let (status, _) = http(
            &doors.otlp_http,
            "POST",
            path,
            &[("content-type", "application/x-protobuf")],
            b"\x0a\xff\xff\xff\xff\x0f",
        );
        assert_eq!(status, 400, "{path}");
        let (status, text) =
            http(&doors.otlp_http, "POST", path, &[("content-type", "application/json")], b"{\"resourceLogs\":");
        assert!(status == 400 && text.contains("message"), "{path}: {status} {text}");
    }

    for door in [&doors.aws, &doors.http, &doors.otlp_http, &doors.otlp_grpc] {
        let answer = raw(door, b"\x00\x01\x02 this is no HTTP\r\n\r\n");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(counted(&appliance, &["backlot_door_requests_total", "door=\"aws\"", "code=\"403\""]) >= 2.0);
    is_well(&appliance);
}

#[test]
fn an_announced_body_of_two_gigabytes_is_refused_before_it_is_sent() {
    let appliance = Appliance::start();
    let doors = &appliance.addresses;
    for (door, path) in
        [(&doors.http, "/v1/jobs"), (&doors.otlp_http, "/v1/logs"), (&doors.aws, "/?Action=SendMessage")]
    {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 2147483648\r\n\r\n"
        );
        let answer = raw(door, head.as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{path}: {}", String::from_utf8_lossy(&answer));
    }
    is_well(&appliance);
}

#[test]
fn what_follows_a_body_that_was_never_asked_for_is_not_taken_for_it() {
    let appliance = Appliance::start();
    let doors = &appliance.addresses;
    let head = "host: x\r\nexpect: 100-continue\r\ncontent-type: application/json";
    let next = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    // There is no such bucket: the client keeps its byte back, and the connection must not go on.
    let put = format!("PUT /bucket/key HTTP/1.1\r\n{head}\r\ncontent-length: 1\r\n\r\n{next}");
    let answer = String::from_utf8(raw(&doors.aws, put.as_bytes())).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    // A body that was read leaves the connection as it was.
    let body = r#"{"key_id":"test","secret":"test"}"#;
    let session = format!("POST /v1/session HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}{next}", body.len());
    let answer = String::from_utf8(raw(&doors.http, session.as_bytes())).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    is_well(&appliance);
}

#[test]
fn a_slow_head_and_a_slow_body_are_cut_off() {
    let appliance =
        Appliance::start_with(&[("BACKLOT_EDGE_HEAD_TIMEOUT_S", "1"), ("BACKLOT_EDGE_BODY_TIMEOUT_S", "1")]);
    for begin in [
        "GET /healthz HTTP/1.1\r\nhost",
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Basic dGVzdDp0ZXN0\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ] {
        let mut stream = TcpStream::connect(appliance.addresses.http.trim_start_matches("http://")).unwrap();
        stream.write_all(begin.as_bytes()).unwrap();
        stream.set_read_timeout(Some(backlot_tests::PATIENCE)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer); // ends because the door closes; a reset is an end as well
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    is_well(&appliance);
}

#[test]
fn a_key_does_what_its_role_may_and_nothing_after_it_was_revoked() {
    let mut appliance = Appliance::start();
    let made = appliance.cli(&["key", "create", "--role", "viewer", "--note", "for Ada", "--json"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let (key_id, secret) = (made["key_id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned());
    let session = serde_json::json!({"key_id": key_id, "secret": secret}).to_string();
    let json = ("content-type", "application/json");
    let sign_in =
        |appliance: &Appliance| http(&appliance.addresses.http, "POST", "/v1/session", &[json], session.as_bytes()).0;
    assert_eq!(sign_in(&appliance), 200);

    // A restart by force: the key is still there, its secret is nowhere on the disk.
    appliance.kill();
    let on_disk = Command::new("grep").args(["-r", "-c", "-F", &secret]).arg(appliance.data()).output().unwrap();
    assert!(
        String::from_utf8_lossy(&on_disk.stdout).lines().all(|line| line.ends_with(":0")),
        "the secret is on the disk"
    );
    appliance.start_again();
    assert_eq!(sign_in(&appliance), 200);

    let listed = appliance.cli(&["key", "list", "--json"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("for Ada"));
    assert!(appliance.cli(&["key", "revoke", &key_id]).status.success());
    assert_eq!(sign_in(&appliance), 401);
    assert!(!appliance.log().contains(&secret));
}

#[test]
fn a_session_of_another_site_changes_nothing() {
    let appliance = Appliance::start();
    let base = &appliance.addresses.http;
    let body = br#"{"key_id":"test","secret":"test"}"#;
    let head = format!(
        "POST /v1/session HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = raw(base, &[head.as_bytes(), body].concat());
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    let cookie = answer.split_once("set-cookie: ").unwrap().1.split(';').next().unwrap().to_owned();
    assert!(answer.contains("httponly") && answer.contains("samesite=strict"), "{answer}");
    let cookie = ("cookie", cookie.as_str());
    assert!(http(base, "GET", "/v1/session", &[cookie], b"").1.contains("\"test\""));
    let other = ("origin", "http://evil.example");
    assert_eq!(http(base, "DELETE", "/v1/session", &[cookie, other], b"").0, 403);
    assert_eq!(http(base, "DELETE", "/v1/session", &[cookie, ("sec-fetch-site", "same-origin")], b"").0, 204);
    assert_eq!(http(base, "GET", "/v1/session", &[cookie], b"").1, "null");
}

#[test]
fn wrong_configuration_ends_with_78_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backlot.toml");
    std::fs::write(&file, "[edge]\nhtpp = \"127.0.0.1:0\"\n").unwrap();
    let output = Command::new(binary("backlot")).args(["check-config", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("htpp") && said.contains("line 2") && said.contains("backlot.toml"), "{said}");

    let output = Command::new(binary("backlot")).args(["serve", "--frobnicate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));

    let open = Command::new(binary("backlot"))
        .args(["serve", "--dev", "--data"])
        .arg(folder.path().join("data"))
        .env("BACKLOT_EDGE_HTTP", "0.0.0.0:0")
        .output()
        .unwrap();
    assert_ne!(open.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&open.stderr).contains("loopback"));
}

#[test]
fn output_that_nobody_reads_or_that_finds_no_room_is_no_panic() {
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let commands = [
        ("backlot", &["version"][..]),
        ("backlot", &["config", "reference"]),
        ("backlot", &["completions", "bash"]),
        ("backlot-agent", &["version"]),
        ("backlot-agent", &["config-reference"]),
        ("backlot-agent", &["completions", "zsh"]),
    ];
    for (program, arguments) in commands {
        let run = |stdout: Stdio| {
            let output =
                Command::new(binary(program)).args(arguments).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()), (Some(141), String::new()), "{program} {arguments:?}");
        let (code, said) = run(full());
        assert!(code == Some(1) && said.contains("standard output: No space left"), "{program} {arguments:?}: {said}");
    }
    let appliance = Appliance::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut list = Command::new(binary("backlot"));
    list.args(["key", "list"]).envs(appliance.environment());
    let output = list.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(141), ""));
}

#[test]
fn an_orderly_stop_ends_with_0_and_a_second_appliance_on_the_folder_is_refused() {
    let mut appliance = Appliance::start();
    let second = Command::new(binary("backlot"))
        .args(["serve", "--data"])
        .arg(appliance.data())
        .envs(["AWS", "HTTP", "OTLP_GRPC", "OTLP_HTTP"].map(|door| (format!("BACKLOT_EDGE_{door}"), "127.0.0.1:0")))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"), "{}", String::from_utf8_lossy(&second.stderr));
    assert_eq!(appliance.stop(), Some(0), "{}", appliance.log());
    appliance.start_again();
    eventually("healthy again", || {
        (http(&appliance.addresses.http, "GET", "/readyz", &[], b"").0 == 200).then_some(())
    });
}
