//! The store's upkeep on the http door: the scrubber, and the change of the master key.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;

use super::Artifacts;
use super::rewrap::RewrapStatus;
use super::scrub::ScrubStatus;
use crate::edge::{Operator, Viewer};

/// Routes of the http door.
pub fn routes(artifacts: Artifacts) -> Router {
    Router::new()
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

async fn encryption(State(artifacts): State<Artifacts>, _: Viewer) -> Json<RewrapStatus> {
    Json(artifacts.rewrap_status())
}

async fn rewrap_now(State(artifacts): State<Artifacts>, _: Operator) -> (StatusCode, Json<RewrapStatus>) {
    artifacts.rewrap_now();
    (StatusCode::ACCEPTED, Json(artifacts.rewrap_status()))
}
