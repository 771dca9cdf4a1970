//! When a received message is surely hidden from everybody else.

use super::super::history::{Call, Micros};
use super::{Attempt, GRAIN, SECOND};

/// Spans, in order and apart, in which nobody else may receive the message, given that it was taken before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hold {
    spans: Vec<(Micros, Micros)>,
}

impl Hold {
    /// Of a receive that began at `begun`, and the changes of its visibility in the order in which they began.
    pub(super) fn of(begun: Micros, visibility_s: u32, hides: &[Attempt<'_>]) -> Self {
        let mut spans = Vec::new();
        let (mut from, mut to) = (begun, end(begun, visibility_s));
        for hide in hides.iter().filter(|hide| !hide.refused()) {
            let Call::Hide { visibility_s, .. } = hide.operation.call else { continue };
            let (begun, ended) = (hide.operation.begun, hide.operation.ended);
            let next = if visibility_s == 0 { begun } else { end(begun, visibility_s) };
            if !hide.done {
                to = to.min(next); // it may have happened, at whatever time
            } else if to >= ended {
                to = next; // nobody could come between the two timeouts
            } else {
                spans.push((from, to.min(next)));
                (from, to) = (ended, next);
            }
        }
        spans.push((from, to));
        spans.retain(|(from, to)| from < to);
        Self { spans }
    }

    /// Whether all of `from..=to` lies in one span.
    pub(super) fn covers(&self, from: Micros, to: Micros) -> bool {
        self.spans.iter().any(|span| span.0 <= from && to < span.1)
    }

    /// End of the first span: from here on somebody else may have had it.
    pub(super) fn first_end(&self) -> Micros {
        self.spans.first().map_or(0, |span| span.1)
    }

    /// The same, ending at `at`.
    pub(super) fn until(&self, at: Micros) -> Self {
        let spans = self.spans.iter().map(|(from, to)| (*from, (*to).min(at))).filter(|(from, to)| from < to);
        Self { spans: spans.collect() }
    }
}

fn end(begun: Micros, visibility_s: u32) -> Micros {
    (begun + Micros::from(visibility_s) * SECOND).saturating_sub(GRAIN)
}
