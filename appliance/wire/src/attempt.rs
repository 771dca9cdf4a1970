//! An attempt: one delivery of a job to one worker, and what the worker reports of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Limits, Output, Timestamp};

/// Most events one `POST /v1/attempts/{id}/events` may carry.
pub const EVENTS_PER_POST_MAX: usize = 500;

/// One delivery of a job to one agent or consumer, from receive to result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub id: String,
    /// From 1.
    pub number: u32,
    /// The registered agent; absent for a plain SQS consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it failed, was given back or was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What kind of failure it was, where that is known; see [`crate::cause`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Numbers that explain a failure, as its worker gave them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    /// In the order in which they began. `queued` comes first.
    #[serde(default)]
    pub phases: Vec<PhaseSpan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f32>,
    /// Artifact with a preview of the work so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Outputs of an attempt whose result came too late to count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded_outputs: Vec<Output>,
    /// Sequence number of the last event taken; a smaller or equal one changes nothing.
    #[serde(default)]
    pub last_seq: u64,
}

/// A named part of an attempt: queued, fetch, load, infer, post, upload, or a name of a later version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseSpan {
    pub name: String,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// Counts against `retry.failures`.
    Failed,
    /// Drain, spot notice, rebalance: does not count.
    GivenBack,
    /// The host or its lease was lost: does not count.
    Lost,
    Cancelled,
    /// A newer attempt's result counted.
    Superseded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// Network, memory taken by others, a worker that crashed: tried again after a pause.
    Transient,
    /// Bad input, bad parameters, missing model: goes to the DLQ at once.
    Permanent,
}

/// One thing that happened to an attempt. `seq` rises by one from 1 within an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptEvent {
    pub seq: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    Phase {
        phase: String,
    },
    Percent {
        percent: f32,
    },
    Preview {
        uri: String,
    },
    /// Results that can be looked at before all are there. They are added to those before.
    Partial {
        outputs: Vec<Output>,
    },
    /// Totals so far.
    Usage {
        #[serde(default)]
        gpu_s: f64,
        #[serde(default)]
        cost_usd: f64,
    },
    Result {
        outputs: Vec<Output>,
    },
    Failure {
        class: FailureClass,
        message: String,
        /// What explains it: bytes needed and free, exit code, signal, and its [cause](crate::cause).
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        details: Map<String, Value>,
    },
    GivenBack {
        reason: String,
    },
    Cancelled,
    /// An event of a later version; kept out of the state, never an error.
    #[serde(other)]
    Unknown,
}

/// Body of `POST /v1/attempts/{id}/events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttemptEvents {
    pub events: Vec<AttemptEvent>,
}

/// Answer to it. An empty `events` is a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// Highest sequence number taken: durable, or of a kind that its next event replaces (percent, preview, usage).
    pub accepted_seq: u64,
    pub directive: Directive,
}

/// What the appliance asks of a worker in answer to its events and heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Stop this attempt; the job is cancelled.
    #[serde(default)]
    pub cancel: bool,
    /// A newer attempt is under way: stop, the result would not count.
    #[serde(default)]
    pub superseded: bool,
    /// Take no further jobs.
    #[serde(default)]
    pub drain: bool,
    /// Limits that replace those of the specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_later_version_is_read_as_unknown() {
        let event: AttemptEvent =
            serde_json::from_str(r#"{"seq":3,"at":5,"event":"checkpoint","uri":"s3://abc/x"}"#).unwrap();
        assert_eq!(event.kind, EventKind::Unknown);
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let event = AttemptEvent { seq: 1, at: Timestamp(0), kind: EventKind::Phase { phase: "infer".into() } };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"seq":1,"at":"1970-01-01T00:00:00.000Z","event":"phase","phase":"infer"}"#
        );
    }
}
