//! What logs and traces share: the store with its journal, its windows and the follower between them, attributes of OTLP as
//! plain values, the names that are recognised among them, what is
//! taken out before anything is written, and how a request says which moments it means.

pub mod attributes;
pub mod budget;
pub mod cold;
mod follower;
mod moments;
mod names;
pub mod redact;
mod searches;
mod store;

/// Most log records or spans of one request. An empty one is two bytes on the wire and kilobytes on its way to the index.
pub const ITEMS_MAX: usize = 50_000;

pub use moments::{Moment, duration_ms, logger_ns, rfc3339_ns};
pub use store::{Common, Nature, Store, whole};
