//! Which service calls which, counted over spans when it is asked.
//!
//! A call is a span whose parent is of another service. It is counted once, as it is for a whole trace: a span that was sent twice is one. Nothing is
//! kept for it: of a range with more spans than [`SPANS_MAX`] the newest are read, and calls over the edge of what was read are missing.

use std::collections::{BTreeMap, HashMap};

use backlot_windows::{Order, Query, Search};
use serde::Deserialize;

use super::Traces;
use crate::edge::ApiError;

/// Most spans that are read for one answer.
const SPANS_MAX: usize = 100_000;
const SPANS_AT_ONCE: usize = 5_000;
const BYTES_AT_ONCE: usize = 8 << 20;

/// How often one service called another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) parent: String,
    pub(super) child: String,
    pub(super) count: u64,
}

/// What is read of a stored span.
#[derive(Clone, Debug, Deserialize)]
struct Link {
    trace_id: String,
    span_id: String,
    parent_span_id: Option<String>,
    service: Option<String>,
}

impl Traces {
    /// The calls between services of spans that began between these, both included.
    pub(super) async fn calls(&self, from_ns: i64, to_ns: i64) -> Result<Vec<Calls>, ApiError> {
        let mut links = Vec::new();
        let mut after = None;
        while links.len() < SPANS_MAX {
            let (query, order, limit) = (Query::All, Order::Newest, SPANS_AT_ONCE.min(SPANS_MAX - links.len()));
            let search = Search { query, from_ns, to_ns, order, limit, after, bytes_max: BYTES_AT_ONCE };
            let found = self.store.search(search).await?;
            after = found.hits.last().map(|hit| hit.position);
            let more = found.more;
            let read = tokio::task::spawn_blocking(move || {
                let links = found.hits.iter().map(|hit| serde_json::from_slice::<Link>(&hit.source));
                links.collect::<Result<Vec<_>, _>>()
            });
            let read = read.await.map_err(|error| ApiError::internal(&error))?;
            links.extend(read.map_err(|error| ApiError::internal(&error))?);
            if !more {
                break;
            }
        }
        let counted = tokio::task::spawn_blocking(move || counted(&links));
        counted.await.map_err(|error| ApiError::internal(&error))
    }
}

fn counted(links: &[Link]) -> Vec<Calls> {
    let by_id: HashMap<(&str, &str), &Link> =
        links.iter().map(|link| ((link.trace_id.as_str(), link.span_id.as_str()), link)).collect();
    let mut counts = BTreeMap::<(&str, &str), u64>::new();
    for link in by_id.values() {
        let Some(parent) = &link.parent_span_id else { continue };
        let parent = by_id.get(&(link.trace_id.as_str(), parent.as_str()));
        if let (Some(parent), Some(child)) =
            (parent.and_then(|parent| parent.service.as_deref()), link.service.as_deref())
            && parent != child
        {
            *counts.entry((parent, child)).or_default() += 1;
        }
    }
    let made = counts.into_iter();
    made.map(|((parent, child), count)| Calls { parent: parent.to_owned(), child: child.to_owned(), count }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(trace: &str, span: &str, parent: &str, service: &str) -> Link {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Link { trace_id: trace.into(), span_id: span.into(), parent_span_id: some(parent), service: some(service) }
    }

    #[test]
    fn calls_are_between_different_services_of_one_trace_and_count_once() {
        let links = [
            link("1", "a", "", "desk"),
            link("1", "b", "a", "backlot"),
            link("1", "c", "b", "backlot"), // within one service
            link("1", "d", "c", "agent"),
            link("1", "d", "c", "agent"),    // sent twice
            link("1", "e", "gone", "agent"), // of a parent that is not here
            link("1", "f", "c", ""),         // of nobody
            link("2", "b", "a", "agent"),    // of another trace, whose `a` is not here
            link("2", "g", "b", "desk"),
        ];
        let calls = |parent: &str, child: &str| Calls { parent: parent.into(), child: child.into(), count: 1 };
        assert_eq!(counted(&links), [calls("agent", "desk"), calls("backlot", "agent"), calls("desk", "backlot")]);
    }
}
