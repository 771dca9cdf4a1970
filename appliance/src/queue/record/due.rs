//! When a timer ends, for a process that knows only the wall clock.

use super::Reader;
use crate::clock::Now;

/// The end of a timer, and its length when that was written: a clock that was set back meanwhile makes no timeout longer
/// than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) struct Due {
    at_ms: u64,
    within_s: u32,
}

pub(super) const DUE_BYTES: usize = 8 + 4;

impl Due {
    /// It has ended.
    pub(in crate::queue) const OVER: Self = Self { at_ms: 0, within_s: 0 };

    pub(in crate::queue) fn after(now: Now, left_ms: u64) -> Self {
        let within_s = u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        Self { at_ms: now.wall_ms + left_ms, within_s }
    }

    /// Its end in wall milliseconds, as a process sees it that reads it now.
    pub(in crate::queue) fn seen(self, now: Now) -> u64 {
        self.at_ms.min(now.wall_ms.saturating_add(u64::from(self.within_s) * 1000))
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend(self.at_ms.to_le_bytes());
        out.extend(self.within_s.to_le_bytes());
    }

    /// Versions before the third do not tell the length.
    pub(super) fn read(version: u8, from: &mut Reader<'_>) -> Result<Self, String> {
        let at_ms = from.u64()?;
        Ok(Self { at_ms, within_s: if version >= 3 { from.u32()? } else { u32::MAX } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_no_timer_longer() {
        let at = |wall_ms| Now { mono_ms: 0, wall_ms };
        let due = Due::after(at(1_000_000), 2_500);
        assert_eq!(due.seen(at(1_001_000)), 1_002_500);
        assert_eq!(due.seen(at(5_000_000)), 1_002_500, "long over");
        assert_eq!(
            due.seen(at(400_000)),
            403_000,
            "ten minutes back, and at most the three seconds that it was written with"
        );
        assert_eq!(Due::OVER.seen(at(7)), 0);
    }
}
