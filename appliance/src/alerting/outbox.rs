//! Notifications on their way: order, retries, giving up. Pure: time and chance are handed in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use backlot_alerts::Notification;
use serde::{Deserialize, Serialize};

use crate::clock::Now;

/// Most notifications on their way; past it the oldest go.
const ENTRIES_MAX: usize = 200;
/// Wait after the first failure; it doubles with each.
const BACKOFF_FIRST_MS: u64 = 1_000;
const BACKOFF_MS_MAX: u64 = 300_000;
/// Longest error that is kept, in characters.
const PROBLEM_CHARS_MAX: usize = 300;

/// A notification with the id that it is told under, however often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) notification: Notification,
}

/// What became of earlier attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tries {
    failed: u32,
    /// Earliest moment of the next one.
    next_wall_ms: u64,
    problem: String,
}

struct Waiting {
    entry: Entry,
    /// As it stands in the journal; it never changes.
    json: String,
    tries: Tries,
    next_mono_ms: u64,
    /// Nothing is sent before it is written down.
    saved: bool,
}

/// What to do for a receiver.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Now(Box<Entry>),
    /// Nothing before then, unless something new comes.
    After(Duration),
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    Retried,
    GivenUp,
}

#[derive(Default)]
pub(super) struct Outbox {
    /// In the order in which they were made.
    waiting: VecDeque<Waiting>,
    /// Attempts that were read back before their notification.
    orphans: BTreeMap<String, Tries>,
}

impl Outbox {
    pub(super) fn push(&mut self, entry: Entry, now: Now) {
        if self.waiting.len() >= ENTRIES_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            let (receiver, alert) = (&oldest.entry.notification.receiver, &oldest.entry.notification.alert);
            tracing::error!(receiver, alert, "dropped the oldest notification: too many are on their way");
        }
        let json = serde_json::to_string(&entry).unwrap_or_default();
        self.waiting.push_back(Waiting {
            entry,
            json,
            tries: Tries::default(),
            next_mono_ms: now.mono_ms,
            saved: false,
        });
    }

    pub(super) fn restore(&mut self, id: &str, entry: Entry, now: Now) {
        let json = serde_json::to_string(&entry).unwrap_or_default();
        let tries = self.orphans.remove(id).unwrap_or_default();
        let waiting = Waiting { entry, json, next_mono_ms: resumed(&tries, now), tries, saved: true };
        let at = self
            .waiting
            .partition_point(|other| other.entry.notification.made_at_ms <= waiting.entry.notification.made_at_ms);
        self.waiting.insert(at, waiting);
    }

    pub(super) fn restore_tries(&mut self, id: &str, tries: Tries, now: Now) {
        match self.waiting.iter_mut().find(|waiting| waiting.entry.id == id) {
            Some(waiting) => {
                waiting.next_mono_ms = resumed(&tries, now);
                waiting.tries = tries;
            }
            None => drop(self.orphans.insert(id.to_owned(), tries)),
        }
    }

    /// Forgets what was meant for receivers that are no longer configured.
    pub(super) fn keep_receivers(&mut self, known: &BTreeSet<&str>) {
        self.orphans.clear();
        self.waiting.retain(|waiting| known.contains(waiting.entry.notification.receiver.as_str()));
    }

    /// Keys and values for the ledger.
    pub(super) fn stored(&self) -> impl Iterator<Item = (String, Option<String>)> {
        self.waiting.iter().flat_map(|waiting| {
            let id = &waiting.entry.id;
            let tries =
                (waiting.tries.failed > 0).then(|| (format!("try/{id}"), serde_json::to_string(&waiting.tries).ok()));
            [(format!("out/{id}"), Some(waiting.json.clone()))].into_iter().chain(tries)
        })
    }

    /// Marks what the ledger holds.
    pub(super) fn saved(&mut self, holds: impl Fn(&str) -> bool) {
        for waiting in self.waiting.iter_mut().filter(|waiting| !waiting.saved) {
            waiting.saved = holds(&waiting.entry.id);
        }
    }

    /// The oldest of a receiver, if its time has come. A later one waits for it, so that "resolved" never overtakes "firing".
    pub(super) fn next(&self, receiver: &str, now: Now) -> Next {
        let mut of_receiver = self.waiting.iter().filter(|waiting| waiting.entry.notification.receiver == receiver);
        match of_receiver.next() {
            Some(first) if !first.saved => Next::After(Duration::from_secs(1)),
            Some(first) if first.next_mono_ms <= now.mono_ms => Next::Now(Box::new(first.entry.clone())),
            Some(first) => Next::After(Duration::from_millis(first.next_mono_ms - now.mono_ms)),
            None => Next::After(Duration::from_millis(BACKOFF_MS_MAX)),
        }
    }

    pub(super) fn delivered(&mut self, id: &str) -> Outcome {
        self.waiting.retain(|waiting| waiting.entry.id != id);
        Outcome::Delivered
    }

    /// An attempt failed: the next one waits twice as long as the last, less up to half by `chance` (0 to 1).
    pub(super) fn failed(&mut self, id: &str, problem: &str, now: Now, age_max_ms: u64, chance: f64) -> Outcome {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.entry.id == id) else { return Outcome::GivenUp };
        let waiting = &mut self.waiting[at];
        if now.wall_ms.saturating_sub(waiting.entry.notification.made_at_ms) >= age_max_ms {
            self.waiting.remove(at);
            return Outcome::GivenUp;
        }
        let full_ms = BACKOFF_FIRST_MS.saturating_mul(1 << waiting.tries.failed.min(20)).min(BACKOFF_MS_MAX);
        let wait_ms = full_ms - (full_ms as f64 / 2.0 * chance.clamp(0.0, 1.0)) as u64;
        waiting.tries.failed = waiting.tries.failed.saturating_add(1);
        waiting.tries.next_wall_ms = now.wall_ms.saturating_add(wait_ms);
        waiting.tries.problem = problem.chars().take(PROBLEM_CHARS_MAX).collect();
        waiting.next_mono_ms = now.mono_ms.saturating_add(wait_ms);
        Outcome::Retried
    }

    /// How many wait for a receiver, and the last problem of the first of them.
    pub(super) fn of_receiver(&self, receiver: &str) -> (usize, Option<&str>) {
        let mut of_receiver = self.waiting.iter().filter(|waiting| waiting.entry.notification.receiver == receiver);
        let first = of_receiver.next();
        let problem = first.map(|first| first.tries.problem.as_str()).filter(|problem| !problem.is_empty());
        (usize::from(first.is_some()) + of_receiver.count(), problem)
    }
}

