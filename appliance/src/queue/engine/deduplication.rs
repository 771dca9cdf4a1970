//! What was sent to a FIFO queue in the last five minutes: a second send of one key is answered like the first, and sends nothing.
//!
//! It outlives the message: what is deleted, purged or moved is remembered as long as what is not. Send records tell it after a
//! restart; where compaction drops one too early, it writes a small record in its place ([`Deduplication::of`]).
//!
//! What is absent on purpose: forgetting early. A full table refuses sends.

use std::collections::VecDeque;

use hashbrown::HashTable;
use sha2::{Digest, Sha256};

use super::super::model::{DeduplicationKey, MessageId};
use crate::clock::Now;

/// How long a key is remembered (AWS).
const WINDOW_MS: u64 = 300_000;
/// Most keys that one queue remembers: 13,900 sends a second, about 250 MB.
const SEEN_MAX: usize = 1 << 22;

/// The first send of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) struct Seen {
    pub key: DeduplicationKey,
    pub message: MessageId,
    pub sequence: u64,
    /// On the monotonic clock, negative for an earlier run; during a replay on the wall clock.
    pub at_ms: i64,
}

#[derive(Default)]
pub(in crate::queue) struct Deduplication {
    /// By time.
    seen: VecDeque<Seen>,
    /// How many have been forgotten: the number of the first in `seen`.
    forgotten: u64,
    /// The newest of each key, by number.
    by_key: HashTable<u64>,
    /// When a replay looks for what is too old again.
    prune_at: usize,
}

impl DeduplicationKey {
    /// The key of `deduplication_id`, within `group` where that is its scope.
    pub(in crate::queue) fn of(deduplication_id: &str, group: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        for part in [Some(deduplication_id), group] {
            // A length keeps what one part ends with from being the other's beginning.
            hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        let whole: [u8; 32] = hash.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&whole[..16]);
        Self(key)
    }
}

impl Deduplication {
    /// The first send of `key`, if it was in the window.
    pub(super) fn find(&mut self, now: Now, key: DeduplicationKey) -> Option<Seen> {
        self.forget(i64::try_from(now.mono_ms).unwrap_or(i64::MAX));
        self.look(key)
    }

    fn look(&self, key: DeduplicationKey) -> Option<Seen> {
        let (seen, forgotten) = (&self.seen, self.forgotten);
        let number =
            self.by_key.find(hash(key), |number| at(seen, forgotten, *number).is_some_and(|s| s.key == key))?;
        at(seen, forgotten, *number).copied()
    }

    pub(super) fn is_full(&self) -> bool {
        self.seen.len() >= SEEN_MAX
    }

    /// Remembers what was just sent.
    pub(super) fn remember(&mut self, seen: Seen) {
        self.seen.push_back(seen);
        let number = self.forgotten + self.seen.len() as u64 - 1;
        let (all, forgotten) = (&self.seen, self.forgotten);
        let key_of = |number: &u64| at(all, forgotten, *number).map(|seen| seen.key);
        let same = |number: &u64| key_of(number) == Some(seen.key);
        match self.by_key.entry(hash(seen.key), same, |number| key_of(number).map_or(0, hash)) {
            hashbrown::hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = number,
            hashbrown::hash_table::Entry::Vacant(entry) => {
                entry.insert(number);
            }
        }
    }

    fn forget(&mut self, now_ms: i64) {
        while let Some(first) = self.seen.front().filter(|seen| is_old(seen, now_ms)) {
            if let Ok(entry) = self.by_key.find_entry(hash(first.key), |number| *number == self.forgotten) {
                entry.remove();
            }
            self.seen.pop_front();
            self.forgotten += 1;
        }
        if self.seen.is_empty() {
            *self = Self { forgotten: self.forgotten, ..Self::default() }; // its memory goes back
        }
    }

    /// What is remembered of `message` under `key` and still counts.
    pub(super) fn of(&self, now: Now, key: DeduplicationKey, message: MessageId) -> Option<Seen> {
        let now_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
        self.look(key).filter(|seen| seen.message == message && !is_old(seen, now_ms))
    }

