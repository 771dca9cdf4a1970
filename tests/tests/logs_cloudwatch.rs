//! CloudWatch Logs as boto3 and the AWS CLI speak it, against the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::process::Command;

use backlot_tests::{Appliance, binary};

fn subject(appliance: &Appliance, subject: &str) {
    let said = appliance.python("logs_cloudwatch.py", &[subject]);
    assert!(said.contains(&format!("{subject} is as it should be")), "{said}");
}

#[test]
fn groups_streams_retention_and_tags_are_those_of_cloudwatch() {
    subject(&Appliance::start(), "groups");
}

#[test]
fn a_batch_of_events_has_the_bounds_of_cloudwatch() {
    subject(&Appliance::start(), "bounds");
}

#[test]
fn events_are_read_as_they_were_sent_page_by_page() {
    subject(&Appliance::start(), "events");
}

#[test]
fn filter_patterns_find_what_they_describe() {
    subject(&Appliance::start(), "patterns");
}

#[test]
fn a_follower_sees_each_event_once() {
    subject(&Appliance::start(), "tail");
}

#[test]
fn what_came_by_other_doors_is_in_groups_of_its_services_and_the_other_way_round() {
    subject(&Appliance::start(), "others");
}

#[test]
fn an_insights_script_gets_what_a_scan_would_find() {
    subject(&Appliance::start(), "insights");
}

#[test]
fn a_live_tail_shows_what_arrives_to_boto3_and_the_command_line() {
    subject(&Appliance::start(), "live");
}

/// The second version of the AWS CLI, as Debian's `awscli` brings it.
fn command_line(subject: &str) {
    let version = Command::new("/usr/bin/aws").arg("--version").output();
    if !version.is_ok_and(|said| said.stdout.starts_with(b"aws-cli/2")) {
        eprintln!("SKIPPED {subject} of the command line: /usr/bin/aws is not the AWS CLI 2");
        return;
    }
    let said = Appliance::start().python("logs_cli.py", &[subject]);
    assert!(said.contains(&format!("{subject} is as it should be")), "{said}");
}

#[test]
fn aws_logs_tail_follows_each_event_once() {
    command_line("tail");
}

#[test]
fn aws_logs_tail_lays_out_json_and_filters_by_patterns() {
    command_line("tail_json");
}

#[test]
fn scripts_of_the_second_command_line_find_filter_and_query_events() {
    command_line("calls");
}

#[test]
fn groups_and_events_outlive_kill_9_and_a_rebuild() {
    let mut appliance = Appliance::start();
    appliance.python("logs_cloudwatch.py", &["lasting", "make"]);
    for _ in 0..2 {
        appliance.kill();
        appliance.start_again();
        let said = appliance.python("logs_cloudwatch.py", &["lasting", "check"]);
        assert!(said.contains("lasting is as it should be"), "{said}");
    }
    assert_eq!(appliance.stop(), Some(0));
    let rebuilt = Command::new(binary("backlot")).args(["rebuild", "--data"]).arg(appliance.data()).output().unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    appliance.start_again();
    let said = appliance.python("logs_cloudwatch.py", &["lasting", "check"]);
    assert!(said.contains("lasting is as it should be"), "{said}");
}
