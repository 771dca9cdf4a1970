//! `GET /v1/traces/{id}` and `GET /v1/traces`.

use std::collections::HashMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query as Parameters, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::Traces;
use super::model::{Summary, Trace};
use super::store::Narrow;
use crate::edge::{ApiError, Viewer};
use crate::signals::Moment;

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;

pub(super) fn routes(traces: Traces) -> Router {
    Router::new().route("/v1/traces", get(list)).route("/v1/traces/{id}", get(show)).with_state(traces)
}

async fn show(_: Viewer, State(traces): State<Traces>, Path(id): Path<String>) -> Result<Json<Trace>, ApiError> {
    let id = id.to_ascii_lowercase();
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ApiError::bad_request("a trace id has 32 hex digits"));
    }
    let trace = traces.trace(&id).await?;
    trace.map(Json).ok_or_else(|| {
        ApiError::not_found("no_such_trace", format!("no span of the trace {id} is here"))
            .hint("spans arrive a few seconds after they end; those that are still open are sent when they close")
    })
}

#[derive(Serialize)]
struct List {
    traces: Vec<Summary>,
}

type Given = Result<Parameters<HashMap<String, String>>, QueryRejection>;

async fn list(_: Viewer, State(traces): State<Traces>, given: Given) -> Result<Json<List>, ApiError> {
    let given = given.map_err(|error| ApiError::bad_request(error.body_text()))?.0;
    let names = ["service", "job", "limit", "from", "to"];
    if let Some(name) = given.keys().find(|name| !names.contains(&name.as_str())) {
        let name: String = name.chars().take(40).collect();
        return Err(ApiError::bad_request(format!("`{name}` is no parameter of this; it takes {}", names.join(", "))));
    }
    let text = |name: &str| given.get(name).filter(|text| !text.is_empty()).cloned();
    let now = traces.store.now();
    let moment = |name: &str, default: i64| match text(name) {
        None => Ok(default),
        Some(written) => Moment::parse(&written, now)
            .map(|moment| moment.0)
            .map_err(|problem| ApiError::bad_request(format!("{name}: {problem}"))),
    };
    let limit = match text("limit") {
        None => LIMIT_DEFAULT,
        Some(written) => written
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| ApiError::bad_request(format!("limit is 1 to {LIMIT_MAX}")))?,
    };
    let (from_ns, to_ns) = (moment("from", i64::MIN)?, moment("to", i64::MAX)?);
    let narrow = Narrow { service: text("service"), job: text("job"), from_ns, to_ns, limit };
    let found = traces.newest(&narrow).await?;
    Ok(Json(List { traces: found.iter().map(Trace::summary).collect() }))
}
