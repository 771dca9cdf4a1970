//! The doors: listeners, authentication, limits, and which capability answers.
//!
//! Capabilities see a request after it was authenticated, bounded and counted. Those on the http door hand in an
//! [`axum::Router`] whose handlers ask for [`Viewer`], [`Operator`], [`Worker`] or [`Admin`]; the AWS dialects implement
//! [`aws::Dialect`].

pub mod aws;
mod error;
pub mod otlp;
mod roles;

pub use error::ApiError;
pub use roles::{Admin, Operator, Viewer, Worker};
