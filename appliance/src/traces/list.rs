//! Lists of traces: those with a span that answers, each once, a page at a time.
//!
//! A trace stands in the list where the first of its spans stands that answers, so a page begins after a span. A trace that has one before
//! that was on an earlier page. One request looks at a bounded number of traces: where few of them are wanted (by the length of the
//! whole, which no index knows), a page may be short and have a next one.

use std::collections::HashSet;

use backlot_windows::{Query, Ranked, Unreached};
use serde::Deserialize;

use super::Traces;
use super::store::{ListOrder, SpanSearch, Spans, Together, any_of};
use super::trace::Trace;
use crate::edge::ApiError;

/// Most traces of one page.
pub(super) const LIMIT_MAX: usize = 200;
/// Most traces that one request looks at.
const LOOKED_AT_MAX: usize = 500;
/// Spans that are taken from the index in one go.
const SPANS_AT_ONCE: usize = 256;
const SPANS_BYTES_MAX: usize = 8 << 20;
/// Most traces that are looked for together.
const TRACES_AT_ONCE: usize = 64;

/// What is asked of traces.
#[derive(Clone, Debug)]
pub struct Asked {
    /// One span at least must answer to it,
    pub query: Query,
    /// and have begun between these, both included.
    pub from_ns: i64,
    pub to_ns: i64,
    /// Bounds of the whole trace, both included.
    pub trace_ns_min: Option<u64>,
    pub trace_ns_max: Option<u64>,
    pub order: ListOrder,
    /// At most 200.
    pub limit: usize,
    /// Where the page before ended.
    pub after: Option<Ranked>,
    /// The page ends when the spans of its traces are more than this; it has one trace at least.
    pub bytes_max: usize,
}

#[derive(Clone, Debug)]
pub struct Page<T> {
    pub traces: Vec<T>,
    /// Where the next page begins, if there may be one.
    pub next: Option<Ranked>,
    /// Windows that could hold more and do not read.
    pub set_aside: Vec<String>,
    /// Windows that could hold more and cannot be reached.
    pub unreached: Vec<Unreached>,
}

impl Traces {
    /// A page of the traces that are asked for, each as `made` leaves it.
    ///
    /// # Errors
    /// As [`Traces::trace`].
    pub async fn list<T>(&self, asked: &Asked, made: impl Fn(Trace) -> T) -> Result<Page<T>, ApiError> {
        let mut page = Page { traces: Vec::new(), next: None, set_aside: Vec::new(), unreached: Vec::new() };
        let (mut seen, mut after, mut bytes, mut looked_at) = (HashSet::new(), asked.after, 0, 0);
        loop {
            let Spans { hits, more, set_aside, unreached } = self.spans(asked.spans(&seen, after)).await?;
            (page.set_aside, page.unreached) = (set_aside, unreached);
            let last = hits.last().map(|(ranked, _)| *ranked);
            let mut firsts = Vec::new();
            for (ranked, source) in &hits {
                let trace_id = trace_id_of(source)?;
                if seen.insert(trace_id.clone()) {
                    firsts.push((*ranked, trace_id));
                }
            }
            drop(hits);
            for some in firsts.chunks(asked.at_once()) {
                let ids: Vec<String> = some.iter().map(|(_, trace_id)| trace_id.clone()).collect();
                let earlier = self.earlier(asked, &ids).await?;
                let ids: Vec<String> = ids.into_iter().filter(|trace_id| !earlier.contains(trace_id)).collect();
                let (mut found, mut left) = (Together::default(), ids.as_slice());
                for (ranked, trace_id) in some {
                    looked_at += 1;
                    if left.first() == Some(trace_id) {
                        found = self.together(left).await?;
                        left = left.get(found.looked_for..).unwrap_or_default();
                    }
                    // It was on an earlier page, or its window has been dropped meanwhile.
                    let Some((trace, trace_bytes)) = found.traces.remove(trace_id) else { continue };
                    bytes += trace_bytes;
                    if asked.has_its_length(&trace) {
                        page.traces.push(made(trace));
                    }
                    let full =
                        page.traces.len() >= asked.limit || bytes >= asked.bytes_max || looked_at >= LOOKED_AT_MAX;
                    if full {
                        page.next = Some(*ranked).filter(|_| more || Some(*ranked) != last);
                        return Ok(page);
                    }
                }
            }
            if !more {
                return Ok(page);
            }
            after = last.or(after);
        }
    }

    /// Which of these traces have a span that answers and stands before where this page begins.
    async fn earlier(&self, asked: &Asked, trace_ids: &[String]) -> Result<HashSet<String>, ApiError> {
        let mut earlier = HashSet::new();
        let Some(begin) = asked.after else { return Ok(earlier) };
        loop {
            let left: Vec<String> = trace_ids.iter().filter(|trace_id| !earlier.contains(*trace_id)).cloned().collect();
            let query = Query::And(vec![any_of(&left), asked.query.clone()]);
            let found = self.spans(SpanSearch { query, after: None, ..asked.spans(&HashSet::new(), None) }).await?;
            let before = earlier.len();
            for (ranked, source) in &found.hits {
                if begin.is_before(*ranked) {
                    return Ok(earlier);
                }
                earlier.insert(trace_id_of(source)?);
            }
            if !found.more || earlier.len() == before {
                return Ok(earlier);
            }
        }
    }
}

impl Asked {
    /// The spans that answer, but for those of traces that were seen.
    fn spans(&self, seen: &HashSet<String>, after: Option<Ranked>) -> SpanSearch {
        let query = if seen.is_empty() {
            self.query.clone()
        } else {
            let seen: Vec<String> = seen.iter().cloned().collect();
            Query::And(vec![self.query.clone(), Query::Not(Box::new(any_of(&seen)))])
        };
        SpanSearch {
            query,
            from_ns: self.from_ns,
            to_ns: self.to_ns,
            order: self.order,
            limit: SPANS_AT_ONCE.min(self.limit.saturating_mul(4)),
            after,
            bytes_max: SPANS_BYTES_MAX,
        }
    }

    /// How many traces are put together in one go: no more than the page has room for, unless most are not wanted.
    fn at_once(&self) -> usize {
        let is_picky = self.trace_ns_min.is_some() || self.trace_ns_max.is_some();
        if is_picky { TRACES_AT_ONCE } else { self.limit.clamp(1, TRACES_AT_ONCE) }
    }

    fn has_its_length(&self, trace: &Trace) -> bool {
        let ns = trace.end_ns.saturating_sub(trace.start_ns);
        self.trace_ns_min.is_none_or(|min| ns >= min) && self.trace_ns_max.is_none_or(|max| ns <= max)
    }
}

fn trace_id_of(source: &[u8]) -> Result<String, ApiError> {
    #[derive(Deserialize)]
    struct Stored {
        trace_id: String,
    }
    let stored: Stored = serde_json::from_slice(source).map_err(|error| ApiError::internal(&error))?;
    Ok(stored.trace_id)
}
