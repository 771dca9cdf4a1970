//! OTLP over gRPC: the three collector services, with gzip.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response as AxumResponse;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request, Response, Status};

use super::signal::Counters;
use super::{OtlpError, Signal, Sink, Sinks};
use crate::telemetry;

/// The customary largest message of gRPC. tonic decodes before we can count messages, so this is also
/// what bounds the memory of a request that is made of empty ones.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

pub(super) fn routes(sinks: &Sinks, body_bytes_max: usize) -> Router {
    let bytes = body_bytes_max.min(MESSAGE_BYTES_MAX);
    let counters = Counters::new();
    macro_rules! service {
        ($server:ident, $sink:expr) => {
            $server::new(Service { sink: Arc::clone(&$sink), counters: counters.clone() })
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(bytes)
        };
    }
    tonic::service::Routes::new(service!(LogsServiceServer, sinks.logs))
        .add_service(service!(TraceServiceServer, sinks.traces))
        .add_service(service!(MetricsServiceServer, sinks.metrics))
        .into_axum_router()
        .layer(from_fn_with_state(counters, count_refused))
}

/// Counts what ended with an error, a message that tonic could not decode included.
async fn count_refused(State(counters): State<Counters>, request: axum::extract::Request, next: Next) -> AxumResponse {
    let signal = match request.uri().path() {
        path if path.contains(".logs.") => ExportLogsServiceRequest::NAME,
        path if path.contains(".trace.") => ExportTraceServiceRequest::NAME,
        path if path.contains(".metrics.") => ExportMetricsServiceRequest::NAME,
        _ => "unknown",
    };
    let response = next.run(request).await;
    let code = response.headers().get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()));
    match code {
        Code::Ok => {}
        Code::Unavailable => counters.refuse(signal, "busy"),
        Code::Internal => counters.refuse(signal, "internal"),
        Code::OutOfRange | Code::ResourceExhausted => counters.refuse(signal, "too_large"),
        _ => counters.refuse(signal, "invalid"),
    }
    response
}

struct Service<S> {
    sink: Arc<dyn Sink<S>>,
    counters: Counters,
}

impl<S: Signal> Service<S> {
    async fn take(&self, request: Request<S>) -> Result<Response<S::Response>, Status> {
        match telemetry::unobserved(self.sink.export(request.into_inner())).await {
            Ok(partial) => {
                self.counters.count::<S>(&Ok(partial.clone()));
                Ok(Response::new(S::response(partial)))
            }
            Err(error) => {
                if let OtlpError::Internal(cause) = &error {
                    tracing::error!(signal = S::NAME, cause, "could not take telemetry");
                }
                Err(error.to_tonic()) // counted with those that tonic itself refuses
            }
        }
    }
}

#[tonic::async_trait]
impl LogsService for Service<ExportLogsServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.take(request).await
    }
}

#[tonic::async_trait]
impl TraceService for Service<ExportTraceServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request).await
    }
}

#[tonic::async_trait]
impl MetricsService for Service<ExportMetricsServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(request).await
    }
}
