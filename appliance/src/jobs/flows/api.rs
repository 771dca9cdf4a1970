//! Flows on the http door: `/v1/flows`.

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use backlot_wire::{Flow, FlowOrder};

use super::super::admission::id_of_key;
use super::super::api::{Body, idempotency_key, parse, refused_body};
use super::super::{Jobs, JobsError};
use super::PAGE_MAX;
use crate::edge::{ApiError, Operator, Viewer};

/// Largest order.
const ORDER_BYTES_MAX: usize = 8 * 1024 * 1024;

pub(in crate::jobs) fn routes() -> Router<Jobs> {
    Router::new()
        .route("/v1/flows", post(begin).get(list))
        .route("/v1/flows/{id}", get(show))
        .route("/v1/flows/{id}/cancel", post(cancel))
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
}

async fn begin(
    State(jobs): State<Jobs>,
    Operator(caller): Operator,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut order: FlowOrder = parse(&body.map_err(refused_body)?)?;
    if let Some(key) = idempotency_key(&headers)?.filter(|_| order.flow_id.is_none()) {
        order.flow_id = Some(id_of_key(&caller.key_id, key));
    }
    let (flow, created) = jobs.begin_flow(&order, &caller.key_id).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(flow)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn list(
    State(jobs): State<Jobs>,
    _: Viewer,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!("`limit` is 1 to {PAGE_MAX}")));
    }
    let cursor = query.cursor.map_or(Ok(Vec::new()), hex::decode);
    let before = cursor.map_err(|_| ApiError::bad_request("`cursor` is none that a list gave"))?;
    let (flows, next) = off_thread(move || jobs.flows(&before, limit)).await?;
    Ok(Json(json!({"flows": flows, "cursor": next.map(hex::encode)})).into_response())
}

async fn show(State(jobs): State<Jobs>, _: Viewer, Path(id): Path<String>) -> Result<Json<Flow>, ApiError> {
    Ok(Json(off_thread(move || jobs.flow(&id)).await?))
}

async fn cancel(State(jobs): State<Jobs>, _: Operator, Path(id): Path<String>) -> Result<Json<Flow>, ApiError> {
    Ok(Json(jobs.cancel_flow(&id).await?))
}

async fn off_thread<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, JobsError> + Send + 'static,
) -> Result<T, ApiError> {
    let read = tokio::task::spawn_blocking(read).await;
    Ok(read.map_err(|error| ApiError::internal(&error))??)
}
