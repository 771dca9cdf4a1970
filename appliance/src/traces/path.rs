//! The critical path: which spans the end of a trace waited for, one at each moment.
//!
//! It is walked backwards from the latest end. At a moment of a span, the path goes into the child that had ended last before it, for
//! that is what the span went on after; where none had, the time is the span's own. From the start of a span it goes on in the
//! span that called it, at that moment. So:
//!
//! - of children that overlap, only the last to end is waited for; what ran beside it is not on the path, and its caller's time is;
//! - a child that outlives its parent was not waited for by it. It is on the path where the trace's end waits for it, and then the
//!   time between the parent's end and its start is nobody's: a gap;
//! - a child that had ended before its parent began was not waited for by it either;
//! - a consumer below a producer is never waited for by it, whenever it ends;
//! - where the caller is not known, the path goes on in what was active, or had ended last: the uppermost such span;
//! - clocks that are off are set right first, by [`Tree::skew_ns`].
//!
//! The pieces of the path touch one another and reach from the trace's first moment to its last.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::model::Span;
use super::trace::Trace;
use super::tree::Tree;

/// The critical path of a trace. Moments are those of the spans, set right where clocks are off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CriticalPath {
    pub trace_id: String,
    pub start_ns: i64,
    pub end_ns: i64,
    pub duration_ns: i64,
    /// Earliest first. Each begins where the one before ends.
    pub segments: Vec<Segment>,
    /// Each span of the path with its part of it, the largest part first.
    pub spans: Vec<Part>,
    /// Time in which no span was waited for.
    pub gap_ns: i64,
    /// The trace has spans that are not here: the path may be another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Absent in a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    pub start_ns: i64,
    pub end_ns: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub span_id: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub duration_ns: i64,
    /// On the path.
    pub critical_ns: i64,
    /// Of the span alone: no child of it ran.
    pub self_ns: i64,
    /// Of the whole path, 0 to 1.
    pub share: f64,
}

impl CriticalPath {
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let spans = &trace.spans;
        let tree = Tree::of(spans);
        let times = Times::of(spans, &tree);
        let pieces = walk(&tree, &times, &|child| is_waited_for(spans, &tree, child));
        let (start_ns, end_ns) = times.extent();
        let duration_ns = end_ns - start_ns;
        let mut critical_ns: HashMap<usize, i64> = HashMap::new();
        let mut gap_ns = 0;
        for piece in &pieces {
            match piece.span {
                Some(at) => *critical_ns.entry(at).or_default() += piece.end_ns - piece.start_ns,
                None => gap_ns += piece.end_ns - piece.start_ns,
            }
        }
        let mut parts: Vec<_> = critical_ns
            .into_iter()
            .map(|(at, critical_ns)| Part {
                span_id: spans[at].span_id.clone(),
                name: spans[at].name.clone(),
                service: spans[at].service.clone(),
                duration_ns: times.end_ns[at] - times.start_ns[at],
                critical_ns,
                self_ns: times.self_ns(&tree, at),
                share: if duration_ns > 0 { critical_ns as f64 / duration_ns as f64 } else { 0.0 },
            })
            .collect();
        parts.sort_by(|a, b| b.critical_ns.cmp(&a.critical_ns).then_with(|| a.span_id.cmp(&b.span_id)));
        let segment = |piece: Piece| Segment {
            span_id: piece.span.map(|at| spans[at].span_id.clone()),
            start_ns: piece.start_ns,
            end_ns: piece.end_ns,
        };
        Self {
            trace_id: trace.trace_id.clone(),
            start_ns,
            end_ns,
            duration_ns,
            segments: pieces.into_iter().map(segment).collect(),
            spans: parts,
            gap_ns,
            incomplete: trace.truncated || !trace.missing.is_empty(),
        }
    }
}

fn is_waited_for(spans: &[Span], tree: &Tree, child: usize) -> bool {
    let parent = tree.parents[child].map(|parent| spans[parent].kind.as_str());
    !(spans[child].kind == "consumer" && parent == Some("producer"))
}

/// When the spans were, with clocks set right.
struct Times {
    start_ns: Vec<i64>,
    end_ns: Vec<i64>,
}

impl Times {
    fn of(spans: &[Span], tree: &Tree) -> Self {
        let shifts = tree.skew_ns(spans);
        let signed = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let start_ns: Vec<_> =
            spans.iter().zip(shifts).map(|(span, shift)| signed(span.start_ns).saturating_add(shift)).collect();
        let end_ns = spans.iter().zip(&start_ns).map(|(span, start)| start.saturating_add(signed(span.duration_ns)));
        Self { end_ns: end_ns.collect(), start_ns }
    }

