//! Finding spans, and whole traces by their ids.

use std::collections::HashMap;

use backlot_windows::{Found, Greatest, Hit, Order, Position, Query, Ranked, Reach, Search, Told, Unreached, Want};

use super::Traces;
use super::model::Span;
use super::schema::{DURATION, LINK, OPERATION, Operation, TRACE};
use super::trace::{LinkedFrom, Trace};
use crate::edge::ApiError;
use crate::signals::whole;

/// Most spans of one trace that are answered.
pub(super) const SPANS_MAX: usize = 10_000;
const TRACE_BYTES_MAX: usize = 32 << 20;
/// Most spans elsewhere that are told to link to a trace.
const LINKED_FROM_MAX: usize = 100;
const LINKED_FROM_BYTES_MAX: usize = 4 << 20;
/// Most operations of all services that are told apart.
const OPERATIONS_MAX: usize = 20_000;

/// In which order spans and traces are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListOrder {
    #[default]
    Newest,
    /// By the duration of the span that answers.
    Longest,
}

/// Spans that answer, and where each stands in the order of the answer.
pub(super) struct Spans {
    pub(super) hits: Vec<(Ranked, Vec<u8>)>,
    pub(super) more: bool,
    pub(super) set_aside: Vec<String>,
    pub(super) unreached: Vec<Unreached>,
}

/// Traces that were looked for in one go.
#[derive(Default)]
pub(super) struct Together {
    /// By their ids, with the bytes of their spans. Without those of which no span is there.
    pub(super) traces: HashMap<String, (Trace, usize)>,
    /// How many of those that were asked for, from the first one on.
    pub(super) looked_for: usize,
    /// Windows that could hold more of them and cannot be reached.
    pub(super) unreached: Vec<Unreached>,
}

/// What is asked of spans.
#[derive(Clone, Debug)]
pub(super) struct SpanSearch {
    pub(super) query: Query,
    pub(super) from_ns: i64,
    pub(super) to_ns: i64,
    pub(super) order: ListOrder,
    pub(super) limit: usize,
    pub(super) after: Option<Ranked>,
    pub(super) bytes_max: usize,
}

impl Traces {
    /// The trace with this id, 32 hex digits in lower case; `None` when no span of it is there.
    ///
    /// # Errors
    /// As the searches: 503 when too many are under way.
    pub async fn trace(&self, trace_id: &str) -> Result<Option<Trace>, ApiError> {
        let mut found = self.together(&[trace_id.to_owned()]).await?;
        match found.traces.remove(trace_id) {
            Some((trace, _)) => Ok(Some(trace)),
            None => whole(&found.unreached).map(|()| None), // it may be there
        }
    }

    /// The same, with the spans of other traces that link to it.
    ///
    /// # Errors
    /// As [`Traces::trace`].
    pub async fn trace_with_links(&self, trace_id: &str) -> Result<Option<Trace>, ApiError> {
        let Some(mut trace) = self.trace(trace_id).await? else { return Ok(None) };
        let elsewhere =
            Query::And(vec![Query::keyword(LINK, trace_id), Query::Not(Box::new(Query::keyword(TRACE, trace_id)))]);
        let found = self.newest(elsewhere, LINKED_FROM_MAX, LINKED_FROM_BYTES_MAX).await?;
        let spans = found.hits.iter().map(read).collect::<Result<Vec<Span>, _>>()?;
        trace.linked_from = spans.iter().flat_map(|span| LinkedFrom::of(span, trace_id)).collect();
        trace.linked_from.truncate(LINKED_FROM_MAX);
        if trace.unreached.is_empty() {
            trace.unreached = found.unreached;
        }
        Ok(Some(trace))
    }

