//! What becomes of a job. Pure: the time and the source of chance are handed in.
//!
//! Each function is one thing that happened to the job's message or was asked of the job. What the queue is to do
//! with the message comes back as an [`Action`].
//!
//! Invariants:
//! - A job that has ended changes no more, but for a retry by hand, and for a result that its successful attempt
//!   still owes it. Its message, should it come up once more, is sent away again.
//! - `status` is running exactly while the newest attempt has no outcome; no other attempt is without one.
//! - Only failures count against `retry.failures`; being given back or lost does not.
//!
//! - `status` is waiting exactly while other jobs come first; the job's message is held until then.
//!
//! Absent on purpose: no back-off after a visibility timeout. A plain consumer's timeout has been its pause.

use std::sync::Arc;

use backlot_wire::{Attempt, JobError, JobSpec, JobStatus, Outcome, PhaseSpan, Timestamp, cause};
use rand::{Rng, RngCore};
use serde_json::Map;

use super::model::{ATTEMPTS_KEPT_MAX, Head, REASON_BYTES_MAX, Tracked, attempt_id, cut};
use crate::clock::Now;
use crate::queue::Action;

/// Longest doubled back-off; a first pause that is longer stays as it is.
const BACKOFF_S_MAX: u64 = 3_600;
/// Longest that a queue hides a message (12 hours).
const HIDDEN_S_MAX: u64 = 43_200;

/// The pause after the `failures`th failure: doubled each time, and between half and all of that, so that jobs that failed
/// together do not come back together.
pub(super) fn backoff_s(first_s: u64, failures: u32, chance: &mut dyn RngCore) -> u32 {
    let doubled = first_s.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let full = doubled.min(BACKOFF_S_MAX.max(first_s)).min(HIDDEN_S_MAX);
    let pause = if full < 2 { full } else { chance.random_range(full.div_ceil(2)..=full) };
    u32::try_from(pause).unwrap_or(u32::MAX)
}

/// Seconds from now until `at`, rounded up; 0 where it has passed.
pub(super) fn until_s(now: Now, at: Timestamp) -> u32 {
    let left_ms = at.unix_ms().saturating_sub(now.wall_ms);
    u32::try_from(left_ms.div_ceil(1_000)).unwrap_or(u32::MAX)
}

impl Tracked {
    /// A message with a job's body was sent. `spec` has been admitted: id, time and trace are filled in.
    pub(super) fn sent(now: Now, queue: &str, message_id: &str, id: String, spec: JobSpec, delay_s: u32) -> Self {
        let trace_id = spec.traceparent.as_deref().and_then(|text| text.split('-').nth(1)).map(str::to_owned);
        let mut tracked = Self {
            spec: Arc::new(spec),
            head: Head {
                id,
                queue: queue.to_owned(),
                message_id: message_id.to_owned(),
                trace_id,
                created_at: now.timestamp(),
                updated_at: now.timestamp(),
                ..Head::default()
            },
            attempts: Vec::new(),
            outputs: Vec::new(),
            partial: Vec::new(),
            error: None,
        };
        tracked.wait(now, delay_s);
        tracked
    }

    /// A new message stands for a job that had ended: a retry by hand, or a redrive from the dead-letter queue.
    pub(super) fn sent_again(&mut self, now: Now, message_id: &str, delay_s: u32) {
        message_id.clone_into(&mut self.head.message_id);
        self.head.dlq = None;
        self.head.failures = 0;
        self.head.causes.clear();
        self.head.cancel_requested = false;
        self.head.ended_at = None;
        self.head.queued_again_at = Some(now.timestamp());
        self.error = None;
        self.outputs.clear();
        self.partial.clear();
        self.wait(now, delay_s);
    }

    /// What the job waited for is there: its message is to be let go.
    pub(super) fn let_go(&mut self, now: Now) -> Action {
        self.head.waited = true;
        let delay_s = self.spec.run_at.map_or(0, |at| until_s(now, at));
        self.wait(now, delay_s);
        Action::Release { delay_s }
    }

