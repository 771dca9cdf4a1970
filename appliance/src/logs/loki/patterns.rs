//! `patterns`: lines that differ only in numbers and ids, counted over time. They are those of `/v1/logs/patterns`, with `<_>` for each hole, so that
//! `|>` finds their lines.

use axum::extract::State;
use axum::response::Response;
use backlot_windows::{Order, Query, Search, Told, Want};
use serde_json::json;

use super::answer::{Refused, success};
use super::api::{Api, MayRead};
use super::logql::{Expr, parse};
use super::params::Params;
use super::run::Run;
use super::streams::narrowed;
use crate::edge::ApiError;
use crate::logs::model::LogRecord;
use crate::logs::pattern;
use crate::logs::schema::PATTERN;

/// Most patterns of an answer, each of which costs a search.
const PATTERNS_MAX: usize = 100;
/// One record.
const RECORD_BYTES_MAX: usize = 2 << 20;

pub(super) async fn patterns(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let Expr::Logs(log) = parse(params.query())? else {
        return Err(Refused::bad("patterns are those of a log query, not of a metric query"));
    };
    let (from_ns, to_ns) = params.range(api.now_ns())?;
    let step_ns = params.steps(api.now_ns())?.step_ns;
    let selection = Run::new(&api.logs).select(&log.matchers, (from_ns, to_ns)).await?;
    let (query, exact) = narrowed(&selection, &log.stages);
    if !exact {
        return Err(Refused::bad("patterns are counted for a selector and filters of lines alone"));
    }
    if selection.streams.is_empty() {
        return Ok(success(&json!([])));
    }
    let want = Want::Histogram { step_ns, origin_ns: 0, by: Some(PATTERN.to_owned()) };
    let told = api.logs.store.tally(query.clone(), (from_ns, to_ns), vec![want]).await?.told.into_iter().next();
    let Some(Told::Histogram(histogram)) = told else { return Ok(success(&json!([]))) };
    let mut patterns = Vec::new();
    for (key, counts) in histogram.by.into_iter().take(PATTERNS_MAX) {
        let of_it = Query::And(vec![Query::keyword(PATTERN, &key), query.clone()]);
        let (order, limit, bytes_max) = (Order::Newest, 1, RECORD_BYTES_MAX);
        let search = Search { query: of_it, from_ns, to_ns, order, limit, after: None, bytes_max };
        // Its window may have been dropped since it was counted.
        let found = api.logs.search(search).await?;
        let Some(hit) = found.hits.first() else { continue };
        let newest: LogRecord = serde_json::from_slice(&hit.source).map_err(|error| ApiError::internal(&error))?;
        let at = |stretch: usize| {
            let begin_ns = i64::try_from(stretch).unwrap_or(i64::MAX).saturating_mul(histogram.step_ns);
            histogram.begin_ns.saturating_add(begin_ns) / 1_000_000_000
        };
        let samples: Vec<_> = counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        let samples: Vec<_> = samples.into_iter().map(|(stretch, count)| json!([at(stretch), count])).collect();
        let level = newest.level.as_deref().unwrap_or("unknown");
        patterns.push(json!({"pattern": pattern::for_logql(&newest.body), "level": level, "samples": samples}));
    }
    Ok(success(&json!(patterns)))
}
