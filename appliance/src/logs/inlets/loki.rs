//! Loki's push: protobuf in snappy, or JSON.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::{Entries, Entry, Refused, UNPACKED_BYTES_MAX, check_count, keep, unpacked};
use crate::edge::{ApiError, Worker};
use crate::logs::Logs;

/// Longest list of labels, as text.
const LABELS_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn push(
    worker: Result<Worker, ApiError>,
    State(logs): State<Logs>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(error) = worker {
        return (error.status, error.message).into_response();
    }
    let is_json =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let read = if is_json { unpacked(&headers, body).and_then(|body| from_json(&body)) } else { from_protobuf(&body) };
    let kept = match read {
        Ok(groups) => keep(&logs, groups).await,
        Err(refused) => Err(refused),
    };
    match kept {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => refuse(refused),
    }
}

/// Loki answers in plain text; senders try again after 429 and 5xx.
fn refuse(refused: Refused) -> Response {
    let mut response = (refused.status, refused.message).into_response();
    if let Some(retry_after_s) = refused.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
    }
    response
}

#[derive(Deserialize)]
struct JsonPush {
    streams: Vec<JsonStream>,
}

#[derive(Deserialize)]
struct JsonStream {
    #[serde(default)]
    stream: BTreeMap<String, String>,
    values: Vec<JsonEntry>,
}

/// Nanoseconds as text, the line, and metadata if there is any.
struct JsonEntry {
    time: String,
    line: String,
    metadata: Map<String, Value>,
}

impl<'de> Deserialize<'de> for JsonEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = JsonEntry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "an entry as [\"nanoseconds since 1970\", \"line\"] or with {\"name\": \"value\"} behind them",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<JsonEntry, A::Error> {
                let short = |found| serde::de::Error::invalid_length(found, &self);
                let time = parts.next_element()?.ok_or_else(|| short(0))?;
                let line = parts.next_element()?.ok_or_else(|| short(1))?;
                let metadata = parts.next_element()?.unwrap_or_default();
                match parts.next_element::<IgnoredAny>()? {
                    None => Ok(JsonEntry { time, line, metadata }),
                    Some(_) => Err(short(4)),
                }
            }
        }
        deserializer.deserialize_seq(Parts)
    }
}

fn from_json(body: &[u8]) -> Result<Vec<Entries>, Refused> {
    // One line that is no UTF-8 does not cost the others.
    let push: JsonPush = serde_json::from_str(&String::from_utf8_lossy(body))
        .map_err(|error| Refused::bad(format!("the body is no push request: {error}")))?;
    check_count(push.streams.iter().map(|stream| stream.values.len()).sum())?;
    let entry = |JsonEntry { time, line: body, metadata: attributes }| {
        let time_ns = time.parse::<u64>();
        let time_ns = time_ns
            .map_err(|_| Refused::bad(format!("`{}` is no time in nanoseconds", backlot_windows::clip(&time, 40))))?;
        Ok(Entry { time_ns: Some(time_ns), body, attributes })
    };
    let group = |stream: JsonStream| {
        let resource = stream.stream.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        Ok(Entries { resource, entries: stream.values.into_iter().map(entry).collect::<Result<_, Refused>>()? })
    };
    push.streams.into_iter().map(group).collect()
}

// As Loki's push.proto has them, but that texts are bytes: senders read files and do not look at what is in them.

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<Stream>,
}

#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(bytes = "vec", tag = "1")]
    labels: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Moment>,
    #[prost(bytes = "vec", tag = "2")]
    line: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Moment {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

fn from_protobuf(body: &[u8]) -> Result<Vec<Entries>, Refused> {
    let bytes =
        snap::raw::decompress_len(body).map_err(|error| Refused::bad(format!("the body is not snappy: {error}")))?;
    if bytes > UNPACKED_BYTES_MAX {
        return Err(Refused::too_large(format!(
            "the body has more than {UNPACKED_BYTES_MAX} bytes when it is unpacked"
        )));
    }
    let plain = snap::raw::Decoder::new().decompress_vec(body);
    let plain = plain.map_err(|error| Refused::bad(format!("the body is not snappy: {error}")))?;
    let push = PushRequest::decode(plain.as_slice());
    let push = push.map_err(|error| Refused::bad(format!("the body is no push request: {error}")))?;
    check_count(push.streams.iter().map(|stream| stream.entries.len()).sum())?;
    let entry = |line: Line| Entry {
        time_ns: line.timestamp.and_then(|moment| {
            let seconds = u64::try_from(moment.seconds).ok()?.checked_mul(1_000_000_000)?;
            seconds.checked_add(u64::try_from(moment.nanos).ok()?)
        }),
        body: text(line.line),
        attributes: line.metadata.into_iter().map(|pair| (text(pair.name), Value::String(text(pair.value)))).collect(),
    };
    let group = |stream: Stream| {
        let resource = labels(&text(stream.labels))?;
        Ok(Entries { resource, entries: stream.entries.into_iter().map(entry).collect() })
    };
    push.streams.into_iter().map(group).collect()
}

/// Bytes as a text, with U+FFFD for what is no UTF-8.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|wrong| String::from_utf8_lossy(wrong.as_bytes()).into_owned())
}

