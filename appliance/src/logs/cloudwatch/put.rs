//! `PutLogEvents`: a batch of events of one stream becomes one request of OTLP, as what comes by any other door.
//!
//! The line stays as it was sent: where the store takes a JSON object apart, the line stands beside it.

use backlot_windows::Position;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde::Deserialize;
use serde_json::{Value, json};

use super::event::{GROUP_ID, GROUP_NAMES, INGESTED, ORIGINAL, STREAM_ID, STREAM_NAMES};
use super::fields::{MESSAGE_BYTES, group_name, required, stream_name};
use super::groups::Seen;
use super::rows::{GroupRow, StreamRow};
use super::{CloudWatch, fault, source};
use crate::edge::aws::AwsError;
use crate::edge::otlp::{ExportLogsServiceRequest, Sink as _};
use crate::logs::model::logged;

/// Most events of one call, what each of them counts beside its bytes, and the longest time they span (AWS).
const EVENTS_MAX: usize = 10_000;
const OVERHEAD_BYTES: usize = 26;
const SPAN_MS: i64 = 24 * 3_600_000;
/// How far from now an event may be (AWS).
const OLD_MS: i64 = 14 * 86_400_000;
const NEW_MS: i64 = 2 * 3_600_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PutLogEvents {
    log_group_name: Option<String>,
    log_stream_name: Option<String>,
    log_events: Option<Vec<InputEvent>>,
}

#[derive(Clone, Debug, Deserialize)]
struct InputEvent {
    timestamp: Option<i64>,
    message: Option<String>,
}

/// An event that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    time_ms: i64,
    message: String,
}

impl CloudWatch {
    pub(super) async fn put_log_events(&self, asked: PutLogEvents) -> Result<Value, AwsError> {
        let group = group_name(asked.log_group_name, "logGroupName")?;
        let stream = stream_name(asked.log_stream_name, "logStreamName")?;
        let events = checked(required(asked.log_events, "logEvents")?)?;
        let row = self.groups.group(&group).map_err(fault::of_groups)?;
        let stream = self.groups.stream(&group, &stream).map_err(fault::of_groups)?.row;
        let now_ms = self.source.logs.store.now().wall_ms;
        let taken = Taken::of(&events, now_ms, source::floor_of(&row, now_ms));
        let kept = &events[taken.begin..taken.end];
        if let (Some(first), Some(last)) = (kept.first(), kept.last()) {
            let (first_ms, last_ms) = (first.time_ms, last.time_ms);
            let ingested_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
            let request = request(&row, &stream, kept, ingested_ms);
            self.source.logs.export(request).await.map_err(fault::of_keep)?;
            self.groups.saw(&stream, Some(Seen { first_ms, last_ms, ingested_ms }), false);
        }
        self.refused.count("PutLogEvents", "too_old", taken.begin);
        self.refused.count("PutLogEvents", "too_new", events.len() - taken.end);
        // Nobody has to hand it in, and none is wrong.
        let mut answer = json!({"nextSequenceToken": sequence_token(now_ms)});
        if let Some(rejected) = taken.rejected {
            answer["rejectedLogEventsInfo"] = rejected;
        }
        Ok(answer)
    }
}

pub(super) fn sequence_token(now_ms: u64) -> String {
    super::event::id_of(Position { time_ns: 0, seq: now_ms })
}

fn checked(events: Vec<InputEvent>) -> Result<Vec<Given>, AwsError> {
    let bound = |constraint: &str| fault::constraint("[]", "logEvents", constraint);
    if events.is_empty() {
        return Err(bound("Member must have length greater than or equal to 1"));
    }
    if events.len() > EVENTS_MAX {
        return Err(bound(&format!("Member must have length less than or equal to {EVENTS_MAX}")));
    }
    let mut given: Vec<Given> = Vec::with_capacity(events.len());
    let mut bytes = 0;
    for (at, event) in events.into_iter().enumerate() {
        let field = |name: &str| format!("logEvents.{}.member.{name}", at + 1);
        let time_ms = required(event.timestamp, &field("timestamp"))?;
        let message = required(event.message, &field("message"))?;
        if message.is_empty() {
            let constraint = "Member must have length greater than or equal to 1";
            return Err(fault::constraint("", &field("message"), constraint));
        }
        super::fields::time_ms(Some(time_ms), &field("timestamp"))?;
        if given.last().is_some_and(|before| before.time_ms > time_ms) {
            return Err(fault::invalid("Log events in a single PutLogEvents request must be in chronological order."));
        }
        bytes += message.len() + OVERHEAD_BYTES;
        given.push(Given { time_ms, message });
    }
    if bytes > MESSAGE_BYTES {
        return Err(fault::invalid(format!("Upload too large: {bytes} bytes exceeds limit of {MESSAGE_BYTES}")));
    }
    let span_ms = given.last().map_or(0, |last| last.time_ms) - given.first().map_or(0, |first| first.time_ms);
    if span_ms > SPAN_MS {
        return Err(fault::invalid(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.",
        ));
    }
    Ok(given)
}

/// Which of the events are taken, and what is said of the rest.
#[derive(Debug, PartialEq)]
struct Taken {
    begin: usize,
    end: usize,
    rejected: Option<Value>,
}

