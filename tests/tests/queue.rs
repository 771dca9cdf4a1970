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
fn errors_have_the_codes_that_boto3_knows() {
    let appliance = Appliance::start();
    let said = appliance.python("sqs.py", &["errors"]);
    assert!(said.contains("all errors are as they should be"), "{said}");
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
fn the_aws_command_line_sends_and_receives() {
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
    run(&["delete-queue", "--queue-url", &url]);
    let listed = run(&["list-queues"])["QueueUrls"].to_string();
    assert!(listed.contains("jobs-dlq") && !listed.contains("/cli\""), "{listed}");
}
