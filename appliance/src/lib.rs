//! The appliance: where its parts are wired together, and nothing else.
//!
//! No part knows another one but through what is handed to it here. The order of [`Appliance::build`] is the order of
//! dependence: sockets first (a taken port fails before anything is opened), then signals, journals, capabilities, replay.

pub mod catalogue;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod edge;
pub mod folder;
pub mod identity;
pub mod metrics;
pub mod queue;
pub mod tasks;
pub mod telemetry;
pub mod telemetry_journal;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::control::{Control, Follower};
use crate::edge::{AwsDoor, Door, Endpoints, Gate, Listener};
use crate::identity::{Credential, Identity};
use crate::tasks::Stages;

/// Why the appliance does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("--dev is for this machine alone, and the {0} door's address is not loopback; leave --dev away or use 127.0.0.1")]
    DevIsOpen(&'static str),
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    #[error(transparent)]
    Listen(#[from] edge::ListenError),
    #[error(transparent)]
    Control(#[from] control::StartError),
    #[error("telemetry journal: {0}")]
    TelemetryJournal(#[from] backlot_journal::OpenError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(transparent)]
    Queue(#[from] queue::QueueError),
    #[error("the task `{0}` ended, and nothing works without it; the log says why")]
    TaskEnded(&'static str),
}

/// What `--print-addresses` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    ready: bool,
    #[serde(flatten)]
    pub endpoints: Endpoints,
}

/// A running appliance.
pub struct Appliance {
    stages: Stages,
    endpoints: Endpoints,
    control: Control,
}
