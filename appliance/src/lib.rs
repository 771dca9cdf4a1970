//! The appliance: where its parts are wired together, and nothing else.

pub mod catalogue;
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
