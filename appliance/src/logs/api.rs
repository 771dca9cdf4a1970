//! `GET /v1/logs` and `GET /v1/logs/tail`.

use std::collections::HashMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query as Parameters, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use backlot_windows::{Order, Position, Search};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{Logs, parse, tail};
use crate::edge::{ApiError, Viewer};
use crate::signals::Moment;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// Most bytes of one page: with bodies of a megabyte it holds fewer records than asked for.
const PAGE_BYTES_MAX: usize = 8 << 20;

#[derive(Clone)]
struct Api {
    logs: Logs,
    stopping: CancellationToken,
}

pub(super) fn routes(logs: Logs, stopping: CancellationToken) -> Router {
    Router::new().route("/v1/logs", get(search)).route("/v1/logs/tail", get(follow)).with_state(Api { logs, stopping })
}

#[derive(Serialize)]
struct Page {
    records: Vec<Box<RawValue>>,
    /// What to hand in as `cursor` for what comes after these; absent at the end.
    next_cursor: Option<String>,
    /// Windows that may hold more and were set aside because they do not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<String>,
}

type Given = Result<Parameters<HashMap<String, String>>, QueryRejection>;

async fn search(_: Viewer, State(api): State<Api>, given: Given) -> Result<Json<Page>, ApiError> {
    let given = given.map_err(|error| ApiError::bad_request(error.body_text()))?.0;
    known(&given, &["query", "from", "to", "limit", "cursor", "order"])?;
    let search = search_of(&given, api.logs.store.now())?;
    let found = api.logs.search(search).await?;
    let last = found.hits.last().map(|hit| hit.position);
    let records = found
        .hits
        .into_iter()
        .map(|hit| String::from_utf8(hit.source).ok().and_then(|text| RawValue::from_string(text).ok()));
    Ok(Json(Page {
        records: records.collect::<Option<_>>().ok_or_else(|| ApiError::internal(&"a stored record is not JSON"))?,
        next_cursor: last.filter(|_| found.more).map(cursor),
        set_aside: found.set_aside,
    }))
}

async fn follow(_: Viewer, State(api): State<Api>, given: Given) -> Result<Response, ApiError> {
    let given = given.map_err(|error| ApiError::bad_request(error.body_text()))?.0;
    known(&given, &["query"])?;
    let query = query_of(&given)?;
    Ok(tail::sse(&api.logs, query, api.stopping)?.into_response())
}

fn known(given: &HashMap<String, String>, names: &[&str]) -> Result<(), ApiError> {
    match given.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(40).collect();
            Err(ApiError::bad_request(format!("`{name}` is no parameter of this; it takes {}", names.join(", "))))
        }
    }
}

fn query_of(given: &HashMap<String, String>) -> Result<backlot_windows::Query, ApiError> {
    let text = given.get("query").map_or("", String::as_str);
    parse(text).map_err(|error| {
        let mut refused = ApiError::bad_request(format!("query: {error}"));
        refused.code = "bad_query";
        refused.hint(format!("{text}\n{}^ docs/logs.md describes the language", " ".repeat(error.at)))
    })
}

fn search_of(given: &HashMap<String, String>, now: crate::clock::Now) -> Result<Search, ApiError> {
    let moment = |name: &str, default: i64| match given.get(name).filter(|text| !text.is_empty()) {
        None => Ok(default),
        Some(text) => Moment::parse(text, now)
            .map(|moment| moment.0)
            .map_err(|problem| ApiError::bad_request(format!("{name}: {problem}"))),
    };
    let limit = match given.get("limit") {
        None => LIMIT_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| ApiError::bad_request(format!("limit is 1 to {LIMIT_MAX}")))?,
    };
    let order = match given.get("order").map_or("newest", String::as_str) {
        "newest" => Order::Newest,
        "oldest" => Order::Oldest,
        _ => return Err(ApiError::bad_request("order is newest or oldest")),
    };
    let after = match given.get("cursor").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(
            position(text)
                .ok_or_else(|| ApiError::bad_request("cursor is not one that an earlier answer gave as next_cursor"))?,
        ),
    };
    let (from_ns, to_ns) = (moment("from", i64::MIN)?, moment("to", i64::MAX)?);
    Ok(Search { query: query_of(given)?, from_ns, to_ns, order, limit, after, bytes_max: PAGE_BYTES_MAX })
}

fn cursor(position: Position) -> String {
    format!("{:016x}{:016x}", position.time_ns, position.seq)
}

fn position(cursor: &str) -> Option<Position> {
    if cursor.len() != 32 || !cursor.is_ascii() {
        return None;
    }
    let (time_ns, seq) = cursor.split_at(16);
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Position { time_ns: number(time_ns)?.cast_signed(), seq: number(seq)? })
}

/// Reads `text` as each value of a request, and throws the outcome away: for fuzzing.
pub fn fuzz_values(text: &str) {
    let _ = position(text);
    let _ = Moment::parse(text, crate::clock::Now::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_text_and_back() {
        for (time_ns, seq) in [(0, 0), (-1, 1), (i64::MIN, u64::MAX), (1_763_812_800_123_456_789, 42)] {
            let at = Position { time_ns, seq };
            assert_eq!(position(&cursor(at)), Some(at));
        }
        for wrong in ["", "x", &"g".repeat(32), &"ä".repeat(16)] {
            assert_eq!(position(wrong), None);
        }
    }
}
