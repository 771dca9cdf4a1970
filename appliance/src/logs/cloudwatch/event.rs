//! A log event as CloudWatch Logs tells of it, and the names under which the store keeps what is CloudWatch's own.

use backlot_windows::{Hit, Position};
use serde_json::{Map, Value};

use crate::logs::model::LogRecord;

/// Attributes of the resource: OpenTelemetry's names for the group and the stream, and ids that no other group or stream
/// has ever had, each one word of the index.
pub(super) const GROUP_NAMES: &str = "aws.log.group.names";
pub(super) const STREAM_NAMES: &str = "aws.log.stream.names";
pub(super) const GROUP_ID: &str = "cloudwatch.group.id";
pub(super) const STREAM_ID: &str = "cloudwatch.stream.id";
/// Attributes of a record: the line as it was sent, where the store has taken it apart, and when it arrived. Neither is
/// indexed; that a record has the first one is.
pub(in crate::logs) const ORIGINAL: &str = "log.record.original";
pub(in crate::logs) const INGESTED: &str = "cloudwatch.ingested_ms";

/// What groups of records that came by other ways begin with.
pub(super) const OTHERS: &str = "/backlot/";
/// The stream of records that say no host.
const NO_HOST: &str = "-";

pub(super) struct Event {
    pub(super) position: Position,
    pub(super) group: String,
    pub(super) stream: String,
    pub(super) message: String,
    /// Ids of group and stream, where it came by CloudWatch.
    pub(super) ids: Option<(String, String)>,
    record: LogRecord,
}

impl Event {
    pub(super) fn of(hit: &Hit) -> Option<Self> {
        Self::read(hit.position, &hit.source)
    }

    /// `None`, and an error in the log, when the source is no record.
    pub(super) fn read(position: Position, source: &[u8]) -> Option<Self> {
        let mut record: LogRecord = match serde_json::from_slice(source) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%error, "a stored log record does not read");
                return None;
            }
        };
        let resource = |name: &str| match record.resource.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Array(all)) => all.first().and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        let ids = resource(GROUP_ID).zip(resource(STREAM_ID));
        let (group, stream) = match &ids {
            Some(_) => (resource(GROUP_NAMES).unwrap_or_default(), resource(STREAM_NAMES).unwrap_or_default()),
            None => (
                record.service.as_deref().map(group_of_service).unwrap_or_default(),
                stream_of_host(record.host.as_deref()),
            ),
        };
        let message = match record.attributes.remove(ORIGINAL) {
            Some(Value::String(original)) => original,
            _ => std::mem::take(&mut record.body),
        };
        Some(Self { position, group, stream, message, ids, record })
    }

    pub(super) fn time_ms(&self) -> i64 {
        self.position.time_ns.div_euclid(1_000_000)
    }

    /// When it arrived. Records that came by other ways do not say; for them it is when they happened.
    pub(super) fn ingested_ms(&self) -> i64 {
        self.record.attributes.get(INGESTED).and_then(Value::as_i64).unwrap_or_else(|| self.time_ms())
    }

    /// What stands in it under names: the object that the line is, or else what the store knows of it.
    pub(super) fn fields(&self) -> Value {
        if let Some(object) = object_of(&self.message) {
            return Value::Object(object);
        }
        let mut fields = self.record.attributes.clone();
        fields.remove(INGESTED);
        let record = &self.record;
        let named = [
            ("level", &record.level),
            ("job", &record.job),
            ("attempt", &record.attempt),
            ("trace_id", &record.trace_id),
            ("span_id", &record.span_id),
            ("scope", &record.scope),
            ("event", &record.event),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                fields.entry(name).or_insert_with(|| Value::from(value.as_str()));
            }
        }
        if self.ids.is_none() {
            for (name, value) in [("service", &record.service), ("host", &record.host)] {
                if let Some(value) = value {
                    fields.entry(name).or_insert_with(|| Value::from(value.as_str()));
                }
            }
        }
        Value::Object(fields)
    }
}

/// The JSON object that a line is.
pub(super) fn object_of(message: &str) -> Option<Map<String, Value>> {
    let trimmed = message.trim();
    if !trimmed.starts_with('{') || !trimmed.ends_with('}') {
        return None;
    }
    serde_json::from_str(trimmed).ok()
}

/// 56 digits, as the ids of CloudWatch are; they rise with the moment.
pub(super) fn id_of(position: Position) -> String {
    format!("{:020}{:036}", position.time_ns.max(0), position.seq)
}

/// Name of the group of records that a service has sent by other ways. Signs that no name of a group has become `_`.
pub(super) fn group_of_service(service: &str) -> String {
    let plain = |sign: char| if sign.is_ascii_alphanumeric() || ".-_/#".contains(sign) { sign } else { '_' };
    format!("{OTHERS}{}", service.chars().take(500).map(plain).collect::<String>())
}

pub(super) fn stream_of_host(host: Option<&str>) -> String {
    let host = host.filter(|host| !host.is_empty()).unwrap_or(NO_HOST);
    host.chars().take(512).map(|sign| if sign == ':' || sign == '*' { '_' } else { sign }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(source: &Value) -> Event {
        let position = Position { time_ns: 1_763_812_800_123_000_000, seq: 7 };
        Event::read(position, &serde_json::to_vec(source).unwrap()).unwrap()
    }

    #[test]
    fn an_event_is_told_as_it_was_sent() {
        let line = r#"{"b": 1.0, "a": {"c": "x"}, "msg": "made"}"#;
        let event = event(&json!({
            "body": "made", "service": "other",
            "attributes": {ORIGINAL: line, INGESTED: 1_763_812_800_500_u64, "b": 1, "a.c": "x"},
            "resource": {GROUP_NAMES: ["/studio/render"], STREAM_NAMES: ["gpu-7"], GROUP_ID: "g", STREAM_ID: "s"},
        }));
        assert_eq!((event.group.as_str(), event.stream.as_str()), ("/studio/render", "gpu-7"));
        assert_eq!(
            (event.message.as_str(), event.time_ms(), event.ingested_ms()),
            (line, 1_763_812_800_123, 1_763_812_800_500)
        );
        assert_eq!(event.fields()["a"]["c"], "x");
        assert_eq!(id_of(event.position).len(), 56);
    }

    #[test]
    fn what_came_by_other_ways_is_of_its_service_and_host() {
        let event = event(&json!({
            "body": "loaded", "level": "warn", "service": "model server", "host": "gpu:7", "attributes": {"took_s": 3},
        }));
        assert_eq!((event.group.as_str(), event.stream.as_str()), ("/backlot/model_server", "gpu_7"));
        assert_eq!((event.message.as_str(), event.ingested_ms()), ("loaded", event.time_ms()));
        assert_eq!(event.fields(), json!({"took_s": 3, "level": "warn", "service": "model server", "host": "gpu:7"}));
    }
}
