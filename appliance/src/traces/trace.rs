//! A trace, put together from its spans at the moment of the question.
//!
//! A parent that is not there is named, not invented. A span that was sent twice counts once. Spans whose parents lead
//! back to themselves are cut loose at the earliest of them, and named too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backlot_windows::Unreached;
use serde::{Deserialize, Serialize};

use super::model::{Span, SpanLink};
use super::tree::Tree;

/// A whole trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub trace_id: String,
    pub start_ns: u64,
    pub end_ns: u64,
    pub services: BTreeSet<String>,
    /// Earliest first; a parent before its children where they began together.
    pub spans: Vec<Span>,
    /// Spans that hang under no other that is here: without a parent, with one that is missing, or cut loose.
    pub roots: Vec<String>,
    /// Parents that spans name and that are not there (yet): lost, not sampled, or still running.
    pub missing: BTreeSet<String>,
    /// Spans that are their own forebears; they are shown as roots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cyclic: Vec<String>,
    /// How far the clock of a span's host seems to be off, in nanoseconds to be added to its times: it began before what called it,
    /// on another host. Spans that are not named need nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skew_ns: BTreeMap<String, i64>,
    /// Spans of other traces that link to spans of this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linked_from: Vec<LinkedFrom>,
    /// There are more spans than are answered.
    pub truncated: bool,
    /// Windows that may hold more spans of it and lie in the other S3, which does not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreached: Vec<Unreached>,
}

/// A span elsewhere that links here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkedFrom {
    pub trace_id: String,
    pub span_id: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub start_ns: u64,
    /// The span here that it links to.
    pub to_span_id: String,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

impl LinkedFrom {
    /// The links of `span` to `trace_id`.
    pub(super) fn of<'a>(span: &'a Span, trace_id: &'a str) -> impl Iterator<Item = Self> + 'a {
        span.links.iter().filter(move |link| link.trace_id == trace_id).map(|link: &SpanLink| Self {
            trace_id: span.trace_id.clone(),
            span_id: span.span_id.clone(),
            name: span.name.clone(),
            service: span.service.clone(),
            start_ns: span.start_ns,
            to_span_id: link.span_id.clone(),
            attributes: link.attributes.clone(),
        })
    }
}

impl Trace {
    /// Puts the spans together.
    #[must_use]
    pub fn of(trace_id: &str, spans: Vec<Span>, truncated: bool) -> Self {
        let mut spans = once_each(spans);
        spans.sort_by(|a, b| (a.start_ns, b.end_ns, &a.span_id).cmp(&(b.start_ns, a.end_ns, &b.span_id)));
        let depths = Tree::of(&spans).depths();
        let mut placed: Vec<_> = spans.into_iter().zip(depths).collect();
        placed.sort_by_key(|(span, depth)| (span.start_ns, *depth));
        let spans: Vec<Span> = placed.into_iter().map(|(span, _)| span).collect();
        let tree = Tree::of(&spans);
        let id = |at: &usize| spans[*at].span_id.clone();
        let known: BTreeSet<_> = spans.iter().map(|span| span.span_id.as_str()).collect();
        let missing = spans.iter().filter_map(|span| span.parent_span_id.as_deref()).filter(|id| !known.contains(id));
        let shifts = tree.skew_ns(&spans);
        let skewed = spans.iter().zip(shifts).filter(|(_, shift_ns)| *shift_ns != 0);
        Self {
            trace_id: trace_id.to_owned(),
            start_ns: spans.iter().map(|span| span.start_ns).min().unwrap_or(0),
            end_ns: spans.iter().map(|span| span.end_ns.max(span.start_ns)).max().unwrap_or(0),
            services: spans.iter().filter_map(|span| span.service.clone()).collect(),
            missing: missing.map(str::to_owned).collect(),
            roots: tree.roots.iter().map(id).collect(),
            cyclic: tree.cut.iter().map(id).collect(),
            skew_ns: skewed.map(|(span, shift_ns)| (span.span_id.clone(), shift_ns)).collect(),
            linked_from: Vec::new(),
            spans,
            truncated,
            unreached: Vec::new(),
        }
    }

