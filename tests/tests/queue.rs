//! SQS as boto3, the AWS CLI and plain signed forms speak it, against the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::process::Command;

use backlot_tests::{Appliance, eventually, python};

#[test]
fn boto3_finds_every_operation_as_in_sqs() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs.py", &["operations"]);
    assert!(said.contains("all operations are as they should be"), "{said}");
}

#[test]
fn a_whole_mebibyte_is_taken_and_a_job_queue_takes_jobs_alone() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs.py", &["bodies"]);
    assert!(said.contains("bodies are taken as they should be"), "{said}");
}

#[test]
fn the_query_protocol_says_the_same_in_xml() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs.py", &["query"]);
    assert!(said.contains("the query protocol is as it should be"), "{said}");
}

#[test]
fn a_long_poll_wakes_at_once_and_many_of_them_are_served_in_turn() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs.py", &["polling"]);
    assert!(said.contains("long polls are as they should be"), "{said}");
}

#[test]
fn a_poisoned_message_reaches_the_dead_letter_queue_and_the_overview_shows_it() {
    let appliance = Appliance::start();
    appliance.python("sqs.py", &["redrive"]);
    let queues = appliance.json("GET", "/v1/queues", None);
    let queues = queues["queues"].as_array().expect("a list of queues").clone();
    let named = |name: &str| queues.iter().find(|queue| queue["name"] == name).cloned().expect(name);
    let (dead, jobs) = (named("poison-dlq"), named("jobs"));
    assert_eq!((dead["ready"].as_u64(), dead["is_dlq"].as_bool()), (Some(1), Some(true)), "{dead}");
    assert_eq!((jobs["is_job_queue"].as_bool(), jobs["dlq"].as_str()), (Some(true), Some("jobs-dlq")), "{jobs}");
    assert_eq!(dead["url"], format!("{}/000000000000/poison-dlq", appliance.addresses.aws));
}

/// Messages are sent and deleted while the appliance is killed again and again; at the end each send that was
/// acknowledged and not deleted is there, and nothing whose delete was acknowledged.
#[test]
fn kill_9_loses_nothing_that_was_acknowledged_and_brings_nothing_back() {
    let mut appliance = Appliance::start();
    let state = appliance.data().with_file_name("state.json");
    let state = state.to_str().expect("a path in UTF-8").to_owned();
    appliance.python("sqs.py", &["prepare", &state]);
    for round in 0..5 {
        let mut client = Command::new(python());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/sqs.py");
        client.args([script, "churn", &state]).envs(appliance.environment());
        let folder = appliance.data().with_file_name("");
        let mut client = backlot_tests::Process::start(&mut client, &folder, &format!("churn-{round}"));
        eventually("the client is at work", || client.log().contains("working").then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(300 + 170 * round)); // a kill at some moment of the work
        appliance.kill();
        assert!(client.wait().success(), "{}", client.log());
        appliance.start_again();
    }
    let said = appliance.python("sqs.py", &["account", &state]);
    assert!(said.contains("nothing was lost and nothing came back"), "{said}");
}

#[test]
fn every_operation_and_every_documented_error_is_the_same_in_both_protocols() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs_both.py", &["operations"]);
    assert!(said.contains("every operation is as it should be in both protocols"), "{said}");
    let said = appliance.python("sqs_both.py", &["errors"]);
    assert!(said.contains("every error is as it should be in both protocols"), "{said}");
}

#[test]
fn fifo_queues_keep_order_deduplicate_and_redrive_and_groups_share_fairly() {
    let mut appliance = Appliance::start();
    for (subject, expected) in [
        ("order", "order and deduplication are as they should be"),
        ("redrive", "dead letters keep their order"),
        ("fair", "groups have fair shares"),
    ] {
        let said = appliance.python("sqs_fifo.py", &[subject]);
        assert!(said.contains(expected), "{said}");
    }
    let said = appliance.python("sqs_fifo.py", &["remember"]);
    let words: Vec<&str> = said.split_whitespace().collect();
    appliance.kill();
    appliance.start_again();
    let said = appliance.python("sqs_fifo.py", &[&["remembered"], words.as_slice()].concat());
    assert!(said.contains("a FIFO queue is what it was"), "{said}");
}

