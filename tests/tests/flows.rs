//! Flows, schedules, and jobs that are put off, repeated or waited for: by the http door, the command line and boto3, against
//! the real binary, over kill -9.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use backlot_tests::{Appliance, eventually, http, now_ns};
use backlot_wire::Timestamp;
use serde_json::{Value, json};

fn job(appliance: &Appliance, id: &str) -> Value {
    appliance.json("GET", &format!("/v1/jobs/{id}"), None)
}

fn status_is(appliance: &Appliance, id: &str, status: &str) -> Value {
    eventually(&format!("job {id} is {status}"), || {
        let job = job(appliance, id);
        (job["status"] == status).then_some(job)
    })
}

/// Has boto3 receive one message, with what it received.
fn receive(appliance: &Appliance) -> Value {
    let text = appliance.python("jobs_plain.py", &["receive"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Receives the next job and reports its result.
fn work(appliance: &Appliance) -> (String, Value) {
    let received = eventually("a job comes", || {
        let received = receive(appliance);
        received["body"].is_string().then_some(received)
    });
    let attempt = received["attributes"]["backlot.attempt"].as_str().expect("an attempt").to_owned();
    let body: Value = serde_json::from_str(received["body"].as_str().unwrap()).unwrap();
    let name = attempt.rsplit_once('.').unwrap().0.to_owned();
    let result = json!({"events": [{"seq": 1, "at": "2026-11-22T12:00:00Z", "event": "result",
        "outputs": [{"uri": format!("s3://studio/{name}.png")}]}]});
    let _ = appliance.json("POST", &format!("/v1/attempts/{attempt}/events"), Some(&result.to_string()));
    (name, body)
}

#[test]
fn a_flow_of_scene_shots_and_clip_survives_kill_9_and_its_results_become_inputs() {
    let mut appliance = Appliance::start();
    let order = json!({"flow_id": "f", "jobs": [
        {"name": "scene", "type": "x"},
        {"name": "shot-1", "type": "x", "inputs": [{"job": "scene"}]},
        {"name": "shot-2", "type": "x", "inputs": [{"job": "scene"}]},
        {"name": "clip", "type": "x", "inputs": [{"job": "shot-1", "output": 0}, {"job": "shot-2", "output": 0}]},
    ]});
    assert_eq!(appliance.http("POST", "/v1/flows", Some(&order.to_string())).0, 201);
    appliance.kill();
    appliance.start_again();
    assert_eq!(appliance.http("POST", "/v1/flows", Some(&order.to_string())).0, 200, "the same flow");
    assert_eq!(work(&appliance).0, "f.scene");
    let mut shots = vec![work(&appliance)];
    appliance.kill();
    appliance.start_again();
    shots.push(work(&appliance));
    shots.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(shots[0].1["inputs"], json!([{"uri": "s3://studio/f.scene.png"}]));
    let (name, body) = work(&appliance);
    assert_eq!(name, "f.clip");
    assert_eq!(body["inputs"], json!([{"uri": "s3://studio/f.shot-1.png"}, {"uri": "s3://studio/f.shot-2.png"}]));
    let shown = eventually("the flow has succeeded", || {
        let output = appliance.cli(&["flow", "show", "f", "--json"]);
        let flow: Value = serde_json::from_slice(&output.stdout).unwrap();
        (flow["status"] == "succeeded").then_some(flow)
    });
    assert_eq!(shown["counts"], json!({"succeeded": 4}));
    let listed = appliance.json("GET", "/v1/flows?limit=5", None);
    assert_eq!((listed["flows"][0]["id"].as_str(), &listed["flows"][0]["counts"]["succeeded"]), (Some("f"), &json!(4)));
}

#[test]
fn a_flow_is_cancelled_as_one_from_the_command_line_and_nonsense_is_refused() {
    let appliance = Appliance::start();
    let file = appliance.data().join("flow.json");
    let order = json!({"name": "Scene 12", "jobs": [
        {"name": "a", "type": "x"}, {"name": "b", "type": "x", "after": ["a"]}]});
    std::fs::write(&file, order.to_string()).unwrap();
    let begun = appliance.cli(&["flow", "submit", file.to_str().unwrap()]);
    assert!(begun.status.success(), "{begun:?}");
    let id = String::from_utf8(begun.stdout).unwrap().trim().to_owned();
    assert_eq!(job(&appliance, &format!("{id}.b"))["status"], "waiting");
    assert!(appliance.cli(&["flow", "cancel", &id]).status.success());
    for name in ["a", "b"] {
        assert_eq!(job(&appliance, &format!("{id}.{name}"))["status"], "cancelled");
    }
    let (status, text) = appliance.http("POST", &format!("/v1/flows/{id}/cancel"), None);
    assert!(status == 409 && text.contains("flow_ended"), "{status} {text}");
    for (order, word) in [
        (json!({"jobs": [{"name": "a", "type": "x", "after": ["a"]}]}), "circle"),
        (json!({"jobs": [], "colour": "red"}), "colour"),
        (json!({"jobs": [{"name": "a", "type": "x", "after": ["z"]}]}), "`z`"),
    ] {
        let (status, text) = appliance.http("POST", "/v1/flows", Some(&order.to_string()));
        assert!(status == 400 && text.contains(word), "{order}: {status} {text}");
    }
    assert_eq!(appliance.http("GET", "/v1/flows/nobody", None).0, 404);
    assert_eq!(appliance.http("GET", "/v1/flows?limit=0", None).0, 400);
}

#[test]
fn a_job_that_is_put_off_is_shown_as_scheduled_survives_kill_9_and_comes() {
    let mut appliance = Appliance::start();
    let in_200_days = Timestamp(now_ns() / 1_000_000 + 200 * 86_400_000).to_rfc3339();
    let far = appliance.json("POST", "/v1/jobs", Some(&json!({"type": "x", "run_at": in_200_days}).to_string()));
    assert_eq!(
        (far["status"].as_str(), far["runs_after"].as_str().map(|at| &at[..10])),
        (Some("scheduled"), Some(&in_200_days[..10]))
    );
    // What was answered: by now it may have come.
    let soon = appliance.cli(&["job", "submit", "--type", "x", "--delay", "2", "--json"]);
    let soon: Value = serde_json::from_slice(&soon.stdout).unwrap();
    assert_eq!(soon["status"], "scheduled", "{soon}");
    let sent = appliance.python(
        "jobs_plain.py",
        &["send", r#"{"job_id":"by-sqs","type":"x"}"#, &format!("backlot.run_at={in_200_days}")],
    );
    assert!(sent.contains("message_id"), "{sent}");
    appliance.kill();
    appliance.start_again();
    assert_eq!(soon["id"], work(&appliance).0);
    assert_eq!(job(&appliance, far["id"].as_str().unwrap())["status"], "scheduled");
    assert_eq!(job(&appliance, "by-sqs")["status"], "scheduled");
    let (status, text) = appliance.http("POST", "/v1/jobs", Some(r#"{"type":"x","run_at":"2099-01-01T00:00:00Z"}"#));
    assert!(status == 400 && text.contains("366 days"), "{status} {text}");
}

#[test]
fn the_same_job_by_key_by_idempotency_key_and_by_message_attribute_is_one() {
    let mut appliance = Appliance::start();
    let order = r#"{"type":"x","unique":{"key":"shot-42"}}"#;
    let (status, first) = appliance.http("POST", "/v1/jobs", Some(order));
    assert_eq!(status, 201, "{first}");
    let first: Value = serde_json::from_str(&first).unwrap();
    let send = |appliance: &Appliance| {
        let sent = appliance.python("jobs_plain.py", &["send", r#"{"type":"x"}"#, "backlot.unique_key=shot-42"]);
        serde_json::from_str::<Value>(&sent).unwrap()["message_id"].clone()
    };
    let by_sqs = send(&appliance);
    appliance.kill();
    appliance.start_again();
    let (status, again) = appliance.http("POST", "/v1/jobs", Some(order));
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((status, &again["id"]), (200, &first["id"]));
    assert_eq!(send(&appliance), by_sqs);
    let queue = appliance.json("GET", "/v1/queues", None);
    let jobs = queue["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "jobs").unwrap().clone();
    assert_eq!(jobs["ready"], 1, "{jobs}");

    let keyed = |body: &str| {
        let headers = [("authorization", "Basic dGVzdDp0ZXN0"), ("idempotency-key", "take-3")];
        http(&appliance.addresses.http, "POST", "/v1/jobs", &headers, body.as_bytes())
    };
    let (status, one) = keyed(r#"{"type":"y"}"#);
    assert_eq!(status, 201, "{one}");
    assert_eq!(keyed(r#"{"type":"y"}"#).0, 200);
    let (status, text) = keyed(r#"{"type":"z"}"#);
    assert!(status == 409 && text.contains("job_exists"), "{status} {text}");
}

#[test]
fn a_failed_job_is_queued_again_with_more_memory_and_other_parameters() {
    let appliance = Appliance::start();
    let _ = appliance.json(
        "POST",
        "/v1/jobs",
        Some(r#"{"job_id":"j","type":"x","parameters":{"tile":512},"retry":{"failures":1}}"#),
    );
    let attempt = receive(&appliance)["attributes"]["backlot.attempt"].as_str().unwrap().to_owned();
    let failure = json!({"events": [{"seq": 1, "at": "2026-11-22T12:00:00Z", "event": "failure", "class": "transient",
        "message": "CUDA out of memory", "details": {"cause": "out_of_memory"}}]});
    let _ = appliance.json("POST", &format!("/v1/attempts/{attempt}/events"), Some(&failure.to_string()));
    let failed = status_is(&appliance, "j", "failed");
    assert_eq!(failed["error"]["cause"], "out_of_memory");
    let retried = appliance.cli(&["job", "retry", "j", "--vram", "24", "--param", "tile=256", "--json"]);
    assert!(retried.status.success(), "{retried:?}");
    let (name, body) = work(&appliance);
    assert_eq!(
        (name.as_str(), &body["requirements"]["vram_gb"], &body["parameters"]["tile"]),
        ("j", &json!(24.0), &json!(256))
    );
    let (status, text) = appliance.http("POST", "/v1/jobs/j/retry", Some(r#"{"type":"y"}"#));
    assert!(status == 409 && text.contains("not_retryable"), "{status} {text}");
}

#[test]
fn a_plain_consumers_attempt_ends_at_its_hard_limit() {
    let appliance = Appliance::start();
    let order = r#"{"job_id":"j","type":"x","limits":{"hard_s":1},"retry":{"failures":1}}"#;
    let _ = appliance.json("POST", "/v1/jobs", Some(order));
    receive(&appliance);
    let failed = status_is(&appliance, "j", "failed");
    assert_eq!(
        (failed["attempts"][0]["cause"].as_str(), failed["error"]["cause"].as_str()),
        (Some("timeout"), Some("timeout"))
    );
}

#[test]
fn a_schedule_is_made_shown_paused_and_deleted_and_is_there_after_kill_9() {
    let mut appliance = Appliance::start();
    let file = appliance.data().join("job.json");
    std::fs::write(&file, r#"{"type":"x"}"#).unwrap();
    let put = |appliance: &Appliance, cron: &str, zone: &str| {
        let job = file.to_str().unwrap();
        appliance.cli(&["schedule", "put", "nightly", "--cron", cron, "--timezone", zone, "--job", job, "--json"])
    };
    let made = put(&appliance, "30 2 * * *", "Europe/Berlin");
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["next"].as_array().unwrap().len(), 5);
    assert!(!put(&appliance, "61 * * * *", "UTC").status.success());
    assert!(!put(&appliance, "@daily", "Mars/Olympus").status.success());
    appliance.kill();
    appliance.start_again();
    let listed = appliance.json("GET", "/v1/schedules", None);
    assert_eq!(
        (listed["schedules"][0]["name"].as_str(), &listed["schedules"][0]["next"]),
        (Some("nightly"), &made["next"])
    );
    assert!(appliance.cli(&["schedule", "pause", "nightly"]).status.success());
    assert_eq!(appliance.json("GET", "/v1/schedules/nightly", None)["next"], json!([]));
    assert!(appliance.cli(&["schedule", "delete", "nightly"]).status.success());
    assert_eq!(appliance.http("GET", "/v1/schedules/nightly", None).0, 404);
}
