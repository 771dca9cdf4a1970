//! What requests for traces say.

use std::collections::HashMap;

use axum::extract::Query as Parameters;
use axum::extract::rejection::QueryRejection;
use backlot_windows::{Position, Query, Ranked};
use serde_json::{Map, Value};

use super::list::{Asked, LIMIT_MAX};
use super::query::{duration_ns, parse};
use super::schema::{DURATION, JOB, KIND, NAME, SERVICE, STATUS};
use super::store::ListOrder;
use super::tags;
use crate::clock::Now;
use crate::edge::ApiError;
use crate::signals::Moment;

const LIMIT_DEFAULT: usize = 20;
/// Spans that are read for one list: they are let go of trace by trace.
const LIST_BYTES_MAX: usize = 64 << 20;

pub(super) type Given = Result<Parameters<HashMap<String, String>>, QueryRejection>;

const NAMES: [&str; 17] = [
    "query",
    "service",
    "operation",
    "kind",
    "status",
    "job",
    "attributes",
    "min_duration",
    "max_duration",
    "min_trace_duration",
    "max_trace_duration",
    "from",
    "to",
    "order",
    "limit",
    "cursor",
    "root",
];

/// What is asked of a list.
pub(super) fn asked(given: Given, now: Now) -> Result<Asked, ApiError> {
    let given = given.map_err(|error| ApiError::bad_request(error.body_text()))?.0;
    if let Some(name) = given.keys().find(|name| !NAMES.contains(&name.as_str())) {
        let name: String = name.chars().take(40).collect();
        return Err(ApiError::bad_request(format!("`{name}` is no parameter of this; it takes {}", NAMES.join(", "))));
    }
    let given = Params(given);
    let mut all = vec![given.query()?];
    for (name, keyword) in [("service", SERVICE), ("operation", NAME), ("kind", KIND), ("status", STATUS), ("job", JOB)]
    {
        all.extend(given.get(name).map(|value| Query::keyword(keyword, value)));
    }
    if let Some(status) = given.get("status")
        && !["unset", "ok", "error"].contains(&status)
    {
        return Err(ApiError::bad_request("status is unset, ok or error"));
    }
    if let Some(text) = given.get("attributes") {
        let problem = |problem: String| ApiError::bad_request(format!("attributes: {problem}"));
        let tags: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| problem(format!("a JSON object such as {{\"gpu.index\": 3}} is expected: {error}")))?;
        all.extend(tags::having(&tags).map_err(problem)?);
    }
    all.extend(between(given.duration("min_duration")?, given.duration("max_duration")?));
    let whole = |ns: Option<f64>| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; `as` saturates")]
        ns.map(|ns| ns as u64)
    };
    let order = given.order()?;
    Ok(Asked {
        query: Query::And(all),
        from_ns: given.moment("from", now)?.unwrap_or(i64::MIN),
        to_ns: given.moment("to", now)?.unwrap_or(i64::MAX),
        trace_ns_min: whole(given.duration("min_trace_duration")?),
        trace_ns_max: whole(given.duration("max_trace_duration")?),
        order,
        limit: given.limit()?,
        after: given.cursor(order)?,
        bytes_max: LIST_BYTES_MAX,
    })
}

/// Spans whose duration is between two, both included.
pub(super) fn between(min_ns: Option<f64>, max_ns: Option<f64>) -> Option<Query> {
    use std::ops::Bound::{Included, Unbounded};
    (min_ns.is_some() || max_ns.is_some()).then(|| Query::Number {
        name: DURATION.to_owned(),
        from: min_ns.map_or(Unbounded, Included),
        to: max_ns.map_or(Unbounded, Included),
    })
}

struct Params(HashMap<String, String>);

impl Params {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn query(&self) -> Result<Query, ApiError> {
        let text = self.get("query").unwrap_or_default();
        let query = parse(text).map_err(|error| {
            let mut refused = ApiError::bad_request(format!("query: {error}"));
            refused.code = "bad_query";
            refused.hint(format!("{text}\n{}^ docs/traces.md describes the language", " ".repeat(error.at)))
        })?;
        match self.get("root") {
            None => Ok(query),
            Some("true") => Ok(Query::And(vec![super::query::is_root(), query])),
            Some(_) => Err(ApiError::bad_request("root can be true: only spans that name no parent answer then")),
        }
    }

