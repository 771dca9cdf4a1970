//! OTLP over HTTP: `/v1/logs`, `/v1/traces`, `/v1/metrics`.

use std::error::Error as _;
use std::io::Read as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use prost::Message as _;

use super::signal::{Counters, decode};
use super::status::{Wire, respond};
use super::{Encoding, OtlpError, Partial, Signal, Sink, Sinks};
use crate::telemetry;

/// Bodies over this are unpacked and decoded on a thread that may take its time.
const INLINE_BYTES_MAX: usize = 64 * 1024;

pub(super) fn routes(sinks: &Sinks, body_bytes_max: usize) -> Router {
    let counters = Counters::new();
    Router::new()
        .route("/v1/logs", taking(&sinks.logs, &counters, body_bytes_max))
        .route("/v1/traces", taking(&sinks.traces, &counters, body_bytes_max))
        .route("/v1/metrics", taking(&sinks.metrics, &counters, body_bytes_max))
        .method_not_allowed_fallback(async |headers: HeaderMap| wrong(StatusCode::METHOD_NOT_ALLOWED, &headers))
        .fallback(async |headers: HeaderMap| wrong(StatusCode::NOT_FOUND, &headers))
}

fn wrong(status: StatusCode, headers: &HeaderMap) -> Response {
    let error = OtlpError::Invalid("this door takes POST on /v1/logs, /v1/traces and /v1/metrics".to_owned());
    let mut response = respond(&error, Wire::of(headers));
    *response.status_mut() = status;
    response
}

fn taking<S: Signal>(sink: &Arc<dyn Sink<S>>, counters: &Counters, body_bytes_max: usize) -> MethodRouter {
    let (sink, counters) = (Arc::clone(sink), counters.clone());
    post(move |request: Request| {
        let (sink, counters) = (Arc::clone(&sink), counters.clone());
        async move {
            let wire = Wire::of(request.headers());
            let outcome = take(&*sink, request, body_bytes_max).await;
            counters.count::<S>(&outcome);
            match outcome {
                Ok(partial) => accepted::<S>(partial, wire),
                Err(error) => respond(&error, wire),
            }
        }
    })
}

async fn take<S: Signal>(sink: &dyn Sink<S>, request: Request, body_bytes_max: usize) -> Result<Partial, OtlpError> {
    let encoding = encoding_of(request.headers())?;
    let is_packed = is_packed(request.headers())?;
    let body = axum::body::to_bytes(request.into_body(), body_bytes_max).await.map_err(|error| unread(&error))?;
    let takes_a_while = is_packed || body.len() > INLINE_BYTES_MAX;
    let read = move || {
        let body = if is_packed { unpack(&body, body_bytes_max)? } else { body };
        decode::<S>(&body, encoding)
    };
    let request = if takes_a_while { blocking(read).await? } else { read()? };
    telemetry::unobserved(sink.export(request)).await
}

fn accepted<S: Signal>(partial: Partial, wire: Wire) -> Response {
    let response = S::response(partial);
    match wire {
        Wire::Json => axum::Json(response).into_response(),
        _ => ([(header::CONTENT_TYPE, "application/x-protobuf")], response.encode_to_vec()).into_response(),
    }
}

fn encoding_of(headers: &HeaderMap) -> Result<Encoding, OtlpError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-protobuf" | "application/protobuf" => Ok(Encoding::Protobuf),
        "application/json" => Ok(Encoding::Json),
        _ => Err(OtlpError::Unsupported(
            "the content type is neither application/x-protobuf nor application/json".to_owned(),
        )),
    }
}

fn is_packed(headers: &HeaderMap) -> Result<bool, OtlpError> {
    match headers.get(header::CONTENT_ENCODING).map(http::HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(OtlpError::Unsupported("the content encoding is neither gzip nor identity".to_owned())),
    }
}

fn unpack(body: &[u8], bytes_max: usize) -> Result<Bytes, OtlpError> {
    let mut unpacked = Vec::new();
    let read = flate2::read::MultiGzDecoder::new(body).take(bytes_max as u64 + 1).read_to_end(&mut unpacked);
    match read {
        Ok(_) if unpacked.len() > bytes_max => {
            Err(OtlpError::TooLarge(format!("the body is over {bytes_max} bytes when unpacked")))
        }
        Ok(_) => Ok(unpacked.into()),
        Err(error) => Err(OtlpError::Invalid(format!("the body is not gzip: {error}"))),
    }
}

fn unread(error: &axum::Error) -> OtlpError {
    let mut cause = error.source();
    while let Some(source) = cause {
        if source.is::<http_body_util::LengthLimitError>() {
            return OtlpError::TooLarge("the body is over this door's limit".to_owned());
        }
        cause = source.source();
    }
    OtlpError::Invalid(format!("the body broke off: {error}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OtlpError> + Send + 'static,
) -> Result<T, OtlpError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(OtlpError::Internal(error.to_string())))
}