    /// What the job waited for will not come.
    pub(super) fn lost_hope(&mut self, now: Now, status: JobStatus, message: &str) -> Action {
        let cause = Some(cause::DEPENDENCY.to_owned());
        let error = JobError { message: cut(message, REASON_BYTES_MAX), permanent: true, cause };
        self.finish(now, status, Some(error));
        // Not to the dead-letter queue: nobody has received it, and a retry waits anew.
        Action::Delete
    }

    /// The message was delivered: an attempt begins. That of an ended job is superseded from its first moment.
    pub(super) fn received(&mut self, now: Now, agent: Option<&str>) {
        if self.live().is_some() {
            self.end_attempt(now, Outcome::Lost, Some("its message was received again"));
        }
        let number = self.newest().map_or(0, |attempt| attempt.number) + 1;
        let at = now.timestamp();
        let queued_at = self.head.waiting_since.min(at);
        if self.attempts.len() >= ATTEMPTS_KEPT_MAX {
            self.attempts.remove(0);
        }
        let attempt = Attempt {
            id: attempt_id(&self.head.id, number),
            number,
            agent: agent.map(str::to_owned),
            started_at: at,
            ended_at: None,
            outcome: None,
            reason: None,
            cause: None,
            details: Map::new(),
            phases: vec![PhaseSpan { name: "queued".into(), started_at: queued_at, ended_at: Some(at) }],
            percent: None,
            preview: None,
            gpu_s: None,
            cost_usd: None,
            superseded_outputs: Vec::new(),
            last_seq: 0,
        };
        self.attempts.push(attempt);
        if self.is_final() {
            self.end_attempt(now, Outcome::Superseded, Some("the job had ended"));
            return;
        }
        // A message that was held as long as a message can be has come out by itself.
        self.head.waited |= self.must_wait();
        self.head.status = JobStatus::Running;
        self.head.runs_after = None;
        self.head.percent = None;
        self.partial.clear();
        self.head.started_at.get_or_insert(at);
        self.touch(now);
    }

    /// The message was deleted with its newest receipt: that is how a plain consumer says that it is done. It counts
    /// even after its timeout, as long as nobody else has received the message, and after a cancel that came too late.
    pub(super) fn deleted(&mut self, now: Now) {
        if self.is_final() {
            return;
        }
        self.end_attempt(now, Outcome::Succeeded, None);
        self.finish(now, JobStatus::Succeeded, None);
    }

    /// The visibility timeout ended. A plain consumer has failed; a registered agent, whose leases are kept up by
    /// heartbeats, was lost.
    pub(super) fn timed_out(&mut self, now: Now) -> Option<Action> {
        if self.is_final() {
            return Some(self.leftover());
        }
        let by_agent = self.live()?.agent.is_some();
        if by_agent {
            self.end_attempt(now, Outcome::Lost, Some("its lease ended without a word"));
            return self.back(now, 0);
        }
        let reason = "the visibility timeout ended without a word";
        self.end_attempt(now, Outcome::Failed, Some(reason));
        match self.failed(now, reason, Some(cause::NO_WORD), false) {
            Some(action) => Some(action),
            None => self.back(now, 0),
        }
    }

    /// A plain consumer has held attempt `number` for as long as `limits.hard_s` allows. An agent sees to that itself.
    pub(super) fn over_limit(&mut self, now: Now, number: u32, chance: &mut dyn RngCore) -> Option<Action> {
        self.live().filter(|live| live.number == number && live.agent.is_none())?;
        let hard_s = self.spec.limits.hard_s?;
        let reason = format!("was over its hard limit of {hard_s} s");
        self.end_attempt(now, Outcome::Failed, Some(&reason));
        Some(self.fail_or_retry(now, &reason, Some(cause::TIMEOUT), false, chance))
    }

