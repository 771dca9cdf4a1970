//! What one webhook is told next. Pure: time and chance are handed in.
//!
//! Events of one job go one after the other; those of different jobs side by side, a few at a time. One that fails is tried again after a
//! pause that doubles, and holds only its own job's back. When everything fails, one event at a time is tried until one goes through.

use std::collections::{BTreeMap, HashSet};

use super::event::Entry;
use crate::clock::Now;

/// Events on their way at once.
pub(super) const AT_ONCE: usize = 8;
/// Most events that may be told before an older one is; then it is waited for.
pub(super) const AHEAD_MAX: usize = 10_000;
/// Wait after the first failure; it doubles with each.
const PAUSE_FIRST_MS: u64 = 1_000;
const PAUSE_MS_MAX: u64 = 600_000;

#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    lsn: u64,
    entry: Entry,
    tries: u32,
    next_mono_ms: u64,
    done: bool,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Tell(Vec<(u64, Entry)>),
    /// Nothing before this moment, unless something new comes.
    At {
        mono_ms: u64,
    },
    /// Nothing at all.
    Idle,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Told,
    Again,
    /// Too old to be tried again.
    Dead,
}

#[derive(Debug, Default)]
pub(super) struct Line {
    /// Everything up to here is done.
    pub(super) told: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Failures since something went through last.
    failing: u32,
}

impl Line {
    pub(super) fn new(told: u64) -> Self {
        Self { told, ..Self::default() }
    }

    /// Where to read on, and how much there is room for.
    pub(super) fn wants(&self) -> (u64, usize) {
        let last = self.waiting.last_key_value().map_or(self.told, |(lsn, _)| *lsn);
        (last, AHEAD_MAX.saturating_sub(self.waiting.len()).min(256))
    }

    pub(super) fn push(&mut self, lsn: u64, entry: Entry) {
        if lsn > self.told {
            self.waiting.insert(lsn, Waiting { lsn, entry, tries: 0, next_mono_ms: 0, done: false });
        }
    }

    pub(super) fn next(&self, now: Now) -> Next {
        let (mut busy, mut tell, mut soonest) = (HashSet::new(), Vec::new(), None::<u64>);
        let at_once = if self.failing > 0 { 1 } else { AT_ONCE };
        for waiting in self.waiting.values().filter(|waiting| !waiting.done) {
            if !busy.insert(waiting.entry.job.as_str()) {
                continue; // an older one of its job comes first
            }
            if waiting.next_mono_ms > now.mono_ms {
                soonest = Some(soonest.map_or(waiting.next_mono_ms, |at| at.min(waiting.next_mono_ms)));
            } else if tell.len() < at_once {
                tell.push((waiting.lsn, waiting.entry.clone()));
            }
        }
        match (tell.is_empty(), soonest) {
            (false, _) => Next::Tell(tell),
            (true, Some(mono_ms)) => Next::At { mono_ms },
            (true, None) => Next::Idle,
        }
    }

    /// It was told, or need not be.
    pub(super) fn done(&mut self, lsn: u64, told: bool) {
        if told {
            self.failing = 0;
        }
        if let Some(waiting) = self.waiting.get_mut(&lsn) {
            waiting.done = true;
        }
        while let Some(first) = self.waiting.first_entry().filter(|first| first.get().done) {
            self.told = *first.key();
            first.remove();
        }
    }

    /// An attempt failed: the next one waits twice as long as the last, less up to half by `chance` (0 to 1).
    pub(super) fn failed(&mut self, lsn: u64, now: Now, age_ms_max: u64, chance: f64) -> Outcome {
        self.failing = self.failing.saturating_add(1);
        let Some(waiting) = self.waiting.get_mut(&lsn) else { return Outcome::Dead };
        if now.wall_ms.saturating_sub(waiting.entry.at.unix_ms()) >= age_ms_max {
            self.done(lsn, false);
            return Outcome::Dead;
        }
        let pause = |failures: u32| {
            let full_ms = PAUSE_FIRST_MS.saturating_mul(1 << failures.min(20)).min(PAUSE_MS_MAX);
            full_ms - (full_ms as f64 / 2.0 * chance.clamp(0.0, 1.0)) as u64
        };
        waiting.next_mono_ms = now.mono_ms.saturating_add(pause(waiting.tries));
        waiting.tries = waiting.tries.saturating_add(1);
        // Where nothing goes through, the others wait as well.
        let all_ms = now.mono_ms.saturating_add(pause(self.failing.saturating_sub(1)).min(60_000));
        if self.failing > AT_ONCE as u32 {
            for waiting in self.waiting.values_mut() {
                waiting.next_mono_ms = waiting.next_mono_ms.max(all_ms);
            }
        }
        Outcome::Again
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.values().filter(|waiting| !waiting.done).count()
    }
}

