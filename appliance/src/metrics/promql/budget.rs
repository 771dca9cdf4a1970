//! What one query may cost, and what it has to say beside its answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::QueryError;
use crate::clock::Clock;

/// Most notes of a kind that an answer carries.
const NOTES_MAX: usize = 10;

/// Limits of one query.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most samples held at once, read or computed.
    pub samples_max: usize,
    pub timeout_ms: u64,
}

/// Warnings and hints that go with an answer.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    pub warnings: BTreeSet<String>,
    pub infos: BTreeSet<String>,
}

/// Counts what a query costs and stops it when that is too much, too long, or no longer wanted.
pub struct Budget {
    samples_left: Cell<usize>,
    deadline_mono_ms: u64,
    clock: Arc<dyn Clock>,
    cancelled: Arc<AtomicBool>,
    notes: RefCell<Notes>,
}

impl Budget {
    #[must_use]
    pub fn new(limits: &Limits, clock: Arc<dyn Clock>, cancelled: Arc<AtomicBool>) -> Self {
        let deadline_mono_ms = clock.now().mono_ms.saturating_add(limits.timeout_ms);
        Self {
            samples_left: Cell::new(limits.samples_max),
            deadline_mono_ms,
            clock,
            cancelled,
            notes: RefCell::default(),
        }
    }

    /// Takes room for `samples` more, and looks whether the query is still wanted.
    ///
    /// # Errors
    /// [`QueryError::TooManySamples`], [`QueryError::Timeout`], [`QueryError::Cancelled`].
    pub fn charge(&self, samples: usize) -> Result<(), QueryError> {
        let left = self.samples_left.get().checked_sub(samples).ok_or(QueryError::TooManySamples)?;
        self.samples_left.set(left);
        self.check()
    }

    /// Gives room back for samples that are no longer held.
    pub fn refund(&self, samples: usize) {
        self.samples_left.set(self.samples_left.get().saturating_add(samples));
    }

    /// # Errors
    /// [`QueryError::Timeout`], [`QueryError::Cancelled`].
    pub fn check(&self) -> Result<(), QueryError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(QueryError::Cancelled);
        }
        if self.clock.now().mono_ms >= self.deadline_mono_ms {
            return Err(QueryError::Timeout);
        }
        Ok(())
    }

    pub(crate) fn warn(&self, note: impl Into<String>) {
        let warnings = &mut self.notes.borrow_mut().warnings;
        if warnings.len() < NOTES_MAX {
            warnings.insert(format!("PromQL warning: {}", note.into()));
        }
    }

    pub(crate) fn info(&self, note: impl Into<String>) {
        let infos = &mut self.notes.borrow_mut().infos;
        if infos.len() < NOTES_MAX {
            infos.insert(format!("PromQL info: {}", note.into()));
        }
    }

    /// What was noted.
    #[must_use]
    pub fn into_notes(self) -> Notes {
        self.notes.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::model::{Labels, Sample, Selector, SeriesSamples};
    use crate::metrics::promql::{Range, Source, parse, range};
    use crate::metrics::testing::StillClock;

    /// One series with a sample each second, which asks its budget as a store does, and lets time pass meanwhile.
    struct Slow {
        clock: Arc<StillClock>,
        takes_ms: u64,
    }

    impl Source for Slow {
        fn select(
            &self,
            _: &Selector,
            from_ms: i64,
            to_ms: i64,
            budget: &Budget,
        ) -> Result<Vec<SeriesSamples>, QueryError> {
            self.clock.0.fetch_add(self.takes_ms, Ordering::Relaxed);
            let samples: Vec<Sample> =
                (from_ms / 1000..=to_ms / 1000).map(|at| Sample { t_ms: at * 1000, value: 1.0 }).collect();
            budget.charge(samples.len())?;
            Ok(vec![SeriesSamples { labels: Labels::from_texts(&[("__name__", "x_total")]), samples }])
        }
    }

    fn ask(samples_max: usize, takes_ms: u64, cancelled: bool) -> Result<(), QueryError> {
        let clock = Arc::new(StillClock::default());
        let limits = Limits { samples_max, timeout_ms: 1000 };
        let budget = Budget::new(&limits, clock.clone(), Arc::new(AtomicBool::new(cancelled)));
        let expr = parse("sum(rate(x_total[5m]))")?;
        let hour = Range { start_ms: 3_600_000, end_ms: 7_200_000, step_ms: 10_000 };
        range(&Slow { clock, takes_ms }, &expr, hour, &budget).map(drop)
    }

    #[test]
    fn a_query_ends_when_it_is_too_large_too_slow_or_no_longer_wanted() {
        assert_eq!(ask(10_000, 0, false), Ok(()));
        assert_eq!(ask(3000, 0, false), Err(QueryError::TooManySamples));
        assert_eq!(ask(10_000, 1000, false), Err(QueryError::Timeout));
        assert_eq!(ask(10_000, 0, true), Err(QueryError::Cancelled));
    }
}
