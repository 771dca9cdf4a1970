//! What a worker says of its attempt: events in batches, idempotent by their sequence number.
//!
//! An event that is not newer than the last one taken changes nothing. Poison (a name too long, an address that is no
//! artifact's, a number that is none) is left out and the rest is taken: an agent spools its events, and one that is refused
//! for ever would dam up all that come after it. Times come from the worker's clock and are put in order: no
//! phase begins before the one before it or after now.

use backlot_wire::{
    AttemptEvent, Directive, EventKind, FailureClass, JobStatus, Outcome, Output, PhaseSpan, Timestamp, cause,
    job::{is_name, split_s3_uri},
    spec::{NESTING_MAX, nests_deeper},
};
use rand::RngCore;
use serde_json::{Map, Value};

use super::model::{
    OUTPUTS_MAX, PARTIAL_OUTPUTS_MAX, PHASE_BYTES_MAX, PHASES_MAX, SUPERSEDED_OUTPUTS_MAX, Tracked, URI_BYTES_MAX, cut,
};
use crate::clock::Now;
use crate::queue::Action;

/// Most bytes of a failure's details.
const DETAILS_BYTES_MAX: usize = 1_024;

/// How much a report has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    Nothing,
    /// Numbers that the next event replaces: journalled within seconds.
    Light,
    /// Must be durable before the answer.
    Heavy,
}

/// What came of a report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub accepted_seq: u64,
    pub directive: Directive,
    pub weight: Weight,
    /// What is to be done with the job's message, in one group with the job's record.
    pub action: Option<Action>,
}

impl Tracked {
    /// Takes the events of attempt `number`; none is a heartbeat. `None`: there is no such attempt.
    pub(super) fn report(
        &mut self,
        now: Now,
        number: u32,
        events: &[AttemptEvent],
        chance: &mut dyn RngCore,
    ) -> Option<Reported> {
        let index = self.attempts.iter().rposition(|attempt| attempt.number == number)?;
        let mut in_order: Vec<&AttemptEvent> = events.iter().collect();
        in_order.sort_by_key(|event| event.seq);
        let (mut weight, mut action) = (Weight::Nothing, None);
        for event in in_order {
            let attempt = &mut self.attempts[index];
            if event.seq <= attempt.last_seq {
                continue;
            }
            attempt.last_seq = event.seq;
            let (heavier, wanted) = self.take(now, index, event, chance);
            weight = weight.max(heavier);
            action = wanted.or(action);
        }
        let newest = index + 1 == self.attempts.len();
        let attempt = &self.attempts[index];
        let over = self.is_final() && attempt.outcome == Some(Outcome::Lost);
        let directive = Directive {
            cancel: match attempt.outcome {
                None => self.head.cancel_requested,
                Some(_) => self.head.status == JobStatus::Cancelled,
            },
            superseded: !newest || over || attempt.outcome == Some(Outcome::Superseded),
            drain: false,
            limits: None,
        };
        Some(Reported { accepted_seq: attempt.last_seq, directive, weight, action })
    }

    fn take(
        &mut self,
        now: Now,
        index: usize,
        event: &AttemptEvent,
        chance: &mut dyn RngCore,
    ) -> (Weight, Option<Action>) {
        if let EventKind::Result { outputs } = &event.kind {
            return self.result(now, index, outputs);
        }
        let newest = index + 1 == self.attempts.len();
        if !newest || self.attempts[index].outcome.is_some() {
            return (Weight::Light, None);
        }
        match &event.kind {
            EventKind::Phase { phase } => (self.phase(now, index, phase, event.at), None),
            EventKind::Percent { percent } if percent.is_finite() => {
                let percent = percent.clamp(0.0, 100.0);
                self.attempts[index].percent = Some(percent);
                self.head.percent = Some(percent);
                self.touch(now);
                (Weight::Light, None)
            }
            EventKind::Preview { uri } if is_artifact(uri) => {
                self.attempts[index].preview = Some(uri.clone());
                self.touch(now);
                (Weight::Light, None)
            }
            EventKind::Usage { gpu_s, cost_usd } => {
                let attempt = &mut self.attempts[index];
                attempt.gpu_s = total(attempt.gpu_s, *gpu_s);
                attempt.cost_usd = total(attempt.cost_usd, *cost_usd);
                self.touch(now);
                (Weight::Light, None)
            }
            EventKind::Partial { outputs } => (self.add_partial(now, outputs), None),
            EventKind::Failure { class, message, details } => {
                (Weight::Heavy, Some(self.failure(now, index, *class, message, details, chance)))
            }
            EventKind::GivenBack { reason } => {
                self.end_attempt(now, Outcome::GivenBack, Some(reason));
                (Weight::Heavy, Some(self.back(now, 0).unwrap_or(Action::Release { delay_s: 0 })))
            }
            EventKind::Cancelled => {
                let asked = self.head.cancel_requested;
                let (outcome, reason) = if asked {
                    (Outcome::Cancelled, None)
                } else {
                    (Outcome::GivenBack, Some("its worker stopped it unasked"))
                };
                self.end_attempt(now, outcome, reason);
                (Weight::Heavy, Some(self.back(now, 0).unwrap_or(Action::Release { delay_s: 0 })))
            }
            EventKind::Percent { .. } | EventKind::Preview { .. } | EventKind::Result { .. } | EventKind::Unknown => {
                (Weight::Light, None)
            }
        }
    }