#[cfg(test)]
mod tests {
    use backlot_wire::Timestamp;
    use proptest::prelude::*;

    use super::super::event::Event;
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn at(ms: u64) -> Now {
        Now { mono_ms: ms, wall_ms: 1_700_000_000_000 + ms }
    }

    fn entry(job: &str) -> Entry {
        Entry { job: job.into(), event: Event::Started, at: Timestamp(at(0).wall_ms), attempt: None }
    }

    fn told(next: Next) -> Vec<u64> {
        match next {
            Next::Tell(some) => some.into_iter().map(|(lsn, _)| lsn).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn events_of_one_job_wait_for_each_other_and_those_of_others_do_not() {
        let mut line = Line::new(10);
        for (lsn, job) in [(5, "old"), (11, "a"), (12, "a"), (13, "b"), (14, "c")] {
            line.push(lsn, entry(job));
        }
        assert_eq!(told(line.next(at(0))), [11, 13, 14]);
        line.done(13, true);
        assert_eq!((line.told, line.failed(11, at(0), DAY_MS, 0.0)), (10, Outcome::Again));
        line.done(14, true);
        assert_eq!(line.next(at(0)), Next::At { mono_ms: 1_000 }, "12 waits for 11");
        assert_eq!(told(line.next(at(1_000))), [11]);
        line.done(11, true);
        assert_eq!((line.told, told(line.next(at(1_000)))), (11, vec![12]));
        line.done(12, true);
        assert_eq!((line.told, line.next(at(1_000)), line.len()), (14, Next::Idle, 0));
    }

    #[test]
    fn what_is_too_old_is_given_up_and_holds_nobody_back() {
        let mut line = Line::new(0);
        line.push(1, entry("a"));
        line.push(2, entry("a"));
        assert_eq!(line.failed(1, at(DAY_MS), DAY_MS, 0.0), Outcome::Dead);
        assert_eq!((line.told, told(line.next(at(DAY_MS)))), (1, vec![2]));
    }

    #[test]
    fn while_everything_fails_one_is_tried_at_a_time_and_seldom() {
        let mut line = Line::new(0);
        (1..100).for_each(|lsn| line.push(lsn, entry(&format!("j{lsn}"))));
        let (mut now_ms, mut tries) = (0, 0);
        while now_ms < 3_600_000 {
            match line.next(at(now_ms)) {
                Next::Tell(some) => {
                    tries += some.len();
                    for (lsn, _) in some {
                        line.failed(lsn, at(now_ms), DAY_MS, 0.5);
                    }
                }
                Next::At { mono_ms } => now_ms = mono_ms,
                Next::Idle => unreachable!("99 wait"),
            }
        }
        assert!((20..800).contains(&tries), "{tries} in an hour");
    }

    proptest! {
        #[test]
        fn each_event_is_told_and_those_of_a_job_in_order(
            jobs in prop::collection::vec(0..6_u8, 1..80), fails in prop::collection::vec(any::<bool>(), 1..200)
        ) {
            let mut line = Line::new(0);
            for (lsn, job) in jobs.iter().enumerate() {
                line.push(lsn as u64 + 1, entry(&format!("j{job}")));
            }
            let (mut fails, mut now_ms, mut order) = (fails.into_iter(), 0, Vec::new());
            loop {
                match line.next(at(now_ms)) {
                    Next::Tell(some) => for (lsn, entry) in some {
                        if fails.next() == Some(true) {
                            line.failed(lsn, at(now_ms), u64::MAX, 0.3);
                        } else {
                            line.done(lsn, true);
                            order.push((entry.job, lsn));
                        }
                    },
                    Next::At { mono_ms } => {
                        prop_assert!(mono_ms > now_ms);
                        now_ms = mono_ms;
                    }
                    Next::Idle => break,
                }
            }
            prop_assert_eq!(order.len(), jobs.len());
            prop_assert_eq!(line.told, jobs.len() as u64);
            for job in 0..6 {
                let of: Vec<_> = order.iter().filter(|(name, _)| *name == format!("j{job}")).map(|(_, lsn)| *lsn).collect();
                prop_assert!(of.is_sorted());
            }
        }
    }
}
