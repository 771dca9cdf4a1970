//! Jobs, by the http door, the command line and boto3, against the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use backlot_tests::{Appliance, Process, binary, eventually, http, python, repository};
use serde_json::{Value, json};

fn submit(appliance: &Appliance, body: &Value) -> String {
    let job = appliance.json("POST", "/v1/jobs", Some(&body.to_string()));
    job["id"].as_str().expect("a job has an id").to_owned()
}

fn job(appliance: &Appliance, id: &str) -> Value {
    appliance.json("GET", &format!("/v1/jobs/{id}"), None)
}

fn status_is(appliance: &Appliance, id: &str, status: &str) -> Value {
    eventually(&format!("job {id} is {status}"), || {
        let job = job(appliance, id);
        (job["status"] == status).then_some(job)
    })
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn report(appliance: &Appliance, attempt: &str, events: &Value) -> Value {
    let body = json!({"events": events}).to_string();
    appliance.json("POST", &format!("/v1/attempts/{attempt}/events"), Some(&body))
}

fn now() -> &'static str {
    "2026-11-22T12:00:00Z"
}

#[test]
fn a_boto3_consumer_works_unchanged_and_each_delivery_is_an_attempt() {
    let appliance = Appliance::start();
    let sent = appliance.python("jobs_consumer.py", &["send", r#"{"job_id":"old-1","type":"image_generation","user_id":"u","project_id":"p","parameters":{"prompt":"x"},"priority":"high","created_at":"2026-11-22T12:00:00Z"}"#]);
    assert_eq!(lines(&sent)[0]["sent"], true, "{sent}");
    let queued = job(&appliance, "old-1");
    assert_eq!((queued["status"].as_str(), queued["spec"]["type"].as_str()), (Some("queued"), Some("image.generate")));

    appliance.python("jobs_consumer.py", &["give-back"]);
    let given_back = job(&appliance, "old-1");
    assert_eq!(given_back["attempts"][0]["outcome"], "given_back", "{given_back}");
    appliance.python("jobs_consumer.py", &["fail", "1"]);
    let failed = status_is(&appliance, "old-1", "queued");
    assert_eq!((failed["attempts"][1]["outcome"].as_str(), failed["failures"].as_u64()), (Some("failed"), Some(1)));
    let taken = appliance.python("jobs_consumer.py", &["beat", "9"]);
    assert_eq!(lines(&taken)[0]["attributes"]["backlot.attempt"], "old-1.3");

    let done = job(&appliance, "old-1");
    assert_eq!((done["status"].as_str(), done["failures"].as_u64()), (Some("succeeded"), Some(1)), "{done}");
    let outcomes: Vec<_> =
        done["attempts"].as_array().expect("attempts").iter().map(|a| a["outcome"].clone()).collect();
    assert_eq!(outcomes, ["given_back", "failed", "succeeded"]);
    assert_eq!(done["attempts"][0]["phases"][0]["name"], "queued");
}

#[test]
fn a_body_that_is_no_job_is_refused_by_both_doors() {
    let appliance = Appliance::start();
    for (body, word) in
        [("hello", "job"), (r#"{"parameters":{}}"#, "type"), (r#"{"type":"x","priority":"urgent"}"#, "urgent")]
    {
        let sent = &lines(&appliance.python("jobs_consumer.py", &["send", body]))[0];
        assert!(
            sent["sent"] == false && sent["code"].as_str().is_some_and(|code| code.contains("InvalidMessageContents")),
            "{sent}"
        );
        let (status, text) = appliance.http("POST", "/v1/jobs", Some(body));
        assert!(status == 400 && text.contains(word), "{status} {text}");
    }
    for (path, status, word) in [
        ("/v1/jobs?queue=nowhere", 404, "nowhere"),
        ("/v1/jobs?queue=jobs-dlq", 400, "no job queue"),
        ("/v1/jobs?colour=red", 400, "colour"),
        ("/v1/jobs?delay_s=31622401", 400, "delay_s"),
    ] {
        let (got, text) = appliance.http("POST", path, Some(r#"{"type":"x"}"#));
        assert!(got == status && text.contains(word), "{path}: {got} {text}");
    }
    for path in
        ["/v1/jobs?limit=0", "/v1/jobs?status=done", "/v1/jobs?since=yesterday", "/v1/jobs?cursor=x", "/v1/jobs?x=1"]
    {
        assert_eq!(appliance.http("GET", path, None).0, 400, "{path}");
    }
    for (method, path) in [
        ("GET", "/v1/jobs/nobody"),
        ("POST", "/v1/jobs/nobody/cancel"),
        ("POST", "/v1/jobs/nobody/retry"),
        ("POST", "/v1/agents/nobody/drain"),
    ] {
        assert_eq!(appliance.http(method, path, None).0, 404, "{method} {path}");
    }
    assert_eq!(appliance.http("POST", "/v1/attempts/nobody.1/events", Some(r#"{"events":[]}"#)).0, 404);
    assert_eq!(appliance.http("POST", "/v1/attempts/nobody.1/events", Some(r#"{"events":[{"seq":0"#)).0, 400);
    assert_eq!(appliance.http("PUT", "/v1/agents/a%20b", Some(r#"{"version":"1","host":"h"}"#)).0, 400);
}

#[test]
fn the_same_submit_is_one_job_and_lists_find_it() {
    let appliance = Appliance::start();
    let spec = json!({"type": "x", "job_id": "one", "user_id": "u", "labels": {"shot": "42"}});
    assert_eq!(appliance.http("POST", "/v1/jobs", Some(&spec.to_string())).0, 201);
    assert_eq!(appliance.http("POST", "/v1/jobs", Some(&spec.to_string())).0, 200);
    let other = json!({"type": "y", "job_id": "one"});
    let (status, text) = appliance.http("POST", "/v1/jobs", Some(&other.to_string()));
    assert!(status == 409 && text.contains("job_exists"), "{status} {text}");
    submit(&appliance, &json!({"type": "y"}));
    let found = appliance.json("GET", "/v1/jobs?label.shot=42&status=queued,running&q=ON", None);
    let ids: Vec<_> = found["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].clone()).collect();
    assert_eq!(ids, ["one"]);
    let page = appliance.json("GET", "/v1/jobs?limit=1", None);
    let cursor = page["cursor"].as_str().expect("a second page");
    let second = appliance.json("GET", &format!("/v1/jobs?limit=1&cursor={cursor}"), None);
    assert_eq!(second["jobs"][0]["id"], "one");
}

#[test]
fn a_cancel_reaches_the_worker_by_its_next_heartbeat() {
    let appliance = Appliance::start();
    let id = submit(&appliance, &json!({"type": "x"}));
    let taken = Process::start(
        Command::new(python())
            .arg(repository().join("tests/python/jobs_consumer.py"))
            .args(["beat", "60"])
            .envs(appliance.environment()),
        &appliance.data(),
        "consumer",
    );
    let running = status_is(&appliance, &id, "running");
    let attempt = running["attempts"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(report(&appliance, &attempt, &json!([]))["directive"]["cancel"], false);
    let asked = appliance.json("POST", &format!("/v1/jobs/{id}/cancel"), None);
    assert_eq!((asked["status"].as_str(), asked["cancel_requested"].as_bool()), (Some("running"), Some(true)));
    assert_eq!(report(&appliance, &attempt, &json!([]))["directive"]["cancel"], true);
    report(&appliance, &attempt, &json!([{"seq": 1, "at": now(), "event": "cancelled"}]));
    assert_eq!(job(&appliance, &id)["status"], "cancelled");
    let (status, text) = appliance.http("POST", &format!("/v1/jobs/{id}/cancel"), None);
    assert!(status == 409 && text.contains("cancelled already"), "{status} {text}");
    drop(taken);
}

#[test]
fn a_kill_in_the_middle_loses_nothing_and_every_job_ends_once() {
    let mut appliance = Appliance::start();
    let held = submit(&appliance, &json!({"type": "held"}));
    appliance.python("jobs_consumer.py", &["give-back"]);
    // One attempt is under way and has reported, when the power goes.
    let holder = Process::start(
        Command::new(python())
            .arg(repository().join("tests/python/jobs_consumer.py"))
            .args(["beat", "600"])
            .envs(appliance.environment()),
        &appliance.data(),
        "holder",
    );
    let running = status_is(&appliance, &held, "running");
    let attempt = running["attempts"][1]["id"].as_str().expect("an id").to_owned();
    report(&appliance, &attempt, &json!([{"seq": 1, "at": now(), "event": "phase", "phase": "infer"}]));
    drop(holder);

    let consumer = || {
        Process::start(
            Command::new(python())
                .arg(repository().join("tests/python/jobs_consumer.py"))
                .arg("forever")
                .envs(appliance.environment()),
            &appliance.data(),
            "forever",
        )
    };
    let consumers = [consumer(), consumer()];
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for n in 0..15 {
            acknowledged.push(submit(&appliance, &json!({"type": "x", "job_id": format!("r{round}-{n}")})));
        }
        appliance.kill();
        appliance.start_again();
        for id in &acknowledged {
            job(&appliance, id); // each is known at once
        }
    }
    let phases = job(&appliance, &held)["attempts"][1]["phases"].clone();
    assert_eq!(phases[1]["name"], "infer", "{phases}");
    for id in &acknowledged {
        let done = status_is(&appliance, id, "succeeded");
        let succeeded =
            done["attempts"].as_array().expect("attempts").iter().filter(|a| a["outcome"] == "succeeded").count();
        assert_eq!(succeeded, 1, "{done}");
    }
    // Its lease of six seconds ends, and somebody else has done it.
    status_is(&appliance, &held, "succeeded");
    drop(consumers);
}

#[test]
fn the_command_line_submits_follows_and_says_how_it_went() {
    let appliance = Appliance::start();
    let file = appliance.data().join("in.txt");
    std::fs::write(&file, "a frame").expect("write");
    let file = file.to_str().expect("a path").to_owned();
    let mut waiting = Command::new(binary("backlot"))
        .args([
            "job", "submit", "--type", "x", "--input", &file, "--param", "scale=4", "--label", "shot=42", "--wait",
            "--json",
        ])
        .envs(appliance.environment())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start backlot job submit");
    appliance.python("jobs_consumer.py", &["work", "1"]);
    let mut said = String::new();
    BufReader::new(waiting.stdout.take().expect("piped")).read_line(&mut said).expect("a line");
    let done: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((done["status"].as_str(), waiting.wait().expect("wait").code()), (Some("succeeded"), Some(0)));
    assert_eq!(done["spec"]["parameters"]["scale"], 4);
    let uri = done["spec"]["inputs"][0]["uri"].as_str().expect("a uri");
    assert!(uri.starts_with("s3://studio/uploads/") && uri.ends_with("/in.txt"), "{uri}");
    let (status, text) = appliance.http("GET", &format!("/v1/artifacts/{}", &uri["s3://".len()..]), None);
    assert_eq!((status, text.as_str()), (200, "a frame"));

    let queued = appliance.cli(&["job", "submit", "--type", "x", "--json"]);
    let id = lines(&String::from_utf8_lossy(&queued.stdout))[0]["id"].as_str().expect("an id").to_owned();
    assert!(appliance.cli(&["job", "cancel", &id]).status.success());
    assert_eq!(appliance.cli(&["job", "cancel", &id]).status.code(), Some(1));
    assert_eq!(appliance.cli(&["job", "watch", &id]).status.code(), Some(1), "it has not succeeded");
    let shown = appliance.cli(&["job", "show", &id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("cancelled"));
    let listed = appliance.cli(&["job", "list", "--status", "cancelled", "--json"]);
    assert_eq!(lines(&String::from_utf8_lossy(&listed.stdout))[0]["id"], id.as_str());
    assert!(appliance.cli(&["job", "retry", &id]).status.success());
    assert_eq!(job(&appliance, &id)["status"], "queued");
    assert_eq!(appliance.cli(&["job", "submit", "--type", "x", "--input", "/nowhere"]).status.code(), Some(64));
    assert_eq!(appliance.cli(&["job", "submit", "--type", "a b"]).status.code(), Some(64));
}

#[test]
fn changes_are_streamed_as_they_happen() {
    use std::io::Write;
    let appliance = Appliance::start();
    let id = submit(&appliance, &json!({"type": "x"}));
    let address = appliance.addresses.http.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(backlot_tests::PATIENCE)).expect("a timeout");
    write!(stream, "GET /v1/jobs/{id}/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Basic dGVzdDp0ZXN0\r\n\r\n")
        .expect("write");
    let mut seen = BufReader::new(stream)
        .lines()
        .map(|line| line.expect("a line"))
        .filter_map(|line| Some(serde_json::from_str::<Value>(line.strip_prefix("data: ")?).expect("JSON")))
        .map(|job| job["status"].as_str().expect("a status").to_owned());
    assert_eq!(seen.next().as_deref(), Some("queued"));
    appliance.python("jobs_consumer.py", &["work", "1"]);
    assert_eq!(seen.next().as_deref(), Some("running"));
    assert_eq!(seen.next().as_deref(), Some("succeeded"));
}

#[test]
fn an_agents_registration_drain_and_farewell() {
    let appliance = Appliance::start();
    let registration = json!({"version": "0.1.0", "host": "h", "types": ["x"]}).to_string();
    let answer = appliance.json("PUT", "/v1/agents/a1", Some(&registration));
    assert_eq!((answer["name"].as_str(), answer["directive"]["drain"].as_bool()), (Some("a1"), Some(false)));
    assert_eq!(appliance.json("POST", "/v1/agents/a1/drain", None)["draining"], true);
    assert_eq!(appliance.json("PUT", "/v1/agents/a1", Some(&registration))["directive"]["drain"], true);
    let _ = appliance.json("POST", "/v1/agents/a1/drain", Some(r#"{"drain":false}"#));
    assert_eq!(appliance.json("GET", "/v1/agents", None)["agents"][0]["draining"], false);
    assert_eq!(appliance.http("DELETE", "/v1/agents/a1", None).0, 204);
    assert_eq!(appliance.json("GET", "/v1/agents", None)["agents"], json!([]));
}

#[test]
fn a_jobs_trace_and_its_counters_are_in_the_appliance_itself() {
    let appliance = Appliance::start();
    let id = submit(
        &appliance,
        &json!({"type": "traced", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}),
    );
    appliance.python("jobs_consumer.py", &["work", "1"]);
    let done = status_is(&appliance, &id, "succeeded");
    assert_eq!(done["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    let own = done["spec"]["traceparent"].as_str().and_then(|text| text.split('-').nth(2)).expect("a span").to_owned();
    let spans = eventually("the job's spans are there", || {
        let (status, text) = appliance.http("GET", "/v1/traces/4bf92f3577b34da6a3ce929d0e0e4736", None);
        let trace: Value = serde_json::from_str(&text).ok().filter(|_| status == 200)?;
        let spans = trace["spans"].as_array()?.clone();
        let named = |name: &str| spans.iter().find(|span| span["name"] == name).cloned();
        Some((named("job")?, named("queued")?, named("attempt")?))
    });
    let (job_span, queued, attempt) = spans;
    assert_eq!(
        (job_span["span_id"].as_str(), job_span["parent_span_id"].as_str()),
        (Some(&*own), Some("00f067aa0ba902b7"))
    );
    assert_eq!((&queued["parent_span_id"], &attempt["parent_span_id"]), (&json!(own), &json!(own)));
    let counted = |line: &str| {
        let (_, text) = http(&appliance.addresses.http, "GET", "/metrics", &[], b"");
        text.lines().any(|found| found.starts_with("backlot_job") && line.split(' ').all(|word| found.contains(word)))
    };
    assert!(counted("backlot_jobs_ended_total traced succeeded"));
    assert!(counted("backlot_job_attempts_total traced succeeded"));
    assert!(counted("backlot_job_phase_duration_seconds traced queued"));
}

#[test]
fn a_traceparent_attribute_of_a_message_is_its_jobs_parent() {
    let appliance = Appliance::start();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (id, attribute) in [("traced", trace), ("untraced", "whatever the sender means by it")] {
        let body = json!({"job_id": id, "type": "x"}).to_string();
        assert!(appliance.python("jobs_consumer.py", &["send", &body, attribute]).contains("\"sent\": true"));
    }
    appliance.python("jobs_consumer.py", &["work", "2"]);
    let traced = status_is(&appliance, "traced", "succeeded");
    assert_eq!(traced["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_ne!(status_is(&appliance, "untraced", "succeeded")["trace_id"], traced["trace_id"]);
    eventually("the job's span hangs under its sender's", || {
        let (status, text) = appliance.http("GET", "/v1/traces/4bf92f3577b34da6a3ce929d0e0e4736", None);
        let trace: Value = serde_json::from_str(&text).ok().filter(|_| status == 200)?;
        let job = trace["spans"].as_array()?.iter().find(|span| span["name"] == "job")?.clone();
        (job["parent_span_id"] == "00f067aa0ba902b7").then_some(())
    });
}
