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
