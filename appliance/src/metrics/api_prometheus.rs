//! Prometheus's HTTP API: what Grafana and promtool ask, answered in the shapes they expect.
//!
//! `/rules` and `/alerts` belong to alerting. Absent on purpose: everything that is about scraping, and what changes data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use promql_parser::parser::Expr;
use promql_parser::parser::value::ValueType;
use serde_json::{Map, Value, json};

use super::Metrics;
use super::exemplars::Exemplar;
use super::model::{Labels, Sample, Selector};
use super::params::Params;
use super::promql::{self, Answer, Notes, QueryError, Range, STEPS_MAX, SeriesAnswer};
use super::store::everything;
use crate::edge::Viewer;

/// Version of Prometheus whose answers these are. Grafana decides by it what it may ask.
const DIALECT_VERSION: &str = "3.0.0";
/// Most names, values or series in one answer of the lists.
const LIST_MAX: usize = 100_000;

/// The routes under `/api/v1`.
pub fn routes(metrics: Metrics) -> Router {
    Router::new()
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        .route("/api/v1/query_exemplars", get(exemplars).post(exemplars))
        .route("/api/v1/labels", get(labels).post(labels))
        .route("/api/v1/label/{name}/values", get(label_values))
        .route("/api/v1/series", get(series).post(series))
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/status/buildinfo", get(buildinfo))
        .with_state(metrics)
}

/// An error in Prometheus's shape.
#[derive(Debug)]
pub(super) struct PromError {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl PromError {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", message: message.into() }
    }

    pub(super) fn parameter(name: &str, problem: &str) -> Self {
        Self::bad(format!("invalid parameter {name:?}: {problem}"))
    }
}

impl From<QueryError> for PromError {
    fn from(error: QueryError) -> Self {
        let (status, kind) = match &error {
            QueryError::Parse(problem) => return Self::parameter("query", problem),
            QueryError::Execution(_) | QueryError::TooManySamples => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            QueryError::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            QueryError::Cancelled => (StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT), "canceled"),
            QueryError::Storage(problem) => {
                tracing::error!(%problem, "a metrics query failed");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
        };
        Self { status, kind, message: error.to_string() }
    }
}

impl IntoResponse for PromError {
    fn into_response(self) -> Response {
        let body = json!({"status": "error", "errorType": self.kind, "error": self.message});
        (self.status, axum::Json(body)).into_response()
    }
}

fn success(data: Value) -> Response {
    axum::Json(json!({"status": "success", "data": data})).into_response()
}

async fn query(State(metrics): State<Metrics>, _: Viewer, params: Params) -> Result<Response, PromError> {
    let expr = expression(&params)?;
    let t_ms = params.time("time")?.unwrap_or_else(|| metrics.now_ms());
    let limit = params.limit("limit")?;
    let (answer, notes) = metrics.evaluate(expr, Range::instant(t_ms), true, timeout(&params)?).await?;
    Ok(answered(&answer, t_ms, limit, notes))
}