    /// What a list shows of it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let real = self.spans.iter().find(|span| span.parent_span_id.is_none());
        let first = || self.roots.first().and_then(|id| self.spans.iter().find(|span| span.span_id == *id));
        let root = real.or_else(first);
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
            missing: self.missing.len(),
            spans_by_service,
            truncated: self.truncated,
        }
    }
}

/// Each span once. Where one came several times, an export was tried again, or a sender told of it while it ran and again when it
/// had ended: the one that goes on longest stays.
fn once_each(spans: Vec<Span>) -> Vec<Span> {
    let mut at = HashMap::with_capacity(spans.len());
    let mut kept: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match at.get(&span.span_id) {
            None => {
                at.insert(span.span_id.clone(), kept.len());
                kept.push(span);
            }
            Some(before) if kept[*before].end_ns < span.end_ns => kept[*before] = span,
            Some(_) => {}
        }
    }
    kept
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
    /// Parents that are not there.
    pub missing: usize,
    pub spans_by_service: BTreeMap<String, usize>,
    /// There are more spans than were counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::super::testing::span;
    use super::*;

    fn ids(trace: &Trace) -> Vec<&str> {
        trace.spans.iter().map(|span| span.span_id.as_str()).collect()
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
        assert_eq!(ids(&trace), ["b", "d", "c"]);
        assert_eq!(trace.missing.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "gone"]);
        assert_eq!((trace.roots, trace.start_ns, trace.end_ns), (vec!["b".to_owned(), "d".to_owned()], 1, 9));
    }

    #[test]
    fn of_a_span_that_was_told_of_while_it_ran_the_last_word_stays() {
        let mut ended = span("a", None, 1, 9);
        ended.status.code = "error".into();
        for spans in [vec![span("a", None, 1, 1), ended.clone()], vec![ended.clone(), span("a", None, 1, 1)]] {
            assert_eq!(Trace::of("t", spans, false).spans, [ended.clone()]);
        }
    }

    #[test]
    fn a_parent_stands_before_its_children_where_all_began_and_ended_together() {
        let spans = vec![span("a", Some("b"), 1, 2), span("b", Some("c"), 1, 2), span("c", None, 1, 2)];
        assert_eq!(ids(&Trace::of("t", spans, false)), ["c", "b", "a"]);
    }

    #[test]
    fn the_root_of_a_list_is_the_one_without_a_parent_however_late_it_began() {
        let mut root = span("r", None, 5, 9);
        root.name = "submit".into();
        let summary = Trace::of("t", vec![span("o", Some("gone"), 1, 2), root], false).summary();
        assert_eq!((summary.name.as_str(), summary.missing, summary.spans), ("submit", 1, 2));
    }

    #[test]
    fn spans_that_are_their_own_forebears_are_cut_loose_and_named() {
        let spans = vec![
            span("self", Some("self"), 4, 5),
            span("x", Some("z"), 3, 4),
            span("y", Some("x"), 1, 9),
            span("z", Some("y"), 2, 5),
            span("leaf", Some("z"), 3, 3),
        ];
        let trace = Trace::of("t", spans, false);
        assert_eq!(trace.cyclic, ["y", "self"]);
        assert_eq!((trace.roots.as_slice(), trace.spans.len()), (["y".to_owned(), "self".to_owned()].as_slice(), 5));
        assert!(trace.missing.is_empty());
    }

    #[test]
    fn a_clock_that_is_behind_is_told_for_all_spans_of_its_host_below_the_call() {
        let on = |host: &str, mut span: Span| {
            span.host = Some(host.into());
            span
        };
        let spans = vec![
            on("a", span("call", None, 100, 200)),
            on("b", span("serve", Some("call"), 40, 120)),
            on("b", span("inner", Some("serve"), 50, 60)),
            on("a", span("back", Some("inner"), 115, 116)),
            on("a", span("early", Some("call"), 90, 110)),
        ];
        let trace = Trace::of("t", spans, false);
        // 80 of the call's 100 are the server's; the network had 10 each way.
        let expected = [("serve", 70), ("inner", 70)].map(|(id, ns)| (id.to_owned(), ns));
        let mut expected: BTreeMap<_, _> = expected.into();
        // `back` ran on the first host again, and began before `inner` as it is now: 120 to 130.
        expected.insert("back".into(), 9);
        assert_eq!(trace.skew_ns, expected);
    }
}
