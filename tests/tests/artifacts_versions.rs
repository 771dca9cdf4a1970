//! Versions, tags, object lock and lifecycle of the artifact store through boto3.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::process::Command;

use backlot_tests::{Appliance, Process, binary, eventually, python, repository};

fn scenario(name: &str) {
    Appliance::start().python("artifacts_versions.py", &[name]);
}

#[test]
fn boto3_keeps_versions_hides_them_behind_markers_and_suspends_that() {
    scenario("versioning");
}

#[test]
fn boto3_deletes_versions_and_makes_markers_in_batches() {
    scenario("batches");
}

#[test]
fn boto3_pages_through_versions() {
    scenario("paging");
}

#[test]
fn boto3_writes_and_deletes_versions_under_conditions() {
    scenario("conditions");
}

#[test]
fn boto3_uploads_versions_in_parts() {
    scenario("multipart");
}

#[test]
fn boto3_tags_objects_versions_and_buckets() {
    scenario("tags");
}

#[test]
fn boto3_locks_versions() {
    scenario("lock");
}

#[test]
fn boto3_puts_lifecycle_rules_and_what_is_due_expires() {
    scenario("lifecycle");
}

#[test]
fn many_clients_of_one_key_leave_exactly_the_versions_that_were_acknowledged() {
    scenario("race");
}

#[test]
fn versions_tags_and_locks_survive_a_kill_and_a_rebuild_of_the_catalogue() {
    let mut appliance = Appliance::start();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let state = dir.path().join(format!("answered-{round}"));
        let mut writer = Command::new(python());
        writer.arg(repository().join("tests/python/artifacts_versions.py")).arg("write_forever").arg(&state);
        let mut writer = Process::start(writer.envs(appliance.environment()), dir.path(), "writer");
        eventually("the writer has written", || {
            let lines = std::fs::read_to_string(&state).unwrap_or_default().lines().count();
            (lines > 80 + round * 13).then_some(())
        });
        appliance.kill();
        writer.wait();
        appliance.start_again();
        appliance.python("artifacts_versions.py", &["check_written", state.to_str().unwrap()]);
    }
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    appliance.python("artifacts_versions.py", &["everything", before.to_str().unwrap()]);
    assert_eq!(appliance.stop(), Some(0));
    let rebuilt = Command::new(binary("backlot")).args(["rebuild", "--data"]).arg(appliance.data()).output().unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    appliance.start_again();
    appliance.python("artifacts_versions.py", &["everything", after.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&before).unwrap(), std::fs::read_to_string(&after).unwrap());
}
