//! The three kinds of export request, and how each is read from bytes.

use backlot_wire::metrics;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};

use super::messages::{self, MESSAGES_MAX, Shape};
use super::{OtlpError, Partial};
use crate::telemetry;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

/// One kind of export request.
pub trait Signal: prost::Message + serde::de::DeserializeOwned + Default + Send + 'static {
    type Response: prost::Message + serde::Serialize + Send + 'static;
    /// Label of the counters.
    const NAME: &'static str;
    #[doc(hidden)]
    fn shape() -> &'static Shape;
    #[doc(hidden)]
    fn response(partial: Partial) -> Self::Response;
}

macro_rules! signal {
    ($request:ident, $response:ident, $partial:ident, $rejected:ident, $name:literal, $shape:ident) => {
        impl Signal for $request {
            type Response = $response;
            const NAME: &'static str = $name;

            fn shape() -> &'static Shape {
                &messages::$shape
            }

            fn response(partial: Partial) -> $response {
                let said = partial.rejected > 0 || !partial.message.is_empty();
                let partial_success = said.then(|| $partial {
                    $rejected: i64::try_from(partial.rejected).unwrap_or(i64::MAX),
                    error_message: partial.message,
                });
                $response { partial_success }
            }
        }
    };
}

signal!(
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
    ExportLogsPartialSuccess,
    rejected_log_records,
    "logs",
    LOGS
);
signal!(
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
    ExportTracePartialSuccess,
    rejected_spans,
    "spans",
    SPANS
);
signal!(
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
    ExportMetricsPartialSuccess,
    rejected_data_points,
    "metrics",
    METRICS
);

/// Reads a request that was unpacked already.
///
/// # Errors
/// [`OtlpError::Invalid`] says what the decoder said, [`OtlpError::TooLarge`] that it holds too many messages.
pub fn decode<S: Signal>(body: &[u8], encoding: Encoding) -> Result<S, OtlpError> {
    let many = || OtlpError::TooLarge(format!("the request holds more than {MESSAGES_MAX} messages"));
    match encoding {
        Encoding::Protobuf if !messages::are_few(body, S::shape()) => Err(many()),
        Encoding::Protobuf => {
            S::decode(body).map_err(|error| OtlpError::Invalid(format!("the body is no {} request: {error}", S::NAME)))
        }
        // A message may be written as an array of its fields, too.
        Encoding::Json if body.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() > MESSAGES_MAX => Err(many()),
        Encoding::Json => serde_json::from_slice(body)
            .map_err(|error| OtlpError::Invalid(format!("the body is no {} request in JSON: {error}", S::NAME))),
    }
}

/// Counts what was taken and what was refused.
#[derive(Clone)]
pub(super) struct Counters {
    accepted: Counter<u64>,
    refused: Counter<u64>,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            accepted: telemetry::counter(&metrics::TELEMETRY_ACCEPTED),
            refused: telemetry::counter(&metrics::TELEMETRY_REFUSED),
        }
    }

    /// A request that failed as a whole counts as one: what it held may be unknown.
    pub(super) fn count<S: Signal>(&self, outcome: &Result<Partial, OtlpError>) {
        let signal = KeyValue::new("signal", S::NAME);
        let reason = |reason: &'static str| KeyValue::new("reason", reason);
        match outcome {
            Ok(partial) => {
                self.accepted.add(partial.accepted, std::slice::from_ref(&signal));
                if partial.rejected > 0 {
                    self.refused.add(partial.rejected, &[signal, reason("rejected")]);
                }
            }
            Err(error) => {
                if let OtlpError::Internal(cause) = error {
                    tracing::error!(signal = S::NAME, cause, "could not take telemetry");
                }
                self.refuse(S::NAME, error.reason());
            }
        }
    }

    pub(super) fn refuse(&self, signal: &'static str, reason: &'static str) {
        self.refused.add(1, &[KeyValue::new("signal", signal), KeyValue::new("reason", reason)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use prost::Message as _;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    fn sample() -> ExportLogsServiceRequest {
        let value = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.into())) });
        let record = LogRecord {
            time_unix_nano: 1_763_812_800_123_456_789,
            severity_number: 17,
            body: value("out of memory"),
            attributes: vec![KeyValue { key: "gpu.index".into(), value: value("3"), ..KeyValue::default() }],
            trace_id: vec![7; 16],
            ..LogRecord::default()
        };
        let scope_logs = vec![ScopeLogs { log_records: vec![record; 3], ..ScopeLogs::default() }];
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
    }

    #[test]
    fn messages_are_counted_however_json_writes_them() {
        for empty in ["{}", "[]"] {
            let body = format!("{{\"resourceLogs\":[{}{empty}]}}", format!("{empty},").repeat(MESSAGES_MAX));
            let decoded = decode::<ExportLogsServiceRequest>(body.as_bytes(), Encoding::Json);
            assert!(matches!(decoded, Err(OtlpError::TooLarge(_))), "{empty}");
        }
    }

    #[test]
    fn damaged_requests_are_refused_or_read_and_never_worse() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let protobuf = sample().encode_to_vec();
        let json = serde_json::to_vec(&sample()).unwrap();
        let mut refused = 0;
        for (whole, encoding) in [(protobuf, Encoding::Protobuf), (json, Encoding::Json)] {
            assert_eq!(decode::<ExportLogsServiceRequest>(&whole, encoding), Ok(sample()));
            for _ in 0..4000 {
                let mut bytes = whole.clone();
                for _ in 0..random.random_range(1..6) {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
                bytes.truncate(random.random_range(0..=bytes.len()));
                match decode::<ExportLogsServiceRequest>(&bytes, encoding) {
                    Ok(request) => drop(crate::logs::records(&request, 0, 0)),
                    Err(error) => {
                        refused += 1;
                        assert!(matches!(error, OtlpError::Invalid(_)), "{error:?}");
                    }
                }
                let _ = decode::<ExportTraceServiceRequest>(&bytes, encoding);
                let _ = decode::<ExportMetricsServiceRequest>(&bytes, encoding);
            }
        }
        assert!(refused > 1000);
    }
}