/// `{name="value", other="with \"quotes\""}`.
fn labels(text: &str) -> Result<Map<String, Value>, Refused> {
    let wrong = || Refused::bad(format!("`{}` are no labels", backlot_windows::clip(text, 80)));
    if text.len() > LABELS_BYTES_MAX {
        return Err(wrong());
    }
    let mut rest = text.trim().strip_prefix('{').ok_or_else(wrong)?.trim_start();
    let mut labels = Map::new();
    while !rest.starts_with('}') {
        let (name, after) = rest.split_once('=').ok_or_else(wrong)?;
        let name = name.trim();
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':'));
        let after = after.trim_start();
        if !is_name || !after.starts_with('"') {
            return Err(wrong());
        }
        // Go's quoted strings are JSON's but for escapes that labels hardly have.
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let value = values.next().and_then(Result::ok).ok_or_else(wrong)?;
        let read = values.byte_offset();
        labels.insert(name.to_owned(), Value::String(value));
        rest = after[read..].trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None if rest.starts_with('}') => {}
            None => return Err(wrong()),
        }
    }
    if rest == "}" { Ok(labels) } else { Err(wrong()) }
}

/// Reads a body in both forms and throws the outcome away: for fuzzing.
pub fn fuzz(body: &[u8]) {
    for groups in [from_json(body), from_protobuf(body)].into_iter().flatten() {
        super::request(groups);
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = labels(text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_read_as_they_are_written() {
        for (text, expected) in [
            ("{}", json!({})),
            (r#"{a="b"}"#, json!({"a": "b"})),
            (
                r#" { service_name = "x y", path="C:\\tmp", quote="say \"no\", \u00e9" , } "#,
                json!({"service_name": "x y", "path": "C:\\tmp", "quote": "say \"no\", é"}),
            ),
        ] {
            assert_eq!(labels(text).map(Value::Object), Ok(expected), "{text}");
        }
        for wrong in
            ["", "{", "a=\"b\"", "{a=b}", "{a=\"b\"", "{a=\"b\" c=\"d\"}", "{=\"b\"}", "{a=\"b\"} x", "{a b=\"c\"}"]
        {
            assert!(labels(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_that_is_no_utf8_is_taken_with_the_others() {
        let line = |line: &[u8]| Line { timestamp: None, line: line.to_vec(), metadata: Vec::new() };
        let lines = vec![line(b"good"), line(b"bad \xff\xfe end")];
        let stream = Stream { labels: br#"{host="gpu-7"}"#.into(), entries: lines };
        let packed =
            snap::raw::Encoder::new().compress_vec(&PushRequest { streams: vec![stream] }.encode_to_vec()).unwrap();
        let json = b"{\"streams\":[{\"stream\":{\"host\":\"gpu-7\"},\"values\":[[\"1\",\"good\"],[\"1\",\"bad \xff\xfe end\"]]}]}";
        for read in [from_protobuf(&packed).unwrap(), from_json(json).unwrap()] {
            let bodies: Vec<_> = read[0].entries.iter().map(|entry| entry.body.as_str()).collect();
            assert_eq!(bodies, ["good", "bad \u{fffd}\u{fffd} end"]);
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let line = Line {
            timestamp: Some(Moment { seconds: 1_763_812_800, nanos: 5 }),
            line: b"out of memory".into(),
            metadata: vec![Pair { name: b"trace_id".into(), value: b"0af7".into() }],
        };
        let stream = Stream { labels: br#"{host="gpu-7"}"#.into(), entries: vec![line] };
        let packed =
            snap::raw::Encoder::new().compress_vec(&PushRequest { streams: vec![stream] }.encode_to_vec()).unwrap();
        let json = json!({"streams": [{"stream": {"host": "gpu-7"}, "values": [["1763812800000000005", "out of memory", {"trace_id": "0af7"}]]}]});
        let read = from_protobuf(&packed).unwrap();
        assert_eq!(read, from_json(json.to_string().as_bytes()).unwrap());
        assert_eq!(read[0].entries[0].time_ns, Some(1_763_812_800_000_000_005));
        assert!(from_json(br#"{"streams":[{"values":[["soon","x"]]}]}"#).is_err());
        for wrong in [r#"["1"]"#, r#"[1,"x"]"#, r#"["1","x",{},0]"#, r#"{"ts":1}"#] {
            let refused = from_json(format!(r#"{{"streams":[{{"values":[{wrong}]}}]}}"#).as_bytes()).unwrap_err();
            assert_eq!(refused.status, 400, "{wrong}");
            assert!(refused.message.contains("an entry as [") || wrong.starts_with("[1"), "{}", refused.message);
        }
        // A bomb says how much it unpacks to before it is unpacked.
        assert_eq!(from_protobuf(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]).unwrap_err().status, 413);
    }
}
