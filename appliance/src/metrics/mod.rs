//! Metrics (being built).
pub mod model;
pub mod promql;
