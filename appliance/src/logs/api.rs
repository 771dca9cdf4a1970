//! `GET /v1/logs` and `GET /v1/logs/tail`, and what all requests of the log say.

use std::collections::HashMap;

use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use backlot_windows::{Found, Hit, Order, Position, Query, Search, Unreached};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::query::{QueryError, parse_lasting};
use super::schema::answer;
use super::{Logs, around, counts, export, parse, tail};
use crate::clock::Now;
use crate::edge::{ApiError, Viewer};
use crate::signals::Moment;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// Most bytes of one page: with bodies of a megabyte it holds fewer records than asked for.
pub(super) const PAGE_BYTES_MAX: usize = 8 << 20;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) logs: Logs,
    stopping: CancellationToken,
}

pub(super) fn routes(logs: Logs, stopping: CancellationToken) -> Router {
    Router::new()
        .route("/v1/logs", get(search))
        .route("/v1/logs/tail", get(follow))
        .route("/v1/logs/around", get(around::records))
        .route("/v1/logs/export", get(export::download))
        .route("/v1/logs/histogram", get(counts::histogram))
        .route("/v1/logs/values", get(counts::values))
        .route("/v1/logs/numbers", get(counts::numbers))
        .route("/v1/logs/patterns", get(counts::patterns))
        .with_state(Api { logs, stopping })
}

/// The parameters of a request, by name.
pub(super) type Parameters = HashMap<String, String>;

#[derive(Serialize)]
pub(super) struct Page {
    records: Vec<Box<RawValue>>,
    /// What to hand in as `cursor` for what comes after these; absent at the end.
    next_cursor: Option<String>,
    /// Windows that may hold more and were set aside because they do not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<String>,
    /// Windows that may hold more and lie in the other S3, which does not answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreached: Vec<Unreached>,
}

pub(super) type Given = Result<axum::extract::Query<Parameters>, QueryRejection>;

/// What was given, if all of it is known.
pub(super) fn given(given: Given, names: &[&str]) -> Result<Parameters, ApiError> {
    let given = given.map_err(|error| ApiError::bad_request(error.body_text()))?.0;
    match given.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(given),
        Some(name) => {
            let name: String = name.chars().take(40).collect();
            Err(ApiError::bad_request(format!("`{name}` is no parameter of this; it takes {}", names.join(", "))))
        }
    }
}

async fn search(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Json<Page>, ApiError> {
    let given = given(asked, &["query", "from", "to", "limit", "cursor", "order"])?;
    let search = search_of(&given, api.logs.store.now())?;
    page(api.logs.store.search_within_reach(search).await?).map(Json)
}

/// Records as they are answered.
pub(super) fn page(found: Found) -> Result<Page, ApiError> {
    let last = found.hits.last().map(|hit| hit.position);
    Ok(Page {
        records: found.hits.iter().map(record).collect::<Result<_, _>>()?,
        next_cursor: last.filter(|_| found.more).map(cursor),
        set_aside: found.set_aside,
        unreached: found.unreached,
    })
}

pub(super) fn record(hit: &Hit) -> Result<Box<RawValue>, ApiError> {
    let record = answer(hit.position, &hit.source).and_then(|text| RawValue::from_string(text).ok());
    record.ok_or_else(|| ApiError::internal(&"a stored record is not JSON"))
}

async fn follow(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Response, ApiError> {
    // Put to records as they come: one that asks for the time up to now would be silent for good.
    let query = read_query(&given(asked, &["query"])?, parse_lasting)?;
    Ok(tail::sse(&api.logs, query, api.stopping)?.into_response())
}

pub(super) fn query_of(given: &Parameters, now: Now) -> Result<Query, ApiError> {
    read_query(given, |text| parse(text, now))
}

fn read_query(given: &Parameters, read: impl FnOnce(&str) -> Result<Query, QueryError>) -> Result<Query, ApiError> {
    let text = given.get("query").map_or("", String::as_str);
    read(text).map_err(|error| {
        let mut refused = ApiError::bad_request(format!("query: {error}"));
        refused.code = "bad_query";
        refused.hint(format!("{text}\n{}^ docs/logs.md describes the language", " ".repeat(error.at)))
    })
}

/// A number among the parameters, from 1 to `max`.
pub(super) fn number_of(given: &Parameters, name: &str, default: usize, max: usize) -> Result<usize, ApiError> {
    let Some(text) = given.get(name) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| ApiError::bad_request(format!("{name} is 1 to {max}")))
}

/// `from` and `to`, in nanoseconds.
pub(super) fn range_of(given: &Parameters, now: Now) -> Result<(i64, i64), ApiError> {
    let moment = |name: &str, default: i64| match given.get(name).filter(|text| !text.is_empty()) {
        None => Ok(default),
        Some(text) => Moment::parse(text, now)
            .map(|moment| moment.0)
            .map_err(|problem| ApiError::bad_request(format!("{name}: {problem}"))),
    };
    Ok((moment("from", i64::MIN)?, moment("to", i64::MAX)?))
}

pub(super) fn order_of(given: &Parameters) -> Result<Order, ApiError> {
    match given.get("order").map_or("newest", String::as_str) {
        "newest" => Ok(Order::Newest),
        "oldest" => Ok(Order::Oldest),
        _ => Err(ApiError::bad_request("order is newest or oldest")),
    }
}

fn search_of(given: &Parameters, now: Now) -> Result<Search, ApiError> {
    let after = match given.get("cursor").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(
            position(text)
                .ok_or_else(|| ApiError::bad_request("cursor is not one that an earlier answer gave as next_cursor"))?,
        ),
    };
    let (from_ns, to_ns) = range_of(given, now)?;
    let limit = number_of(given, "limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let (query, order) = (query_of(given, now)?, order_of(given)?);
    Ok(Search { query, from_ns, to_ns, order, limit, after, bytes_max: PAGE_BYTES_MAX })
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
    let _ = Moment::parse(text, Now::default());
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