impl Taken {
    fn of(events: &[Given], now_ms: u64, floor_ns: i64) -> Self {
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let before = |ms: i64| events.partition_point(|event| event.time_ms < ms);
        let old = before(now_ms.saturating_sub(OLD_MS));
        let expired = before(floor_ns.div_euclid(1_000_000));
        let new = before(now_ms.saturating_add(NEW_MS + 1));
        let mut rejected = serde_json::Map::new();
        if old > 0 {
            rejected.insert("tooOldLogEventEndIndex".into(), old.into());
        }
        if expired > 0 {
            rejected.insert("expiredLogEventEndIndex".into(), expired.into());
        }
        if new < events.len() {
            rejected.insert("tooNewLogEventStartIndex".into(), new.into());
        }
        let begin = old.max(expired);
        let rejected = (!rejected.is_empty()).then_some(Value::Object(rejected));
        Self { begin, end: new.max(begin), rejected }
    }
}

fn request(group: &GroupRow, stream: &StreamRow, events: &[Given], ingested_ms: i64) -> ExportLogsServiceRequest {
    let list = |name: &str| {
        let values = vec![AnyValue { value: Some(Any::StringValue(name.to_owned())) }];
        Any::ArrayValue(ArrayValue { values })
    };
    let attributes = vec![
        pair(GROUP_NAMES, list(&group.name)),
        pair(STREAM_NAMES, list(&stream.name)),
        pair(GROUP_ID, Any::StringValue(group.id.clone())),
        pair(STREAM_ID, Any::StringValue(stream.id.clone())),
        pair("service.name", Any::StringValue(group.name.clone())),
    ];
    let record = |event: &Given| {
        let mut attributes = vec![pair(INGESTED, Any::IntValue(ingested_ms))];
        if logged(&event.message).is_some() {
            attributes.push(pair(ORIGINAL, Any::StringValue(event.message.clone())));
        }
        LogRecord {
            time_unix_nano: u64::try_from(event.time_ms).unwrap_or_default().saturating_mul(1_000_000),
            body: Some(AnyValue { value: Some(Any::StringValue(event.message.clone())) }),
            attributes,
            ..LogRecord::default()
        }
    };
    let scope = ScopeLogs { log_records: events.iter().map(record).collect(), ..ScopeLogs::default() };
    let resource = Resource { attributes, ..Resource::default() };
    let of_stream = ResourceLogs { resource: Some(resource), scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![of_stream] }
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_763_812_800_000;

    fn input(times: &[i64]) -> Vec<InputEvent> {
        times.iter().map(|ms| InputEvent { timestamp: Some(*ms), message: Some("x".into()) }).collect()
    }

    fn said(events: Vec<InputEvent>) -> String {
        checked(events).unwrap_err().message
    }

    #[test]
    fn a_batch_has_the_bounds_of_aws() {
        assert!(said(Vec::new()).contains("greater than or equal to 1"));
        assert!(said(input(&vec![1; 10_001])).contains("less than or equal to 10000"));
        assert!(said(input(&[2, 1])).contains("chronological order"));
        assert!(said(input(&[0, SPAN_MS + 1])).contains("24 hours"));
        assert!(said(input(&[-1])).contains("'logEvents.1.member.timestamp'"));
        assert!(checked(input(&[0, SPAN_MS])).is_ok());
        let long = |bytes| vec![InputEvent { timestamp: Some(1), message: Some("x".repeat(bytes)) }];
        assert!(said(long(MESSAGE_BYTES - 25)).starts_with("Upload too large: 1048577 bytes"));
        assert!(checked(long(MESSAGE_BYTES - 26)).is_ok());
        let lacking = vec![InputEvent { timestamp: None, message: Some("x".into()) }];
        assert!(said(lacking).contains("must not be null"));
    }

    #[test]
    fn what_is_too_old_or_too_new_is_named_by_its_place() {
        let events = |offsets: &[i64]| {
            offsets.iter().map(|ms| Given { time_ms: NOW_MS + ms, message: "x".into() }).collect::<Vec<_>>()
        };
        let now_ms = NOW_MS.unsigned_abs();
        let of = |offsets: &[i64]| Taken::of(&events(offsets), now_ms, i64::MIN);
        assert_eq!(of(&[-OLD_MS, 0, NEW_MS]), Taken { begin: 0, end: 3, rejected: None });
        let all = of(&[-OLD_MS - 2, -OLD_MS - 1, 0, NEW_MS + 1]);
        assert_eq!(
            all,
            Taken {
                begin: 2,
                end: 3,
                rejected: Some(json!({"tooOldLogEventEndIndex": 2, "tooNewLogEventStartIndex": 3}))
            }
        );
        let floor_ns = (NOW_MS - 1000) * 1_000_000;
        let expired = Taken::of(&events(&[-2000, -1000]), now_ms, floor_ns);
        assert_eq!(expired, Taken { begin: 1, end: 2, rejected: Some(json!({"expiredLogEventEndIndex": 1})) });
        let none = of(&[-OLD_MS - 1]);
        assert_eq!((none.begin, none.end), (1, 1));
    }
}