    /// Its consumer made the message visible again.
    pub(super) fn released(&mut self, now: Now) -> Option<Action> {
        if self.is_final() {
            return Some(self.leftover());
        }
        self.live()?;
        self.end_attempt(now, Outcome::GivenBack, Some("its consumer made it visible again"));
        self.back(now, 0)
    }

    /// The queue moved the message to `dlq`, because it had been received too often or because we had asked for it.
    pub(super) fn dead_lettered(&mut self, now: Now, dlq: &str) {
        self.head.dlq = Some(dlq.to_owned());
        if self.is_final() {
            return;
        }
        if self.live().is_some() {
            self.end_attempt(now, Outcome::Lost, Some("its message went to the dead-letter queue"));
        }
        if self.head.cancel_requested {
            self.finish(now, JobStatus::Cancelled, None);
            return;
        }
        let last = self.newest().and_then(|attempt| attempt.reason.as_deref()).unwrap_or("no attempt said why");
        let message = format!("received {} times without a result; the last time: {last}", self.attempts.len());
        self.finish(
            now,
            JobStatus::Failed,
            Some(JobError { message: cut(&message, 512), permanent: false, cause: None }),
        );
    }

    /// The message is gone without a result: retention ends a job as failed, a purge or a deleted queue as cancelled.
    pub(super) fn dropped(&mut self, now: Now, reason: &str) {
        if self.is_final() {
            return;
        }
        if self.live().is_some() {
            self.end_attempt(now, Outcome::Lost, Some("its message is gone from the queue"));
        }
        let by_age = reason.contains("retention") && !self.head.cancel_requested;
        let status = if by_age { JobStatus::Failed } else { JobStatus::Cancelled };
        let message = format!("its message is gone from the queue: {reason}");
        self.finish(now, status, Some(JobError { message, permanent: false, cause: None }));
    }

    /// Asks for an end. A waiting job ends at once, a running one when its worker says so or its lease ends.
    ///
    /// # Errors
    /// The state in which the job has ended before.
    pub(super) fn cancel(&mut self, now: Now) -> Result<Option<Action>, JobStatus> {
        if self.is_final() {
            return Err(self.head.status);
        }
        self.head.cancel_requested = true;
        self.touch(now);
        if self.live().is_some() {
            return Ok(None);
        }
        self.finish(now, JobStatus::Cancelled, None);
        Ok(Some(Action::Delete))
    }

    /// A scheduled job whose time has come. Not journalled: `runs_after` says the same.
    pub(super) fn due(&mut self, now: Now) -> bool {
        let due =
            self.head.status == JobStatus::Scheduled && self.head.runs_after.is_none_or(|at| at <= now.timestamp());
        if due {
            self.head.status = JobStatus::Queued;
            self.head.runs_after = None;
        }
        due
    }

    /// The newest attempt has failed: what becomes of the message.
    pub(super) fn fail_or_retry(
        &mut self,
        now: Now,
        message: &str,
        cause: Option<&str>,
        permanent: bool,
        chance: &mut dyn RngCore,
    ) -> Action {
        if let Some(action) = self.failed(now, message, cause, permanent) {
            return action;
        }
        let rule = cause.and_then(|cause| self.spec.retry.causes.get(cause)).cloned().unwrap_or_default();
        let (first_s, failures) = match (rule.backoff_s, cause.and_then(|cause| self.head.causes.get(cause))) {
            (Some(first_s), Some(of_cause)) => (first_s, *of_cause),
            _ => (self.spec.retry.backoff_s, self.head.failures),
        };
        if !self.head.cancel_requested {
            self.require_more(&rule);
        }
        let delay_s = backoff_s(first_s, failures, chance);
        self.back(now, delay_s).unwrap_or(Action::Release { delay_s })
    }

