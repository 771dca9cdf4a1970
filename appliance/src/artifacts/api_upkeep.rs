//! The store's upkeep on the http door: the scrubber, the cold tier, and the change of the master key.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;

use super::api_http::refused;
use super::rewrap::RewrapStatus;
use super::scrub::ScrubStatus;
use super::{Artifacts, ColdStatus, WarmAsked};
use crate::edge::{ApiError, Operator, Viewer};

/// Routes of the http door.
pub fn routes(artifacts: Artifacts) -> Router {
    Router::new()
        .route("/v1/cold", get(cold))
        .route("/v1/cold/warm", post(warm))
        .route("/v1/scrub", get(scrub).post(scrub_now))
        .route("/v1/encryption", get(encryption).post(rewrap_now))
        .with_state(artifacts)
}

async fn scrub(State(artifacts): State<Artifacts>, _: Viewer) -> Json<ScrubStatus> {
    Json(artifacts.scrub_status())
}

async fn scrub_now(State(artifacts): State<Artifacts>, _: Operator) -> (StatusCode, Json<ScrubStatus>) {
    artifacts.scrub_now();
    (StatusCode::ACCEPTED, Json(artifacts.scrub_status()))
}

async fn cold(State(artifacts): State<Artifacts>, _: Viewer) -> Json<ColdStatus> {
    Json(artifacts.cold_status())
}

async fn warm(
    State(artifacts): State<Artifacts>,
    _: Operator,
    asked: Result<Json<WarmAsked>, JsonRejection>,
) -> Result<(StatusCode, Json<ColdStatus>), ApiError> {
    let Json(asked) = asked.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    artifacts.warm(asked).map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(artifacts.cold_status())))
}

async fn encryption(State(artifacts): State<Artifacts>, _: Viewer) -> Json<RewrapStatus> {
    Json(artifacts.rewrap_status())
}

async fn rewrap_now(State(artifacts): State<Artifacts>, _: Operator) -> (StatusCode, Json<RewrapStatus>) {
    artifacts.rewrap_now();
    (StatusCode::ACCEPTED, Json(artifacts.rewrap_status()))
}
