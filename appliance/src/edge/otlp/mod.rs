//! The OTLP doors: export requests over HTTP (protobuf and JSON) and gRPC, bounded, checked, handed to a [`Sink`].
//!
//! An answer of success means that the sink has made durable what it did not reject. An error is a `google.rpc.Status` in the
//! sender's own encoding. Only what may pass later is answered 503 or UNAVAILABLE: exporters send that again, and drop the rest.
//!
//! Bounds: bytes of a body before and after decompression, messages within it (an empty log record is two bytes on the
//! wire and three hundred in memory), and bytes of all bodies under way at once ([`admit`]).

mod admit;
mod grpc;
mod http;
mod messages;
mod signal;
mod status;

use std::sync::Arc;

use axum::Router;
use futures::future::BoxFuture;

use crate::telemetry_journal::AppendError;
use backlot_journal::JournalError;

pub use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
pub use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
pub use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
pub use signal::{Encoding, Signal, decode};

/// What a sink did with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// Records, spans or data points that are durable.
    pub accepted: u64,
    /// Those that were not taken and must not be sent again.
    pub rejected: u64,
    /// Why, for a person. Empty when nothing was rejected and there is nothing to warn of.
    pub message: String,
}

/// Why a request failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OtlpError {
    /// The sender's mistake; sending it again would fail again.
    #[error("{0}")]
    Invalid(String),
    /// The same, because of a bound.
    #[error("{0}")]
    TooLarge(String),
    /// The same, because of a content type or an encoding that this door does not read.
    #[error("{0}")]
    Unsupported(String),
    /// The same request may pass later: 503 with Retry-After, or UNAVAILABLE with RetryInfo.
    #[error("{reason}")]
    Busy { reason: String, retry_after_s: u32 },
    /// Ours. The cause goes to the log, not to the sender.
    #[error("the appliance could not take this; its log says why")]
    Internal(String),
}

impl From<AppendError> for OtlpError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy { retry_after_s, .. } => Self::Busy { reason: error.to_string(), retry_after_s },
            AppendError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            AppendError::Journal(JournalError::Closed) => {
                Self::Busy { reason: "the appliance is stopping".to_owned(), retry_after_s: 5 }
            }
            AppendError::Journal(cause) => Self::Internal(cause.to_string()),
        }
    }
}

/// Takes one kind of export request: `Sink<ExportLogsServiceRequest>` and so on.
pub trait Sink<Request>: Send + Sync + 'static {
    /// Resolves when what was accepted is durable.
    fn export(&self, request: Request) -> BoxFuture<'_, Result<Partial, OtlpError>>;
}

/// What takes metrics.
pub type MetricsSink = dyn Sink<ExportMetricsServiceRequest>;

/// What the doors hand requests to.
#[derive(Clone)]
pub struct Sinks {
    pub logs: Arc<dyn Sink<ExportLogsServiceRequest>>,
    pub traces: Arc<dyn Sink<ExportTraceServiceRequest>>,
    pub metrics: Arc<MetricsSink>,
}

/// Routes of the OTLP HTTP door. `body_bytes_max` bounds a body before and after decompression.
pub fn http_routes(sinks: &Sinks, body_bytes_max: usize) -> Router {
    admit::around(http::routes(sinks, body_bytes_max), body_bytes_max)
}

/// Routes of the OTLP gRPC door.
pub fn grpc_routes(sinks: &Sinks, body_bytes_max: usize) -> Router {
    admit::around(grpc::routes(sinks, body_bytes_max), body_bytes_max)
}
