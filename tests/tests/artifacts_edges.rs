//! What browsers, players, policies and websites ask at the edges of S3.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use backlot_tests::Appliance;

fn scenario(name: &str) {
    Appliance::start_with(&[("BACKLOT_EDGE_PUBLIC", "127.0.0.1:0")]).python("artifacts_edges.py", &[name]);
}

#[test]
fn several_ranges_and_parts_come_with_their_bytes_and_checksums_through_every_door() {
    scenario("ranges");
}

#[test]
fn policies_see_the_tags_that_are_put_and_those_that_are_there() {
    scenario("tag_conditions");
}

#[test]
fn an_object_leads_elsewhere_on_a_website_and_says_so_elsewhere() {
    scenario("redirects");
}

#[test]
fn what_cannot_be_kept_is_refused_before_it_is_sent() {
    scenario("early_refusals");
}

#[test]
fn what_lifecycle_rules_delete_is_told() {
    scenario("rules_tell");
}

#[test]
fn requests_of_a_logged_bucket_become_objects_of_its_target() {
    let often = ("BACKLOT_ARTIFACTS_ACCESS_LOG_DELIVER_S", "1");
    let appliance = Appliance::start_with(&[("BACKLOT_EDGE_PUBLIC", "127.0.0.1:0"), often]);
    appliance.python("artifacts_edges.py", &["access_log"]);
}

#[test]
fn lines_that_wait_when_the_appliance_is_stopped_are_delivered_before_it_ends() {
    let mut appliance = Appliance::start(); // delivers after minutes
    appliance.python("artifacts_edges.py", &["read_once"]);
    appliance.stop();
    appliance.start_again();
    appliance.python("artifacts_edges.py", &["was_delivered"]);
}

/// Most memory that the appliance ever had, in bytes.
fn peak_bytes(appliance: &Appliance) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", appliance.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_form_larger_than_the_memory_it_may_take_is_stored() {
    let appliance = Appliance::start();
    appliance.python("artifacts_forms.py", &["large", "1"]);
    let before = peak_bytes(&appliance);
    appliance.python("artifacts_forms.py", &["large", "192"]);
    let more = peak_bytes(&appliance).saturating_sub(before);
    assert!(more < 64 << 20, "{} MiB more for a form of 192 MiB", more >> 20);
}
