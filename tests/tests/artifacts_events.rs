//! What happens to objects, told to queues and webhooks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use backlot_tests::{Appliance, Port};

#[test]
fn a_queue_is_told_each_change_of_a_bucket_that_names_it() {
    Appliance::start().python("artifacts_events.py", &["queues"]);
}

#[test]
fn a_webhook_is_told_signed_and_again_after_a_failure() {
    Appliance::start().python("artifacts_events.py", &["webhooks"]);
}

#[test]
fn what_a_webhook_was_not_told_before_a_kill_it_is_told_afterwards() {
    let held = Port::hold();
    let port = held.number.to_string();
    let mut appliance = Appliance::start();
    appliance.python("artifacts_events.py", &["before", &port]);
    appliance.kill();
    appliance.start_again();
    appliance.python("artifacts_events.py", &["after", &port]);
}
