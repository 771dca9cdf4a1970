//! What was refused, counted.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use crate::edge::aws::AwsError;
use crate::telemetry;
use backlot_wire::metrics;

#[derive(Clone)]
pub(super) struct Refused(Counter<u64>);

impl Default for Refused {
    fn default() -> Self {
        Self(telemetry::counter(&metrics::CLOUDWATCH_LOGS_REFUSED))
    }
}

impl Refused {
    /// Counts log events, rows or calls of an operation that is served.
    pub(super) fn count(&self, operation: &'static str, reason: &'static str, count: usize) {
        if count > 0 {
            self.0.add(count as u64, &[KeyValue::new("operation", operation), KeyValue::new("reason", reason)]);
        }
    }

    /// Counts a call that was refused for want of room: what the caller did wrong is the door's to count.
    pub(super) fn count_error(&self, operation: &str, error: &AwsError) {
        let reason = match error.shape {
            "ThrottlingException" => "throttled",
            "LimitExceededException" => "limit",
            "ServiceUnavailableException" => "unavailable",
            _ => return,
        };
        // Only what is served can be refused so, and those are few.
        self.0.add(1, &[KeyValue::new("operation", operation.to_owned()), KeyValue::new("reason", reason)]);
    }
}