/// The wait goes on over a restart, but a clock that stepped cannot make it longer than any wait is.
fn resumed(tries: &Tries, now: Now) -> u64 {
    now.mono_ms.saturating_add(tries.next_wall_ms.saturating_sub(now.wall_ms).min(BACKOFF_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono_ms: ms, wall_ms: 1_700_000_000_000 + ms }
    }

    fn entry(id: &str, ms: u64) -> Entry {
        let (receiver, alert) = ("hook".to_owned(), "A".to_owned());
        Entry {
            id: id.into(),
            notification: Notification { receiver, alert, alerts: vec![], left_out: 0, made_at_ms: at(ms).wall_ms },
        }
    }

    fn id(next: Next) -> Option<String> {
        if let Next::Now(entry) = next { Some(entry.id) } else { None }
    }

    #[test]
    fn nothing_is_sent_before_it_is_written_down_and_a_later_one_waits_for_the_first() {
        let mut outbox = Outbox::default();
        outbox.push(entry("1", 0), at(0));
        outbox.push(entry("2", 1), at(1));
        assert_eq!(id(outbox.next("hook", at(1))), None);
        outbox.saved(|_| true);
        assert_eq!(id(outbox.next("hook", at(1))), Some("1".into()));
        assert_eq!(id(outbox.next("other", at(1))), None);
        assert_eq!(outbox.failed("1", "refused", at(1), 1_000_000, 0.0), Outcome::Retried);
        assert_eq!(outbox.next("hook", at(500)), Next::After(Duration::from_millis(501)));
        assert_eq!(outbox.of_receiver("hook"), (2, Some("refused")));
        assert_eq!(id(outbox.next("hook", at(1001))), Some("1".into()));
        outbox.delivered("1");
        assert_eq!(id(outbox.next("hook", at(1001))), Some("2".into()));
    }

    #[test]
    fn waits_double_with_jitter_to_a_limit_and_end_with_age() {
        let mut outbox = Outbox::default();
        outbox.push(entry("1", 0), at(0));
        outbox.saved(|_| true);
        let mut waits = Vec::new();
        for _ in 0..12 {
            outbox.failed("1", "x", at(0), 1_000_000, 1.0);
            if let Next::After(wait) = outbox.next("hook", at(0)) {
                waits.push(wait.as_millis() as u64);
            }
        }
        assert_eq!(waits[..4], [500, 1000, 2000, 4000]);
        assert_eq!(waits[11], BACKOFF_MS_MAX / 2);
        assert_eq!(outbox.failed("1", "x", at(1_000_000), 1_000_000, 0.5), Outcome::GivenUp);
        assert_eq!(outbox.of_receiver("hook"), (0, None));
    }

    #[test]
    fn a_restart_keeps_order_attempts_and_waits() {
        let mut before = Outbox::default();
        before.push(entry("b", 0), at(0));
        before.push(entry("a", 5), at(5));
        before.failed("b", "x", at(10), 1_000_000, 0.0);
        before.failed("b", "x", at(10), 1_000_000, 0.0);
        let stored: BTreeMap<_, _> = before.stored().collect();
        let boot = |ms: u64| Now { mono_ms: ms, wall_ms: at(510).wall_ms + ms };
        let mut after = Outbox::default();
        for (key, value) in stored {
            let value = value.unwrap();
            match key.split_once('/').unwrap() {
                ("out", id) => after.restore(id, serde_json::from_str(&value).unwrap(), boot(0)),
                (_, id) => after.restore_tries(id, serde_json::from_str(&value).unwrap(), boot(0)),
            }
        }
        assert_eq!(after.next("hook", boot(0)), Next::After(Duration::from_millis(1500)));
        assert_eq!(id(after.next("hook", boot(1500))), Some("b".into()));
        after.failed("b", "x", boot(1500), 1_000_000, 0.0);
        assert_eq!(after.next("hook", boot(1500)), Next::After(Duration::from_millis(4000)), "the third failure");
    }

    #[test]
    fn the_outbox_is_bounded() {
        let mut outbox = Outbox::default();
        for number in 0..ENTRIES_MAX as u64 + 5 {
            outbox.push(entry(&number.to_string(), number), at(number));
        }
        outbox.saved(|_| true);
        assert_eq!(outbox.of_receiver("hook").0, ENTRIES_MAX);
        assert_eq!(id(outbox.next("hook", at(9999))), Some("5".into()));
    }
}
