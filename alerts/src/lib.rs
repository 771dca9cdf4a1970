//! Alert rules as data, and the pure engine that evaluates and groups them.
//!
//! Three parts, each a function of what it is handed: [`rules`] reads Prometheus rule files; [`Engine`] turns the results of a
//! rule's expression at a moment into alerts that are pending, firing or resolved; [`Notifier`] decides what a receiver is
//! told about them and when. No clock, no I/O, no randomness: the caller brings moments, query results and ids, and keeps the state,
//! which is serialisable, so that a restart goes on where it was.
//!
//! Absent on purpose, until an issue needs them: recording rules, silences, inhibition, routing trees.

mod duration;
mod engine;
mod notify;
mod payload;
pub mod rules;
mod template;

pub use engine::{Alert, Element, Engine, Evaluation, Health, RuleReport, State};
pub use notify::{GroupState, Notification, NotifiedAlert, Notifier, Timing};
pub use payload::{alertmanager_json, subject};
pub use template::{Template, TemplateError};

use serde::{Deserialize, Serialize};

/// The rules that come with Backlot.
pub const DEFAULT_RULES: &str = include_str!("../rules/backlot.yml");

/// Label that holds an alert's name.
pub const ALERT_NAME: &str = "alertname";

/// One moment on both clocks, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since the process began; never steps.
    pub mono_ms: u64,
    /// Since 1970.
    pub wall_ms: u64,
}

/// When something began: timed by the monotonic clock within a run, by the wall clock across a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Since {
    pub wall_ms: u64,
    #[serde(skip)]
    mono_ms: Option<i64>,
}

impl Since {
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self { wall_ms: now.wall_ms, mono_ms: Some(signed(now.mono_ms)) }
    }

    /// Counts from here on by the monotonic clock of this run.
    fn rebase(&mut self, now: Moment) {
        let elapsed_ms = now.wall_ms.saturating_sub(self.wall_ms);
        self.mono_ms = Some(signed(now.mono_ms).saturating_sub(signed(elapsed_ms)));
    }

    #[must_use]
    pub fn elapsed_ms(&self, now: Moment) -> u64 {
        match self.mono_ms {
            Some(mono_ms) => u64::try_from(signed(now.mono_ms).saturating_sub(mono_ms)).unwrap_or(0),
            None => now.wall_ms.saturating_sub(self.wall_ms),
        }
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