    fn extent(&self) -> (i64, i64) {
        let start_ns = self.start_ns.iter().copied().min().unwrap_or(0);
        (start_ns, self.end_ns.iter().copied().max().unwrap_or(start_ns))
    }

    /// Time of a span in which none of its children ran.
    fn self_ns(&self, tree: &Tree, at: usize) -> i64 {
        let (start, end) = (self.start_ns[at], self.end_ns[at]);
        let within = |child: &usize| (self.start_ns[*child].clamp(start, end), self.end_ns[*child].clamp(start, end));
        let mut children: Vec<_> = tree.children[at].iter().map(within).collect();
        children.sort_unstable();
        let (mut covered, mut until) = (0, start);
        for (from, to) in children {
            covered += (to - from.max(until)).max(0);
            until = until.max(to);
        }
        end - start - covered
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    span: Option<usize>,
    start_ns: i64,
    end_ns: i64,
}

/// Earliest first.
fn walk(tree: &Tree, times: &Times, is_waited_for: &dyn Fn(usize) -> bool) -> Vec<Piece> {
    let mut walker = Walker::new(tree, times, is_waited_for);
    walker.walk();
    walker.pieces.reverse();
    walker.pieces
}

struct Walker<'a> {
    tree: &'a Tree,
    times: &'a Times,
    depths: Vec<usize>,
    /// The children that a span waits for, by their ends. The last is the next one to look at.
    waited_for: Vec<Vec<usize>>,
    /// All spans by their ends.
    by_end: Vec<usize>,
    visited: Vec<bool>,
    /// Latest first.
    pieces: Vec<Piece>,
}

impl<'a> Walker<'a> {
    fn new(tree: &'a Tree, times: &'a Times, is_waited_for: &dyn Fn(usize) -> bool) -> Self {
        let spans = times.start_ns.len();
        let by_end_of = |mut some: Vec<usize>| {
            some.sort_by_key(|at| (times.end_ns[*at], std::cmp::Reverse(*at)));
            some
        };
        let waited_for = tree.children.iter();
        let waited_for =
            waited_for.map(|children| by_end_of(children.iter().copied().filter(|at| is_waited_for(*at)).collect()));
        Self {
            tree,
            times,
            depths: tree.depths(),
            waited_for: waited_for.collect(),
            by_end: by_end_of((0..spans).collect()),
            visited: vec![false; spans],
            pieces: Vec::new(),
        }
    }

    fn walk(&mut self) {
        let (begin, mut now) = self.times.extent();
        let mut here = None;
        loop {
            let Some(at) = here.or_else(|| self.uppermost(now)) else { return };
            self.visited[at] = true;
            let (start, end) = (self.times.start_ns[at], self.times.end_ns[at]);
            now = self.take(None, now, end.min(now)); // the time since it ended is nobody's
            match self.last_waited_for(at, now) {
                Some(child) => {
                    now = self.take(Some(at), now, self.times.end_ns[child]);
                    here = Some(child);
                }
                None => {
                    now = self.take(Some(at), now, start.min(now));
                    here = self.tree.parents[at];
                    if here.is_none() && now <= begin {
                        return;
                    }
                }
            }
        }
    }

    /// Adds the time from `from` to `now`; gives `from`.
    fn take(&mut self, span: Option<usize>, now: i64, from: i64) -> i64 {
        match self.pieces.last_mut() {
            _ if from >= now => return now,
            Some(later) if later.span == span && later.start_ns == now => later.start_ns = from,
            _ => self.pieces.push(Piece { span, start_ns: from, end_ns: now }),
        }
        from
    }

    /// The child of `at` that was not visited and had ended last at `now`; of several, the one that stands first.
    fn last_waited_for(&mut self, at: usize, now: i64) -> Option<usize> {
        let (children, times) = (&mut self.waited_for[at], self.times);
        // The walk goes back in time: who ended later than `now` is never waited for here any more.
        while let Some(child) = children.pop_if(|child| times.end_ns[*child] >= times.start_ns[at]) {
            if times.end_ns[child] <= now && !self.visited[child] {
                return Some(child);
            }
        }
        None
    }

