//! What an agent says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Directive, Timestamp};

/// Body of `PUT /v1/agents/{name}`: what this agent can run. Sent at its start and every half minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentRegistration {
    pub version: String,
    pub host: String,
    /// Job types it can run. Empty means none.
    #[serde(default)]
    pub types: Vec<String>,
    /// Models it holds on its own disk: `name`, or `name@digest` for a version of the model store.
    #[serde(default)]
    pub models: Vec<String>,
    /// Those of them that its workers have in memory, or are loading.
    #[serde(default)]
    pub loaded: Vec<String>,
    #[serde(default)]
    pub gpus: Vec<GpuInfo>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub instance_type: Option<String>,
    #[serde(default)]
    pub spot: bool,
    /// It finishes what it holds and takes nothing more.
    #[serde(default)]
    pub draining: bool,
    /// It has ended because it was told to, and will be silent.
    #[serde(default)]
    pub stopped: bool,
    /// Attempts under way.
    #[serde(default)]
    pub attempts: Vec<String>,
}

/// One GPU, or the CPU when it stands in for one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuInfo {
    pub name: String,
    #[serde(default)]
    pub vram_bytes: u64,
    /// CUDA architecture: 80 for `sm_80`. Absent for a GPU that is not NVIDIA's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm: Option<u32>,
    /// `cuda`, `wgpu` or `cpu`.
    pub executor: String,
}

/// An agent as the appliance shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    pub name: String,
    #[serde(flatten)]
    pub registration: AgentRegistration,
    pub first_seen_at: Timestamp,
    pub last_seen_at: Timestamp,
}

/// Answer to `PUT /v1/agents/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistrationAnswer {
    #[serde(flatten)]
    pub agent: AgentInfo,
    pub directive: Directive,
}
