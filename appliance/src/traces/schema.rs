//! By what a span is found.
//!
//! | name | how |
//! | --- | --- |
//! | trace, name, kind, status, service, host, job, attempt, queue, scope, event, link | as a whole, or by its beginning |
//! | span, parent | the same |
//! | duration | number, in nanoseconds |
//! | text | bare words: name, status message, exceptions |
//! | any attribute of the span, its events and its resource, under its dotted name | words and phrases; numbers by range |
//!
//! `link` holds the traces that a span links to, so that a trace can be asked who links to it. Service, kind and name of a span stand together
//! in one more keyword ([`Operation`]): the operations of all services are a walk over its few values.

use std::collections::BTreeSet;

use backlot_windows::{Document, Value as Indexed};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

use super::model::{Span, spans};
use crate::signals::attributes::index_all;

/// Names that are found as a whole, and whose values are counted exactly.
pub(super) const KEYWORDS: &[&str] =
    &[TRACE, NAME, KIND, STATUS, SERVICE, "host", JOB, "attempt", "queue", "scope", "event", LINK];
pub(super) const TRACE: &str = "trace";
pub(super) const NAME: &str = "name";
pub(super) const KIND: &str = "kind";
pub(super) const STATUS: &str = "status";
pub(super) const SERVICE: &str = "service";
pub(super) const JOB: &str = "job";
/// The traces that a span links to.
pub(super) const LINK: &str = "link";
/// Of these, one window of many has what is asked for.
pub(super) const FILTERED: &[&str] = &[TRACE, LINK, JOB, "attempt"];
/// About every span has one of its own.
pub(super) const IDS: &[&str] = &["span", PARENT];
pub(super) const PARENT: &str = "parent";
/// In nanoseconds.
pub(super) const DURATION: &str = "duration_ns";
/// Where bare words are looked for.
pub(super) const TEXT: &str = "text";
/// See [`Operation`]. No attribute has a name with a space and a slash by chance.
pub(super) const OPERATION: &str = "service / operation";
/// Names that an attribute cannot take.
pub(super) const RESERVED: &[&str] = &[
    TRACE,
    NAME,
    KIND,
    STATUS,
    SERVICE,
    "host",
    JOB,
    "attempt",
    "queue",
    "scope",
    "event",
    LINK,
    "span",
    PARENT,
    DURATION,
    TEXT,
    OPERATION,
    "duration",
    "operation",
    "root",
];
/// Most attributes of a span's events that it is found by.
const EVENT_ATTRIBUTES_MAX: usize = 128;
/// Separates the parts of an operation.
const SEPARATOR: char = '\u{1}';

/// What a service does: the name and kind of some of its spans.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub service: String,
    pub name: String,
    pub kind: String,
}

impl Operation {
    fn key(service: &str, kind: &str, name: &str) -> String {
        format!("{}{SEPARATOR}{kind}{SEPARATOR}{name}", service.replace(SEPARATOR, " "))
    }

    /// Reads what [`OPERATION`] holds. A service's name that fills a keyword alone has no operations.
    pub(super) fn of(key: &str) -> Option<Self> {
        let mut parts = key.splitn(3, SEPARATOR).map(str::to_owned);
        let (service, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { service, name, kind })
    }
}

/// The documents of one record of the telemetry journal.
pub(super) fn documents(payload: &[u8], first_seq: u64, _arrived_ms: u64) -> Vec<Document> {
    match ExportTraceServiceRequest::decode(payload) {
        Ok(request) => {
            let spans = spans(&request).into_iter().zip(first_seq..);
            spans.filter_map(|(span, seq)| span.map(|span| document(&span, seq))).collect()
        }
        Err(error) => {
            tracing::error!(%error, lsn = first_seq, "skipped a journal record that was readable when it arrived");
            Vec::new()
        }
    }
}

/// Makes documents of a request as the journal gives it back, where it must be readable: for fuzzing.
pub fn fuzz_export(request: &ExportTraceServiceRequest) {
    let payload = request.encode_to_vec();
    assert!(ExportTraceServiceRequest::decode(payload.as_slice()).is_ok(), "was taken and cannot be read");
    documents(&payload, 0, 0);
}

/// A stored span as it is found.
pub(super) fn read(source: &[u8]) -> Document {
    match serde_json::from_slice(source) {
        Ok(span) => described(&span, 0),
        Err(error) => {
            tracing::error!(%error, "a stored span does not read");
            Document::default()
        }
    }
}

fn document(span: &Span, seq: u64) -> Document {
    let mut document = described(span, seq);
    document.source = serde_json::to_vec(span).unwrap_or_default();
    document
}

/// A span as it is found, without its source.
fn described(span: &Span, seq: u64) -> Document {
    let mut document = Document::new(i64::try_from(span.start_ns).unwrap_or(i64::MAX), seq);
    let whole = [
        (TRACE, Some(&span.trace_id)),
        (NAME, Some(&span.name)),
        (KIND, Some(&span.kind)),
        (STATUS, Some(&span.status.code)),
        (SERVICE, span.service.as_ref()),
        ("host", span.host.as_ref()),
        (JOB, span.job.as_ref()),
        ("attempt", span.attempt.as_ref()),
        ("queue", span.queue.as_ref()),
        ("scope", span.scope.as_ref()),
    ];
    for (name, value) in whole {
        if let Some(value) = value {
            document.add(name, Indexed::Keyword(value.clone()));
        }
    }
    document.add("span", Indexed::Id(span.span_id.clone()));
    if let Some(parent) = &span.parent_span_id {
        document.add(PARENT, Indexed::Id(parent.clone()));
    }
    if let Some(service) = &span.service {
        document.add(OPERATION, Indexed::Keyword(Operation::key(service, &span.kind, &span.name)));
    }
    for linked in span.links.iter().map(|link| link.trace_id.as_str()).collect::<BTreeSet<_>>() {
        document.add(LINK, Indexed::Keyword(linked.to_owned()));
    }
    document.add(DURATION, Indexed::Number(span.duration_ns as f64));
    document.add(TEXT, Indexed::Text(span.name.clone()));
    if !span.status.message.is_empty() {
        document.add(TEXT, Indexed::Text(span.status.message.clone()));
    }
    index_all(&span.attributes, &mut document, RESERVED);
    index_events(span, &mut document);
    let mut resource = span.resource.clone();
    resource.retain(|name, _| !span.attributes.contains_key(name));
    index_all(&resource, &mut document, RESERVED);
    document
}

fn index_events(span: &Span, document: &mut Document) {
    for name in span.events.iter().map(|event| event.name.as_str()).collect::<BTreeSet<_>>() {
        document.add("event", Indexed::Keyword(name.to_owned()));
    }
    let mut room = EVENT_ATTRIBUTES_MAX;
    for event in &span.events {
        if event.attributes.len() > room {
            break;
        }
        room -= event.attributes.len();
        index_all(&event.attributes, document, RESERVED);
        for name in ["exception.type", "exception.message"] {
            if let Some(text) = event.attributes.get(name).and_then(|value| value.as_str()) {
                document.add(TEXT, Indexed::Text(text.to_owned()));
            }
        }
    }
}