    /// Where the path goes on when the caller is not known: of the spans that were not visited and began before `now`, the one that
    /// was active at it or ended last before; of several, the uppermost, then the one that stands first.
    fn uppermost(&self, now: i64) -> Option<usize> {
        let candidates = self.by_end.iter().rev().copied();
        let candidates = candidates.filter(|at| !self.visited[*at] && self.times.start_ns[*at] < now);
        let reached = |at: usize| self.times.end_ns[at].min(now);
        candidates.max_by(|a, b| {
            let key = |at: usize| (reached(at), std::cmp::Reverse(self.depths[at]), std::cmp::Reverse(at));
            key(*a).cmp(&key(*b))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::span;
    use super::*;

    /// Span and length of each piece, earliest first; `-` is a gap.
    fn path(spans: Vec<Span>) -> Vec<(String, i64)> {
        let path = CriticalPath::of(&Trace::of("t", spans, false));
        let piece =
            |segment: Segment| (segment.span_id.unwrap_or_else(|| "-".to_owned()), segment.end_ns - segment.start_ns);
        path.segments.into_iter().map(piece).collect()
    }

    fn pieces(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
        expected.iter().map(|(id, ns)| ((*id).to_owned(), *ns)).collect()
    }

    #[test]
    fn children_one_after_the_other_are_waited_for_and_the_rest_is_the_parents_own() {
        let spans = vec![span("r", None, 0, 100), span("a", Some("r"), 10, 40), span("b", Some("r"), 50, 90)];
        assert_eq!(path(spans), pieces(&[("r", 10), ("a", 30), ("r", 10), ("b", 40), ("r", 10)]));
    }

    #[test]
    fn of_overlapping_children_the_last_to_end_is_waited_for() {
        let spans = vec![
            span("r", None, 0, 100),
            span("short", Some("r"), 10, 60),
            span("long", Some("r"), 20, 90),
            span("before", Some("r"), 0, 15),
        ];
        assert_eq!(path(spans), pieces(&[("before", 15), ("r", 5), ("long", 70), ("r", 10)]));
    }

    #[test]
    fn a_job_that_outlives_its_submitter_is_what_the_trace_waits_for_and_the_queue_is_a_gap() {
        let mut submit = span("submit", None, 0, 10);
        submit.kind = "producer".into();
        let mut job = span("job", Some("submit"), 30, 100);
        job.kind = "consumer".into();
        let spans = vec![submit, job, span("infer", Some("job"), 40, 90)];
        assert_eq!(path(spans), pieces(&[("submit", 10), ("-", 20), ("job", 10), ("infer", 50), ("job", 10)]));
    }

    #[test]
    fn a_consumer_is_not_waited_for_by_its_producer_even_where_it_ends_first() {
        let mut producer = span("p", None, 0, 100);
        producer.kind = "producer".into();
        let mut consumer = span("c", Some("p"), 20, 50);
        assert_eq!(path(vec![producer.clone(), consumer.clone()]), pieces(&[("p", 20), ("c", 30), ("p", 50)]));
        consumer.kind = "consumer".into();
        assert_eq!(path(vec![producer, consumer]), pieces(&[("p", 100)]));
    }

    #[test]
    fn several_roots_a_missing_parent_and_a_child_before_its_parent_leave_no_hole() {
        let spans = vec![
            span("r", None, 0, 10),
            span("detached", Some("r"), 5, 40),
            span("orphan", Some("gone"), 45, 60),
            span("odd", Some("orphan"), 41, 43),
        ];
        assert_eq!(path(spans), pieces(&[("r", 5), ("detached", 35), ("-", 1), ("odd", 2), ("-", 2), ("orphan", 15)]));
    }

    #[test]
    fn a_clock_that_is_off_does_not_hide_the_call() {
        let on = |host: &str, mut span: Span| {
            span.host = Some(host.into());
            span
        };
        let spans = vec![on("a", span("call", None, 100, 200)), on("b", span("serve", Some("call"), 20, 100))];
        assert_eq!(path(spans), pieces(&[("call", 10), ("serve", 80), ("call", 10)]));
    }

    #[test]
    fn parts_say_how_much_is_the_spans_own() {
        let spans = vec![
            span("r", None, 0, 100),
            span("a", Some("r"), 10, 60),
            span("b", Some("r"), 20, 90),
            span("outlives", Some("b"), 80, 120),
        ];
        let path = CriticalPath::of(&Trace::of("t", spans, false));
        let parts: Vec<_> =
            path.spans.iter().map(|part| (part.span_id.as_str(), part.critical_ns, part.self_ns)).collect();
        assert_eq!(parts, [("b", 60, 60), ("outlives", 40, 40), ("r", 20, 20)]);
        assert_eq!((path.duration_ns, path.gap_ns, path.incomplete), (120, 0, false));
    }

    #[test]
    fn nothing_and_a_moment_have_no_path() {
        assert_eq!(path(Vec::new()), []);
        assert_eq!(path(vec![span("r", None, 5, 5), span("a", Some("r"), 5, 5)]), []);
        let far = vec![span("r", None, 0, u64::MAX), span("a", Some("r"), u64::MAX, u64::MAX)];
        assert_eq!(path(far), pieces(&[("r", i64::MAX)]));
    }

    /// The same, tick by tick.
    fn slow(spans: &[Span], tree: &Tree, times: &Times) -> Vec<(i64, Option<usize>)> {
        let (begin, mut now) = times.extent();
        let (start, end) = (&times.start_ns, &times.end_ns);
        let (mut visited, mut here, mut ticks) = (vec![false; spans.len()], None, Vec::new());
        loop {
            let Some(at) = here else {
                let open = (0..spans.len()).filter(|at| !visited[*at] && start[*at] < now);
                let latest = open.clone().map(|at| end[at].min(now)).max();
                let depths = tree.depths();
                let uppermost = open.filter(|at| Some(end[*at].min(now)) == latest).min_by_key(|at| (depths[*at], *at));
                match uppermost {
                    Some(at) => {
                        visited[at] = true;
                        here = Some(at);
                    }
                    None => return ticks,
                }
                continue;
            };
            visited[at] = true;
            if now > end[at] {
                ticks.push((now, None));
                now -= 1;
                continue;
            }
            let ended = |child: &usize| {
                now >= start[at] && end[*child] == now && !visited[*child] && is_waited_for(spans, tree, *child)
            };
            if let Some(child) = tree.children[at].iter().copied().find(ended) {
                here = Some(child);
            } else if now > start[at] {
                ticks.push((now, Some(at)));
                now -= 1;
            } else {
                here = tree.parents[at];
                if here.is_none() && now <= begin {
                    return ticks;
                }
            }
        }
    }

    fn any_spans() -> impl Strategy<Value = Vec<Span>> {
        let kinds = prop::sample::select(vec!["internal", "producer", "consumer"]);
        let one = (0_u64..40, 0_u64..25, prop::option::weighted(0.8, 0_usize..14), kinds, 0_u8..3);
        prop::collection::vec(one, 1..12).prop_map(|drawn| {
            let made = drawn.into_iter().enumerate().map(|(at, (start, length, parent, kind, host))| {
                let parent = parent.map(|parent| parent.to_string());
                let mut made = span(&at.to_string(), parent.as_deref(), start, start + length);
                made.kind = kind.to_owned();
                made.host = (host > 0).then(|| host.to_string());
                made
            });
            made.collect()
        })
    }

    proptest! {
        #[test]
        fn the_path_is_what_a_walk_tick_by_tick_finds_and_has_no_hole(spans in any_spans()) {
            let trace = Trace::of("t", spans, false);
            let tree = Tree::of(&trace.spans);
            let times = Times::of(&trace.spans, &tree);
            let expected = slow(&trace.spans, &tree, &times);
            let pieces = walk(&tree, &times, &|child| is_waited_for(&trace.spans, &tree, child));
            let (begin, end) = times.extent();
            let mut until = begin;
            let mut ticks = Vec::new();
            for piece in &pieces {
                prop_assert!(piece.start_ns == until && piece.end_ns > piece.start_ns);
                until = piece.end_ns;
                if let Some(at) = piece.span {
                    prop_assert!(piece.start_ns >= times.start_ns[at] && piece.end_ns <= times.end_ns[at]);
                }
                ticks.extend((piece.start_ns + 1..=piece.end_ns).map(|now| (now, piece.span)));
            }
            prop_assert_eq!(until, end);
            ticks.reverse();
            prop_assert_eq!(ticks, expected);
            let path = CriticalPath::of(&trace);
            prop_assert_eq!(path.spans.iter().map(|part| part.critical_ns).sum::<i64>() + path.gap_ns, path.duration_ns);
            prop_assert!(path.spans.iter().all(|part| part.self_ns >= 0 && part.self_ns <= part.duration_ns));
        }
    }
}
