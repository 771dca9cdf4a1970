//! Who waits for a message, in the order in which they came.
//!
//! A waiter is *asleep* or *woken*. A woken one comes back and receives for itself, so a wake is a promise and no
//! message: newcomers leave as many ready messages as there are woken waiters. A waiter that goes away gives its promise to the next
//! one, and one that finds nothing sleeps again at its old place in the line.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::model::QueueId;
use super::overseer::Nearness;

/// A place in a line: the lower, the longer it has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Default)]
pub(super) struct Waiting {
    lines: HashMap<QueueId, Line>,
    last: u64,
}

#[derive(Default)]
struct Line {
    asleep: BTreeMap<Ticket, Waiter>,
    woken: BTreeSet<Ticket>,
}

struct Waiter {
    agent: Option<Arc<str>>,
    wake: oneshot::Sender<()>,
}

impl Waiting {
    /// Puts a waiter into the line of `queue`, at `ticket` if it had one.
    pub(super) fn sleep(
        &mut self,
        queue: QueueId,
        ticket: Option<Ticket>,
        agent: Option<Arc<str>>,
    ) -> (Ticket, oneshot::Receiver<()>) {
        let ticket = ticket.unwrap_or_else(|| {
            self.last += 1;
            Ticket(self.last)
        });
        let (wake, woken) = oneshot::channel();
        let line = self.lines.entry(queue).or_default();
        line.woken.remove(&ticket);
        line.asleep.insert(ticket, Waiter { agent, wake });
        (ticket, woken)
    }

    /// Wakes the first sleeper that `fits`. False when there is none.
    pub(super) fn wake(&mut self, queue: QueueId, fits: impl Fn(Option<&str>) -> bool) -> bool {
        self.wake_nearest(queue, |agent| fits(agent).then_some(Nearness::Loaded))
    }

    /// Wakes the nearest sleeper, of equals the first; one with `None` does not fit. False when there is none.
    pub(super) fn wake_nearest(&mut self, queue: QueueId, nearness: impl Fn(Option<&str>) -> Option<Nearness>) -> bool {
        let Some(line) = self.lines.get_mut(&queue) else { return false };
        let mut nearest = None;
        for (ticket, waiter) in &line.asleep {
            let Some(near) = nearness(waiter.agent.as_deref()) else { continue };
            if nearest.is_none_or(|(best, _)| near < best) {
                nearest = Some((near, *ticket));
            }
            if near == Nearness::Loaded {
                break; // none is nearer, and this one came first
            }
        }
        let first = nearest.map(|(_, ticket)| ticket);
        let Some((ticket, waiter)) = first.and_then(|ticket| line.asleep.remove_entry(&ticket)) else { return false };
        line.woken.insert(ticket);
        let _ = waiter.wake.send(()); // one that has just gone leaves the line itself, and passes it on
        true
    }

    /// Wakes all of them: the queue has gone.
    pub(super) fn wake_all(&mut self, queue: QueueId) {
        while self.wake(queue, |_| true) {}
    }

    /// Takes a waiter out of the line.
    pub(super) fn leave(&mut self, queue: QueueId, ticket: Ticket) {
        if let Some(line) = self.lines.get_mut(&queue) {
            line.asleep.remove(&ticket);
            line.woken.remove(&ticket);
            if line.asleep.is_empty() && line.woken.is_empty() {
                self.lines.remove(&queue);
            }
        }
    }

    /// The queues that somebody waits for.
    pub(super) fn queues(&self) -> Vec<QueueId> {
        self.lines.keys().copied().collect()
    }

    /// Whether somebody waits for `queue` who was not woken.
    pub(super) fn is_slept_for(&self, queue: QueueId) -> bool {
        self.lines.get(&queue).is_some_and(|line| !line.asleep.is_empty())
    }

    /// How many are in line, on all queues.
    #[cfg(test)]
    pub(super) fn line_lengths(&self) -> usize {
        self.lines.values().map(|line| line.asleep.len() + line.woken.len()).sum()
    }

    /// How many were woken and have not come back.
    pub(super) fn woken(&self, queue: QueueId) -> usize {
        self.lines.get(&queue).map_or(0, |line| line.woken.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(1);

    #[test]
    fn who_came_first_is_woken_first_and_keeps_the_place_when_there_was_nothing() {
        let mut waiting = Waiting::default();
        let (first, mut first_woken) = waiting.sleep(QUEUE, None, None);
        let (_, mut second_woken) = waiting.sleep(QUEUE, None, None);
        assert!(waiting.wake(QUEUE, |_| true));
        assert!(first_woken.try_recv().is_ok() && second_woken.try_recv().is_err());
        assert_eq!(waiting.woken(QUEUE), 1);
        let (_, mut first_again) = waiting.sleep(QUEUE, Some(first), None);
        assert_eq!(waiting.woken(QUEUE), 0);
        assert!(waiting.wake(QUEUE, |_| true));
        assert!(first_again.try_recv().is_ok() && second_woken.try_recv().is_err());
    }

    #[test]
    fn the_nearest_is_woken_and_of_equals_the_first() {
        let mut waiting = Waiting::default();
        let mut woken = ["far", "disk", "loaded", "loaded-too", "never"]
            .map(|name| (name, waiting.sleep(QUEUE, None, Some(name.into())).1));
        let near = |agent: Option<&str>| match agent {
            Some("loaded" | "loaded-too") => Some(Nearness::Loaded),
            Some("disk") => Some(Nearness::OnDisk),
            Some("never") => None,
            _ => Some(Nearness::Elsewhere),
        };
        for expected in ["loaded", "loaded-too", "disk", "far"] {
            assert!(waiting.wake_nearest(QUEUE, near));
            let now = woken.iter_mut().find_map(|(name, wake)| wake.try_recv().is_ok().then_some(*name));
            assert_eq!(now, Some(expected));
        }
        assert!(!waiting.wake_nearest(QUEUE, near));
    }

    #[test]
    fn only_one_that_fits_is_woken() {
        let mut waiting = Waiting::default();
        let (_, mut small) = waiting.sleep(QUEUE, None, Some("small".into()));
        let (_, mut large) = waiting.sleep(QUEUE, None, Some("large".into()));
        assert!(waiting.wake(QUEUE, |agent| agent == Some("large")));
        assert!(!waiting.wake(QUEUE, |agent| agent == Some("large")));
        assert!(small.try_recv().is_err() && large.try_recv().is_ok());
    }
}
