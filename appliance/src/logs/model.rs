//! A log record: OTLP's, with the names that this house recognises.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::{LogRecord as OtlpRecord, ResourceLogs};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::signals::attributes::{Attributes, Origin, id, pairs};
use crate::signals::logger_ns;
use backlot_windows::clip;

/// Longest body that is kept.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Names under which loggers put the line itself.
const MESSAGE_NAMES: [&str; 5] = ["message", "msg", "log", "event", "body"];
/// Names under which they put its moment.
const TIME_NAMES: [&str; 5] = ["@timestamp", "timestamp", "time", "ts", "date"];

/// Longest body that is read as the JSON of a logger.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// One line of the log as the API answers it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogRecord {
    /// Unique and stable; rises with arrival.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// RFC 3339 with nanoseconds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub time: String,
    /// trace, debug, info, warn, error, fatal; absent when the sender said nothing of the kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// OTLP's severity number, 1 to 24.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// Instrumentation scope: the logger, the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    pub body: String,
    /// Under dotted names.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub resource: Map<String, Value>,
    /// Attributes that were left out or cut, by the sender or here.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropped_attributes: u32,
    /// The body was longer than is kept.
    #[serde(skip_serializing_if = "is_false")]
    pub truncated: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands in references")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands in references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A record with the moment it is sorted by and its place in the journal.
#[derive(Clone, Debug)]
pub struct Placed {
    pub time_ns: i64,
    pub seq: u64,
    /// Without its id, its time and its resource.
    pub record: LogRecord,
}

/// What one author says in a request.
#[derive(Debug)]
pub struct Said {
    pub author: Author,
    pub records: Vec<Placed>,
}

/// Who wrote some records: their resource, and what it says about all of them.
#[derive(Debug, Default)]
pub struct Author {
    pub resource: Map<String, Value>,
    dropped: u32,
    pub origin: Origin,
    severity: Option<u8>,
}

impl From<Attributes> for Author {
    fn from(resource: Attributes) -> Self {
        let (origin, severity) = (Origin::said_by(&resource), severity_said(&resource));
        Self { resource: resource.values, dropped: resource.dropped, origin, severity }
    }
}

/// The records of a request whose first one stands at `first_seq`.
#[must_use]
pub fn records(request: &ExportLogsServiceRequest, first_seq: u64, arrived_ms: u64) -> Vec<Said> {
    let mut next = first_seq..;
    let said_by = |group: &ResourceLogs| {
        let author = Author::from(Attributes::of_resource(group.resource.as_ref()));
        let mut records = Vec::new();
        for scoped in &group.scope_logs {
            let scope = scoped.scope.as_ref().map(|scope| scope.name.as_str()).filter(|name| !name.is_empty());
            let placed = scoped.log_records.iter().zip(next.by_ref());
            records.extend(placed.map(|(record, seq)| place(record, &author, scope, seq, arrived_ms)));
        }
        Said { author, records }
    };
    request.resource_logs.iter().map(said_by).collect()
}

pub(super) fn id_of(seq: u64) -> String {
    format!("{seq:016x}")
}

/// Which record has this id; `None` when it is that of none.
pub(super) fn seq_of(id: &str) -> Option<u64> {
    let seq = u64::from_str_radix(id, 16).ok()?;
    (id_of(seq) == id).then_some(seq)
}

fn place(record: &OtlpRecord, author: &Author, scope: Option<&str>, seq: u64, arrived_ms: u64) -> Placed {
    let mut own = Attributes::of(&record.attributes, record.dropped_attributes_count);
    let (mut body, said_ns) = body_of(record, &mut own);
    let moments = [record.time_unix_nano, said_ns.unwrap_or(0), record.observed_time_unix_nano];
    let moment = moments.into_iter().find(|ns| *ns != 0);
    let time_ns = i64::try_from(moment.unwrap_or_else(|| arrived_ms.saturating_mul(1_000_000))).unwrap_or(i64::MAX);
    let severity = severity_of(record, &own).or(author.severity);
    let origin = Origin::said_by(&own).or(&author.origin);
    let truncated = body.len() > BODY_BYTES_MAX;
    body.truncate(clip(&body, BODY_BYTES_MAX).len());
    let made = LogRecord {
        level: severity.map(|number| level_of(number).to_owned()),
        severity,
        service: origin.service,
        host: origin.host,
        job: origin.job,
        attempt: origin.attempt,
        queue: origin.queue,
        trace_id: id(&record.trace_id, 16).or_else(|| own.named(&["trace_id"])),
        span_id: id(&record.span_id, 8).or_else(|| own.named(&["span_id"])),
        scope: scope.map(|name| clip(name, 256).to_owned()),
        event: event_of(record),
        truncated,
        body,
        dropped_attributes: own.dropped.saturating_add(author.dropped),
        attributes: own.values,
        ..LogRecord::default()
    };
    Placed { time_ns, seq, record: made }
}

