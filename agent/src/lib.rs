//! wip
pub mod frames;
pub mod infer;
