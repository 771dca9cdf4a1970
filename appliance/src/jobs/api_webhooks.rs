//! Webhooks on the http door: `/v1/webhooks`.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde_json::json;

use super::Jobs;
use super::api::{Body, parse, refused_body};
use super::webhooks::{Shown, Wanted};
use crate::edge::{ApiError, Operator, Viewer};

pub(super) fn routes() -> Router<Jobs> {
    Router::new().route("/v1/webhooks", get(list)).route("/v1/webhooks/{name}", get(show).put(set).delete(remove))
}

async fn list(State(jobs): State<Jobs>, _: Viewer) -> Response {
    let (waiting, dropped) = jobs.webhooks_waiting();
    Json(json!({"webhooks": jobs.webhooks(), "waiting": waiting, "dropped": dropped})).into_response()
}

async fn show(State(jobs): State<Jobs>, _: Viewer, Path(name): Path<String>) -> Result<Json<Shown>, ApiError> {
    Ok(Json(jobs.webhook(&name)?))
}

/// The secret is in the answer only where it was made here, and only now.
async fn set(
    State(jobs): State<Jobs>,
    _: Operator,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let wanted: Wanted = parse(&body.map_err(refused_body)?)?;
    let (shown, secret) = jobs.set_webhook(&name, wanted).await?;
    let mut answer = serde_json::to_value(&shown).map_err(|error| ApiError::internal(&error))?;
    if let Some(secret) = secret {
        answer["secret"] = json!(secret);
    }
    Ok(Json(answer).into_response())
}

async fn remove(State(jobs): State<Jobs>, _: Operator, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    jobs.delete_webhook(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
