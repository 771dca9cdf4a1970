//! `GET /v1/logs/histogram`, `/values`, `/numbers` and `/patterns`: what the records that answer to a query are like.

use axum::Json;
use axum::extract::State;
use backlot_windows::{Counts, Order, Query, Reach, STRETCHES_MAX, Search, Told, Unreached, Value, Want};
use serde::Serialize;
use serde_json::value::RawValue;

use super::api::{Api, Given, PAGE_BYTES_MAX, Parameters, given, number_of, query_of, range_of, record};
use super::schema::{KEYWORDS, PATTERN, read};
use super::{field, pattern};
use crate::edge::{ApiError, Viewer};
use crate::signals::{duration_ms, rfc3339_ns};

const STRETCHES_DEFAULT: usize = 60;
const VALUES_DEFAULT: usize = 10;
const LIMIT_MAX: usize = 1000;
/// Most patterns, each of which is answered with a record.
const PATTERNS_MAX: usize = 100;
/// Steps that people read well, in seconds; whole days after the last.
const STEPS_S: [i64; 15] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 10_800, 43_200];

#[derive(Serialize)]
pub(super) struct Histogram {
    matched: u64,
    /// Where the first stretch begins, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    begin: Option<String>,
    step_s: f64,
    /// Of each stretch.
    counts: Vec<u64>,
    /// As above for each value of the field that was asked for, the most frequent first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by: Vec<Series>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreached: Vec<Unreached>,
}

#[derive(Serialize)]
struct Series {
    value: String,
    counts: Vec<u64>,
}

#[derive(Serialize)]
pub(super) struct Values {
    matched: u64,
    values: Vec<Counted>,
    /// Values of records that are not among these.
    others: u64,
    /// Values were counted in the newest records, in so many of them; absent where all were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreached: Vec<Unreached>,
}

#[derive(Serialize)]
struct Counted {
    value: String,
    count: u64,
}

#[derive(Serialize)]
pub(super) struct Numbers {
    matched: u64,
    count: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// Right within one percent.
    percentiles: std::collections::BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreached: Vec<Unreached>,
}

#[derive(Serialize)]
pub(super) struct Patterns {
    matched: u64,
    patterns: Vec<Pattern>,
    others: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreached: Vec<Unreached>,
}

#[derive(Serialize)]
struct Pattern {
    /// To ask for its records: `pattern:KEY`.
    key: String,
    /// What they say, with a sign where they differ.
    text: String,
    count: u64,
    /// The newest of them.
    newest: Box<RawValue>,
}

/// What was asked for; a range that is open ends where the records do.
async fn tally(
    api: &Api,
    given: &Parameters,
    want: impl FnOnce((i64, i64)) -> Result<Want, ApiError>,
) -> Result<Option<Counts>, ApiError> {
    let now = api.logs.store.now();
    let query = query_of(given, now)?;
    let ((from_ns, to_ns), asked) = (range_of(given, now)?, query.span());
    // Where only the query says when, its range is what is counted over.
    let from_ns = if from_ns == i64::MIN { asked.0 } else { from_ns };
    let to_ns = if to_ns == i64::MAX { asked.1 } else { to_ns };
    let Some(there) = api.logs.store.extent_now(from_ns, to_ns).await else {
        want((0, 0))?; // what is asked wrongly is refused all the same
        return Ok(None);
    };
    let range = (if from_ns == i64::MIN { there.0 } else { from_ns }, if to_ns == i64::MAX { there.1 } else { to_ns });
    let want = want(range)?;
    api.logs.store.tally_within_reach(query, range, vec![want], Reach::Everywhere).await.map(Some)
}

