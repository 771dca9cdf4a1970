//! Schedules on the http door: `/v1/schedules`.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::json;

use backlot_wire::{Schedule, ScheduleOrder};

use super::super::Jobs;
use super::super::api::{Body, parse, refused_body};
use crate::edge::{ApiError, Operator, Viewer};

pub(in crate::jobs) fn routes() -> Router<Jobs> {
    Router::new()
        .route("/v1/schedules", get(list))
        .route("/v1/schedules/{name}", get(show).put(put).delete(delete))
        .route("/v1/schedules/{name}/pause", post(pause))
        .route("/v1/schedules/{name}/resume", post(resume))
}

async fn list(State(jobs): State<Jobs>, _: Viewer) -> Response {
    Json(json!({"schedules": jobs.schedules()})).into_response()
}

async fn show(State(jobs): State<Jobs>, _: Viewer, Path(name): Path<String>) -> Result<Json<Schedule>, ApiError> {
    Ok(Json(jobs.schedule(&name)?))
}

async fn put(
    State(jobs): State<Jobs>,
    Operator(caller): Operator,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let order: ScheduleOrder = parse(&body.map_err(refused_body)?)?;
    let (schedule, is_new) = jobs.put_schedule(&name, order, &caller.key_id).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(schedule)).into_response())
}

async fn delete(State(jobs): State<Jobs>, _: Operator, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    jobs.delete_schedule(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(State(jobs): State<Jobs>, _: Operator, Path(name): Path<String>) -> Result<Json<Schedule>, ApiError> {
    Ok(Json(jobs.pause_schedule(&name, true).await?))
}

async fn resume(State(jobs): State<Jobs>, _: Operator, Path(name): Path<String>) -> Result<Json<Schedule>, ApiError> {
    Ok(Json(jobs.pause_schedule(&name, false).await?))
}