    /// The first of these traces, as many as fit into memory together. One search finds them all, unless they have too many spans for one:
    /// then each half is looked for by itself.
    pub(super) async fn together(&self, trace_ids: &[String]) -> Result<Together, ApiError> {
        let mut made = Together::default();
        let mut bytes = 0;
        let mut left = vec![trace_ids];
        while let Some(ids) = left.pop() {
            let found = self.newest(any_of(ids), SPANS_MAX, TRACE_BYTES_MAX).await?;
            if found.more && ids.len() > 1 {
                let (first, second) = ids.split_at(ids.len() / 2);
                left.extend([second, first]);
                continue;
            }
            if made.unreached.is_empty() {
                made.unreached.clone_from(&found.unreached);
            }
            // Thousands of spans take a while to read.
            let work = tokio::task::spawn_blocking(move || parted(&found));
            let traces = work.await.unwrap_or_else(|error| Err(ApiError::internal(&error)))?;
            bytes += traces.values().map(|(_, bytes)| bytes).sum::<usize>();
            made.traces.extend(traces);
            made.looked_for += ids.len();
            if bytes >= TRACE_BYTES_MAX {
                break;
            }
        }
        Ok(made)
    }

    /// What services do, the most frequent first, and how often; as far as that is here.
    ///
    /// # Errors
    /// As [`Traces::trace`].
    pub async fn operations(&self) -> Result<Vec<(Operation, u64)>, ApiError> {
        let want = Want::Values { name: OPERATION.to_owned(), limit: OPERATIONS_MAX };
        let counts = self.store.tally_within_reach(Query::All, (i64::MIN, i64::MAX), vec![want], Reach::Here).await?;
        let Some(Told::Values(values)) = counts.told.into_iter().next() else { return Ok(Vec::new()) };
        let counted = values.top.into_iter();
        Ok(counted.filter_map(|(key, count)| Operation::of(&key).map(|operation| (operation, count))).collect())
    }

    pub(super) async fn spans(&self, search: SpanSearch) -> Result<Spans, ApiError> {
        let SpanSearch { query, from_ns, to_ns, order, limit, after, bytes_max } = search;
        if order == ListOrder::Longest {
            let name = DURATION.to_owned();
            let found = self.store.greatest(Greatest { query, from_ns, to_ns, name, limit, after, bytes_max }).await?;
            let hits = found.hits.into_iter();
            let hits = hits.map(|(number, Hit { position, source })| (Ranked { number, position }, source));
            let (more, set_aside, unreached) = (found.more, found.set_aside, found.unreached);
            return Ok(Spans { hits: hits.collect(), more, set_aside, unreached });
        }
        let after = after.map(|ranked| ranked.position);
        let search = Search { query, from_ns, to_ns, order: Order::Newest, limit, after, bytes_max };
        let found = self.store.search_within_reach(search).await?;
        let hits = found.hits.into_iter().map(|hit| (at(hit.position), hit.source));
        let (more, set_aside, unreached) = (found.more, found.set_aside, found.unreached);
        Ok(Spans { hits: hits.collect(), more, set_aside, unreached })
    }

    async fn newest(&self, query: Query, limit: usize, bytes_max: usize) -> Result<Found, ApiError> {
        let (from_ns, to_ns, order) = (i64::MIN, i64::MAX, Order::Newest);
        let search = Search { query, from_ns, to_ns, order, limit, after: None, bytes_max };
        self.store.search_within_reach(search).await
    }
}

/// Where a span stands among others by time alone.
pub(super) fn at(position: Position) -> Ranked {
    Ranked { number: 0.0, position }
}

/// Spans of any of these traces.
pub(super) fn any_of(trace_ids: &[String]) -> Query {
    Query::Or(trace_ids.iter().map(|trace_id| Query::keyword(TRACE, trace_id)).collect())
}

/// The traces of all spans that were found, by their ids.
fn parted(found: &Found) -> Result<HashMap<String, (Trace, usize)>, ApiError> {
    let mut parts = HashMap::<String, (Vec<Span>, usize)>::new();
    for hit in &found.hits {
        let span = read(hit)?;
        let (spans, bytes) = parts.entry(span.trace_id.clone()).or_default();
        spans.push(span);
        *bytes += hit.source.len();
    }
    let made = parts.into_iter().map(|(id, (spans, bytes))| {
        let trace = Trace { unreached: found.unreached.clone(), ..Trace::of(&id, spans, found.more) };
        (id, (trace, bytes))
    });
    Ok(made.collect())
}

fn read(hit: &Hit) -> Result<Span, ApiError> {
    serde_json::from_slice(&hit.source).map_err(|error| ApiError::internal(&error))
}
