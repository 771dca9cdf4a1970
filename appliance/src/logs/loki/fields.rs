//! What fields the lines of a query have: `detected_fields` and the values of one, for Grafana's pages of fields.
//!
//! Looked at are the newest lines, as many as `line_limit`: what the records have of their own, what the query's stages made, and what `json` or
//! `logfmt` would find in the line itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use backlot_windows::Order;
use serde_json::json;

use super::answer::Refused;
use super::api::{Api, MayRead};
use super::logql::{Expr, bytes, duration_ns, parse};
use super::params::Params;
use super::pipeline::{Kind, Labels, Line, Stage, apply};
use super::run::Run;
use crate::edge::ApiError;

const FIELDS_DEFAULT: usize = 1000;
const LINES_DEFAULT: usize = 1000;

pub(super) async fn detected(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let limit = params.count("limit", FIELDS_DEFAULT)?;
    let found = found(&api, &params).await?;
    let told = |(name, field): (&String, &Found)| {
        json!({
            "label": name, "type": field.kind().as_str(), "cardinality": field.values.len(),
            "parsers": if field.parsers.is_empty() { json!(null) } else { json!(field.parsers) },
        })
    };
    let fields: Vec<_> = found.iter().take(limit).map(told).collect();
    Ok(Json(json!({"fields": fields, "limit": limit})).into_response())
}

pub(super) async fn values(
    viewer: MayRead,
    State(api): State<Api>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Refused> {
    viewer?;
    let limit = params.count("limit", FIELDS_DEFAULT)?;
    let found = found(&api, &params).await?;
    let values: Vec<_> =
        found.get(&name).into_iter().flat_map(|field| &field.values).map(|value| &**value).take(limit).collect();
    Ok(Json(json!({"values": values, "limit": limit})).into_response())
}

/// What was seen of a field.
#[derive(Debug, Default)]
struct Found {
    parsers: BTreeSet<&'static str>,
    values: BTreeSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Int,
    Float,
    Boolean,
    Duration,
    Bytes,
    String,
}

impl Type {
    fn of(value: &str) -> Self {
        if value.parse::<i64>().is_ok() {
            Self::Int
        } else if value.parse::<f64>().is_ok() {
            Self::Float
        } else if value.parse::<bool>().is_ok() {
            Self::Boolean
        } else if duration_ns(value).is_some() {
            Self::Duration
        } else if bytes(value).is_some() {
            Self::Bytes
        } else {
            Self::String
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Duration => "duration",
            Self::Bytes => "bytes",
            Self::String => "string",
        }
    }
}

impl Found {
    /// What all values are; texts where they differ.
    fn kind(&self) -> Type {
        let joined = self.values.iter().map(|value| Type::of(value)).reduce(|a, b| match (a, b) {
            (a, b) if a == b => a,
            (Type::Int, Type::Float) | (Type::Float, Type::Int) => Type::Float,
            _ => Type::String,
        });
        joined.unwrap_or(Type::String)
    }
}

type Fields = BTreeMap<String, Found>;

async fn found(api: &Api, params: &Params) -> Result<Fields, Refused> {
    let Expr::Logs(log) = parse(params.query())? else {
        return Err(Refused::bad("fields are those of a log query, not of a metric query"));
    };
    let lines_max = params.count("line_limit", LINES_DEFAULT)?;
    let (start_ns, end_ns) = params.range(api.now_ns())?;
    let range = (start_ns, end_ns.saturating_sub(1));
    let lines = Run::new(&api.logs).lines(Arc::new(log), range, Order::Newest, lines_max).await?;
    let read = tokio::task::spawn_blocking(move || {
        let mut fields = Fields::new();
        lines.into_iter().for_each(|line| take(&mut fields, line));
        fields
    });
    Ok(read.await.map_err(|error| ApiError::internal(&error))?)
}

fn take(fields: &mut Fields, line: Line) {
    for (name, value, _) in line.labels.iter().filter(|(_, _, kind)| *kind != Kind::Stream) {
        put(fields, name, value, None);
    }
    let parser = match line.text.trim_start() {
        text if text.starts_with('{') => ("json", Stage::Json(Vec::new())),
        text if text.contains('=') => {
            ("logfmt", Stage::Logfmt { strict: false, keep_empty: false, fields: Vec::new() })
        }
        _ => return,
    };
    let mut bare = Line { labels: Labels::default(), ..line };
    if apply(&[parser.1], &mut bare) && !bare.labels.has_failed() {
        bare.labels.iter().for_each(|(name, value, _)| put(fields, name, value, Some(parser.0)));
    }
}

fn put(fields: &mut Fields, name: &str, value: &Arc<str>, parser: Option<&'static str>) {
    if !name.starts_with("__") {
        let field = fields.entry(name.to_owned()).or_default();
        field.parsers.extend(parser);
        field.values.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_records_own_and_what_parsers_find_in_lines() {
        let mut fields = Fields::new();
        for (text, own) in [("took=12ms frame=3 plain", "7"), (r#"{"a":{"b":true}}"#, "8.5"), ("plain words", "9")] {
            let mut labels = Labels::default();
            labels.set(Kind::Stream, "service_name", "ffmpeg".into());
            labels.set(Kind::Metadata, "gpu", own.into());
            take(&mut fields, Line { time_ns: 0, seq: 0, text: text.into(), labels });
        }
        let told: Vec<_> = fields
            .iter()
            .map(|(name, field)| (name.as_str(), field.kind(), field.parsers.iter().copied().collect::<Vec<_>>()))
            .collect();
        let expected = [
            ("a_b", Type::Boolean, vec!["json"]),
            ("frame", Type::Int, vec!["logfmt"]),
            ("gpu", Type::Float, vec![]),
            ("took", Type::Duration, vec!["logfmt"]),
        ];
        assert_eq!(told, expected);
        assert_eq!((Type::of("5KB"), Type::of("x5"), Type::of("1.5")), (Type::Bytes, Type::String, Type::Float));
    }
}
