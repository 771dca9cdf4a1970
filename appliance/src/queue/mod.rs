//! Message queues: at-least-once delivery under visibility timeouts, SQS semantics.

mod overseer;

pub use overseer::{Action, Admitted, Change, Class, Overseer};
