//! Who called whom: the spans of a trace as a tree, and how far apart the clocks of its hosts seem to be.

use std::collections::HashMap;

use super::model::Span;

/// Indexes into the spans that it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// Where the parent is here, and the edge was not cut.
    pub(super) parents: Vec<Option<usize>>,
    /// In the order of the spans.
    pub(super) children: Vec<Vec<usize>>,
    /// In the order of the spans.
    pub(super) roots: Vec<usize>,
    /// Those whose parents led back to themselves: the first of each circle, now a root.
    pub(super) cut: Vec<usize>,
}

impl Tree {
    /// The ids of the spans differ from one another. A circle is cut at the span that stands first.
    pub(super) fn of(spans: &[Span]) -> Self {
        let at: HashMap<_, _> = spans.iter().enumerate().map(|(at, span)| (span.span_id.as_str(), at)).collect();
        let parent = |span: &Span| span.parent_span_id.as_deref().and_then(|id| at.get(id).copied());
        let mut parents: Vec<_> = spans.iter().map(parent).collect();
        let mut cut = Vec::new();
        // In which walk a span was met first; walks begin at each span and go up until they meet something known.
        let mut met = vec![usize::MAX; spans.len()];
        for begin in 0..spans.len() {
            let mut here = begin;
            while met[here] == usize::MAX {
                met[here] = begin;
                match parents[here] {
                    Some(parent) => here = parent,
                    None => break,
                }
            }
            if met[here] == begin && parents[here].is_some() {
                let mut first = here;
                let mut next = parents[here];
                while let Some(at) = next.filter(|at| *at != here) {
                    first = first.min(at);
                    next = parents[at];
                }
                parents[first] = None;
                cut.push(first);
            }
        }
        cut.sort_unstable();
        let mut children = vec![Vec::new(); spans.len()];
        for (child, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(child);
            }
        }
        let roots = parents.iter().enumerate().filter(|(_, parent)| parent.is_none()).map(|(at, _)| at).collect();
        Self { parents, children, roots, cut }
    }

    /// All spans, each after its parent.
    pub(super) fn top_down(&self) -> Vec<usize> {
        let mut order = self.roots.clone();
        let mut next = 0;
        while let Some(at) = order.get(next).copied() {
            order.extend(&self.children[at]);
            next += 1;
        }
        order
    }

    /// How many forebears each span has here.
    pub(super) fn depths(&self) -> Vec<usize> {
        let mut depths = vec![0; self.parents.len()];
        for at in self.top_down() {
            depths[at] = self.parents[at].map_or(0, |parent| depths[parent] + 1);
        }
        depths
    }

    /// What is to be added to the times of each span so that none on another host begins before what called it. As Jaeger does, a call that
    /// fits into its caller is put into the middle of it: the network is taken to be as slow one way as the other. Spans below
    /// a call on the same host move with it.
    pub(super) fn skew_ns(&self, spans: &[Span]) -> Vec<i64> {
        let mut shifts = vec![0_i64; spans.len()];
        for at in self.top_down() {
            let Some(parent) = self.parents[at] else { continue };
            let (caller, called) = (&spans[parent], &spans[at]);
            if caller.host == called.host {
                shifts[at] = shifts[parent];
                continue;
            }
            // A host that was met higher up has the clock that it had there; which way it is off shows anew.
            let caller_start = signed(caller.start_ns).saturating_add(shifts[parent]);
            let early_ns = caller_start.saturating_sub(signed(called.start_ns));
            if early_ns > 0 {
                let slack_ns = caller.duration_ns.saturating_sub(called.duration_ns) / 2;
                shifts[at] = early_ns.saturating_add(signed(slack_ns));
            }
        }
        shifts
    }
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
