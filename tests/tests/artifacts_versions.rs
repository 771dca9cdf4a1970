//! Versions, tags, object lock and lifecycle of the artifact store through boto3.

use backlot_tests::Appliance;

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
