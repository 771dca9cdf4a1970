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

use std::sync::Arc;

use backlot_windows::{Document, Position, Shared, Value};
use prost::Message as _;

use serde_json::Map;
use sha2::{Digest as _, Sha256};

use super::cloudwatch::{INGESTED, ORIGINAL};
use super::model::{LogRecord, Placed, Said, id_of, records};
use super::pattern;
use crate::edge::otlp::ExportLogsServiceRequest;
use crate::signals::attributes::index_all;
use crate::signals::rfc3339_ns;

/// Names that are found as a whole, and whose values are counted exactly.
pub(super) const KEYWORDS: &[&str] =
    &["level", "service", "host", "job", "attempt", "queue", "trace", "scope", "event", PATTERN, STREAM];
/// Of these, one window of many has what is asked for.
pub(super) const FILTERED: &[&str] = &["trace", "job", "attempt"];
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
    let request = match ExportLogsServiceRequest::decode(payload) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%error, lsn = first_seq, "skipped a journal record that was readable when it arrived");
            return Vec::new();
        }
    };
    let mut made = Vec::new();
    for Said { author, records } in records(&request, first_seq, arrived_ms) {
        let known = Known::of(author.resource);
        made.extend(records.into_iter().map(|placed| document(placed, &known)));
    }
    made
}

/// Makes documents of a request as the journal gives it back, where it must be readable: for fuzzing.
pub fn fuzz_export(request: &ExportLogsServiceRequest) {
    let payload = request.encode_to_vec();
    assert!(ExportLogsServiceRequest::decode(payload.as_slice()).is_ok(), "was taken and cannot be read");
    documents(&payload, 0, 0);
}

/// What the records of one author have alike, made once.
struct Known {
    resource: Map<String, serde_json::Value>,
    /// As it ends the source of each: `,"resource":{…}}`.
    ending: Vec<u8>,
    shared: Arc<Shared>,
}

impl Known {
    fn of(resource: Map<String, serde_json::Value>) -> Self {
        let mut ending = b"}".to_vec();
        if !resource.is_empty() {
            ending = [br#","resource":"#, serde_json::to_vec(&resource).unwrap_or_default().as_slice(), b"}"].concat();
        }
        let mut document = Document::default();
        document.add(STREAM, Value::Keyword(stream_of(&resource)));
        index_all(&resource, &mut document, RESERVED);
        Self { resource, ending, shared: Arc::new(Shared::from(document)) }
    }
}

fn document(placed: Placed, known: &Known) -> Document {
    let Placed { time_ns, seq, record } = placed;
    let mut source = serde_json::to_vec(&record).unwrap_or_default();
    source.pop(); // the closing brace; there is a body before it, so a comma is right
    source.extend_from_slice(&known.ending);
    let mut document = Document::new(time_ns, seq);
    document.source = source;
    // What a record says of itself hides what its resource says under the same name.
    if known.resource.keys().any(|name| record.attributes.contains_key(name)) {
        describe(LogRecord { resource: known.resource.clone(), ..record }, &mut document);
    } else {
        describe_own(record, &mut document);
        document.share(Arc::clone(&known.shared));
    }
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

fn describe(mut record: LogRecord, document: &mut Document) {
    let mut resource = std::mem::take(&mut record.resource);
    document.add(STREAM, Value::Keyword(stream_of(&resource)));
    resource.retain(|name, _| !record.attributes.contains_key(name));
    describe_own(record, document);
    index_all(&resource, document, RESERVED);
}

/// All but what the resource says.
fn describe_own(record: LogRecord, document: &mut Document) {
    let pattern = pattern::key(&record.body);
    let LogRecord { level, service, host, job, attempt, queue, trace_id, scope, event, body, .. } = record;
    let values = [level, service, host, job, attempt, queue, trace_id, scope, event, Some(pattern)];
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
