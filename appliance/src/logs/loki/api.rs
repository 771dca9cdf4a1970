//! The calls of Loki's HTTP API that read.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use backlot_windows::{Order, Query, Search, Told, Want};
use http::HeaderMap;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::answer::{Encoding, Refused, instant, lines, matrix, success};
use super::evaluate::{LabelSet, Steps};
use super::logql::{Expr, Matcher, parse, selector};
use super::params::Params;
use super::run::Run;
use super::streams::{LEVEL, LEVELS, no_level};
use super::{fields, patterns, tail, volume};
use crate::edge::{ApiError, Viewer};
use crate::logs::Logs;
use crate::logs::schema::STREAM;

/// Version of Loki whose answers these are. Grafana decides by it what it may ask.
const DIALECT_VERSION: &str = "3.0.0";
/// Records whose sizes stand for those of all.
const SIZED: usize = 100;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) logs: Logs,
    pub(super) stopping: CancellationToken,
}

/// Routes of the http door.
pub(in crate::logs) fn routes(logs: Logs, stopping: CancellationToken) -> Router {
    Router::new()
        .route("/loki/api/v1/query", get(query).post(query))
        .route("/loki/api/v1/query_range", get(query_range).post(query_range))
        .route("/loki/api/v1/labels", get(labels).post(labels))
        .route("/loki/api/v1/label", get(labels).post(labels))
        .route("/loki/api/v1/label/{name}/values", get(label_values).post(label_values))
        .route("/loki/api/v1/series", get(series).post(series))
        .route("/loki/api/v1/index/stats", get(stats).post(stats))
        .route("/loki/api/v1/index/volume", get(volume::volume).post(volume::volume))
        .route("/loki/api/v1/index/volume_range", get(volume::volume_range).post(volume::volume_range))
        .route("/loki/api/v1/detected_fields", get(fields::detected).post(fields::detected))
        .route("/loki/api/v1/detected_field/{name}/values", get(fields::values).post(fields::values))
        .route("/loki/api/v1/patterns", get(patterns::patterns).post(patterns::patterns))
        .route("/loki/api/v1/format_query", get(format_query).post(format_query))
        .route("/loki/api/v1/detected_labels", get(detected_labels).post(detected_labels))
        .route("/loki/api/v1/tail", get(tail::follow))
        .route("/loki/api/v1/status/buildinfo", get(buildinfo))
        .with_state(Api { logs, stopping })
}

/// What a viewer may not see is refused in Loki's shape.
pub(super) type MayRead = Result<Viewer, ApiError>;

impl Api {
    pub(super) fn now_ns(&self) -> i64 {
        i64::try_from(self.logs.store.now().wall_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000)
    }
}

async fn query(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let Expr::Metric(metric) = parse(params.query())? else {
        return Err(Refused::bad(
            "log queries are not supported as an instant query type, please change your query to a range query type",
        ));
    };
    let steps = Steps { start_ns: params.time_ns(api.now_ns())?, step_ns: 1, count: 1 };
    let mut run = Run::new(&api.logs);
    let value = run.metric(metric, steps).await?;
    Ok(instant(value, steps, &run))
}

