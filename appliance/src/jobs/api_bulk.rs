//! Bulk actions on the http door: `/v1/jobs/bulk`, `/v1/bulk`.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::json;

use super::Jobs;
use super::api::{Body, parse, refused_body};
use super::bulk::{Order, Task};
use crate::edge::{ApiError, Operator, Viewer};

pub(super) fn routes() -> Router<Jobs> {
    Router::new()
        .route("/v1/jobs/bulk", post(begin))
        .route("/v1/bulk", get(list))
        .route("/v1/bulk/{id}", get(show))
        .route("/v1/bulk/{id}/stop", post(stop))
}

async fn begin(State(jobs): State<Jobs>, Operator(caller): Operator, body: Body) -> Result<Response, ApiError> {
    let order: Order = parse(&body.map_err(refused_body)?)?;
    if order.dry_run {
        return Ok(Json(jobs.bulk_dry_run(&order).await?).into_response());
    }
    let task = jobs.bulk(&order, &caller.key_id).await?;
    Ok((StatusCode::ACCEPTED, Json(task)).into_response())
}

async fn list(State(jobs): State<Jobs>, _: Viewer) -> Response {
    Json(json!({"tasks": jobs.bulk_tasks()})).into_response()
}

async fn show(State(jobs): State<Jobs>, _: Viewer, Path(id): Path<String>) -> Result<Json<Task>, ApiError> {
    Ok(Json(jobs.bulk_task(&id)?))
}

async fn stop(State(jobs): State<Jobs>, _: Operator, Path(id): Path<String>) -> Result<Json<Task>, ApiError> {
    Ok(Json(jobs.bulk_stop(&id).await?))
}
