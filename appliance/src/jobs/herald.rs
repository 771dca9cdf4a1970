//! Who hears of a change: whoever decides whose turn it is, the streams of clients, the counters, the trace.
//!
//! News are told when a change is decided, one group commit before it is durable: a stream shows, it does not acknowledge.
//! A stream that cannot follow loses news and is told so; nobody waits for it.

use std::sync::Arc;

use backlot_wire::{Attempt, Outcome, metrics};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use tokio::sync::broadcast;

use super::model::{Mark, Tracked};
use super::spans;
use super::table::ended;
use super::turns::Turns;
use crate::telemetry;

/// News kept for a stream that is slow.
const NEWS_MAX: usize = 1_024;
/// Types that the metrics tell apart; further ones are counted as `other`.
const TYPES_MAX: usize = 64;
/// Phases that the metrics tell apart.
const PHASES: &[&str] = &["queued", "fetch", "load", "infer", "post", "upload"];

/// A job that changed.
#[derive(Clone, Debug)]
pub(super) struct News {
    pub job_id: String,
    /// The job as JSON.
    pub json: Arc<str>,
}

pub(super) struct Herald {
    turns: Option<Arc<Turns>>,
    news: broadcast::Sender<News>,
    types: Vec<String>,
    jobs_ended: Counter<u64>,
    attempts: Counter<u64>,
    phases: Histogram<f64>,
}

impl Herald {
    pub(super) fn new() -> Self {
        Self {
            turns: None,
            news: broadcast::Sender::new(NEWS_MAX),
            types: Vec::new(),
            jobs_ended: telemetry::counter(&metrics::JOBS_ENDED),
            attempts: telemetry::counter(&metrics::JOB_ATTEMPTS),
            phases: telemetry::histogram(&metrics::JOB_PHASE_DURATION),
        }
    }

    /// From now on `turns` hears where jobs stand.
    pub(super) fn telling(self, turns: Arc<Turns>) -> Self {
        Self { turns: Some(turns), ..self }
    }

    pub(super) fn news(&self) -> broadcast::Sender<News> {
        self.news.clone()
    }

    /// A job has come into memory, as it stood in the catalogue or new.
    pub(super) fn loaded(&self, tracked: &Tracked) {
        if let Some(turns) = &self.turns {
            turns.moved(None, tracked);
        }
    }

    /// A job that is in memory has changed.
    pub(super) fn moved(&self, before: &Tracked, after: &Tracked) {
        if let Some(turns) = &self.turns {
            turns.moved(Some(before), after);
        }
    }

    /// Tells what a change has brought about; no `before` means that the job is new.
    pub(super) fn tell(&mut self, before: Option<Mark>, after: &Tracked) {
        let (attempt_ended, job_ended) = ended(before, after);
        if let Some(attempt) = attempt_ended.and_then(|number| after.attempts.iter().rfind(|a| a.number == number)) {
            self.count_attempt(&after.spec.kind, attempt);
            spans::attempt(after, attempt);
        }
        if job_ended {
            let kind = self.type_label(&after.spec.kind);
            self.jobs_ended.add(1, &[KeyValue::new("type", kind), KeyValue::new("status", after.head.status.as_str())]);
            spans::job(after);
        }
        if self.news.receiver_count() > 0
            && let Ok(json) = serde_json::to_string(&after.job())
        {
            // An error says that the last stream has just gone.
            let _ = self.news.send(News { job_id: after.head.id.clone(), json: json.into() });
        }
    }

    fn count_attempt(&mut self, kind: &str, attempt: &Attempt) {
        let kind = self.type_label(kind);
        let outcome = attempt.outcome.map_or("none", outcome_name);
        self.attempts.add(1, &[KeyValue::new("type", kind.clone()), KeyValue::new("outcome", outcome)]);
        for phase in &attempt.phases {
            let Some(ended_at) = phase.ended_at else { continue };
            let name = PHASES.iter().find(|known| **known == phase.name).copied().unwrap_or("other");
            let took_s = ended_at.unix_ms().saturating_sub(phase.started_at.unix_ms()) as f64 / 1_000.0;
            self.phases.record(took_s, &[KeyValue::new("type", kind.clone()), KeyValue::new("phase", name)]);
        }
    }

    fn type_label(&mut self, kind: &str) -> String {
        label(&mut self.types, kind)
    }
}

/// `kind`, or `other` where too many have been seen.
pub(super) fn label(seen: &mut Vec<String>, kind: &str) -> String {
    if seen.iter().any(|known| known == kind) {
        return kind.to_owned();
    }
    if seen.len() >= TYPES_MAX {
        return "other".to_owned();
    }
    seen.push(kind.to_owned());
    kind.to_owned()
}

pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::GivenBack => "given_back",
        Outcome::Lost => "lost",
        Outcome::Cancelled => "cancelled",
        Outcome::Superseded => "superseded",
    }
}
