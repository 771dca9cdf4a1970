//! `GET /v1/logs/around`: what stands before and after a record in its own stream, as if its file were open.

use axum::Json;
use axum::extract::State;
use backlot_windows::{Order, Position, Query, Search, Value};
use serde::Serialize;
use serde_json::value::RawValue;

use super::api::{Api, Given, PAGE_BYTES_MAX, Parameters, given, number_of, record};
use super::schema::{STREAM, read};
use crate::edge::{ApiError, Viewer};
use crate::signals::Moment;

const DEFAULT: usize = 20;
const MAX: usize = 500;

#[derive(Serialize)]
pub(super) struct Around {
    /// Earliest first.
    before: Vec<Box<RawValue>>,
    record: Box<RawValue>,
    after: Vec<Box<RawValue>>,
}

pub(super) async fn records(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Json<Around>, ApiError> {
    let given = given(asked, &["id", "time", "before", "after"])?;
    let at = position_of(&given, api.logs.store.now())?;
    let (before, after) = (number_of(&given, "before", DEFAULT, MAX)?, number_of(&given, "after", DEFAULT, MAX)?);
    let moment = Search {
        query: Query::All,
        from_ns: at.time_ns,
        to_ns: at.time_ns,
        order: Order::Oldest,
        limit: 1,
        // So that the one that is meant comes first, however many share its moment.
        after: at.seq.checked_sub(1).map(|seq| Position { seq, ..at }),
        bytes_max: PAGE_BYTES_MAX,
    };
    let found = api.logs.search(moment).await?;
    let Some(hit) = found.hits.first().filter(|hit| hit.position == at) else {
        return Err(ApiError::not_found(
            "no_such_record",
            "there is no such record; its window may have been dropped since",
        ));
    };
    let document = read(&hit.source);
    let stream = document.values(STREAM).find_map(|value| match value {
        Value::Keyword(stream) => Some(stream.clone()),
        _ => None,
    });
    let query = stream.map_or(Query::All, |stream| Query::keyword(STREAM, &stream));
    let side = |order, limit| Search {
        query: query.clone(),
        from_ns: i64::MIN,
        to_ns: i64::MAX,
        order,
        limit,
        after: Some(at),
        bytes_max: PAGE_BYTES_MAX,
    };
    let earlier = api.logs.search(side(Order::Newest, before)).await?;
    let later = api.logs.search(side(Order::Oldest, after)).await?;
    Ok(Json(Around {
        before: earlier.hits.iter().rev().map(record).collect::<Result<_, _>>()?,
        record: record(hit)?,
        after: later.hits.iter().map(record).collect::<Result<_, _>>()?,
    }))
}

/// `id` and `time` as a record has them.
fn position_of(given: &Parameters, now: crate::clock::Now) -> Result<Position, ApiError> {
    let wanted = |name: &str| {
        let value = given.get(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| ApiError::bad_request(format!("`{name}` is needed, as the record has it")))
    };
    let seq =
        u64::from_str_radix(wanted("id")?, 16).map_err(|_| ApiError::bad_request("id is not that of a record"))?;
    let time =
        Moment::parse(wanted("time")?, now).map_err(|problem| ApiError::bad_request(format!("time: {problem}")))?;
    Ok(Position { time_ns: time.0, seq })
}
