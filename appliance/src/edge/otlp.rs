//! The OTLP doors: export requests over HTTP (protobuf and JSON) and gRPC, bounded, checked, handed to a [`Sink`].
//!
//! An answer of success means that the sink has made durable what it did not reject.

use futures::future::BoxFuture;

use crate::telemetry_journal::AppendError;

pub use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
pub use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
pub use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

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
#[derive(Clone, Debug, thiserror::Error)]
pub enum OtlpError {
    /// The sender's mistake; sending it again would fail again.
    #[error("{0}")]
    Invalid(String),
    /// The same request may pass later: 503 with Retry-After, or UNAVAILABLE with RetryInfo.
    #[error("{reason}")]
    Busy { reason: String, retry_after_s: u32 },
    /// Ours. The cause goes to the log, not to the sender.
    #[error("the appliance could not take this")]
    Internal(String),
}

impl From<AppendError> for OtlpError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy { retry_after_s, .. } => Self::Busy { reason: error.to_string(), retry_after_s },
            AppendError::TooLarge { .. } => Self::Invalid(error.to_string()),
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
