//! Workers.
pub mod lines;
pub mod manifest;
pub mod protocol;