    fn duration(&self, name: &str) -> Result<Option<f64>, ApiError> {
        let read = |text| duration_ns(text).map_err(|problem| ApiError::bad_request(format!("{name}: {problem}")));
        self.get(name).map(read).transpose()
    }

    fn moment(&self, name: &str, now: Now) -> Result<Option<i64>, ApiError> {
        let read = |text| Moment::parse(text, now).map(|moment| moment.0);
        let read = |text| read(text).map_err(|problem| ApiError::bad_request(format!("{name}: {problem}")));
        self.get(name).map(read).transpose()
    }

    fn order(&self) -> Result<ListOrder, ApiError> {
        match self.get("order") {
            None | Some("newest") => Ok(ListOrder::Newest),
            Some("longest") => Ok(ListOrder::Longest),
            Some(_) => Err(ApiError::bad_request("order is newest or longest")),
        }
    }

    fn limit(&self) -> Result<usize, ApiError> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| ApiError::bad_request(format!("limit is 1 to {LIMIT_MAX}")))
    }

    fn cursor(&self, order: ListOrder) -> Result<Option<Ranked>, ApiError> {
        let Some(text) = self.get("cursor") else { return Ok(None) };
        let read = read_cursor(text, order).map(Some);
        read.ok_or_else(|| {
            ApiError::bad_request("cursor is not one that an earlier answer in this order gave as next_cursor")
        })
    }
}

/// A page's end as text.
pub(super) fn cursor(ranked: Ranked, order: ListOrder) -> String {
    let letter = if order == ListOrder::Newest { 'n' } else { 'l' };
    let Ranked { number, position: Position { time_ns, seq } } = ranked;
    format!("{letter}{:016x}{time_ns:016x}{seq:016x}", number.to_bits())
}

fn read_cursor(text: &str, order: ListOrder) -> Option<Ranked> {
    let rest = text.strip_prefix(if order == ListOrder::Newest { 'n' } else { 'l' })?;
    if rest.len() != 48 || !rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = |at: usize| u64::from_str_radix(&rest[at..at + 16], 16).ok();
    let position = Position { time_ns: number(16)?.cast_signed(), seq: number(32)? };
    Some(Ranked { number: f64::from_bits(number(0)?), position })
}

/// Reads `text` as each value of a request, and throws the outcome away: for fuzzing.
pub fn fuzz_values(text: &str) {
    let _ = read_cursor(text, ListOrder::Newest);
    let _ = duration_ns(text);
    let _ = parse(text);
    if let Ok(tags) = serde_json::from_str(text) {
        let _ = tags::having(&tags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_text_and_back_and_keeps_its_order() {
        for (number, time_ns, seq) in [(0.0, 0, 0), (1.5e9, -1, 1), (f64::MAX, i64::MIN, u64::MAX)] {
            let at = Ranked { number, position: Position { time_ns, seq } };
            for order in [ListOrder::Newest, ListOrder::Longest] {
                assert_eq!(read_cursor(&cursor(at, order), order), Some(at));
            }
            assert_eq!(read_cursor(&cursor(at, ListOrder::Longest), ListOrder::Newest), None);
        }
        for wrong in ["", "n", &"n".repeat(49), &format!("n{}", "ä".repeat(24))] {
            assert_eq!(read_cursor(wrong, ListOrder::Newest), None);
        }
    }

    #[test]
    fn what_is_asked_wrongly_is_told() {
        let asked = |pairs: &[(&str, &str)]| {
            let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            asked(Ok(Parameters(given)), Now { mono_ms: 0, wall_ms: 1_000_000 })
        };
        for (name, value) in [
            ("colour", "red"),
            ("query", "name:("),
            ("status", "bad"),
            ("attributes", "[1]"),
            ("attributes", r#"{"a":[]}"#),
            ("min_duration", "5"),
            ("max_trace_duration", "long"),
            ("from", "yesterday"),
            ("order", "shortest"),
            ("limit", "0"),
            ("limit", "201"),
            ("cursor", "x"),
            ("root", "false"),
        ] {
            let refused = asked(&[(name, value)]).unwrap_err();
            assert!(refused.status == 400 && refused.message.contains(name), "{name}={value}: {refused:?}");
        }
        let all =
            [("service", "a"), ("min_duration", "1s"), ("max_trace_duration", "1.5s"), ("attributes", r#"{"n":1}"#)];
        let found = asked(&all).unwrap();
        assert_eq!((found.limit, found.trace_ns_min, found.trace_ns_max), (LIMIT_DEFAULT, None, Some(1_500_000_000)));
    }
}
