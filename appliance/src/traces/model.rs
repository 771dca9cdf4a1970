//! A span: OTLP's, with the names that this house recognises.

use backlot_windows::clip;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span as OtlpSpan, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::signals::attributes::{Attributes, Origin, id};

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
    /// The library that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
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

/// The spans of a request; `None` stands for one without valid ids.
pub(super) fn spans(request: &ExportTraceServiceRequest) -> Vec<Option<Span>> {
    let mut made = Vec::new();
    for group in &request.resource_spans {
        let resource = Attributes::of_resource(group.resource.as_ref());
        for scoped in &group.scope_spans {
            let name = scoped.scope.as_ref().map(|scope| clip(&scope.name, NAME_BYTES_MAX));
            let scope = name.filter(|name| !name.is_empty());
            made.extend(scoped.spans.iter().map(|span| plain(span, scope, &resource)));
        }
    }
    made
}

/// Whether the span says which one it is.
pub(super) fn is_valid(span: &OtlpSpan) -> bool {
    id(&span.trace_id, 16).is_some() && id(&span.span_id, 8).is_some()
}

fn plain(span: &OtlpSpan, scope: Option<&str>, resource: &Attributes) -> Option<Span> {
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
        scope: scope.map(str::to_owned),
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