async fn query_range(State(metrics): State<Metrics>, _: Viewer, params: Params) -> Result<Response, PromError> {
    let (start_ms, end_ms) = (params.needed_time("start")?, params.needed_time("end")?);
    if end_ms < start_ms {
        return Err(PromError::parameter("end", "end timestamp must not be before start time"));
    }
    let step_ms = params
        .duration("step")?
        .ok_or_else(|| PromError::parameter("step", "cannot parse \"\" to a valid duration"))?;
    if step_ms <= 0 {
        return Err(PromError::parameter(
            "step",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    if (end_ms - start_ms) / step_ms > STEPS_MAX {
        return Err(PromError::bad(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    let expr = expression(&params)?;
    if !matches!(expr.value_type(), ValueType::Vector | ValueType::Scalar) {
        let kind = if expr.value_type() == ValueType::Matrix { "range vector" } else { "string" };
        let problem = format!("invalid expression type {kind:?} for range query, must be Scalar or instant Vector");
        return Err(PromError::parameter("query", &problem));
    }
    let limit = params.limit("limit")?;
    let range = Range { start_ms, end_ms, step_ms };
    let (answer, notes) = metrics.evaluate(expr, range, false, timeout(&params)?).await?;
    Ok(answered(&answer, end_ms, limit, notes))
}

fn expression(params: &Params) -> Result<Expr, PromError> {
    Ok(promql::parse(params.get("query").unwrap_or_default())?)
}

fn timeout(params: &Params) -> Result<Option<u64>, PromError> {
    Ok(params.duration("timeout")?.and_then(|ms| u64::try_from(ms).ok()))
}

/// Writes an answer; by hand, because a range may hold a million numbers.
fn answered(answer: &Answer, t_ms: i64, limit: usize, mut notes: Notes) -> Response {
    let mut out = String::from("{\"status\":\"success\",\"data\":{\"resultType\":");
    let mut list = |out: &mut String, series: &[SeriesAnswer], write: fn(&mut String, &SeriesAnswer)| {
        if series.len() > limit {
            notes.warnings.insert("results truncated due to limit".into());
        }
        out.push('[');
        for (at, one) in series.iter().take(limit).enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str("{\"metric\":");
            write_labels(out, &one.labels);
            write(out, one);
            out.push('}');
        }
        out.push(']');
    };
    match answer {
        Answer::Scalar(sample) => {
            out.push_str("\"scalar\",\"result\":");
            write_sample(&mut out, *sample);
        }
        Answer::Text(text) => {
            out.push_str("\"string\",\"result\":[");
            write_time(&mut out, t_ms);
            let _ = write!(out, ",{}]", Value::from(text.as_str())); // writing to a String cannot fail
        }
        Answer::Vector(series) => {
            out.push_str("\"vector\",\"result\":");
            list(&mut out, series, |out, one| {
                out.push_str(",\"value\":");
                one.samples.iter().for_each(|sample| write_sample(out, *sample));
            });
        }
        Answer::Matrix(series) => {
            out.push_str("\"matrix\",\"result\":");
            list(&mut out, series, |out, one| {
                out.push_str(",\"values\":[");
                for (at, sample) in one.samples.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_sample(out, *sample);
                }
                out.push(']');
            });
        }
    }
    out.push('}');
    for (name, texts) in [("warnings", &notes.warnings), ("infos", &notes.infos)] {
        if !texts.is_empty() {
            let _ = write!(out, ",\"{name}\":{}", json!(texts));
        }
    }
    out.push('}');
    let mut response = out.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn write_labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (at, (name, value)) in labels.iter().enumerate() {
        let separator = if at == 0 { "" } else { "," };
        let _ = write!(out, "{separator}{}:{}", Value::from(name.as_ref()), Value::from(value.as_ref()));
    }
    out.push('}');
}

fn write_sample(out: &mut String, sample: Sample) {
    out.push('[');
    write_time(out, sample.t_ms);
    let _ = write!(out, ",\"{}\"]", value_text(sample.value));
}

/// Seconds, with milliseconds only where there are some.
fn write_time(out: &mut String, t_ms: i64) {
    if t_ms < 0 {
        out.push('-');
    }
    let ms = t_ms.unsigned_abs();
    let _ = write!(out, "{}", ms / 1000);
    if !ms.is_multiple_of(1000) {
        let fraction = format!("{:03}", ms % 1000);
        let _ = write!(out, ".{}", fraction.trim_end_matches('0'));
    }
}

/// A value as Go prints it with `'f', -1`.
fn value_text(value: f64) -> String {
    if value.is_infinite() { if value > 0.0 { "+Inf".into() } else { "-Inf".into() } } else { value.to_string() }
}

/// Exemplars of all series that an expression asks for, whatever it does with them.
async fn exemplars(State(metrics): State<Metrics>, _: Viewer, params: Params) -> Result<Response, PromError> {
    let selector = promql::selectors(&expression(&params)?)?;
    let from_ms = params.time("start")?.unwrap_or(i64::MIN);
    let to_ms = params.time("end")?.unwrap_or(i64::MAX);
    if to_ms < from_ms {
        return Err(PromError::parameter("end", "end timestamp must not be before start timestamp"));
    }
    let shared = metrics.shared.clone();
    let work = tokio::task::spawn_blocking(move || shared.store.exemplars(&selector, from_ms, to_ms));
    let found = work.await.map_err(|error| QueryError::Storage(error.to_string()))?;
    Ok(success(found.iter().map(|(series, exemplars)| told_exemplars(series, exemplars)).collect()))
}

fn told_exemplars(series: &Labels, exemplars: &[Exemplar]) -> Value {
    let labels = |labels: &Labels| -> Map<String, Value> {
        labels.iter().map(|(name, value)| (name.to_string(), Value::from(value.as_ref()))).collect()
    };
    let told = |exemplar: &Exemplar| {
        let timestamp = exemplar.t_ms as f64 / 1_000.0;
        json!({"labels": labels(&exemplar.labels), "value": value_text(exemplar.value), "timestamp": timestamp})
    };
    json!({"seriesLabels": labels(series), "exemplars": exemplars.iter().map(told).collect::<Vec<_>>()})
}

/// The series that the `match[]` of a request ask for; every one when there are none.
fn selectors(params: &Params) -> Result<Option<Selector>, PromError> {
    let mut alternatives = Vec::new();
    for text in params.all("match[]") {
        let problem = |problem: String| PromError::parameter("match[]", &problem);
        match promql::parse(text).map_err(|error| problem(error.to_string()))? {
            Expr::VectorSelector(selector) => {
                let parsed = promql::selector(&selector).map_err(|error| problem(error.to_string()))?;
                alternatives.extend(parsed.alternatives);
            }
            _ => return Err(problem(format!("{text:?} is no series selector"))),
        }
    }
    Ok((!alternatives.is_empty()).then_some(Selector { alternatives }))
}

/// Gathers from the labels of all series that a request means, on a thread that may wait for disk.
async fn gather<T: Ord + Send + 'static>(
    metrics: &Metrics,
    params: &Params,
    selector: Selector,
    collect: impl Fn(&Labels, &mut BTreeSet<T>) + Send + 'static,
) -> Result<(Vec<T>, bool), PromError> {
    let from_ms = params.time("start")?.unwrap_or(i64::MIN);
    let to_ms = params.time("end")?.unwrap_or(i64::MAX);
    let limit = params.limit("limit")?.min(LIST_MAX);
    let shared = metrics.shared.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut found = BTreeSet::new();
        shared.store.labels(&selector, from_ms, to_ms, |labels| {
            if found.len() <= LIST_MAX {
                collect(labels, &mut found);
            }
        })?;
        Ok(found)
    });
    let found: Result<BTreeSet<T>, QueryError> = work.await.map_err(|error| QueryError::Storage(error.to_string()))?;
    let found = found?;
    let truncated = found.len() > limit;
    Ok((found.into_iter().take(limit).collect(), truncated))
}

fn listed(data: Value, truncated: bool) -> Response {
    if truncated {
        return axum::Json(json!({"status": "success", "data": data, "warnings": ["results truncated due to limit"]}))
            .into_response();
    }
    success(data)
}

async fn labels(State(metrics): State<Metrics>, _: Viewer, params: Params) -> Result<Response, PromError> {
    let selector = selectors(&params)?.unwrap_or_else(everything);
    let (names, truncated) = gather(&metrics, &params, selector, |labels, found: &mut BTreeSet<String>| {
        for (name, _) in labels.iter().filter(|(name, _)| !name.is_empty()) {
            if !found.contains(name.as_ref()) {
                found.insert(name.to_string());
            }
        }
    })
    .await?;
    Ok(listed(json!(names), truncated))
}

async fn label_values(
    State(metrics): State<Metrics>,
    _: Viewer,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, PromError> {
    let selector = selectors(&params)?.unwrap_or_else(everything);
    let (values, truncated) = gather(&metrics, &params, selector, move |labels, found: &mut BTreeSet<String>| {
        let value = labels.get(&name);
        if !value.is_empty() && !found.contains(value) {
            found.insert(value.to_owned());
        }
    })
    .await?;
    Ok(listed(json!(values), truncated))
}

async fn series(State(metrics): State<Metrics>, _: Viewer, params: Params) -> Result<Response, PromError> {
    let selector = selectors(&params)?.ok_or_else(|| PromError::bad("no match[] parameter provided"))?;
    let (found, truncated) = gather(&metrics, &params, selector, |labels, found: &mut BTreeSet<Labels>| {
        found.insert(labels.clone());
    })
    .await?;
    let as_map = |labels: &Labels| -> BTreeMap<String, String> {
        labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    Ok(listed(json!(found.iter().map(as_map).collect::<Vec<_>>()), truncated))
}

async fn metadata(State(metrics): State<Metrics>, _: Viewer, params: Params) -> Result<Response, PromError> {
    let limit = params.limit("limit")?.min(LIST_MAX);
    let found = metrics.shared.store.metadata(params.get("metric"), limit);
    let entry = |metadata: &super::record::Metadata| json!([{"type": metadata.kind.as_ref(), "help": metadata.help.as_ref(), "unit": metadata.unit.as_ref()}]);
    let data: Map<String, Value> = found.iter().map(|(name, metadata)| (name.to_string(), entry(metadata))).collect();
    Ok(success(data.into()))
}

async fn buildinfo(_: Viewer) -> Response {
    success(json!({
        "version": DIALECT_VERSION, "revision": concat!("backlot-", env!("CARGO_PKG_VERSION")),
        "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::model::METRIC_NAME;

    #[test]
    fn numbers_are_written_as_prometheus_writes_them() {
        let mut out = String::new();
        for t_ms in [1_700_000_000_000, 1_700_000_000_120, -1500, 5] {
            write_time(&mut out, t_ms);
            out.push(' ');
        }
        assert_eq!(out, "1700000000 1700000000.12 -1.5 0.005 ");
        let values = [1.0, 0.1, -0.0, 1e21, 1e-7, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(value_text);
        assert_eq!(values, ["1", "0.1", "-0", "1000000000000000000000", "0.0000001", "NaN", "+Inf", "-Inf"]);
    }

    #[tokio::test]
    async fn an_answer_has_its_type_labels_and_notes() {
        let labels = Labels::from_texts(&[(METRIC_NAME, "up"), ("say", "\"hi\"\n")]);
        let one = SeriesAnswer { labels, samples: vec![Sample { t_ms: 1500, value: 2.0 }] };
        let mut notes = Notes::default();
        notes.infos.insert("PromQL info: x".into());
        let response = answered(&Answer::Vector(vec![one.clone(), one]), 1500, 1, notes);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            body,
            json!({
                "status": "success",
                "data": {"resultType": "vector", "result": [{"metric": {"__name__": "up", "say": "\"hi\"\n"}, "value": [1.5, "2"]}]},
                "warnings": ["results truncated due to limit"],
                "infos": ["PromQL info: x"],
            })
        );
    }
}
