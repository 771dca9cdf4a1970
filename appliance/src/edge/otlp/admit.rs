//! Bounds the bytes of all OTLP bodies that are under way at once.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::header;
use tokio::sync::Semaphore;

use super::OtlpError;
use super::status;

/// Bodies under way, in units of [`UNIT_BYTES`]: 64 MiB.
const UNITS: u32 = 64;
const UNIT_BYTES: usize = 1 << 20;
/// Longest wait for other bodies to be done with.
const WAIT: Duration = Duration::from_secs(2);
/// What gzip usually makes of telemetry.
const GZIP_RATIO: usize = 10;

#[derive(Clone)]
struct Budget {
    units: Arc<Semaphore>,
    body_bytes_max: usize,
}

pub(super) fn around(routes: Router, body_bytes_max: usize) -> Router {
    let budget = Budget { units: Arc::new(Semaphore::new(UNITS as usize)), body_bytes_max };
    routes.layer(from_fn_with_state(budget, admit))
}

async fn admit(State(budget): State<Budget>, request: Request, next: Next) -> Response {
    let units = units_of(&request, budget.body_bytes_max);
    match tokio::time::timeout(WAIT, budget.units.acquire_many_owned(units)).await {
        Ok(Ok(_permit)) => next.run(request).await,
        _ => {
            let reason = "too many bytes of telemetry are being taken in".to_owned();
            status::respond(&OtlpError::Busy { reason, retry_after_s: 1 }, status::Wire::of(request.headers()))
        }
    }
}

fn units_of(request: &Request, body_bytes_max: usize) -> u32 {
    let headers = request.headers();
    let announced: Option<usize> =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let is_packed = headers.contains_key(header::CONTENT_ENCODING) || headers.contains_key("grpc-encoding");
    let bytes = match announced {
        Some(bytes) if is_packed => bytes.saturating_mul(GZIP_RATIO),
        Some(bytes) => bytes,
        None => body_bytes_max / 4,
    };
    u32::try_from(bytes.min(body_bytes_max).div_ceil(UNIT_BYTES)).unwrap_or(UNITS).clamp(1, UNITS)
}