/// The event's name. What `tracing` calls an event by default is its place in the code, which is no name.
fn event_of(record: &OtlpRecord) -> Option<String> {
    let name = clip(&record.event_name, 256);
    (!name.is_empty() && !name.starts_with("event ")).then(|| name.to_owned())
}

/// The body as text, and the moment that it says, if it says one. Of a map, or of an object that a logger has written as JSON, it is the
/// message, with the rest as attributes; of anything else, JSON.
fn body_of(record: &OtlpRecord, own: &mut Attributes) -> (String, Option<u64>) {
    let body = match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        None => String::new(),
        Some(Any::StringValue(text)) => match logged(text) {
            Some(mut object) => {
                let said_ns = take_moment(&mut object);
                let message = take_message(&mut object);
                object.retain(|name, _| !own.values.contains_key(name)); // what the sender says beside it wins
                own.extend("", &pairs(object), 16);
                return (message.unwrap_or_else(|| text.clone()), said_ns);
            }
            None => text.clone(),
        },
        Some(Any::KvlistValue(map)) => {
            own.extend("", &map.values, 16);
            own.named(&["message", "msg", "log", "event"])
                .unwrap_or_else(|| Value::Object(own.values.clone()).to_string())
        }
        Some(other) => {
            let mut alone = Attributes::default();
            let value = opentelemetry_proto::tonic::common::v1::AnyValue { value: Some(other.clone()) };
            let pair = opentelemetry_proto::tonic::common::v1::KeyValue {
                key: "body".to_owned(),
                value: Some(value),
                ..Default::default()
            };
            alone.extend("", &[pair], 16);
            alone.values.get("body").map(Value::to_string).unwrap_or_default()
        }
    };
    (body, None)
}

/// The object that a logger has written.
pub(super) fn logged(text: &str) -> Option<Map<String, Value>> {
    let trimmed = text.trim();
    if trimmed.len() > JSON_BYTES_MAX || !trimmed.starts_with('{') || !trimmed.ends_with('}') {
        return None;
    }
    serde_json::from_str(trimmed).ok()
}

/// Takes the moment out of a logger's object.
pub(super) fn take_moment(object: &mut Map<String, Value>) -> Option<u64> {
    TIME_NAMES.iter().find_map(|name| {
        let time_ns = logger_ns(object.get(*name)?)?;
        object.remove(*name);
        Some(time_ns)
    })
}

/// Takes the message out of a logger's object.
pub(super) fn take_message(object: &mut Map<String, Value>) -> Option<String> {
    let name = MESSAGE_NAMES.iter().find(|name| object.get(**name).is_some_and(Value::is_string))?;
    match object.remove(*name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// The severity number, from the record's number, its text, or an attribute called level.
fn severity_of(record: &OtlpRecord, own: &Attributes) -> Option<u8> {
    if let Ok(number @ 1..=24) = u8::try_from(record.severity_number) {
        return Some(number);
    }
    severity_named(&record.severity_text).or_else(|| severity_said(own))
}

fn severity_said(attributes: &Attributes) -> Option<u8> {
    let said = attributes.named(&["level", "severity", "log.level", "levelname", "detected_level"])?;
    severity_named(&said)
}

/// The number of a level as people write it.
#[must_use]
pub(super) fn severity_named(text: &str) -> Option<u8> {
    Some(match text.trim().to_ascii_lowercase().as_str() {
        "trace" | "verbose" => 1,
        "debug" => 5,
        "info" | "information" | "informational" => 9,
        "notice" => 10,
        "warn" | "warning" => 13,
        "error" | "err" => 17,
        "critical" | "crit" => 18,
        "alert" => 19,
        "fatal" | "panic" | "emerg" | "emergency" => 21,
        _ => return None,
    })
}

pub(super) fn level_of(severity: u8) -> &'static str {
    match severity {
        0..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        _ => "fatal",
    }
}
