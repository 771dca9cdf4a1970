//! Answers in Loki's shapes: errors as plain text, results as JSON that is written without a tree in between.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value as Json, json};

use super::evaluate::{EvaluateError, LabelSet, Series, Steps, Value};
use super::logql::ParseError;
use super::pipeline::{Kind, Line};
use super::run::Run;
use crate::edge::ApiError;
use crate::logs::pages::PagesError;

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    status: StatusCode,
    message: String,
    retry_after_s: Option<u32>,
}

impl Refused {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), retry_after_s: None }
    }
}

impl From<ParseError> for Refused {
    fn from(error: ParseError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<EvaluateError> for Refused {
    fn from(error: EvaluateError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { status: error.status, message: error.message, retry_after_s: error.retry_after_s }
    }
}

impl From<PagesError> for Refused {
    fn from(error: PagesError) -> Self {
        match error {
            PagesError::Refused(error) => error.into(),
            PagesError::TooLong | PagesError::TooMany => Self::bad(error.to_string()),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.message).into_response();
        if let Some(retry_after_s) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        response
    }
}

pub(super) fn success(data: &Json) -> Response {
    axum::Json(json!({"status": "success", "data": data})).into_response()
}

/// How labels are told with lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// All as labels of the stream.
    Flat,
    /// Those of the record and of the pipeline beside each line: `categorize-labels`.
    Categorized,
}

/// Lines, by stream.
pub(super) fn lines(lines: &[Line], encoding: Encoding, run: &Run) -> Response {
    let mut out = String::from(r#"{"status":"success","data":{"resultType":"streams","#);
    if encoding == Encoding::Categorized {
        out.push_str(r#""encodingFlags":["categorize-labels"],"#);
    }
    out.push_str(r#""result":"#);
    write_streams(&mut out, lines, encoding);
    finish(out, lines.len(), run)
}

/// Streams as a list, in the order of their first lines.
pub(super) fn write_streams(out: &mut String, lines: &[Line], encoding: Encoding) {
    type Key = Vec<(Arc<str>, Arc<str>)>;
    let mut places = HashMap::<Key, usize>::new();
    let mut streams: Vec<(Key, Vec<&Line>)> = Vec::new();
    for line in lines {
        let of_stream = line.labels.iter().filter(|(_, _, kind)| encoding == Encoding::Flat || *kind == Kind::Stream);
        let mut key: Key = of_stream.map(|(name, value, _)| (Arc::clone(name), Arc::clone(value))).collect();
        key.sort();
        let at = *places.entry(key.clone()).or_insert_with(|| {
            streams.push((key, Vec::new()));
            streams.len() - 1
        });
        streams[at].1.push(line);
    }
    out.push('[');
    for (at, (labels, lines)) in streams.iter().enumerate() {
        out.push_str(if at == 0 { r#"{"stream":{"# } else { r#",{"stream":{"# });
        write_pairs(out, labels.iter().map(|(name, value)| (&**name, &**value)));
        out.push_str(r#"},"values":["#);
        for (at, line) in lines.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(out, r#"{comma}["{}",{}"#, line.time_ns, text(&line.text)); // writing to a String cannot fail
            if encoding == Encoding::Categorized {
                write_categories(out, line);
            }
            out.push(']');
        }
        out.push_str("]}");
    }
    out.push(']');
}

fn write_categories(out: &mut String, line: &Line) {
    out.push_str(",{");
    let mut comma = "";
    for (name, kind) in [("structuredMetadata", Kind::Metadata), ("parsed", Kind::Parsed)] {
        let mut of_kind = line.labels.iter().filter(|(_, _, of)| *of == kind).peekable();
        if of_kind.peek().is_some() {
            let _ = write!(out, r#"{comma}"{name}":{{"#);
            write_pairs(out, of_kind.map(|(name, value, _)| (&**name, &**value)));
            out.push('}');
            comma = ",";
        }
    }
    out.push('}');
}

fn write_pairs<'a>(out: &mut String, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (at, (name, value)) in pairs.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{}:{}", text(name), text(value));
    }
}

fn text(text: &str) -> Json {
    Json::from(text)
}

/// What an expression is at one moment.
pub(super) fn instant(value: Value, steps: Steps, run: &Run) -> Response {
    let time = seconds(steps.start_ns);
    let mut out = String::from(r#"{"status":"success","data":{"resultType":"#);
    let count = match value {
        Value::Scalar(number) => {
            let _ = write!(out, r#""scalar","result":[{time},"{}"]"#, number_text(number));
            1
        }
        Value::Vector(series) => {
            out.push_str(r#""vector","result":["#);
            let there = series.iter().filter_map(|one| Some((&one.labels, one.values.first().copied().flatten()?)));
            for (at, (labels, value)) in there.enumerate() {
                write_metric(&mut out, at, labels);
                let _ = write!(out, r#""value":[{time},"{}"]}}"#, number_text(value));
            }
            out.push(']');
            series.len()
        }
    };
    finish(out, count, run)
}

/// What an expression is at each step.
pub(super) fn matrix(value: Value, steps: Steps, run: &Run) -> Response {
    let mut series = match value {
        Value::Scalar(number) => vec![Series { labels: LabelSet::new(), values: vec![Some(number); steps.count] }],
        Value::Vector(series) => series,
    };
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    let mut out = String::from(r#"{"status":"success","data":{"resultType":"matrix","result":["#);
    for (at, one) in series.iter().enumerate() {
        write_metric(&mut out, at, &one.labels);
        out.push_str(r#""values":["#);
        let there = one.values.iter().enumerate().filter_map(|(step, value)| Some((step, (*value)?)));
        for (at, (step, value)) in there.enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(out, r#"{comma}[{},"{}"]"#, seconds(steps.at(step)), number_text(value));
        }
        out.push_str("]}");
    }
    out.push(']');
    finish(out, series.len(), run)
}

fn write_metric(out: &mut String, at: usize, labels: &LabelSet) {
    out.push_str(if at == 0 { r#"{"metric":{"# } else { r#",{"metric":{"# });
    write_pairs(out, labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    out.push_str("},");
}

/// Closes the answer with what it cost.
fn finish(mut out: String, entries: usize, run: &Run) -> Response {
    let took_s = run.took_ms() as f64 / 1000.0;
    let per_second = |amount: u64| if took_s > 0.0 { (amount as f64 / took_s) as u64 } else { 0 };
    let summary = json!({
        "bytesProcessedPerSecond": per_second(run.cost.bytes), "linesProcessedPerSecond": per_second(run.cost.records),
        "totalBytesProcessed": run.cost.bytes, "totalLinesProcessed": run.cost.records, "execTime": took_s,
        "queueTime": 0, "subqueries": 0, "totalEntriesReturned": entries,
    });
    let _ = write!(out, r#","stats":{{"summary":{summary}}}}}}}"#);
    let mut response = out.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}

/// Seconds, with milliseconds only where there are some.
pub(super) fn seconds(time_ns: i64) -> String {
    let sign = if time_ns < 0 { "-" } else { "" };
    let ms = time_ns.unsigned_abs() / 1_000_000;
    let fraction = format!("{:03}", ms % 1000);
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{}", ms / 1000),
        fraction => format!("{sign}{}.{fraction}", ms / 1000),
    }
}

/// As Go writes a float without an exponent.
fn number_text(number: f64) -> String {
    match number {
        number if number == f64::INFINITY => "+Inf".to_owned(),
        number if number == f64::NEG_INFINITY => "-Inf".to_owned(),
        number => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_numbers_are_written_as_loki_writes_them() {
        assert_eq!(
            [1_700_000_000_000_000_000, 1_700_000_000_120_999_999, -1_500_000_000, 4].map(seconds),
            ["1700000000", "1700000000.12", "-1.5", "0"]
        );
        assert_eq!(
            [0.5, 1e21, f64::NEG_INFINITY, f64::NAN].map(number_text),
            ["0.5", "1000000000000000000000", "-Inf", "NaN"]
        );
    }
}
