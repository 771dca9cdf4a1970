//! Loki's push: protobuf in snappy, or JSON.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message;
use serde::Deserialize;
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
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonEntry {
    WithMetadata(String, String, Map<String, Value>),
    Plain(String, String),
}

fn from_json(body: &[u8]) -> Result<Vec<Entries>, Refused> {
    let push: JsonPush =
        serde_json::from_slice(body).map_err(|error| Refused::bad(format!("the body is no push request: {error}")))?;
    check_count(push.streams.iter().map(|stream| stream.values.len()).sum())?;
    let entry = |entry| {
        let (time, body, attributes) = match entry {
            JsonEntry::WithMetadata(time, body, attributes) => (time, body, attributes),
            JsonEntry::Plain(time, body) => (time, body, Map::new()),
        };
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

// As Loki's push.proto has them.

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<Stream>,
}

#[derive(Clone, PartialEq, Message)]
struct Stream {
    #[prost(string, tag = "1")]
    labels: String,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Moment>,
    #[prost(string, tag = "2")]
    line: String,
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
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
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
        body: line.line,
        attributes: line.metadata.into_iter().map(|pair| (pair.name, Value::String(pair.value))).collect(),
    };
    let group = |stream: Stream| {
        let resource = labels(&stream.labels)?;
        Ok(Entries { resource, entries: stream.entries.into_iter().map(entry).collect() })
    };
    push.streams.into_iter().map(group).collect()
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
    fn both_forms_say_the_same() {
        let line = Line {
            timestamp: Some(Moment { seconds: 1_763_812_800, nanos: 5 }),
            line: "out of memory".into(),
            metadata: vec![Pair { name: "trace_id".into(), value: "0af7".into() }],
        };
        let stream = Stream { labels: r#"{host="gpu-7"}"#.into(), entries: vec![line] };
        let packed =
            snap::raw::Encoder::new().compress_vec(&PushRequest { streams: vec![stream] }.encode_to_vec()).unwrap();
        let json = json!({"streams": [{"stream": {"host": "gpu-7"}, "values": [["1763812800000000005", "out of memory", {"trace_id": "0af7"}]]}]});
        let read = from_protobuf(&packed).unwrap();
        assert_eq!(read, from_json(json.to_string().as_bytes()).unwrap());
        assert_eq!(read[0].entries[0].time_ns, Some(1_763_812_800_000_000_005));
        assert!(from_json(br#"{"streams":[{"values":[["soon","x"]]}]}"#).is_err());
        // A bomb says how much it unpacks to before it is unpacked.
        assert_eq!(from_protobuf(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]).unwrap_err().status, 413);
    }
}