    fn add_partial(&mut self, now: Now, outputs: &[Output]) -> Weight {
        let before = self.partial.len();
        for output in outputs.iter().filter(|output| is_artifact(&output.uri)) {
            let known = self.partial.iter().any(|known| known.uri == output.uri);
            if !known && self.partial.len() < PARTIAL_OUTPUTS_MAX {
                self.partial.push(output.clone());
            }
        }
        if self.partial.len() == before {
            return Weight::Light;
        }
        self.touch(now);
        Weight::Heavy
    }

    /// A result counts when no newer attempt has begun and the job has not ended, even if the attempt had been given up
    /// as lost. That of an attempt which has already succeeded (its message was deleted first) completes it. Any
    /// other is kept beside its attempt and changes nothing.
    fn result(&mut self, now: Now, index: usize, outputs: &[Output]) -> (Weight, Option<Action>) {
        let kept: Vec<Output> =
            outputs.iter().filter(|output| is_artifact(&output.uri)).take(OUTPUTS_MAX).cloned().collect();
        let newest = index + 1 == self.attempts.len();
        let succeeded = self.attempts[index].outcome == Some(Outcome::Succeeded);
        if newest && !self.is_final() {
            self.outputs = kept;
            self.end_attempt(now, Outcome::Succeeded, None);
            self.finish(now, JobStatus::Succeeded, None);
            return (Weight::Heavy, Some(Action::Delete));
        }
        if newest && succeeded && self.outputs.is_empty() {
            self.outputs = kept;
            self.touch(now);
            return (Weight::Heavy, None);
        }
        let late = &mut self.attempts[index].superseded_outputs;
        *late = kept;
        late.truncate(SUPERSEDED_OUTPUTS_MAX);
        self.touch(now);
        (Weight::Heavy, None)
    }

    fn failure(
        &mut self,
        now: Now,
        index: usize,
        class: FailureClass,
        message: &str,
        details: &Map<String, Value>,
        chance: &mut dyn RngCore,
    ) -> Action {
        self.end_attempt(now, Outcome::Failed, Some(message));
        let deep = details.values().any(|value| nests_deeper(value, NESTING_MAX));
        if !deep && serde_json::to_vec(details).is_ok_and(|bytes| bytes.len() <= DETAILS_BYTES_MAX) {
            self.attempts[index].details = details.clone();
        }
        let cause = details.get(cause::KEY).and_then(Value::as_str).filter(|name| is_name(name));
        self.fail_or_retry(now, message, cause, class == FailureClass::Permanent, chance)
    }

    fn phase(&mut self, now: Now, index: usize, name: &str, at: Timestamp) -> Weight {
        let phases = &mut self.attempts[index].phases;
        if name.is_empty() || phases.len() >= PHASES_MAX {
            return Weight::Light;
        }
        let begun = phases.last().map_or(at, |phase| phase.ended_at.unwrap_or(phase.started_at));
        let at = at.min(now.timestamp()).max(begun);
        if let Some(last) = phases.last_mut().filter(|phase| phase.ended_at.is_none()) {
            last.ended_at = Some(at);
        }
        phases.push(PhaseSpan { name: cut(name, PHASE_BYTES_MAX), started_at: at, ended_at: None });
        self.touch(now);
        Weight::Heavy
    }
}

fn is_artifact(uri: &str) -> bool {
    uri.len() <= URI_BYTES_MAX && split_s3_uri(uri).is_some_and(|(_, key)| !key.is_empty())
}

/// Totals only grow; what is no number is left out.
fn total(before: Option<f64>, reported: f64) -> Option<f64> {
    if !reported.is_finite() || reported < 0.0 {
        return before;
    }
    Some(before.map_or(reported, |value| value.max(reported)))
}
