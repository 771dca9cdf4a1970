//! Token buckets per address or key: an average over ten seconds, with a bound on how many are remembered.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

/// Most callers remembered; when full, those with a full bucket are forgotten, which changes nothing for them.
const CALLERS_MAX: usize = 65_536;
const WINDOW_S: u64 = 10;

/// `rate_s` requests a second on average over ten seconds; 0 lets everything through.
pub(super) struct Buckets<K> {
    rate_s: u64,
    /// Thousandths of a request left, and when that was so.
    left: Mutex<HashMap<K, (u64, u64)>>,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(super) fn new(rate_s: u32) -> Self {
        Self { rate_s: rate_s.into(), left: Mutex::default() }
    }

    /// Takes one request from `caller`'s bucket; false when it is empty.
    pub(super) fn take(&self, caller: K, mono_ms: u64) -> bool {
        if self.rate_s == 0 {
            return true;
        }
        let full = self.rate_s * WINDOW_S * 1000;
        let refilled =
            |(left, at_ms): (u64, u64)| (left + mono_ms.saturating_sub(at_ms).saturating_mul(self.rate_s)).min(full);
        let mut buckets = self.left.lock();
        if buckets.len() >= CALLERS_MAX && !buckets.contains_key(&caller) {
            buckets.retain(|_, bucket| refilled(*bucket) < full);
            if buckets.len() >= CALLERS_MAX {
                return false;
            }
        }
        let bucket = buckets.entry(caller).or_insert((full, mono_ms));
        let left = refilled(*bucket);
        let allowed = left >= 1000;
        *bucket = (if allowed { left - 1000 } else { left }, mono_ms);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_ten_seconds_passes_and_then_the_average_holds() {
        let buckets = Buckets::new(2);
        assert_eq!((0..100).filter(|_| buckets.take("a", 0)).count(), 20);
        assert!(buckets.take("b", 0));
        assert_eq!((0..100).filter(|_| buckets.take("a", 1000)).count(), 2);
        assert_eq!((0..100).filter(|_| buckets.take("a", 3_600_000)).count(), 20);
        let off = Buckets::new(0);
        assert!((0..1000).all(|_| off.take("a", 0)));
    }
}