pub(super) async fn histogram(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Json<Histogram>, ApiError> {
    let given = given(asked, &["query", "from", "to", "by", "step", "stretches"])?;
    let by = given.get("by").filter(|name| !name.is_empty()).map(|name| field(name));
    if let Some(name) = by.as_deref().filter(|name| !KEYWORDS.contains(name)) {
        let names = KEYWORDS.join(", ");
        return Err(ApiError::bad_request(format!(
            "by: records are not told apart by `{}`, only by {names}",
            backlot_windows::clip(name, 60)
        )));
    }
    let mut step_ns = 1;
    let counts = tally(&api, &given, |range| {
        step_ns = step_of(&given, range)?;
        Ok(Want::Histogram { step_ns, origin_ns: 0, by: by.clone() })
    });
    let empty = |step_ns: i64| Histogram {
        matched: 0,
        begin: None,
        step_s: step_ns as f64 / 1e9,
        counts: Vec::new(),
        by: Vec::new(),
        set_aside: Vec::new(),
        unreached: Vec::new(),
    };
    let Some(Counts { matched, told, set_aside, unreached }) = counts.await? else { return Ok(Json(empty(step_ns))) };
    let Some(Told::Histogram(told)) = told.into_iter().next() else { return Ok(Json(empty(step_ns))) };
    let by = told.by.into_iter().map(|(value, counts)| Series { value, counts }).collect();
    let (begin, step_s) = (Some(rfc3339_ns(told.begin_ns)), told.step_ns as f64 / 1e9);
    Ok(Json(Histogram { matched, begin, step_s, counts: told.counts, by, set_aside, unreached }))
}

/// The length of a stretch: what was asked for, or one that gives about as many stretches as were asked for.
fn step_of(given: &Parameters, (from_ns, to_ns): (i64, i64)) -> Result<i64, ApiError> {
    if let Some(text) = given.get("step") {
        let step_ms = duration_ms(text).filter(|ms| *ms > 0).and_then(|ms| i64::try_from(ms).ok());
        let step_ns = step_ms.and_then(|ms| ms.checked_mul(1_000_000));
        return step_ns.ok_or_else(|| ApiError::bad_request("step is a length of time such as 30s, 5m, 1h or 1d"));
    }
    let stretches = number_of(given, "stretches", STRETCHES_DEFAULT, STRETCHES_MAX / 2)?;
    let span_s = (i128::from(to_ns) - i128::from(from_ns)) / 1_000_000_000;
    let least_s = i64::try_from(span_s).unwrap_or(i64::MAX) / i64::try_from(stretches).unwrap_or(i64::MAX);
    let days = |least_s: i64| (least_s / 86_400 + 1).saturating_mul(86_400);
    let step_s = STEPS_S.into_iter().find(|step_s| *step_s >= least_s).unwrap_or_else(|| days(least_s));
    Ok(step_s.saturating_mul(1_000_000_000))
}

fn name_of(given: &Parameters) -> Result<String, ApiError> {
    let name = given.get("name").filter(|name| !name.is_empty());
    name.map(|name| field(name))
        .ok_or_else(|| ApiError::bad_request("`name` is needed: whose values are to be counted"))
}

pub(super) async fn values(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Json<Values>, ApiError> {
    let given = given(asked, &["query", "from", "to", "name", "limit"])?;
    let (name, limit) = (name_of(&given)?, number_of(&given, "limit", VALUES_DEFAULT, LIMIT_MAX)?);
    let counts = tally(&api, &given, |_| Ok(Want::Values { name, limit })).await?.unwrap_or_default();
    let told = match counts.told.into_iter().next() {
        Some(Told::Values(told)) => told,
        _ => backlot_windows::Values::default(),
    };
    let values = told.top.into_iter().map(|(value, count)| Counted { value, count }).collect();
    let (matched, set_aside, unreached) = (counts.matched, counts.set_aside, counts.unreached);
    Ok(Json(Values { matched, values, others: told.others, sampled: told.sampled, set_aside, unreached }))
}

pub(super) async fn numbers(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Json<Numbers>, ApiError> {
    let given = given(asked, &["query", "from", "to", "name"])?;
    let name = name_of(&given)?;
    let counts = tally(&api, &given, |_| Ok(Want::Numbers { name })).await?.unwrap_or_default();
    let told = match counts.told.into_iter().next() {
        Some(Told::Numbers(told)) => told,
        _ => backlot_windows::Numbers::default(),
    };
    let percentiles = told.percentiles.iter().map(|(percent, number)| (format!("p{percent}"), *number)).collect();
    let (matched, set_aside, unreached) = (counts.matched, counts.set_aside, counts.unreached);
    let backlot_windows::Numbers { count, min, max, mean, .. } = told;
    Ok(Json(Numbers { matched, count, min, max, mean, percentiles, set_aside, unreached }))
}

pub(super) async fn patterns(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Json<Patterns>, ApiError> {
    let given = given(asked, &["query", "from", "to", "limit"])?;
    let limit = number_of(&given, "limit", 2 * VALUES_DEFAULT, PATTERNS_MAX)?;
    let counts =
        tally(&api, &given, |_| Ok(Want::Values { name: PATTERN.to_owned(), limit })).await?.unwrap_or_default();
    let told = match counts.told.into_iter().next() {
        Some(Told::Values(told)) => told,
        _ => backlot_windows::Values::default(),
    };
    let now = api.logs.store.now();
    let (query, (from_ns, to_ns)) = (query_of(&given, now)?, range_of(&given, now)?);
    let mut patterns = Vec::with_capacity(told.top.len());
    for (key, count) in told.top {
        let query = Query::And(vec![Query::keyword(PATTERN, &key), query.clone()]);
        let search =
            Search { query, from_ns, to_ns, order: Order::Newest, limit: 1, after: None, bytes_max: PAGE_BYTES_MAX };
        // Its window may have been dropped since it was counted.
        if let Some(hit) = api.logs.store.search_within_reach(search).await?.hits.first() {
            patterns.push(Pattern { key, text: text_of(&hit.source), count, newest: record(hit)? });
        }
    }
    let (matched, set_aside, unreached) = (counts.matched, counts.set_aside, counts.unreached);
    Ok(Json(Patterns { matched, patterns, others: told.others, set_aside, unreached }))
}

fn text_of(source: &[u8]) -> String {
    let document = read(source);
    let body = document.values(super::schema::BODY).find_map(|value| match value {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    });
    body.map(pattern::of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_that_people_read_well() {
        let step = |span_s: i64, stretches: &str| {
            let given = Parameters::from([("stretches".to_owned(), stretches.to_owned())]);
            step_of(&given, (0, span_s * 1_000_000_000)).unwrap() / 1_000_000_000
        };
        assert_eq!((step(10, "60"), step(3600, "60"), step(3601, "60"), step(86_400, "60")), (1, 60, 60, 1800));
        assert_eq!((step(86_400 * 365, "60"), step(5_000_000_000, "1")), (86_400 * 7, 86_400 * 57_871));
        let given = |step: &str| Parameters::from([("step".to_owned(), step.to_owned())]);
        assert_eq!(step_of(&given("5m"), (0, 1)).unwrap(), 300_000_000_000);
        for wrong in ["0s", "", "5", "-5m", "99999999999999w"] {
            assert!(step_of(&given(wrong), (0, 1)).is_err(), "{wrong}");
        }
        assert!(step_of(&Parameters::new(), (i64::MIN, i64::MAX)).is_ok());
    }
}
