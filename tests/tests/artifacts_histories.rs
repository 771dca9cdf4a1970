//! Recorded histories of many S3 clients at once, checked for one order that explains them.

use backlot_tests::Appliance;

fn scenario(name: &str) {
    let told = Appliance::start().python("artifacts_histories.py", &[name]);
    println!("{told}");
}

#[test]
fn the_checks_find_histories_that_no_order_explains() {
    scenario("faults");
}

#[test]
fn a_key_that_many_write_and_read_behaves_as_one_register() {
    scenario("never");
}

#[test]
fn a_key_that_keeps_versions_behaves_as_one_register() {
    scenario("enabled");
}

#[test]
fn a_key_whose_versioning_is_suspended_behaves_as_one_register() {
    scenario("suspended");
}

#[test]
fn a_listing_shows_every_put_and_delete_that_was_answered_before_it() {
    scenario("listing");
}
