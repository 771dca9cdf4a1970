//! A job as the appliance keeps it: what it shows, and what it needs beside that.

use std::collections::BTreeMap;
use std::sync::Arc;

use backlot_wire::{Attempt, Job, JobError, JobSpec, JobStatus, Output, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::Now;

/// Most attempts of a job that are kept; the oldest go first, numbers go on.
pub(super) const ATTEMPTS_KEPT_MAX: usize = 50;
/// Most phases of one attempt; a later one is not kept. With the next lengths it keeps what a change of the
/// queue records about an attempt under `queue::CHANGE_RECORDS_BYTES_MAX`.
pub(super) const PHASES_MAX: usize = 32;
/// Most outputs that one result may name.
pub(super) const OUTPUTS_MAX: usize = 1_000;
/// Most outputs that are listed while their attempt is under way.
pub(super) const PARTIAL_OUTPUTS_MAX: usize = 100;
/// Most outputs of a result that came too late.
pub(super) const SUPERSEDED_OUTPUTS_MAX: usize = 50;
/// Longest reason, phase name and artifact address that is kept, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 4_096;
pub(super) const PHASE_BYTES_MAX: usize = 32;
pub(super) const URI_BYTES_MAX: usize = 1_200;

/// A job and what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tracked {
    /// May be large, and is stored when it changes. It changes seldom: with a retry that requires more, and when what a job
    /// waited for is there. Never in answer to a change that the queue tells of: its record would be too large.
    pub spec: Arc<JobSpec>,
    pub head: Head,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    pub outputs: Vec<Output>,
    /// What the newest attempt has made so far.
    pub partial: Vec<Output>,
    pub error: Option<JobError>,
}

/// The small part of a job: all that is neither specification nor list. Fields as in [`Job`], and what only we need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    pub id: String,
    pub queue: String,
    pub status: JobStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_after: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f32>,
    #[serde(default)]
    pub failures: u32,
    /// Failures of the causes that `retry.causes` has rules for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub causes: BTreeMap<String, u32>,
    #[serde(default)]
    pub cancel_requested: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// It has waited for other jobs and was let go; it does not wait again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waited: bool,
    /// The specification is not the one that its message carries; this is the digest of what was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amended: Option<String>,

    /// Rises by one with each change. A record whose revision is not higher than what is known changes nothing, so that
    /// taking a record twice is taking it once.
    pub revision: u64,
    /// The message that the job is, or was.
    pub message_id: String,
    /// The dead-letter queue that holds the message, when it went there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dlq: Option<String>,
    /// When the wait for the next attempt began: start of its `queued` phase.
    pub waiting_since: Timestamp,
    /// When an ended job was queued again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_again_at: Option<Timestamp>,
    /// The submitter's span, 16 hex digits: parent of the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span: Option<String>,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            id: String::new(),
            queue: String::new(),
            status: JobStatus::Queued,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            started_at: None,
            ended_at: None,
            runs_after: None,
            percent: None,
            failures: 0,
            causes: BTreeMap::new(),
            cancel_requested: false,
            trace_id: None,
            waited: false,
            amended: None,
            revision: 0,
            message_id: String::new(),
            dlq: None,
            waiting_since: Timestamp(0),
            queued_again_at: None,
            parent_span: None,
        }
    }
}

/// Name of an attempt: the job's id and the attempt's number, so that a late word finds its job in the history.
pub(super) fn attempt_id(job_id: &str, number: u32) -> String {
    format!("{job_id}.{number}")
}

/// Job and number of an attempt's id.
pub(super) fn split_attempt_id(id: &str) -> Option<(&str, u32)> {
    let (job_id, number) = id.rsplit_once('.')?;
    let number: u32 = number.parse().ok().filter(|n| *n > 0)?;
    // `7.01` is no other name of `7.1`.
    (attempt_id(job_id, number) == id && !job_id.is_empty()).then_some((job_id, number))
}

impl Tracked {
    pub(super) fn newest(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The newest attempt, when it is under way.
    pub(super) fn live(&self) -> Option<&Attempt> {
        self.newest().filter(|attempt| attempt.outcome.is_none())
    }

    pub(super) fn is_final(&self) -> bool {
        self.head.status.is_final()
    }

    /// Whether other jobs come first.
    pub(super) fn must_wait(&self) -> bool {
        !self.head.waited && self.spec.waits_for().next().is_some()
    }

    /// Whether a further job with its key would be this one: until it has ended, and, where it succeeded, until its period is over.
    pub(super) fn holds_key(&self, now: Now) -> bool {
        let Some(unique) = &self.spec.unique else { return false };
        let until_ms = self.head.created_at.unix_ms() + unique.period_s.unwrap_or(0) * 1_000;
        !self.is_final() || (self.head.status == JobStatus::Succeeded && now.wall_ms < until_ms)
    }

    /// The job as it is shown.
    pub(super) fn job(&self) -> Job {
        let head = self.head.clone();
        Job {
            id: head.id,
            queue: head.queue,
            status: head.status,
            spec: JobSpec::clone(&self.spec),
            created_at: head.created_at,
            updated_at: head.updated_at,
            started_at: head.started_at,
            ended_at: head.ended_at,
            runs_after: head.runs_after,
            percent: head.percent,
            failures: head.failures,
            cancel_requested: head.cancel_requested,
            attempts: self.attempts.clone(),
            outputs: self.outputs.clone(),
            partial: self.partial.clone(),
            error: self.error.clone(),
            trace_id: head.trace_id,
        }
    }

    /// Where the job stands, to see afterwards what a change has ended.
    pub(super) fn mark(&self) -> Mark {
        Mark { status: self.head.status, live: self.live().map(|attempt| attempt.number) }
    }
}

/// What of a job is compared before and after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub status: JobStatus,
    /// Number of the attempt under way.
    pub live: Option<u32>,
}

/// `text` cut to `bytes_max`, at a character's border.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_id_names_its_job() {
        assert_eq!(split_attempt_id(&attempt_id("shot.12", 3)), Some(("shot.12", 3)));
        for bad in ["", "x", "x.", ".1", "x.0", "x.01", "x.-1", "x.99999999999"] {
            assert_eq!(split_attempt_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!((cut("aé", 2), cut("aé", 3), cut("", 0)), ("a".into(), "aé".into(), String::new()));
    }
}
