//! `POST /v1/logs`: a line of the body is a line of the log, as a JSON object or as plain text. A body may be one array of such objects,
//! as Fluent Bit and Vector send them unless they are told otherwise.

use axum::Json;
use axum::extract::{Query, State};
use bytes::Bytes;
use http::HeaderMap;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

use super::{Entries, Entry, ITEMS_MAX, Refused, check_count, keep, of_object, unpacked};
use crate::edge::{ApiError, Worker};
use crate::logs::Logs;

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let code = match refused.status.as_u16() {
            413 => "too_large",
            415 => "unsupported",
            503 => "busy",
            500 => "internal",
            _ => "bad_request",
        };
        let mut error = Self::new(refused.status, code, refused.message);
        error.retry_after_s = refused.retry_after_s;
        error
    }
}

/// Parameters become attributes of the resource: `?service.name=renderer&host.name=gpu-7`.
pub(super) async fn take(
    _: Worker,
    State(logs): State<Logs>,
    Query(resource): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let entries = read(&unpacked(&headers, body)?)?;
    let accepted = entries.len();
    let resource = resource.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    keep(&logs, vec![Entries { resource, entries }]).await?;
    Ok(Json(json!({"accepted": accepted})))
}

fn read(body: &[u8]) -> Result<Vec<Entry>, Refused> {
    if body.trim_ascii_start().starts_with(b"[")
        && let Ok(Objects(objects)) = serde_json::from_slice(body)
    {
        check_count(objects.len())?;
        return Ok(objects.into_iter().map(of_object).collect());
    }
    let mut entries = Vec::new();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        check_count(entries.len() + 1)?;
        entries.push(match serde_json::from_slice::<Map<String, Value>>(line) {
            Ok(object) => of_object(object),
            Err(_) => Entry { body: String::from_utf8_lossy(line).into_owned(), ..Entry::default() },
        });
    }
    Ok(entries)
}

/// The objects of a body that is an array of nothing else: at most one more than a request may have, so that many small ones take no memory.
struct Objects(Vec<Map<String, Value>>);

impl<'de> Deserialize<'de> for Objects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Objects;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Objects, A::Error> {
                let mut objects = Vec::new();
                while objects.len() <= ITEMS_MAX {
                    let Some(object) = elements.next_element()? else { return Ok(Objects(objects)) };
                    objects.push(object);
                }
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Objects(objects))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

/// Reads a body and throws the outcome away: for fuzzing.
pub fn fuzz(body: &[u8]) {
    if let Ok(entries) = read(body) {
        super::request(vec![Entries { entries, ..Entries::default() }]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_objects_or_text_and_empty_ones_are_none() {
        let body = b"{\"msg\":\"one\",\"n\":1}\r\n\nplain text\n[1]\n{broken\n\xff\xfe";
        let bodies: Vec<_> = read(body).unwrap().into_iter().map(|entry| entry.body).collect();
        assert_eq!(bodies, ["one", "plain text", "[1]", "{broken", "\u{fffd}\u{fffd}"]);
        assert_eq!(read(&b"x\n".repeat(60_000)).unwrap_err().status, 413);
    }

    #[test]
    fn an_array_of_objects_is_as_many_lines() {
        let body = b" [{\"date\":1763812800.5,\"log\":\"one\",\"n\":1},\n {\"message\":\"two\"}]\n";
        let entries = read(body).unwrap();
        let told: Vec<_> = entries.iter().map(|entry| (entry.body.as_str(), entry.time_ns)).collect();
        assert_eq!(told, [("one", Some(1_763_812_800_500_000_000)), ("two", None)]);
        assert_eq!(read(b"[{\"log\":\"one\"}, 2]").unwrap().len(), 1, "a line of text");
        assert!(read(b"[]").unwrap().is_empty());
        let many = format!("[{}]", vec!["{}"; 60_000].join(","));
        assert_eq!(read(many.as_bytes()).unwrap_err().status, 413);
    }
}
