//! A span: OTLP's, with the names that this house recognises; and a trace put together from spans.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use backlot_windows::{Document, Value as Indexed, clip};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span as OtlpSpan, Status};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::signals::attributes::{Attributes, Origin, id, index_all};

/// Most events and most links of one span that are kept.
const PARTS_MAX: usize = 128;
const NAME_BYTES_MAX: usize = 512;
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// One span as the API answers it. Moments are nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    pub name: String,
    /// internal, server, client, producer, consumer.
    pub kind: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub duration_ns: u64,
    pub status: SpanStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub resource: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<SpanEvent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<SpanLink>,
    /// Attributes, events and links that were left out or cut, by the sender or here.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropped: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands in references")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanStatus {
    /// unset, ok, error.
    pub code: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Default for SpanStatus {
    fn default() -> Self {
        Self { code: "unset".to_owned(), message: String::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanEvent {
    pub time_ns: u64,
    pub name: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpanLink {
    pub trace_id: String,
    pub span_id: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
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

/// The spans of a request; `None` stands for one without valid ids.
pub(super) fn spans(request: &ExportTraceServiceRequest) -> Vec<Option<Span>> {
    let mut made = Vec::new();
    for group in &request.resource_spans {
        let resource = Attributes::of_resource(group.resource.as_ref());
        made.extend(group.scope_spans.iter().flat_map(|scoped| &scoped.spans).map(|span| plain(span, &resource)));
    }
    made
}

/// Whether the span says which one it is.
pub(super) fn is_valid(span: &OtlpSpan) -> bool {
    id(&span.trace_id, 16).is_some() && id(&span.span_id, 8).is_some()
}

fn plain(span: &OtlpSpan, resource: &Attributes) -> Option<Span> {
    let own = Attributes::of(&span.attributes, span.dropped_attributes_count);
    let origin = Origin::of(&own, resource);
    let mut dropped = own.dropped.saturating_add(span.dropped_events_count).saturating_add(span.dropped_links_count);
    let mut over = |length: usize| {
        dropped = dropped.saturating_add(u32::try_from(length.saturating_sub(PARTS_MAX)).unwrap_or(u32::MAX));
    };
    over(span.events.len());
    over(span.links.len());
    let events = span.events.iter().take(PARTS_MAX).map(|event| SpanEvent {
        time_ns: event.time_unix_nano,
        name: clip(&event.name, NAME_BYTES_MAX).to_owned(),
        attributes: Attributes::of(&event.attributes, 0).values,
    });
    let links = span.links.iter().take(PARTS_MAX).filter_map(|link| {
        let attributes = Attributes::of(&link.attributes, 0).values;
        Some(SpanLink { trace_id: id(&link.trace_id, 16)?, span_id: id(&link.span_id, 8)?, attributes })
    });
    Some(Span {
        trace_id: id(&span.trace_id, 16)?,
        span_id: id(&span.span_id, 8)?,
        parent_span_id: id(&span.parent_span_id, 8),
        name: clip(&span.name, NAME_BYTES_MAX).to_owned(),
        kind: kind(span.kind).to_owned(),
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        duration_ns: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
        status: span.status.as_ref().map(status).unwrap_or_default(),
        service: origin.service,
        host: origin.host,
        job: origin.job,
        attempt: origin.attempt,
        queue: origin.queue,
        events: events.collect(),
        links: links.collect(),
        attributes: own.values,
        resource: resource.values.clone(),
        dropped,
    })
}

fn kind(number: i32) -> &'static str {
    match SpanKind::try_from(number) {
        Ok(SpanKind::Server) => "server",
        Ok(SpanKind::Client) => "client",
        Ok(SpanKind::Producer) => "producer",
        Ok(SpanKind::Consumer) => "consumer",
        _ => "internal",
    }
}

fn status(status: &Status) -> SpanStatus {
    let code = match StatusCode::try_from(status.code) {
        Ok(StatusCode::Ok) => "ok",
        Ok(StatusCode::Error) => "error",
        _ => "unset",
    };
    SpanStatus { code: code.to_owned(), message: clip(&status.message, MESSAGE_BYTES_MAX).to_owned() }
}

/// Names that an attribute cannot take.
const RESERVED: &[&str] =
    &["trace", "span", "parent", "name", "kind", "status", "duration", "service", "host", "job", "attempt", "queue"];

/// A stored span as it is found.
pub(super) fn read(source: &[u8]) -> Document {
    match serde_json::from_slice(source) {
        Ok(span) => document(&span, 0),
        Err(error) => {
            tracing::error!(%error, "a stored span does not read");
            Document::default()
        }
    }
}

fn document(span: &Span, seq: u64) -> Document {
    let mut document = Document::new(i64::try_from(span.start_ns).unwrap_or(i64::MAX), seq);
    document.source = serde_json::to_vec(span).unwrap_or_default();
    let whole = [
        ("trace", Some(&span.trace_id)),
        ("span", Some(&span.span_id)),
        ("parent", span.parent_span_id.as_ref()),
        ("name", Some(&span.name)),
        ("kind", Some(&span.kind)),
        ("status", Some(&span.status.code)),
        ("service", span.service.as_ref()),
        ("host", span.host.as_ref()),
        ("job", span.job.as_ref()),
        ("attempt", span.attempt.as_ref()),
        ("queue", span.queue.as_ref()),
    ];
    for (name, value) in whole {
        if let Some(value) = value {
            document.add(name, Indexed::Keyword(value.clone()));
        }
    }
    document.add("duration", Indexed::Number(span.duration_ns as f64 / 1e6));
    index_all(&span.attributes, &mut document, RESERVED);
    document
}

/// A whole trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub trace_id: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub services: BTreeSet<String>,
    /// Earliest first; a parent before its children where they began together.
    pub spans: Vec<Span>,
    /// Parents that spans name and that are not there (yet): lost, not sampled, or still running.
    pub missing: BTreeSet<String>,
    /// There are more spans than are answered.
    pub truncated: bool,
}

impl Trace {
    /// Puts the spans together. One that was sent twice counts once.
    #[must_use]
    pub fn of(trace_id: &str, mut spans: Vec<Span>, truncated: bool) -> Self {
        let mut seen = HashSet::new();
        spans.retain(|span| seen.insert(span.span_id.clone()));
        spans.sort_by_key(|span| (span.start_ns, std::cmp::Reverse(span.end_ns)));
        let missing = spans.iter().filter_map(|span| span.parent_span_id.clone()).filter(|id| !seen.contains(id));
        Self {
            trace_id: trace_id.to_owned(),
            start_ns: spans.iter().map(|span| span.start_ns).min().unwrap_or(0),
            end_ns: spans.iter().map(|span| span.end_ns).max().unwrap_or(0),
            services: spans.iter().filter_map(|span| span.service.clone()).collect(),
            missing: missing.collect(),
            spans,
            truncated,
        }
    }

    /// What a list shows of it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let root = self.spans.iter().find(|span| span.parent_span_id.is_none()).or_else(|| self.spans.first());
        let mut spans_by_service = BTreeMap::new();
        for service in self.spans.iter().filter_map(|span| span.service.clone()) {
            *spans_by_service.entry(service).or_insert(0) += 1;
        }
        Summary {
            trace_id: self.trace_id.clone(),
            name: root.map(|span| span.name.clone()).unwrap_or_default(),
            service: root.and_then(|span| span.service.clone()),
            job: self.spans.iter().find_map(|span| span.job.clone()),
            start_ns: self.start_ns,
            duration_ns: self.end_ns.saturating_sub(self.start_ns),
            spans: self.spans.len(),
            errors: self.spans.iter().filter(|span| span.status.code == "error").count(),
            spans_by_service,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub trace_id: String,
    /// Of the root, or of the earliest span while the root is missing.
    pub name: String,
    pub service: Option<String>,
    pub job: Option<String>,
    pub start_ns: u64,
    pub duration_ns: u64,
    pub spans: usize,
    pub errors: usize,
    pub spans_by_service: BTreeMap<String, usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(span_id: &str, parent: Option<&str>, start_ns: u64, end_ns: u64) -> Span {
        Span {
            span_id: span_id.into(),
            parent_span_id: parent.map(str::to_owned),
            service: Some("agent".into()),
            start_ns,
            end_ns,
            ..Span::default()
        }
    }

    #[test]
    fn a_trace_names_the_parents_that_are_not_there_and_counts_a_resent_span_once() {
        let spans = vec![
            span("c", Some("b"), 5, 6),
            span("b", Some("a"), 1, 9),
            span("d", Some("gone"), 2, 3),
            span("b", Some("a"), 1, 9),
        ];
        let trace = Trace::of("t", spans, false);
        assert_eq!(trace.spans.iter().map(|span| span.span_id.as_str()).collect::<Vec<_>>(), ["b", "d", "c"]);
        assert_eq!(trace.missing.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "gone"]);
        assert_eq!((trace.start_ns, trace.end_ns, trace.summary().spans), (1, 9, 3));
    }
}
