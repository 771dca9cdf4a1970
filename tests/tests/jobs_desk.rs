//! What an operator does with many jobs: finds them, learns why they wait, holds them back, acts on them all, has others told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::process::Command;

use backlot_tests::{Appliance, Port, Process, eventually, python, repository};
use serde_json::{Value, json};

fn submit(appliance: &Appliance, body: &Value) -> String {
    let job = appliance.json("POST", "/v1/jobs", Some(&body.to_string()));
    job["id"].as_str().expect("a job has an id").to_owned()
}

fn cli(appliance: &Appliance, arguments: &[&str]) -> String {
    let output = appliance.cli(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn cli_json(appliance: &Appliance, arguments: &[&str]) -> Vec<Value> {
    let said = cli(appliance, arguments);
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn consumer(appliance: &Appliance, arguments: &[&str], name: &str) -> Process {
    let script = repository().join("tests/python/jobs_consumer.py");
    let mut command = Command::new(python());
    Process::start(command.arg(script).args(arguments).envs(appliance.environment()), &appliance.data(), name)
}

fn ids(found: &[Value]) -> Vec<&str> {
    let mut ids: Vec<_> = found.iter().map(|job| job["id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    ids
}

fn codes(appliance: &Appliance, id: &str) -> Vec<String> {
    let why = &cli_json(appliance, &["job", "why", id, "--json"])[0];
    why["reasons"].as_array().expect("reasons").iter().map(|r| r["code"].as_str().expect("a code").to_owned()).collect()
}

#[test]
fn a_search_finds_jobs_by_what_they_say_and_goes_on_after_a_kill_and_without_its_index() {
    let mut appliance = Appliance::start();
    for (id, user, prompt, steps) in [
        ("fox-1", "anna", "a red fox in snow", 30),
        ("fox-2", "bob", "a fox at night", 60),
        ("owl-1", "anna", "an owl", 20),
    ] {
        submit(
            &appliance,
            &json!({"type": "image.generate", "job_id": id, "user_id": user, "project_id": "film",
            "labels": {"shot": "42"}, "parameters": {"prompt": prompt, "steps": steps}}),
        );
    }
    let search = |appliance: &Appliance, query: &str| cli_json(appliance, &["job", "search", query, "--json"]);
    assert_eq!(ids(&search(&appliance, "fox")), ["fox-1", "fox-2"], "what was acknowledged is found at once");
    assert_eq!(ids(&search(&appliance, "user:anna parameters.steps:[25 TO 50]")), ["fox-1"]);
    assert_eq!(ids(&search(&appliance, "prompt:\"red fox\" OR owl")), ["fox-1", "owl-1"]);
    assert_eq!(ids(&search(&appliance, "labels.shot:42 -user:anna created:>1h")), ["fox-2"]);
    let _ = appliance.json("POST", "/v1/jobs/fox-2/cancel", None);
    assert_eq!(ids(&search(&appliance, "status:cancelled")), ["fox-2"]);
    let page = appliance.json("GET", "/v1/jobs?query=type:image.*&limit=2&status=queued,cancelled", None);
    let cursor = page["cursor"].as_str().expect("a second page");
    let second = appliance.json("GET", &format!("/v1/jobs?query=type:image.*&limit=2&cursor={cursor}"), None);
    assert_eq!(ids(second["jobs"].as_array().expect("jobs")), ["fox-1"]);
    let counts = &cli_json(&appliance, &["job", "count", "--json"])[0];
    assert_eq!(counts["status"], json!({"queued": 2, "cancelled": 1}));
    assert_eq!((&counts["total"], &counts["type"]["image.generate"]), (&json!(3), &json!(3)));
    let (status, text) = appliance.http("GET", "/v1/jobs?query=created:%3Eyesterday", None);
    assert!(status == 400 && text.contains("bad_query") && text.contains("character 10"), "{status} {text}");

    appliance.kill();
    appliance.start_again();
    assert_eq!(ids(&search(&appliance, "fox status:queued")), ["fox-1"]);
    appliance.kill();
    std::fs::remove_dir_all(appliance.data().join("jobs-index")).expect("the index can be thrown away");
    appliance.start_again();
    eventually("the index is made again", || (search(&appliance, "user:anna").len() == 2).then_some(()));
}

#[test]
fn limits_hold_over_a_restart_and_a_job_says_that_it_waits_for_them() {
    let mut appliance = Appliance::start();
    let set =
        &cli_json(&appliance, &["job", "limits", "set", "project", "film", "--running", "1", "--share", "2", "--json"])
            [0];
    assert_eq!((&set["running_max"], &set["share"]), (&json!(1), &json!(2.0)));
    let first = submit(&appliance, &json!({"type": "x", "project_id": "film"}));
    let second = submit(&appliance, &json!({"type": "x", "project_id": "film"}));
    assert_eq!(codes(&appliance, &first), ["no_agents"]);
    assert_eq!(codes(&appliance, &second), ["no_agents", "behind"]);
    assert!(appliance.http("POST", "/v1/queues/jobs/pause", None).0 < 300);
    assert_eq!(codes(&appliance, &first), ["queue_paused", "no_agents"]);
    assert!(appliance.http("POST", "/v1/queues/jobs/resume", None).0 < 300);
    let held = consumer(&appliance, &["beat", "600"], "held");
    eventually("the first one runs", || {
        (appliance.json("GET", &format!("/v1/jobs/{first}"), None)["status"] == "running").then_some(())
    });
    assert_eq!(codes(&appliance, &first), Vec::<String>::new());
    let why = appliance.json("GET", &format!("/v1/jobs/{second}/why-waiting"), None);
    let reason = &why["reasons"][1];
    assert_eq!(reason["code"], "project_limit", "{why}");
    assert_eq!(reason["numbers"], json!({"name": "film", "running": 1, "running_max": 1}));

    // It is received by nobody, neither now nor after a restart; a job of another project is.
    let other = submit(&appliance, &json!({"type": "x", "project_id": "advert"}));
    let taken = appliance.python("jobs_consumer.py", &["work", "1"]);
    assert!(taken.contains(&other), "{taken}");
    drop(held);
    appliance.kill();
    appliance.start_again();
    let limits = appliance.json("GET", "/v1/limits", None);
    assert_eq!((&limits["limits"][0]["name"], &limits["limits"][0]["from"]), (&json!("film"), &json!("api")));
    cli(&appliance, &["job", "limits", "unset", "project", "film"]);
    assert_eq!(appliance.http("DELETE", "/v1/limits/project/film", None).0, 404);
    appliance.python("jobs_consumer.py", &["work", "2"]);
    eventually("both have run", || {
        (appliance.json("GET", "/v1/jobs/counts?project=film", None)["status"]["succeeded"] == 2).then_some(())
    });
    for (path, body) in [
        ("/v1/limits/planet/x", r#"{"running_max":1}"#),
        ("/v1/limits/user/x", r#"{"share":1}"#),
        ("/v1/limits/type/x", r#"{"running_max":0}"#),
        ("/v1/limits/queue/x", "{}"),
        ("/v1/limits/queue/x", r#"{"colour":1}"#),
    ] {
        let (status, text) = appliance.http("PUT", path, Some(body));
        assert!(status == 400 || status == 404, "{path} {body}: {status} {text}");
    }
}

#[test]
fn a_rate_of_a_key_lets_one_begin_and_says_when_the_next_may() {
    let appliance = Appliance::start();
    cli(&appliance, &["job", "limits", "set", "key", "api-*", "--rate", "0.01", "--burst", "1"]);
    let (status, text) = appliance.http("POST", "/v1/jobs", Some(r#"{"type":"x","rate":{"per_s":1}}"#));
    assert!(status == 400 && text.contains("expected `key`"), "{status} {text}");
    let held_back = submit(&appliance, &json!({"type": "x", "rate": {"key": "api-1"}}));
    let free = submit(&appliance, &json!({"type": "x"}));
    let taken = appliance.python("jobs_consumer.py", &["work", "1"]);
    assert!(taken.contains(&free), "nothing is given before a token has come in: {taken}");
    let why = appliance.json("GET", &format!("/v1/jobs/{held_back}/why-waiting"), None);
    let rate = why["reasons"].as_array().expect("reasons").iter().find(|reason| reason["code"] == "rate_limit");
    let numbers = &rate.unwrap_or_else(|| panic!("{why}"))["numbers"];
    assert!(numbers["name"] == "api-1" && numbers["next_s"].as_f64().is_some_and(|s| s > 0.0 && s <= 100.0), "{why}");
    cli(&appliance, &["job", "limits", "unset", "key", "api-*"]);
    let taken = appliance.python("jobs_consumer.py", &["work", "1"]);
    assert!(taken.contains(&held_back), "{taken}");
}

#[test]
fn a_bulk_action_counts_first_and_then_acts_on_what_it_counted() {
    let appliance = Appliance::start();
    for n in 0..30 {
        submit(
            &appliance,
            &json!({"type": "x", "job_id": format!("a-{n}"), "project_id": if n % 3 == 0 { "keep" } else { "drop" }}),
        );
    }
    let dry = &cli_json(&appliance, &["job", "bulk", "cancel", "--query", "project:drop", "--json"])[0];
    assert_eq!((&dry["matched"], dry["sample"].as_array().map(Vec::len)), (&json!(20), Some(10)));
    assert_eq!(appliance.json("GET", "/v1/jobs/counts", None)["status"], json!({"queued": 30}), "nothing was done");
    let done = &cli_json(&appliance, &["job", "bulk", "cancel", "--query", "project:drop", "--yes", "--json"])[0];
    assert_eq!((&done["status"], &done["done"], &done["failed"]), (&json!("done"), &json!(20), &json!(0)), "{done}");
    assert_eq!(appliance.json("GET", "/v1/jobs/counts", None)["status"], json!({"queued": 10, "cancelled": 20}));
    let said = cli(&appliance, &["job", "bulk", "retry", "--query", "status:cancelled", "--yes"]);
    assert!(said.contains("20 of 20 done"), "{said}");
    assert_eq!(appliance.json("GET", "/v1/jobs/counts", None)["status"], json!({"queued": 30}));
    assert_eq!(cli_json(&appliance, &["job", "bulk", "list", "--json"]).len(), 2);

    // One that has failed lies on the dead-letter queue and comes back from there.
    submit(&appliance, &json!({"type": "x", "job_id": "bad", "priority": 9, "retry": {"failures": 1}}));
    appliance.python("jobs_consumer.py", &["fail", "1"]);
    let dead = |appliance: &Appliance| cli_json(appliance, &["job", "search", "status:failed", "--json"]);
    eventually("it has failed", || (ids(&dead(&appliance)) == ["bad"]).then_some(()));
    let done = &cli_json(&appliance, &["job", "bulk", "redrive", "--query", "*", "--yes", "--json"])[0];
    assert_eq!((&done["matched"], &done["done"]), (&json!(1), &json!(1)), "{done}");
    assert_eq!(appliance.json("GET", "/v1/jobs/bad", None)["status"], "queued");
    let queues = appliance.json("GET", "/v1/queues", None);
    let dlq = queues["queues"].as_array().expect("queues").iter().find(|queue| queue["name"] == "jobs-dlq");
    assert_eq!(dlq.expect("it is there from the start")["ready"], 0);
    for body in [
        r#"{"action":"cancel","query":" "}"#,
        r#"{"action":"explode","query":"*"}"#,
        r#"{"action":"cancel","query":"a("}"#,
    ] {
        assert_eq!(appliance.http("POST", "/v1/jobs/bulk", Some(body)).0, 400, "{body}");
    }
}

#[test]
fn a_bulk_action_goes_on_after_a_kill() {
    let mut appliance = Appliance::start();
    for n in 0..60 {
        submit(&appliance, &json!({"type": "x", "job_id": format!("a-{n}")}));
    }
    let order = json!({"action": "cancel", "query": "*", "rate_per_s": 10});
    let task = appliance.json("POST", "/v1/jobs/bulk", Some(&order.to_string()));
    let path = format!("/v1/bulk/{}", task["id"].as_str().expect("an id"));
    eventually("it has begun", || (appliance.json("GET", &path, None)["done"].as_u64()? > 0).then_some(()));
    appliance.kill();
    appliance.start_again();
    let ended = eventually("it has ended", || {
        let task = appliance.json("GET", &path, None);
        (task["status"] == "done").then_some(task)
    });
    assert_eq!(ended["failed"], 0, "{ended}");
    assert_eq!(appliance.json("GET", "/v1/jobs/counts", None)["status"], json!({"cancelled": 60}));
}

#[test]
fn a_webhook_is_told_signed_in_order_and_over_a_kill() {
    let mut appliance = Appliance::start();
    let port = Port::hold();
    let url = format!("http://user:hunter2@{}/told?token=hunter3", port.address());
    let set =
        &cli_json(&appliance, &["job", "webhook", "set", "studio", "--url", &url, "--query", "project:film", "--json"])
            [0];
    let secret_file = appliance.data().join("webhook-secret");
    let secret = set["secret"].as_str().expect("made, and shown once").to_owned();
    std::fs::write(&secret_file, &secret).expect("a file");
    assert_eq!(set["target"], format!("http://{}/…", port.address()));

    // Nobody listens yet: the events wait, over a kill.
    for id in ["one", "two"] {
        submit(&appliance, &json!({"type": "x", "job_id": id, "project_id": "film"}));
    }
    submit(&appliance, &json!({"type": "x", "job_id": "other", "project_id": "advert"}));
    eventually("it cannot be told", || {
        appliance.json("GET", "/v1/webhooks/studio", None)["deliveries"]["problem"].as_str().map(drop)
    });
    appliance.kill();
    appliance.start_again();
    let script = repository().join("tests/python/jobs_webhook.py");
    let mut command = Command::new(python());
    let told = Process::start(
        command.arg(script).arg(port.number.to_string()).arg(&secret_file).arg("1"),
        &appliance.data(),
        "told",
    );
    appliance.python("jobs_consumer.py", &["work", "3"]);
    let calls = || -> Vec<Value> { told.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    let of = |job: &str| -> Vec<String> {
        let calls = calls().into_iter().filter(|call| call["job"] == job && call["refused"] == false);
        let mut types: Vec<String> = calls.filter_map(|call| call["type"].as_str().map(str::to_owned)).collect();
        types.dedup(); // at least once
        types
    };
    let life = ["job.queued", "job.started", "job.succeeded"];
    eventually("both lives are told", || (of("one") == life && of("two") == life).then_some(()));
    let calls = calls();
    let events: Vec<_> = calls.iter().filter(|call| call["id"].is_string()).collect();
    assert!(events.iter().all(|call| call["signed"] == true && call["path"] == "/told?token=hunter3"), "{events:?}");
    assert!(events.iter().any(|call| call["refused"] == true), "a redirect is refused and tried again, never followed");
    assert!(events.iter().all(|call| call["job"] != "other"));

    let shown = appliance.json("GET", "/v1/webhooks", None).to_string()
        + &cli(&appliance, &["job", "webhook", "show", "studio"]);
    for word in [secret.as_str(), "hunter2", "hunter3"] {
        assert!(!shown.contains(word) && !appliance.log().contains(word), "{word} is shown");
    }
    cli(&appliance, &["job", "webhook", "delete", "studio"]);
    assert_eq!(appliance.http("GET", "/v1/webhooks/studio", None).0, 404);
    for body in [
        r#"{"url":"ftp://x"}"#,
        r#"{"url":"http://x/","query":"a("}"#,
        r#"{"url":"http://x/","secret":"short"}"#,
        r#"{"url":"http://x/","events":["exploded"]}"#,
    ] {
        assert_eq!(appliance.http("PUT", "/v1/webhooks/bad", Some(body)).0, 400, "{body}");
    }
}
