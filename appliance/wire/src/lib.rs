//! The words that the appliance, the agent and the command line say to each other.
//!
//! Everything here is plain data with serde: no I/O, no clock, no randomness. Unknown JSON fields of a
//! job are kept and given back; unknown phases are shown as they are, so that an agent and an appliance
//! one minor version apart understand each other.

pub mod agent;
pub mod attempt;
pub mod job;
pub mod metrics;
pub mod time;

pub use agent::{AgentInfo, AgentRegistration, GpuInfo, RegistrationAnswer};
pub use attempt::{
    Attempt, AttemptEvent, AttemptEvents, Directive, EventKind, EventsAnswer, FailureClass, Outcome, PhaseSpan,
};
pub use job::{Input, Job, JobError, JobSpec, JobStatus, Limits, Output, OutputTarget, Requirements, Retry, SpecError};
pub use time::Timestamp;

/// Header that an agent adds to its SQS calls: its registered name. It must be among the signed headers.
pub const AGENT_HEADER: &str = "x-backlot-agent";

/// Message attribute of a delivered job that carries the id of the attempt the receive has started.
pub const ATTEMPT_ATTRIBUTE: &str = "backlot.attempt";

/// Metadata keys (`x-amz-meta-…`) that an agent writes on each artifact.
pub mod metadata {
    pub const JOB: &str = "backlot-job";
    pub const ATTEMPT: &str = "backlot-attempt";
    pub const TYPE: &str = "backlot-type";
    pub const MODEL: &str = "backlot-model";
    pub const SCALE: &str = "backlot-scale";
    pub const SEED: &str = "backlot-seed";
    pub const TRACEPARENT: &str = "backlot-traceparent";
}
