//! What logs and traces share: attributes of OTLP as plain values, the names that are recognised among them, the follower
//! that keeps windows up with the telemetry journal, and how a request says which moments it means.

pub mod attributes;
mod follower;
mod moments;
mod searches;

pub use follower::{Follower, arrived, encode};
pub use moments::{Moment, rfc3339_ns};
pub use searches::Searches;
