//! What may not be done twice within a minute: a queue is purged once, and its name given again later than that.
//!
//! What is absent on purpose: durability. A restart forgets the marks; they protect nothing but the caller's expectations.

use std::collections::HashMap;
use std::hash::Hash;

use super::model::{QUEUES_MAX, QueueId, QueueName};
use crate::clock::Now;

/// How long a mark lasts (AWS).
const MARK_MS: u64 = 60_000;

#[derive(Default)]
pub(super) struct Recent {
    pub deleted: Marks<QueueName>,
    pub purged: Marks<QueueId>,
}

/// When something was last done, for as long as that matters.
pub(super) struct Marks<K>(HashMap<K, u64>);

impl<K> Default for Marks<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Marks<K> {
    pub(super) fn has(&self, now: Now, key: &K) -> bool {
        self.0.get(key).is_some_and(|at_ms| now.mono_ms.saturating_sub(*at_ms) < MARK_MS)
    }

    /// Marks `key`. Beyond as many marks as there can be queues, it is left unmarked.
    pub(super) fn mark(&mut self, now: Now, key: K) {
        if self.0.len() >= QUEUES_MAX {
            self.0.retain(|_, at_ms| now.mono_ms.saturating_sub(*at_ms) < MARK_MS);
        }
        if self.0.len() < QUEUES_MAX {
            self.0.insert(key, now.mono_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, wall_ms: 1_000_000 + mono_ms }
    }

    #[test]
    fn a_mark_lasts_a_minute_and_their_number_is_bounded() {
        let mut marks = Marks::default();
        marks.mark(at(5), 0_usize);
        assert!(marks.has(at(60_004), &0) && !marks.has(at(60_005), &0) && !marks.has(at(5), &1));
        for key in 1..2 * QUEUES_MAX {
            marks.mark(at(100), key);
        }
        assert!(marks.has(at(100), &1) && !marks.has(at(100), &(2 * QUEUES_MAX - 1)));
        marks.mark(at(70_000), 7);
        assert_eq!(marks.0.len(), 1, "old marks make room");
    }
}
