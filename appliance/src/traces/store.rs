//! Finding spans, whole traces, and the newest traces.

use backlot_windows::{Order, Query, Search};

use super::Traces;
use super::model::{Span, Trace};
use crate::edge::ApiError;

/// Most spans of one trace that are answered.
const SPANS_MAX: usize = 10_000;
const TRACE_BYTES_MAX: usize = 32 << 20;
/// Spans that are looked at, newest first, to find the newest traces.
const SPANS_PER_TRACE: usize = 50;
const LIST_BYTES_MAX: usize = 16 << 20;

/// What a list of traces is narrowed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrow {
    pub service: Option<String>,
    pub job: Option<String>,
    pub from_ns: i64,
    pub to_ns: i64,
    /// At most 100.
    pub limit: usize,
}

impl Traces {
    /// The trace with this id, 32 hex digits in lower case; `None` when no span of it is there.
    ///
    /// # Errors
    /// As the searches: 503 when too many are under way.
    pub async fn trace(&self, trace_id: &str) -> Result<Option<Trace>, ApiError> {
        let (spans, more) =
            self.spans(Query::keyword("trace", trace_id), i64::MIN, i64::MAX, SPANS_MAX, TRACE_BYTES_MAX).await?;
        Ok((!spans.is_empty()).then(|| Trace::of(trace_id, spans, more)))
    }

    /// The traces with the newest spans that `narrow` lets through, newest first.
    ///
    /// # Errors
    /// As [`Traces::trace`].
    pub async fn newest(&self, narrow: &Narrow) -> Result<Vec<Trace>, ApiError> {
        let by = |name: &str, value: &Option<String>| value.as_ref().map(|value| Query::keyword(name, value));
        let query =
            Query::And([by("service", &narrow.service), by("job", &narrow.job)].into_iter().flatten().collect());
        let many = narrow.limit * SPANS_PER_TRACE;
        let (spans, _) = self.spans(query, narrow.from_ns, narrow.to_ns, many, LIST_BYTES_MAX).await?;
        let mut ids: Vec<String> = Vec::new();
        for span in spans {
            if ids.len() < narrow.limit && !ids.contains(&span.trace_id) {
                ids.push(span.trace_id);
            }
        }
        let mut traces = Vec::with_capacity(ids.len());
        for id in ids {
            traces.extend(self.trace(&id).await?);
        }
        Ok(traces)
    }

    async fn spans(
        &self,
        query: Query,
        from_ns: i64,
        to_ns: i64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Span>, bool), ApiError> {
        let search = Search { query, from_ns, to_ns, order: Order::Newest, limit, after: None, bytes_max };
        let found = self.store.search(search).await?;
        let spans = found.hits.iter().map(|hit| serde_json::from_slice(&hit.source));
        let spans = spans.collect::<Result<_, _>>().map_err(|error| ApiError::internal(&error))?;
        Ok((spans, found.more))
    }
}
