//! `GET /v1/traces`, `/v1/traces/{id}` and its critical path.

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use backlot_windows::Unreached;
use serde::Serialize;

use super::Traces;
use super::params::{Given, asked, cursor};
use super::path::CriticalPath;
use super::trace::{Summary, Trace};
use crate::edge::{ApiError, Viewer};

pub(super) fn routes(traces: Traces) -> Router {
    Router::new()
        .route("/v1/traces", get(list))
        .route("/v1/traces/{id}", get(show))
        .route("/v1/traces/{id}/critical-path", get(critical_path))
        .with_state(traces)
}

async fn show(_: Viewer, State(traces): State<Traces>, Path(id): Path<String>) -> Result<Json<Trace>, ApiError> {
    let id = trace_id(&id)?;
    let trace = traces.trace_with_links(&id).await?;
    trace.map(Json).ok_or_else(|| no_such_trace(&id))
}

async fn critical_path(
    _: Viewer,
    State(traces): State<Traces>,
    Path(id): Path<String>,
) -> Result<Json<CriticalPath>, ApiError> {
    let id = trace_id(&id)?;
    let trace = traces.trace(&id).await?.ok_or_else(|| no_such_trace(&id))?;
    let path = tokio::task::spawn_blocking(move || CriticalPath::of(&trace)).await;
    path.map(Json).map_err(|error| ApiError::internal(&error))
}

fn trace_id(id: &str) -> Result<String, ApiError> {
    let id = id.to_ascii_lowercase();
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ApiError::bad_request("a trace id has 32 hex digits"));
    }
    Ok(id)
}

fn no_such_trace(id: &str) -> ApiError {
    ApiError::not_found("no_such_trace", format!("no span of the trace {id} is here"))
        .hint("spans arrive a few seconds after they end; those that are still open are sent when they close")
}

#[derive(Serialize)]
struct List {
    traces: Vec<Summary>,
    /// What to hand in as `cursor` for what comes after these; absent at the end.
    next_cursor: Option<String>,
    /// Windows that may hold more and were set aside because they do not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<String>,
    /// Windows that may hold more and lie in the other S3, which does not answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreached: Vec<Unreached>,
}

async fn list(_: Viewer, State(traces): State<Traces>, given: Given) -> Result<Json<List>, ApiError> {
    let asked = asked(given, traces.store.now())?;
    let page = traces.list(&asked, |trace| trace.summary()).await?;
    let next_cursor = page.next.map(|next| cursor(next, asked.order));
    let (set_aside, unreached) = (page.set_aside, page.unreached);
    Ok(Json(List { traces: page.traces, next_cursor, set_aside, unreached }))
}
