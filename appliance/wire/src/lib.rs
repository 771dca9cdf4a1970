//! The words that the appliance, the agent and the command line say to each other.
//!
//! Everything here is plain data with serde: no I/O, no clock, no randomness. Unknown JSON fields of a
//! job are kept and given back; unknown phases are shown as they are, so that an agent and an appliance
//! one minor version apart understand each other.

pub mod agent;
pub mod attempt;
mod batch;
pub mod flow;
pub mod job;
pub mod media;
pub mod metrics;
pub mod model;
pub mod schedule;
pub mod spec;
pub mod time;

pub use agent::{AgentInfo, AgentRegistration, GpuInfo, RegistrationAnswer};
pub use attempt::{
    Attempt, AttemptEvent, AttemptEvents, Directive, EventKind, EventsAnswer, FailureClass, Outcome, PhaseSpan,
};
pub use flow::{Flow, FlowJob, FlowOrder, FlowStatus, OnFailure};
pub use job::{Job, JobError, JobStatus, Output};
pub use media::{MediaFacts, MediaKind};
pub use model::{Manifest, ModelKind, ModelRef};
pub use schedule::{Missed, Schedule, ScheduleOrder};
pub use spec::{
    After, CauseRetry, Input, JobSpec, Limits, On, OutputTarget, Rate, Requirements, Retry, SpecError, Unique,
};
pub use time::Timestamp;

/// Header that an agent adds to its SQS calls: its registered name. It must be among the signed headers.
pub const AGENT_HEADER: &str = "x-backlot-agent";

/// Header that an agent adds to a receive to get only jobs that may be [computed together](JobSpec::batch_key) with the one of this
/// id. It must be among the signed headers. Such a receive waits for nothing: what is ready is what no idle host has asked for.
pub const ALIKE_HEADER: &str = "x-backlot-alike";

/// Message attribute of a delivered job that carries the id of the attempt the receive has started.
pub const ATTEMPT_ATTRIBUTE: &str = "backlot.attempt";

/// Message attributes by which an SQS client says what the specification in the body does not.
pub mod attribute {
    pub const PRIORITY: &str = "backlot.priority";
    pub const RUN_AT: &str = "backlot.run_at";
    pub const UNIQUE_KEY: &str = "backlot.unique_key";
    pub const UNIQUE_PERIOD_S: &str = "backlot.unique_period_s";
    /// Ids with commas between them.
    pub const AFTER: &str = "backlot.after";
    pub const TRACEPARENT: &str = "traceparent";
}

/// What kind of failure ended an attempt. A worker says it as `cause` among the details of its failure; any name is taken, and
/// these are known. `retry.causes` of a job may have rules for each.
pub mod cause {
    /// Its name among the details.
    pub const KEY: &str = "cause";
    /// Of the GPU, the host or a cgroup.
    pub const OUT_OF_MEMORY: &str = "out_of_memory";
    /// Over a soft or hard limit.
    pub const TIMEOUT: &str = "timeout";
    /// The worker process ended in the middle of its job.
    pub const WORKER_CRASH: &str = "worker_crash";
    /// An input or an output could not be moved.
    pub const NETWORK: &str = "network";
    /// A job that was waited for has not succeeded.
    pub const DEPENDENCY: &str = "dependency";
    /// A plain consumer's visibility timeout ended without a word.
    pub const NO_WORD: &str = "no_word";
}

/// Metadata keys (`x-amz-meta-…`) that an agent writes on each artifact.
pub mod metadata {
    pub const JOB: &str = "backlot-job";
    pub const ATTEMPT: &str = "backlot-attempt";
    pub const TYPE: &str = "backlot-type";
    pub const MODEL: &str = "backlot-model";
    pub const SCALE: &str = "backlot-scale";
    pub const SEED: &str = "backlot-seed";
    pub const TRACEPARENT: &str = "backlot-traceparent";
    pub const WIDTH: &str = "backlot-width";
    pub const HEIGHT: &str = "backlot-height";
    pub const DURATION_S: &str = "backlot-duration-s";
    pub const FPS: &str = "backlot-fps";
    pub const CODEC: &str = "backlot-codec";
}