async fn query_range(
    viewer: MayRead,
    State(api): State<Api>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Refused> {
    viewer?;
    let expr = parse(params.query())?;
    params.refuse("interval")?;
    let (limit, order) = (params.limit()?, params.order()?);
    let steps = params.steps(api.now_ns())?;
    let mut run = Run::new(&api.logs);
    match expr {
        Expr::Logs(log) => {
            let (start_ns, end_ns) = params.range(api.now_ns())?;
            // The end is not part of the range.
            let found = run.lines(Arc::new(log), (start_ns, end_ns.saturating_sub(1)), order, limit).await?;
            Ok(lines(&found, encoding(&headers), &run))
        }
        Expr::Metric(metric) => {
            let value = run.metric(metric, steps).await?;
            Ok(matrix(value, steps, &run))
        }
    }
}

/// How the caller wants labels told.
pub(super) fn encoding(headers: &HeaderMap) -> Encoding {
    let flags = headers.get("x-loki-response-encoding-flags").and_then(|flags| flags.to_str().ok()).unwrap_or_default();
    if flags.split(',').any(|flag| flag.trim() == "categorize-labels") { Encoding::Categorized } else { Encoding::Flat }
}

/// The selectors of a request: those of `match[]`, or of `query`; every stream when there are none.
pub(super) fn selectors(params: &Params) -> Result<Vec<Vec<Matcher>>, Refused> {
    let texts = params.all(&["match[]", "match", "query"]).filter(|text| !text.trim().is_empty());
    let mut selectors = texts.map(selector).collect::<Result<Vec<_>, _>>()?;
    if selectors.is_empty() {
        selectors.push(Vec::new());
    }
    Ok(selectors)
}

/// The labels of the streams that a request means; of each level by itself if `levels` are wanted.
async fn sets(api: &Api, params: &Params, levels: bool) -> Result<BTreeSet<LabelSet>, Refused> {
    let selectors = selectors(params)?;
    let (from_ns, to_ns) = params.range(api.now_ns())?;
    let run = Run::new(&api.logs);
    let mut found = BTreeSet::new();
    for matchers in selectors {
        let selection = run.select(&matchers, (from_ns, to_ns)).await?;
        if !levels {
            found.extend(selection.streams.into_iter().map(|stream| stream.labels));
            continue;
        }
        for level in LEVELS.into_iter().map(Some).chain([None]) {
            let of_level = level.map_or_else(no_level, |level| Query::keyword(LEVEL, level));
            let query = Query::And(vec![selection.query.clone(), of_level]);
            let limit = selection.streams.len();
            let want = Want::Values { name: STREAM.to_owned(), limit };
            let counts = api.logs.store.tally(query, (from_ns, to_ns), vec![want]).await?;
            let Some(Told::Values(told)) = counts.told.into_iter().next() else { continue };
            let keys: BTreeSet<_> = told.top.into_iter().map(|(key, _)| key).collect();
            for stream in selection.streams.iter().filter(|stream| keys.contains(&stream.key)) {
                let mut labels = stream.labels.clone();
                if let Some(level) = level {
                    labels.insert(LEVEL.to_owned(), level.to_owned());
                }
                found.insert(labels);
            }
        }
    }
    Ok(found)
}

async fn labels(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let sets = sets(&api, &params, true).await?;
    let names: BTreeSet<&String> = sets.iter().flat_map(LabelSet::keys).collect();
    Ok(success(&json!(names)))
}

async fn label_values(
    viewer: MayRead,
    State(api): State<Api>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Refused> {
    viewer?;
    let sets = sets(&api, &params, name == LEVEL).await?;
    let values: BTreeSet<&String> = sets.iter().filter_map(|labels| labels.get(&name)).collect();
    Ok(success(&json!(values)))
}

async fn series(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let sets = sets(&api, &params, true).await?;
    Ok(success(&json!(sets)))
}

async fn detected_labels(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let sets = sets(&api, &params, true).await?;
    let names: BTreeSet<&String> = sets.iter().flat_map(LabelSet::keys).collect();
    let of_name = |name: &String| {
        let values: BTreeSet<_> = sets.iter().filter_map(|labels| labels.get(name)).collect();
        json!({"label": name, "cardinality": values.len()})
    };
    let detected: Vec<_> = names.into_iter().map(of_name).collect();
    Ok(Json(json!({"detectedLabels": detected})).into_response())
}

/// How much a selector means: records exactly, bytes by the size of the newest ones.
async fn stats(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let (from_ns, to_ns) = params.range(api.now_ns())?;
    let run = Run::new(&api.logs);
    let (mut streams, mut entries, mut bytes) = (0, 0, 0.0);
    for matchers in selectors(&params)? {
        let selection = run.select(&matchers, (from_ns, to_ns)).await?;
        let sampled = Search {
            query: selection.query,
            from_ns,
            to_ns,
            order: Order::Newest,
            limit: SIZED,
            after: None,
            bytes_max: 1 << 20,
        };
        let counted: u64 = selection.streams.iter().map(|stream| stream.count).sum();
        let hits = if counted == 0 { Vec::new() } else { api.logs.search(sampled).await?.hits };
        let size = hits.iter().map(|hit| hit.source.len()).sum::<usize>() as f64 / hits.len().max(1) as f64;
        streams += selection.streams.len();
        entries += counted;
        bytes += size * counted as f64;
    }
    Ok(Json(json!({"streams": streams, "chunks": streams, "entries": entries, "bytes": bytes as u64})).into_response())
}

/// A query on one line, if it is one.
async fn format_query(viewer: MayRead, params: Params) -> Result<Response, Refused> {
    viewer?;
    parse(params.query())?;
    Ok(success(&json!(on_one_line(params.query()))))
}

/// Without comments, and with one space wherever there is any between tokens; what stands in quotation marks stays.
fn on_one_line(query: &str) -> String {
    let mut made = String::with_capacity(query.len());
    let mut rest = query.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' | '`' => {
                made.push(c);
                while let Some(inner) = rest.next() {
                    made.push(inner);
                    if inner == '\\' && c == '"' {
                        made.extend(rest.next());
                    } else if inner == c {
                        break;
                    }
                }
            }
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            c if c.is_whitespace() => {
                if !made.ends_with(' ') {
                    made.push(' ');
                }
            }
            c => made.push(c),
        }
    }
    made.trim().to_owned()
}

async fn buildinfo(viewer: MayRead) -> Result<Response, Refused> {
    viewer?;
    Ok(Json(json!({
        "version": DIALECT_VERSION, "revision": concat!("backlot-", env!("CARGO_PKG_VERSION")),
        "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
    }))
    .into_response())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_on_one_line_stays_as_it_is(text in "[ \n\"`#\\\\a{}=|é]{0,30}") {
            let line = on_one_line(&text);
            prop_assert_eq!(on_one_line(&line), line);
        }
    }

    #[test]
    fn a_query_is_written_on_one_line_and_means_the_same() {
        let query = "sum by (level) (  # of all\n  rate({app=\"a  b\"} |= `two  \"words\"` |= \"a\\\"  b\" [5m])\n)\n";
        let line = on_one_line(query);
        assert_eq!(line, "sum by (level) ( rate({app=\"a  b\"} |= `two  \"words\"` |= \"a\\\"  b\" [5m]) )");
        assert!(parse(&line).is_ok() && on_one_line(&line) == line);
    }
}
