//! Lists of traces: those with a span that answers, each once, a page at a time.
//!
//! A trace stands in the list where the first of its spans stands that answers, so a page begins after a span. A trace that has one before
//! that was on an earlier page. One request looks at a bounded number of traces: where few of them are wanted (by the length of the
//! whole, which no index knows), a page may be short and have a next one.

use std::collections::HashSet;

use backlot_windows::{Query, Ranked};
use serde::Deserialize;

use super::Traces;
use super::schema::TRACE;
use super::store::{ListOrder, SpanSearch, Spans};
use super::trace::Trace;
use crate::edge::ApiError;

/// Most traces of one page.
pub(super) const LIMIT_MAX: usize = 200;
/// Most traces that one request looks at.
const LOOKED_AT_MAX: usize = 500;
/// Spans that are taken from the index in one go.
const SPANS_AT_ONCE: usize = 256;
const SPANS_BYTES_MAX: usize = 8 << 20;

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
}

impl Traces {
    /// A page of the traces that are asked for, each as `made` leaves it.
    ///
    /// # Errors
    /// As [`Traces::trace`].
    pub async fn list<T>(&self, asked: &Asked, made: impl Fn(Trace) -> T) -> Result<Page<T>, ApiError> {
        let mut page = Page { traces: Vec::new(), next: None, set_aside: Vec::new() };
        let (mut seen, mut after, mut bytes) = (HashSet::new(), asked.after, 0);
        loop {
            let Spans { hits, more, set_aside } = self.spans(asked.spans(&seen, after)).await?;
            page.set_aside = set_aside;
            let last = hits.len().checked_sub(1);
            for (number, (ranked, source)) in hits.into_iter().enumerate() {
                after = Some(ranked);
                let trace_id = trace_id_of(&source)?;
                if !seen.insert(trace_id.clone()) || self.was_earlier(asked, &trace_id).await? {
                    continue;
                }
                // Its window may have been dropped meanwhile.
                let Some((trace, trace_bytes)) = self.sized(&trace_id).await? else { continue };
                bytes += trace_bytes;
                if asked.has_its_length(&trace) {
                    page.traces.push(made(trace));
                }
                let full = page.traces.len() >= asked.limit || bytes >= asked.bytes_max || seen.len() >= LOOKED_AT_MAX;
                if full {
                    page.next = after.filter(|_| more || Some(number) != last);
                    return Ok(page);
                }
            }
            if !more {
                return Ok(page);
            }
        }
    }

    /// Whether the trace has a span that answers and stands before where this page begins.
    async fn was_earlier(&self, asked: &Asked, trace_id: &str) -> Result<bool, ApiError> {
        let Some(after) = asked.after else { return Ok(false) };
        let of_it = Query::And(vec![Query::keyword(TRACE, trace_id), asked.query.clone()]);
        let search = SpanSearch { query: of_it, limit: 1, after: None, ..asked.spans(&HashSet::new(), None) };
        let first = self.spans(search).await?.hits.into_iter().next();
        Ok(first.is_some_and(|(first, _)| !after.is_before(first)))
    }
}

impl Asked {
    /// The spans that answer, but for those of traces that were seen.
    fn spans(&self, seen: &HashSet<String>, after: Option<Ranked>) -> SpanSearch {
        let query = if seen.is_empty() {
            self.query.clone()
        } else {
            let seen = seen.iter().map(|trace_id| Query::keyword(TRACE, trace_id)).collect();
            Query::And(vec![self.query.clone(), Query::Not(Box::new(Query::Or(seen)))])
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
