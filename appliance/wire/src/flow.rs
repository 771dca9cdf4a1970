//! A flow: named jobs, some of which wait for others and read what they have made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{After, JobStatus, Timestamp};

/// Most jobs of one flow.
pub const FLOW_JOBS_MAX: usize = 1_000;
/// Longest chain of jobs that wait for each other.
pub const FLOW_DEPTH_MAX: usize = 100;
/// Longest name of a job in its flow, and longest id of a flow, in bytes.
pub const FLOW_NAME_BYTES_MAX: usize = 63;

/// Body of `POST /v1/flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowOrder {
    /// Chosen by the client or, where absent, by the appliance. The same id with the same content is the same flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_id: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the jobs go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What every job has that does not say otherwise.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub defaults: Map<String, Value>,
    /// Each a job specification with a `name`. `after` and the `job` of an input are names of others.
    pub jobs: Vec<Map<String, Value>>,
}

/// What becomes of a flow when one of its jobs fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Whatever waits for it fails as well; all else goes on.
    #[default]
    Fail,
    /// Whatever waits for it begins all the same, without its results.
    Continue,
    /// All that has not ended is cancelled.
    Cancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowStatus {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl FlowStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A flow as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub queue: String,
    pub status: FlowStatus,
    pub on_failure: OnFailure,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default)]
    pub cancel_requested: bool,
    /// Why not all of its jobs could be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many of its jobs stand where.
    #[serde(default)]
    pub counts: BTreeMap<String, usize>,
    /// Those that are waited for come before those that wait. Empty in a list of flows.
    #[serde(default)]
    pub jobs: Vec<FlowJob>,
}

/// A job in its flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowJob {
    pub name: String,
    pub job_id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: JobStatus,
    /// Names of those that it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many outputs it has made.
    #[serde(default)]
    pub outputs: usize,
}
