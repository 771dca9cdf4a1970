//! By what a log record is found.
//!
//! | name | how |
//! | --- | --- |
//! | level, service, host, job, attempt, queue, trace, span, scope, event | as a whole, or by its beginning |
//! | severity | number |
//! | body | words and phrases |
//! | any attribute, under its dotted name | words and phrases; numbers by range |

use backlot_windows::{Document, Value};
use prost::Message as _;

use super::model::{LogRecord, Placed, records};
use crate::edge::otlp::ExportLogsServiceRequest;
use crate::signals::attributes::index_all;

/// Names that are found as a whole.
pub(super) const KEYWORDS: &[&str] =
    &["level", "service", "host", "job", "attempt", "queue", "trace", "span", "scope", "event"];
pub(super) const SEVERITY: &str = "severity";
pub(super) const BODY: &str = "body";
/// Names that an attribute cannot take.
pub(super) const RESERVED: &[&str] =
    &["level", "service", "host", "job", "attempt", "queue", "trace", "span", "scope", "event", "severity", "body"];

/// The documents of one record of the telemetry journal.
pub(super) fn documents(payload: &[u8], first_seq: u64, arrived_ms: u64) -> Vec<Document> {
    match ExportLogsServiceRequest::decode(payload) {
        Ok(request) => records(&request, first_seq, arrived_ms).into_iter().map(document).collect(),
        Err(error) => {
            tracing::error!(%error, lsn = first_seq, "skipped a journal record that was readable when it arrived");
            Vec::new()
        }
    }
}

/// Makes documents of a request as the journal gives it back, where it must be readable: for fuzzing.
pub fn fuzz_export(request: &ExportLogsServiceRequest) {
    let payload = request.encode_to_vec();
    assert!(ExportLogsServiceRequest::decode(payload.as_slice()).is_ok(), "was taken and cannot be read");
    documents(&payload, 0, 0);
}

fn document(placed: Placed) -> Document {
    let Placed { time_ns, seq, record } = placed;
    let mut document = Document::new(time_ns, seq);
    document.source = serde_json::to_vec(&record).unwrap_or_default();
    let LogRecord { level, service, host, job, attempt, queue, trace_id, span_id, scope, event, body, .. } = record;
    let values = [level, service, host, job, attempt, queue, trace_id, span_id, scope, event];
    for (name, value) in KEYWORDS.iter().zip(values) {
        if let Some(value) = value {
            document.add(*name, Value::Keyword(value));
        }
    }
    if let Some(severity) = record.severity {
        document.add(SEVERITY, Value::Number(f64::from(severity)));
    }
    document.add(BODY, Value::Text(body));
    index_all(&record.attributes, &mut document, RESERVED);
    let mut resource = record.resource;
    resource.retain(|name, _| !record.attributes.contains_key(name));
    index_all(&resource, &mut document, RESERVED);
    document
}