#[test]
fn a_queue_is_found_by_every_form_of_its_address_and_listed_page_by_page() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs_moves.py", &["addresses"]);
    assert!(said.contains("queues are found by every form of their address"), "{said}");
    let said = appliance.python("sqs_moves.py", &["paging"]);
    assert!(said.contains("listings go on where they ended"), "{said}");
}

#[test]
fn a_queue_is_paused_resumed_and_drained() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs_moves.py", &["flow"]);
    assert!(said.contains("queues flow as they are told"), "{said}");
    let (status, body) = appliance.http("POST", "/v1/queues/none/pause", None);
    assert_eq!(status, 404, "{body}");
    for (word, flow) in [("pause", "paused"), ("drain", "draining"), ("resume", "open")] {
        let shown = appliance.json("POST", &format!("/v1/queues/jobs/{word}"), None);
        assert_eq!(shown["flow"], flow, "{shown}");
        if word == "drain" {
            let (status, body) = appliance.http("POST", "/v1/jobs", Some(r#"{"type": "image.upscale"}"#));
            assert!(status == 409 && body.contains("draining"), "{status} {body}");
        }
    }
}

#[test]
fn dead_letters_move_back_at_their_rate_and_over_a_restart() {
    let mut appliance = Appliance::start();
    let said = appliance.python("sqs_moves.py", &["moves"]);
    assert!(said.contains("messages moved as they should"), "{said}");
    appliance.python("sqs_moves.py", &["halfway"]);
    appliance.kill();
    appliance.start_again();
    let said = appliance.python("sqs_moves.py", &["rest"]);
    assert!(said.contains("the rest was moved"), "{said}");
}

#[test]
fn the_command_line_keeps_queues() {
    let appliance = Appliance::start();
    let run = |arguments: &[&str]| {
        let output = appliance.cli(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    };
    let json =
        |arguments: &[&str]| -> serde_json::Value { serde_json::from_str(&run(arguments)).expect("one JSON line") };
    run(&["queue", "create", "graves"]);
    let policy =
        r#"RedrivePolicy={"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:graves","maxReceiveCount":3}"#;
    let made = json(&["queue", "create", "shots", "--attribute", policy, "--tag", "studio=north", "--json"]);
    assert_eq!((&made["name"], &made["dlq"], &made["flow"]), (&"shots".into(), &"graves".into(), &"open".into()));
    assert_eq!(json(&["queue", "pause", "shots", "--json"])["flow"], "paused");
    assert!(run(&["queue", "list"]).lines().any(|line| line.starts_with("shots ") && line.contains("paused")));
    assert_eq!(json(&["queue", "drain", "shots", "--json"])["flow"], "draining");
    assert_eq!(json(&["queue", "resume", "shots", "--json"])["flow"], "open");
    assert_eq!(json(&["queue", "purge", "shots", "--json"])["ready"], 0);
    let again = appliance.cli(&["queue", "purge", "shots"]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("once a minute"));
    let task = json(&["queue", "redrive", "graves", "--to", "shots", "--rate", "50", "--wait", "--json"]);
    assert_eq!((&task["status"], &task["moved"]), (&"COMPLETED".into(), &0.into()), "{task}");
    assert!(run(&["queue", "redrives", "graves"]).contains("completed"));
    let failed = appliance.cli(&["queue", "redrive", "shots"]);
    assert!(!failed.status.success(), "nobody's dead-letter queue");
}

#[test]
fn a_redrive_of_the_jobs_dead_letters_queues_the_jobs_again() {
    let appliance = Appliance::start();
    let submitted = appliance.json("POST", "/v1/jobs", Some(r#"{"type": "studio.test", "retry": {"failures": 1}}"#));
    let id = submitted["id"].as_str().expect("an id").to_owned();
    appliance.python("sqs_moves.py", &["lose"]);
    let job = || appliance.json("GET", &format!("/v1/jobs/{id}"), None);
    eventually("the job has failed", || (job()["status"] == "failed").then_some(()));
    let cli = appliance.cli(&["queue", "redrive", "jobs-dlq", "--wait", "--json"]);
    let task: serde_json::Value = serde_json::from_slice(&cli.stdout).expect("a task");
    assert_eq!((&task["status"], &task["moved"]), (&"COMPLETED".into(), &1.into()), "{task}");
    assert_eq!(job()["status"], "queued");
    appliance.python("sqs_moves.py", &["finish"]);
    assert_eq!(job()["status"], "succeeded");
}

#[test]
fn celery_runs_its_tasks_over_the_queue() {
    let appliance = Appliance::start();
    let results = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/sqs_celery.py")).envs(appliance.environment());
    command.env("SQS_CELERY_RESULTS", results.path());
    let output = command.output().expect("run the script");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("celery ran its tasks"), "{said}\n{}", appliance.log());
}

#[test]
fn the_aws_command_line_sends_receives_deletes_and_redrives() {
    let appliance = Appliance::start();
    let aws = python().with_file_name("aws");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&aws);
        command.args(["sqs", "--output", "json", "--endpoint-url", &appliance.addresses.aws]);
        command.args(arguments).envs(appliance.environment());
        let output = command.output().expect("run the AWS CLI");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default()
    };
    let url = run(&["create-queue", "--queue-name", "cli"])["QueueUrl"].as_str().expect("a URL").to_owned();
    run(&["send-message", "--queue-url", &url, "--message-body", "hello from the command line"]);
    let got = run(&["receive-message", "--queue-url", &url, "--wait-time-seconds", "5"]);
    assert_eq!(got["Messages"][0]["Body"], "hello from the command line");
    let receipt = got["Messages"][0]["ReceiptHandle"].as_str().expect("a receipt").to_owned();
    run(&["delete-message", "--queue-url", &url, "--receipt-handle", &receipt]);
    let attributes = |name: &str, wanted: &str| {
        run(&["get-queue-attributes", "--queue-url", name, "--attribute-names", wanted])["Attributes"][wanted].clone()
    };
    let dead = run(&["create-queue", "--queue-name", "cli-dead", "--tags", "studio=north"]);
    let dead = dead["QueueUrl"].as_str().expect("a URL").to_owned();
    assert_eq!(run(&["list-queue-tags", "--queue-url", &dead])["Tags"]["studio"], "north");
    let arn = attributes(&dead, "QueueArn").as_str().expect("an ARN").to_owned();
    let policy = serde_json::json!({"deadLetterTargetArn": arn, "maxReceiveCount": "1"}).to_string();
    let policy = serde_json::json!({"RedrivePolicy": policy}).to_string();
    run(&["set-queue-attributes", "--queue-url", &url, "--attributes", &policy]);
    run(&["send-message", "--queue-url", &url, "--message-body", "poison"]);
    let got = run(&["receive-message", "--queue-url", &url, "--wait-time-seconds", "5"]);
    let receipt = got["Messages"][0]["ReceiptHandle"].as_str().expect("a receipt").to_owned();
    let hide =
        ["change-message-visibility", "--queue-url", &url, "--receipt-handle", &receipt, "--visibility-timeout", "0"];
    run(&hide);
    assert_eq!(attributes(&dead, "ApproximateNumberOfMessages"), "1");
    run(&["start-message-move-task", "--source-arn", &arn]);
    eventually("the message is back", || (attributes(&url, "ApproximateNumberOfMessages") == "1").then_some(()));
    assert_eq!(run(&["list-message-move-tasks", "--source-arn", &arn])["Results"][0]["Status"], "COMPLETED");
    run(&["delete-queue", "--queue-url", &url]);
    let listed = run(&["list-queues"])["QueueUrls"].to_string();
    assert!(listed.contains("jobs-dlq") && !listed.contains("/cli\""), "{listed}");
}
