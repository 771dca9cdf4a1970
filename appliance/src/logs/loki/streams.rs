//! Streams as Loki knows them: a record's labels, and which records a selector means.
//!
//! A Loki stream is all records of one resource and one level. Its labels are the resource's attributes, under names that Loki allows,
//! and `level`. A resource that does not say its service gets a `service_name` as Loki finds one. What a record has of its own
//! is its structured metadata.

use std::sync::Arc;

use backlot_windows::{Position, Query};
use serde_json::{Map, Value};

use super::evaluate::LabelSet;
use super::logql::Matcher;
use super::pipeline::{Kind, Labels, Line, LineFilter, LineTest, Stage, sanitize};
use crate::logs::Stream;
use crate::logs::model::LogRecord;
use crate::logs::schema::{BODY, SPAN, STREAM};

pub(super) const LEVEL: &str = "level";
const TRACE: &str = "trace";
pub(super) const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "fatal"];
/// The bit of records that have no level, beside those of [`LEVELS`].
const NO_LEVEL: u8 = 1 << 6;
const ALL_LEVELS: u8 = (1 << 7) - 1;
const SERVICE_NAME: &str = "service_name";
/// Labels that say the service where `service_name` does not.
const SERVICE_NAMES: [&str; 9] = [
    "service",
    "app",
    "application",
    "name",
    "app_kubernetes_io_name",
    "container",
    "container_name",
    "k8s_container_name",
    "job",
];

/// The labels that all records of a resource have, but for their level. One that the resource itself calls `level` is among them and holds where
/// the record has none.
pub(super) fn labels_of(resource: &Map<String, Value>) -> LabelSet {
    let labels = resource.iter().map(|(name, value)| (sanitize(name), text_of(value)));
    let mut labels: LabelSet = labels.filter(|(_, value)| !value.is_empty()).collect();
    if !labels.contains_key(SERVICE_NAME) {
        let named = SERVICE_NAMES.iter().find_map(|name| labels.get(*name).cloned());
        labels.insert(SERVICE_NAME.to_owned(), named.unwrap_or_else(|| "unknown_service".to_owned()));
    }
    labels
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A stored record as a line with its labels. `None`: it does not read.
pub(super) fn line_of(position: Position, source: &[u8]) -> Option<Line> {
    let record: LogRecord = match serde_json::from_slice(source) {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(%error, "a stored log record does not read");
            return None;
        }
    };
    let mut labels = Labels::default();
    for (name, value) in labels_of(&record.resource) {
        labels.set(Kind::Stream, &name, value.into());
    }
    if let Some(level) = &record.level {
        labels.set(Kind::Stream, LEVEL, level.as_str().into());
    }
    let mut own = |name: &str, value: String| {
        // What `level` says already, and what the stream says, is not said again.
        if name != "detected_level" && labels.get(name).is_none() {
            labels.set(Kind::Metadata, name, value.into());
        }
    };
    let ids = [
        ("trace_id", record.trace_id),
        ("span_id", record.span_id),
        ("scope_name", record.scope),
        ("event_name", record.event),
    ];
    for (name, value) in ids {
        own(name, value.unwrap_or_default());
    }
    for (name, value) in &record.attributes {
        own(&sanitize(name), text_of(value));
    }
    Some(Line { time_ns: position.time_ns, seq: position.seq, text: Arc::from(record.body), labels })
}

/// Whether a line is of the streams that the matchers mean.
pub(super) fn selects(matchers: &[Matcher], labels: &Labels) -> bool {
    let stream = |name: &str| labels.iter().find(|(known, _, kind)| &***known == name && *kind == Kind::Stream);
    matchers.iter().all(|matcher| matcher.holds(stream(matcher.name()).map_or("", |(_, value, _)| value)))
}

/// The streams that a selector means, as a question to the windows.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) query: Query,
    /// By key. Those whose records are all of levels that are not meant are missing.
    pub(super) streams: Vec<Selected>,
}

#[derive(Debug)]
pub(super) struct Selected {
    pub(super) key: String,
    /// But for the level.
    pub(super) labels: LabelSet,
    pub(super) count: u64,
    /// Which levels are meant, a bit each.
    levels: u8,
}

