//! The agent of a GPU host: takes jobs from a queue, has workers run them, brings the results back.
//!
//! [`service`] takes jobs, [`attempt`] leads one of them from receive to result under a [`lease`], [`worker`] keeps the
//! child processes that compute, [`events`] tells the appliance, [`signals`] ships logs, metrics and traces. The agent itself computes
//! nothing and loads no GPU library: what can crash runs in a worker.
//!
//! Nothing here is kept that must not be lost: a job that ends with its host comes back from the queue.

// It panics when whoever reads has had enough.
#![warn(clippy::print_stdout)]

pub mod attempt;
pub mod aws;
pub mod bench;
pub mod clock;
pub mod config;
pub mod door;
pub mod events;
pub mod frames;
pub mod host;
pub mod http_client;
pub mod infer;
pub mod journald;
pub mod lease;
pub mod library;
mod output;
pub mod probe;
pub mod queue;
pub mod service;
pub mod signals;
pub mod sound;
pub mod store;
pub mod worker;
