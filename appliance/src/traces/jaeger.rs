//! A trace as Jaeger's clients read it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::model::{Span, SpanEvent};
use super::trace::Trace;

/// What a span's service is called that has none.
pub(super) const SERVICE_UNKNOWN: &str = "unknown_service";

#[derive(Serialize)]
pub(super) struct JaegerTrace {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<JaegerSpan>,
    processes: BTreeMap<String, Process>,
    warnings: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JaegerSpan {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    flags: u8,
    operation_name: String,
    references: Vec<Reference>,
    /// Microseconds since 1970.
    start_time: u64,
    /// Microseconds.
    duration: u64,
    tags: Vec<Tag>,
    logs: Vec<Log>,
    #[serde(rename = "processID")]
    process_id: String,
    warnings: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Reference {
    #[serde(rename = "refType")]
    kind: &'static str,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Serialize)]
struct Tag {
    key: String,
    #[serde(rename = "type")]
    kind: &'static str,
    value: Value,
}

#[derive(Serialize)]
struct Log {
    /// Microseconds since 1970.
    timestamp: u64,
    fields: Vec<Tag>,
}

#[derive(PartialEq)]
struct Origin<'a>(Option<&'a str>, &'a Map<String, Value>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
    tags: Vec<Tag>,
}

impl Tag {
    fn new(key: &str, value: &Value) -> Self {
        let (kind, value) = match value {
            Value::Bool(_) => ("bool", value.clone()),
            Value::Number(number) if number.is_f64() => ("float64", value.clone()),
            Value::Number(_) => ("int64", value.clone()),
            Value::String(_) => ("string", value.clone()),
            other => ("string", Value::from(other.to_string())),
        };
        Self { key: key.to_owned(), kind, value }
    }

    fn text(key: &str, text: &str) -> Self {
        Self::new(key, &Value::from(text))
    }

    fn all(values: &Map<String, Value>) -> impl Iterator<Item = Self> {
        values.iter().map(|(key, value)| Self::new(key, value))
    }
}

impl JaegerTrace {
    pub(super) fn of(trace: &Trace) -> Self {
        // Spans of one resource share a process. There are few resources, so they are compared one by one.
        let mut origins: Vec<Origin<'_>> = Vec::new();
        let mut spans = Vec::with_capacity(trace.spans.len());
        for span in &trace.spans {
            let origin = Origin(span.service.as_deref(), &span.resource);
            let known = origins.iter().rposition(|known| *known == origin);
            let number = known.unwrap_or_else(|| {
                origins.push(origin);
                origins.len() - 1
            });
            spans.push(span_of(trace, span, process_id(number)));
        }
        let processes = origins.into_iter().enumerate().map(|(number, Origin(service, resource))| {
            let tags = Tag::all(resource).filter(|tag| tag.key != "service.name");
            let service_name = service.unwrap_or(SERVICE_UNKNOWN).to_owned();
            (process_id(number), Process { service_name, tags: tags.collect() })
        });
        let cut = format!("the trace has more than these {} spans", trace.spans.len());
        Self {
            trace_id: trace.trace_id.clone(),
            processes: processes.collect(),
            warnings: trace.truncated.then(|| vec![cut]),
            spans,
        }
    }
}

fn process_id(number: usize) -> String {
    format!("p{}", number + 1)
}

fn span_of(trace: &Trace, span: &Span, process_id: String) -> JaegerSpan {
    let mut references = Vec::with_capacity(1 + span.links.len());
    references.extend(span.parent_span_id.as_ref().map(|parent| Reference {
        kind: "CHILD_OF",
        trace_id: span.trace_id.clone(),
        span_id: parent.clone(),
    }));
    references.extend(span.links.iter().map(|link| Reference {
        kind: "FOLLOWS_FROM",
        trace_id: link.trace_id.clone(),
        span_id: link.span_id.clone(),
    }));
    JaegerSpan {
        trace_id: span.trace_id.clone(),
        span_id: span.span_id.clone(),
        flags: 1, // it was sampled, or it would not be here
        operation_name: span.name.clone(),
        references,
        start_time: span.start_ns / 1_000,
        duration: span.duration_ns / 1_000,
        tags: tags(span),
        logs: span.events.iter().map(log).collect(),
        process_id,
        warnings: warnings(trace, span),
    }
}

/// The attributes, and what OpenTelemetry has beside them.
fn tags(span: &Span) -> Vec<Tag> {
    let mut tags: Vec<_> = Tag::all(&span.attributes).collect();
    tags.push(Tag::text("span.kind", &span.kind));
    if let Some(scope) = &span.scope {
        tags.push(Tag::text("otel.scope.name", scope));
    }
    match span.status.code.as_str() {
        "error" => {
            tags.push(Tag::text("otel.status_code", "ERROR"));
            if !span.attributes.contains_key("error") {
                tags.push(Tag::new("error", &Value::Bool(true)));
            }
        }
        "ok" => tags.push(Tag::text("otel.status_code", "OK")),
        _ => {}
    }
    if !span.status.message.is_empty() {
        tags.push(Tag::text("otel.status_description", &span.status.message));
    }
    tags
}

fn log(event: &SpanEvent) -> Log {
    let mut fields = Vec::with_capacity(1 + event.attributes.len());
    if !event.name.is_empty() && !event.attributes.contains_key("event") {
        fields.push(Tag::text("event", &event.name));
    }
    fields.extend(Tag::all(&event.attributes));
    Log { timestamp: event.time_ns / 1_000, fields }
}

fn warnings(trace: &Trace, span: &Span) -> Option<Vec<String>> {
    let mut warnings = Vec::new();
    if let Some(parent) = span.parent_span_id.as_ref().filter(|parent| trace.missing.contains(*parent)) {
        warnings.push(format!("its parent {parent} is not here: lost, not sampled, or still running"));
    }
    if trace.cyclic.contains(&span.span_id) {
        warnings.push("it is its own forebear".to_owned());
    }
    if let Some(shift_ns) = trace.skew_ns.get(&span.span_id) {
        let ms = *shift_ns as f64 / 1e6;
        warnings.push(format!("began before what called it: the clock of its host seems to be {ms:.3} ms behind"));
    }
    if span.dropped > 0 {
        warnings.push(format!("{} attributes, events or links were left out or cut", span.dropped));
    }
    (!warnings.is_empty()).then_some(warnings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::SpanLink;
    use super::super::testing::span;
    use super::*;

    #[test]
    fn a_trace_is_told_in_jaegers_shape() {
        let mut root = span("a1", None, 5_000_000, 9_000_000);
        root.name = "attempt".into();
        root.kind = "consumer".into();
        root.status.code = "error".into();
        root.status.message = "out of memory".into();
        root.scope = Some("render".into());
        root.attributes = json!({"gpu": 3, "share": 0.5, "tiled": true, "sizes": [1, 2]}).as_object().unwrap().clone();
        root.resource = json!({"service.name": "agent", "host.name": "gpu-7"}).as_object().unwrap().clone();
        root.events = vec![SpanEvent {
            time_ns: 6_000_500,
            name: "exception".into(),
            attributes: json!({"exception.type": "MemoryError"}).as_object().unwrap().clone(),
        }];
        root.links = vec![SpanLink { trace_id: "other".into(), span_id: "b2".into(), attributes: Map::new() }];
        root.dropped = 2;
        let orphan = span("c3", Some("gone"), 6_000_000, 6_000_900);
        let trace = Trace::of("t", vec![root, orphan], false);
        let told = serde_json::to_value(JaegerTrace::of(&trace)).unwrap();
        assert_eq!(
            told["spans"][0],
            json!({
                "traceID": "", "spanID": "a1", "flags": 1, "operationName": "attempt", "startTime": 5000, "duration": 4000,
                "references": [{"refType": "FOLLOWS_FROM", "traceID": "other", "spanID": "b2"}],
                "tags": [
                    {"key": "gpu", "type": "int64", "value": 3},
                    {"key": "share", "type": "float64", "value": 0.5},
                    {"key": "sizes", "type": "string", "value": "[1,2]"},
                    {"key": "tiled", "type": "bool", "value": true},
                    {"key": "span.kind", "type": "string", "value": "consumer"},
                    {"key": "otel.scope.name", "type": "string", "value": "render"},
                    {"key": "otel.status_code", "type": "string", "value": "ERROR"},
                    {"key": "error", "type": "bool", "value": true},
                    {"key": "otel.status_description", "type": "string", "value": "out of memory"},
                ],
                "logs": [{"timestamp": 6000, "fields": [
                    {"key": "event", "type": "string", "value": "exception"},
                    {"key": "exception.type", "type": "string", "value": "MemoryError"},
                ]}],
                "processID": "p1", "warnings": ["2 attributes, events or links were left out or cut"],
            })
        );
        assert_eq!(told["spans"][1]["references"][0]["refType"], "CHILD_OF");
        assert!(told["spans"][1]["warnings"][0].as_str().unwrap().contains("gone"));
        assert_eq!(told["spans"][1]["processID"], "p2");
        assert_eq!(
            told["processes"]["p1"],
            json!({"serviceName": "agent", "tags": [{"key": "host.name", "type": "string", "value": "gpu-7"}]})
        );
        assert_eq!((&told["warnings"], &told["traceID"]), (&Value::Null, &json!("t")));
    }
}