    /// Counts a failure of the newest attempt. With an action the job has failed, without one it goes on.
    fn failed(&mut self, now: Now, message: &str, cause: Option<&str>, permanent: bool) -> Option<Action> {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.cause = cause.map(str::to_owned);
        }
        self.head.failures = self.head.failures.saturating_add(1);
        let rules = &self.spec.retry.causes;
        if let Some(name) = cause.filter(|name| rules.contains_key(*name)) {
            *self.head.causes.entry(name.to_owned()).or_default() += 1;
        }
        let count = |name: &str| self.head.causes.get(name).copied().unwrap_or(0);
        let own_limit = cause.and_then(|name| Some((count(name), rules.get(name)?.failures?)));
        let over = own_limit.map_or_else(
            || {
                let apart: u32 =
                    rules.iter().filter(|(_, rule)| rule.failures.is_some()).map(|(name, _)| count(name)).sum();
                self.head.failures.saturating_sub(apart) >= self.spec.retry.failures
            },
            |(count, failures)| count >= failures,
        );
        let ends = !self.head.cancel_requested && (permanent || over);
        ends.then(|| self.fail(now, message, permanent, cause))
    }

    /// What becomes of an ended job's message that comes up once more.
    fn leftover(&self) -> Action {
        if self.head.status == JobStatus::Failed { Action::DeadLetter } else { Action::Delete }
    }

    /// After an attempt that did not end the job: back to the queue, or, where a cancel waits, to the end.
    pub(super) fn back(&mut self, now: Now, delay_s: u32) -> Option<Action> {
        if self.head.cancel_requested {
            self.finish(now, JobStatus::Cancelled, None);
            return Some(Action::Delete);
        }
        self.wait(now, delay_s);
        None
    }

    fn fail(&mut self, now: Now, message: &str, permanent: bool, cause: Option<&str>) -> Action {
        let (message, cause) = (cut(message, REASON_BYTES_MAX), cause.map(str::to_owned));
        self.finish(now, JobStatus::Failed, Some(JobError { message, permanent, cause }));
        Action::DeadLetter
    }

    fn wait(&mut self, now: Now, delay_s: u32) {
        self.head.waiting_since = now.timestamp();
        if self.must_wait() {
            (self.head.status, self.head.runs_after) = (JobStatus::Waiting, None);
        } else {
            let at = || Timestamp(now.wall_ms.saturating_add(u64::from(delay_s) * 1_000));
            self.head.status = if delay_s > 0 { JobStatus::Scheduled } else { JobStatus::Queued };
            self.head.runs_after = (delay_s > 0).then(at);
        }
        self.head.percent = None;
        self.touch(now);
    }

    pub(super) fn finish(&mut self, now: Now, status: JobStatus, error: Option<JobError>) {
        self.head.status = status;
        self.error = error;
        self.head.ended_at = Some(now.timestamp());
        self.head.runs_after = None;
        if status == JobStatus::Succeeded {
            self.partial.clear();
            self.head.percent = Some(100.0);
        }
        self.touch(now);
    }

    /// Ends the newest attempt, or, where it had been given up, ends it otherwise.
    pub(super) fn end_attempt(&mut self, now: Now, outcome: Outcome, reason: Option<&str>) {
        let Some(attempt) = self.attempts.last_mut() else { return };
        let at = now.timestamp().max(attempt.started_at);
        if let Some(phase) = attempt.phases.last_mut().filter(|phase| phase.ended_at.is_none()) {
            phase.ended_at = Some(at.max(phase.started_at));
        }
        attempt.ended_at = Some(at);
        attempt.outcome = Some(outcome);
        attempt.reason = reason.map(|text| cut(text, REASON_BYTES_MAX));
        if outcome == Outcome::Succeeded {
            attempt.percent = Some(100.0);
            attempt.cause = None;
            attempt.details.clear();
        }
        self.touch(now);
    }

    pub(super) fn touch(&mut self, now: Now) {
        self.head.updated_at = now.timestamp().max(self.head.updated_at);
    }
}
