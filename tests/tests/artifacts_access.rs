//! Who may do what over S3, and what browsers ask: boto3 with keys of several accounts, and plain HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use backlot_tests::Appliance;

fn scenario(name: &str) {
    Appliance::start().python("artifacts_access.py", &[name]);
}

#[test]
fn an_account_sees_its_own_buckets_and_strangers_see_nothing() {
    scenario("accounts");
}

#[test]
fn lists_of_buckets_and_objects_open_what_they_name() {
    scenario("acls");
}

#[test]
fn policies_allow_and_deny_by_account_key_prefix_and_condition() {
    scenario("policies");
}

#[test]
fn a_public_access_block_and_ownership_take_back_what_lists_and_policies_give() {
    scenario("blocks");
}

#[test]
fn browsers_of_allowed_origins_read_answers_and_others_do_not() {
    scenario("cors");
}

#[test]
fn buckets_are_named_by_hosts_and_websites_are_served() {
    scenario("hosts");
}

#[test]
fn the_public_door_gives_what_everybody_may_read_and_nothing_else() {
    Appliance::start_with(&[("BACKLOT_EDGE_PUBLIC", "127.0.0.1:0")]).python("artifacts_access.py", &["public"]);
}

#[test]
fn requests_of_a_logged_bucket_are_found_in_log_search() {
    scenario("logging");
}

#[test]
fn a_bucket_holds_no_more_than_its_quota() {
    let appliance = Appliance::start();
    appliance.python("artifacts_access.py", &["quotas"]);
    let said = |arguments: &[&str]| String::from_utf8(appliance.cli(arguments).stdout).unwrap();
    assert!(said(&["bucket", "quota", "full", "--objects", "7"]).contains("of 7 objects"));
    assert!(said(&["bucket", "quota", "full"]).contains("of no end bytes"));
    assert!(said(&["bucket", "quota", "full", "--none"]).contains("of no end objects"));
}

#[test]
fn forms_put_what_their_policy_allows_and_nothing_else() {
    Appliance::start().python("artifacts_forms.py", &[]);
}
