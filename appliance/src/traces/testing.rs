//! Spans for tests.

use super::model::Span;

pub(super) fn span(span_id: &str, parent: Option<&str>, start_ns: u64, end_ns: u64) -> Span {
    Span {
        span_id: span_id.into(),
        parent_span_id: parent.map(str::to_owned),
        service: Some("agent".into()),
        start_ns,
        end_ns,
        duration_ns: end_ns.saturating_sub(start_ns),
        ..Span::default()
    }
}