/// Chooses among `streams`.
pub(super) fn select(matchers: &[Matcher], streams: Vec<Stream>) -> Selection {
    let mut selected = Vec::new();
    for Stream { key, resource, count } in streams {
        let labels = labels_of(&resource);
        let (level, others): (Vec<_>, Vec<_>) = matchers.iter().partition(|matcher| matcher.name() == LEVEL);
        let holds = |matcher: &&Matcher| matcher.holds(labels.get(matcher.name()).map_or("", String::as_str));
        if !others.iter().all(holds) {
            continue;
        }
        let passes = |value: &str| level.iter().all(|matcher| matcher.holds(value));
        let mut levels = 0;
        for (at, _) in LEVELS.iter().enumerate().filter(|(_, value)| passes(value)) {
            levels |= 1 << at;
        }
        if passes(labels.get(LEVEL).map_or("", String::as_str)) {
            levels |= NO_LEVEL;
        }
        if levels != 0 {
            selected.push(Selected { key, labels, count, levels });
        }
    }
    let mut kinds: Vec<u8> = selected.iter().map(|stream| stream.levels).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let some = kinds.into_iter().map(|levels| {
        let of_kind = selected.iter().filter(|stream| stream.levels == levels);
        let streams = Query::Or(of_kind.map(|stream| Query::keyword(STREAM, &stream.key)).collect());
        match level_query(levels) {
            None => streams,
            Some(level) => Query::And(vec![streams, level]),
        }
    });
    Selection { query: Query::Or(some.collect()), streams: selected }
}

/// `None`: any level.
fn level_query(levels: u8) -> Option<Query> {
    if levels == ALL_LEVELS {
        return None;
    }
    let named = LEVELS.iter().enumerate().filter(|(at, _)| levels & (1 << at) != 0);
    let mut some: Vec<_> = named.map(|(_, level)| Query::keyword(LEVEL, level)).collect();
    if levels & NO_LEVEL != 0 {
        some.push(no_level());
    }
    Some(Query::Or(some))
}

pub(super) fn no_level() -> Query {
    Query::Not(Box::new(Query::Exists { name: LEVEL.to_owned() }))
}

/// What the windows can be asked of the stages: all that passes them answers to it. The flag says that there is nothing more to the
/// stages than that.
pub(super) fn narrowed(selection: &Selection, stages: &[Stage]) -> (Query, bool) {
    let mut all = vec![selection.query.clone()];
    let mut exact = true;
    let mut is_raw = true;
    for stage in stages {
        match stage {
            Stage::Line(filter) if is_raw => all.push(line_query(filter)),
            Stage::Labels(filter) => {
                exact = false;
                if is_raw {
                    all.extend(
                        filter.required().into_iter().filter_map(|(name, value)| id_query(selection, name, value)),
                    );
                }
            }
            Stage::Drop(picks)
                if picks.iter().all(
                    |pick| matches!(pick, super::pipeline::LabelPick::Named(name) if name.starts_with("__error")),
                ) => {}
            _ => (exact, is_raw) = (false, false),
        }
    }
    (Query::And(all), exact)
}

/// What all lines that pass the stages answer to, whatever their stream.
pub(super) fn lines_query(stages: &[Stage]) -> Query {
    Query::And(stages.iter().map_while(Stage::as_line_filter).map(line_query).collect())
}

fn line_query(filter: &LineFilter) -> Query {
    let test = |test: &LineTest| match test {
        LineTest::Contains(text) if text.is_empty() => Query::All,
        LineTest::Contains(text) => Query::Contains { name: BODY.to_owned(), text: text.clone() },
        LineTest::Matches(pattern) => Query::Matches { name: BODY.to_owned(), pattern: pattern.clone() },
    };
    let any = Query::Or(filter.any.iter().map(test).collect());
    if filter.negated { Query::Not(Box::new(any)) } else { any }
}

/// Ids of traces and spans are looked up, unless a stream has a label that is called so.
fn id_query(selection: &Selection, name: &str, value: &str) -> Option<Query> {
    if selection.streams.iter().any(|stream| stream.labels.contains_key(name)) {
        return None;
    }
    match name {
        "trace_id" => Some(Query::keyword(TRACE, value)),
        "span_id" => Some(Query::Id { name: SPAN.to_owned(), begin: value.to_owned(), whole: true }),
        _ => None,
    }
}
