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
use super::model::{Author, LogRecord, Placed, Said, id_of, records};
use super::pattern;
use crate::edge::otlp::ExportLogsServiceRequest;
use crate::signals::attributes::{Origin, index_one};
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

/// The field that an attribute of this name says, where that is another name of it: what it says is found by the field, under either name.
pub(super) fn field_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "service.name" | "service_name" => "service",
        "host.name" | "host_name" | "hostname" => "host",
        "job.id" | "job_id" | "backlot.job" => "job",
        "attempt.id" | "attempt_id" | "job.attempt" | "backlot.attempt" => "attempt",
        "messaging.destination.name" | "backlot.queue" => "queue",
        _ => return None,
    })
}

/// What the source of a record has beside its body and its resource, most times.
const SOURCE_BYTES: usize = 512;

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
        let known = Known::of(author);
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
    origin: Origin,
    /// As it ends the source of each: `,"resource":{…}}`.
    ending: Vec<u8>,
    shared: Arc<Shared>,
}

impl Known {
    fn of(Author { resource, origin, .. }: Author) -> Self {
        let mut ending = b"}".to_vec();
        if !resource.is_empty() {
            ending = [br#","resource":"#, serde_json::to_vec(&resource).unwrap_or_default().as_slice(), b"}"].concat();
        }
        let mut document = Document::default();
        document.add(STREAM, Value::Keyword(stream_of(&resource)));
        index_attributes(&resource, &origin, &mut document);
        Self { resource, origin, ending, shared: Arc::new(Shared::from(document)) }
    }

    /// Whether `record` says of itself what its resource says otherwise.
    fn is_hidden_by(&self, record: &LogRecord) -> bool {
        let Origin { service, host, job, attempt, queue } = &self.origin;
        let differs = |said: &Option<String>, own: &Option<String>| said.is_some() && said != own;
        differs(service, &record.service)
            || differs(host, &record.host)
            || differs(job, &record.job)
            || differs(attempt, &record.attempt)
            || differs(queue, &record.queue)
            || self.resource.keys().any(|name| record.attributes.contains_key(name))
    }
}

fn document(placed: Placed, known: &Known) -> Document {
    let Placed { time_ns, seq, record } = placed;
    let mut source = Vec::with_capacity(SOURCE_BYTES + record.body.len() + known.ending.len());
    if serde_json::to_writer(&mut source, &record).is_err() {
        source = b"{\"body\":\"\"}".to_vec(); // never: all of it is text, and a vector takes what it is given
    }
    source.pop(); // the closing brace; there is a body before it, so a comma is right
    source.extend_from_slice(&known.ending);
    let mut document = Document::new(time_ns, seq);
    document.source = source;
    if known.is_hidden_by(&record) {
        describe(LogRecord { resource: known.resource.clone(), ..record }, &mut document);
    } else {
        describe_own(record, &Map::new(), &mut document);
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
    describe_own(record, &resource, document);
}

/// All attributes but those that say what `origin` says.
fn index_attributes(attributes: &Map<String, serde_json::Value>, origin: &Origin, document: &mut Document) {
    for (name, value) in attributes {
        let field = field_of(name).and_then(|field| origin.said(field));
        if field.is_none_or(|said| value.as_str() != Some(said)) {
            index_one(name, value, document, RESERVED);
        }
    }
}

/// A record, and `resource` beside it.
fn describe_own(record: LogRecord, resource: &Map<String, serde_json::Value>, document: &mut Document) {
    document.reserve(KEYWORDS.len() + 3 + record.attributes.len());
    let pattern = pattern::key(&record.body);
    let LogRecord { level, service, host, job, attempt, queue, trace_id, scope, event, body, .. } = record;
    let origin = Origin { service, host, job, attempt, queue };
    let mut attributes = record.attributes;
    // The line as it was sent says nothing that the rest does not; but that it is there can be asked.
    if let Some(original) = attributes.get_mut(ORIGINAL) {
        *original = serde_json::Value::Bool(true);
    }
    attributes.remove(INGESTED);
    index_attributes(&attributes, &origin, document);
    index_attributes(resource, &origin, document);
    let Origin { service, host, job, attempt, queue } = origin;
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
