//! By what a log record is found.
//!
//! | name | how |
//! | --- | --- |
//! | level, service, host, job, attempt, queue, trace, span, scope, event, stream, pattern | as a whole, or by its beginning |
//! | severity | number |
//! | body | words and phrases |
//! | any attribute, under its dotted name | words and phrases; numbers by range |
//!
//! What is stored of a record is its JSON without the id and the time, which the document has anyway ([`answer`] puts them back).

use backlot_windows::{Document, Position, Value};
use prost::Message as _;

use serde_json::Map;
use sha2::{Digest as _, Sha256};

use super::cloudwatch::{INGESTED, ORIGINAL};
use super::model::{LogRecord, Placed, id_of, records};
use super::pattern;
use crate::edge::otlp::ExportLogsServiceRequest;
use crate::signals::attributes::index_all;
use crate::signals::rfc3339_ns;

/// Names that are found as a whole, and whose values are counted exactly.
pub(super) const KEYWORDS: &[&str] =
    &["level", "service", "host", "job", "attempt", "queue", "trace", "scope", "event", STREAM, PATTERN];
/// About every record has one of its own.
pub(super) const SPAN: &str = "span";
pub(super) const SEVERITY: &str = "severity";
pub(super) const BODY: &str = "body";
/// Who wrote it: the same for records of the same resource.
pub(super) const STREAM: &str = "stream";
/// What it says but for numbers and ids.
pub(super) const PATTERN: &str = "pattern";
/// Names that an attribute cannot take.
pub(super) const RESERVED: &[&str] = &[
    "level", "service", "host", "job", "attempt", "queue", "trace", "span", "scope", "event", "severity", "body",
    "stream", "pattern",
];

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
    let Placed { time_ns, seq, mut record } = placed;
    (record.id, record.time) = (String::new(), String::new()); // not stored: see `answer`
    let source = serde_json::to_vec(&record).unwrap_or_default();
    let mut document = Document::new(time_ns, seq);
    describe(record, &mut document);
    document.source = source;
    document
}

/// A stored record as it is found.
pub(super) fn read(source: &[u8]) -> Document {
    let mut document = Document::default();
    match serde_json::from_slice(source) {
        Ok(record) => describe(record, &mut document),
        Err(error) => tracing::error!(%error, "a stored log record does not read"),
    }
    document
}

/// A stored record as it is answered: a JSON object.
pub(super) fn answer(position: Position, source: &[u8]) -> Option<String> {
    let stored = std::str::from_utf8(source).ok()?;
    let rest = stored.strip_prefix('{')?;
    let comma = if rest.starts_with('}') { "" } else { "," };
    let (id, time) = (id_of(position.seq), rfc3339_ns(position.time_ns));
    Some(format!(r#"{{"id":"{id}","time":"{time}"{comma}{rest}"#))
}

fn describe(record: LogRecord, document: &mut Document) {
    let stream = stream_of(&record.resource);
    let pattern = pattern::key(&record.body);
    let LogRecord { level, service, host, job, attempt, queue, trace_id, scope, event, body, .. } = record;
    let values = [level, service, host, job, attempt, queue, trace_id, scope, event, Some(stream), Some(pattern)];
    for (name, value) in KEYWORDS.iter().zip(values) {
        if let Some(value) = value {
            document.add(*name, Value::Keyword(value));
        }
    }
    if let Some(span) = record.span_id {
        document.add(SPAN, Value::Id(span));
    }
    if let Some(severity) = record.severity {
        document.add(SEVERITY, Value::Number(f64::from(severity)));
    }
    document.add(BODY, Value::Text(body));
    let mut attributes = record.attributes;
    // The line as it was sent says nothing that the rest does not; but that it is there can be asked.
    if let Some(original) = attributes.get_mut(ORIGINAL) {
        *original = serde_json::Value::Bool(true);
    }
    attributes.remove(INGESTED);
    index_all(&attributes, document, RESERVED);
    let mut resource = record.resource;
    resource.retain(|name, _| !attributes.contains_key(name));
    index_all(&resource, document, RESERVED);
}

/// A short name of a resource, the same for the same attributes.
fn stream_of(resource: &Map<String, serde_json::Value>) -> String {
    let mut names: Vec<_> = resource.iter().collect();
    names.sort_by_key(|(name, _)| name.as_str());
    let mut hash = Sha256::new();
    for (name, value) in names {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(value.to_string().as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..6])
}
