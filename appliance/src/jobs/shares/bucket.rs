//! Token buckets: how often something may begin. Whole numbers of millionths of a token, on the monotonic clock.

use std::collections::HashMap;

use super::super::limits::Rate;

/// Most buckets; past it, full ones are forgotten, which changes nothing, and then further names share one.
const BUCKETS_MAX: usize = 10_000;
const TOKEN: u64 = 1_000_000;

/// What a bucket is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::jobs) enum Name {
    Queue(String),
    Key(String),
}

/// Tokens at a moment. A bucket that nobody has seen is empty at the process's beginning and has filled since: what was taken
/// before a restart is not known, so nothing is given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bucket {
    micros: u64,
    at_mono_ms: u64,
}

impl Bucket {
    fn filled(self, now_mono_ms: u64, rate: Rate) -> u64 {
        let elapsed_ms = now_mono_ms.saturating_sub(self.at_mono_ms);
        self.micros.saturating_add(elapsed_ms.saturating_mul(rate.micros_per_ms)).min(rate.burst.saturating_mul(TOKEN))
    }
}

#[derive(Debug, Default)]
pub(super) struct Buckets {
    known: HashMap<Name, Bucket>,
    /// Names that found no room and share one bucket.
    pub(super) folded: u64,
}

impl Buckets {
    /// When there is a token, on the monotonic clock; `now` or earlier: now.
    pub(super) fn next_mono_ms(&self, now_mono_ms: u64, name: &Name, rate: Rate) -> u64 {
        let bucket = self.known.get(name).or_else(|| self.known.get(&shared(name)).filter(|_| self.is_full()));
        let bucket = bucket.copied().unwrap_or_default();
        let missing = TOKEN.saturating_sub(bucket.filled(now_mono_ms, rate));
        // One that owes is empty until a later moment.
        now_mono_ms.max(bucket.at_mono_ms).saturating_add(missing.div_ceil(rate.micros_per_ms))
    }

    /// Takes a token. One that is not there is owed: an attempt that has begun has begun.
    pub(super) fn take(&mut self, now_mono_ms: u64, name: &Name, rate: Rate) {
        let name = if self.known.contains_key(name) || self.has_room(now_mono_ms, rate) {
            name.clone()
        } else {
            self.folded += 1;
            shared(name)
        };
        let bucket = self.known.entry(name).or_default();
        let filled = bucket.filled(now_mono_ms, rate);
        *bucket = if filled >= TOKEN {
            Bucket { micros: filled - TOKEN, at_mono_ms: now_mono_ms }
        } else {
            let owed_ms = (TOKEN - filled).div_ceil(rate.micros_per_ms);
            let empty_from_ms = now_mono_ms.max(bucket.at_mono_ms);
            Bucket { micros: 0, at_mono_ms: empty_from_ms.saturating_add(owed_ms) }
        };
    }

    fn is_full(&self) -> bool {
        self.known.len() >= BUCKETS_MAX
    }

    fn has_room(&mut self, now_mono_ms: u64, rate: Rate) -> bool {
        if self.is_full() {
            // By the rate of the newcomer: rates of keys are alike as a rule, and a bucket forgotten early is full early.
            self.known.retain(|_, bucket| bucket.filled(now_mono_ms, rate) < rate.burst.saturating_mul(TOKEN));
        }
        !self.is_full()
    }
}

/// No key is empty, and no queue has an empty name.
fn shared(name: &Name) -> Name {
    match name {
        Name::Queue(_) => Name::Queue(String::new()),
        Name::Key(_) => Name::Key(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> Name {
        Name::Key(text.into())
    }

    #[test]
    fn a_burst_and_then_one_by_one() {
        let (mut buckets, rate) = (Buckets::default(), Rate { micros_per_ms: 1_000, burst: 3 });
        assert_eq!(buckets.next_mono_ms(0, &key("a"), rate), 1_000, "what was taken before a restart is not known");
        for _ in 0..3 {
            assert_eq!(buckets.next_mono_ms(10_000, &key("a"), rate), 10_000);
            buckets.take(10_000, &key("a"), rate);
        }
        assert_eq!(buckets.next_mono_ms(10_000, &key("a"), rate), 11_000);
        assert_eq!(buckets.next_mono_ms(10_400, &key("a"), rate), 11_000);
        assert_eq!(buckets.next_mono_ms(10_400, &key("b"), rate), 10_400, "each key has its own");
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let (mut buckets, rate) = (Buckets::default(), Rate { micros_per_ms: 1, burst: 1 });
        for n in 0..BUCKETS_MAX + 5 {
            buckets.take(2_000_000, &key(&format!("k{n}")), rate);
        }
        assert!(buckets.known.len() <= BUCKETS_MAX + 1);
        assert!(buckets.folded > 0);
        assert!(buckets.next_mono_ms(2_000_000, &key("one more"), rate) > 2_000_000);
        buckets.take(9_000_000, &key("later"), rate);
        assert!(buckets.known.len() < 10, "what has filled again is forgotten");
    }

    proptest! {
        #[test]
        fn no_span_sees_more_than_the_burst_and_what_came_in_meanwhile(
            per_ms in 1_u64..20_000, burst in 1_u64..20, waits in prop::collection::vec(0_u64..3_000, 1..200)
        ) {
            let (mut buckets, rate) = (Buckets::default(), Rate { micros_per_ms: per_ms, burst });
            let (mut now, mut taken) = (0_u64, Vec::new());
            for wait in waits {
                now += wait;
                if buckets.next_mono_ms(now, &key("a"), rate) <= now {
                    buckets.take(now, &key("a"), rate);
                    taken.push(now);
                } else {
                    let next = buckets.next_mono_ms(now, &key("a"), rate);
                    prop_assert!(buckets.next_mono_ms(next, &key("a"), rate) <= next, "it is there when it was promised");
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64;
                    prop_assert!(count * TOKEN <= burst * TOKEN + (to - from) * per_ms, "{count} from {from} to {to}");
                }
            }
        }
    }
}