    /// Something that a record tells, in any order.
    pub(super) fn replay(&mut self, seen: Seen) {
        self.seen.push_back(seen);
        if self.seen.len() > self.prune_at {
            // Wall time has come this far at least, so what is a window older cannot count.
            let newest_ms = self.seen.iter().map(|seen| seen.at_ms).max().unwrap_or(0);
            self.seen.retain(|seen| !is_old(seen, newest_ms));
            self.prune_at = self.seen.len() * 2 + 1_024;
        }
    }

    /// All records have told theirs: what still counts is put in order, on the monotonic clock.
    pub(super) fn replayed(&mut self, now: Now) {
        let mut all: Vec<_> = std::mem::take(self).seen.into();
        all.sort_by_key(|seen| seen.at_ms);
        let wall_ms = i64::try_from(now.wall_ms).unwrap_or(i64::MAX);
        let mono_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
        for mut seen in all {
            // A clock that went back makes it young.
            seen.at_ms = mono_ms.saturating_sub(wall_ms.saturating_sub(seen.at_ms).max(0));
            if !is_old(&seen, mono_ms) && self.look(seen.key).is_none() {
                self.remember(seen);
            }
        }
    }
}

fn at(seen: &VecDeque<Seen>, forgotten: u64, number: u64) -> Option<&Seen> {
    number.checked_sub(forgotten).and_then(|index| usize::try_from(index).ok()).and_then(|index| seen.get(index))
}

fn is_old(seen: &Seen, now_ms: i64) -> bool {
    now_ms.saturating_sub(seen.at_ms) >= WINDOW_MS as i64
}

fn hash(key: DeduplicationKey) -> u64 {
    let DeduplicationKey([a, b, c, d, e, f, g, h, ..]) = key;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_s(seconds: u64) -> Now {
        Now { mono_ms: seconds * 1_000, wall_ms: 1_700_000_000_000 + seconds * 1_000 }
    }

    fn seen(id: &str, sequence: u64, now: Now) -> Seen {
        let message = MessageId::from_random([u8::try_from(sequence).unwrap(); 16]);
        Seen { key: DeduplicationKey::of(id, None), message, sequence, at_ms: i64::try_from(now.mono_ms).unwrap() }
    }

    #[test]
    fn a_key_counts_for_five_minutes_and_then_anew() {
        let mut table = Deduplication::default();
        table.remember(seen("a", 1, at_s(0)));
        table.remember(seen("b", 2, at_s(100)));
        let find = |table: &mut Deduplication, second, id| {
            table.find(at_s(second), DeduplicationKey::of(id, None)).map(|seen| seen.sequence)
        };
        assert_eq!(find(&mut table, 299, "a"), Some(1));
        assert_eq!(find(&mut table, 300, "a"), None);
        table.remember(seen("a", 3, at_s(300)));
        assert_eq!((find(&mut table, 399, "b"), find(&mut table, 400, "b")), (Some(2), None));
        assert_eq!((find(&mut table, 599, "a"), find(&mut table, 600, "a")), (Some(3), None));
        assert!(table.by_key.is_empty());
    }

    #[test]
    fn a_scope_and_an_id_are_told_apart_whatever_they_hold() {
        let keys = [
            DeduplicationKey::of("ab", None),
            DeduplicationKey::of("ab", Some("")),
            DeduplicationKey::of("a", Some("b")),
            DeduplicationKey::of("", Some("ab")),
            DeduplicationKey::of("ab", Some("c")),
        ];
        let different: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
    }

    #[test]
    fn a_replay_in_any_order_brings_back_what_still_counts() {
        let now = at_s(1_000);
        let wall = |second: u64| i64::try_from(at_s(second).wall_ms).unwrap();
        let mut table = Deduplication::default();
        for number in 0..5_000_u64 {
            let id = format!("{}", number % 1_000);
            table.replay(Seen { at_ms: wall(number % 1_000), ..seen(&id, number % 251, now) });
        }
        assert!(table.seen.len() < 5_000, "old ones go on the way");
        table.replayed(Now { mono_ms: 7, ..now });
        for second in [0, 700, 701, 999] {
            let key = DeduplicationKey::of(&second.to_string(), None);
            assert_eq!(table.look(key).is_some(), second > 700, "{second}");
        }
        let find = |table: &mut Deduplication, mono_ms| {
            table.find(Now { mono_ms, ..now }, DeduplicationKey::of("999", None)).is_some()
        };
        assert!(find(&mut table, 7 + 298_999) && !find(&mut table, 7 + 299_000), "one second of its window had passed");
    }
}
