//! Elasticsearch's `_bulk`: `index` and `create`, with an answer for each item; and one document by itself.
//!
//! What is sent is a log, so an item with an `_id` is a record like any other: nothing is replaced, and `update` and `delete` are answered
//! with an error of their item.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::{Entries, Entry, Refused, check_count, keep, of_object, unpacked};
use crate::edge::{ApiError, Viewer, Worker};
use crate::logs::Logs;

/// The version that clients are told; they ask for it before they send.
const VERSION: &str = "8.11.0";
/// Longest name of an index.
const INDEX_BYTES_MAX: usize = 255;
/// The attribute that the index of a record becomes.
const INDEX: &str = "index";

pub(super) async fn about(_: Viewer) -> Response {
    answer(
        StatusCode::OK,
        &json!({
            "name": "backlot", "cluster_name": "backlot", "cluster_uuid": "backlot",
            "version": {"number": VERSION, "build_flavor": "default", "lucene_version": "9.8.0",
                "minimum_wire_compatibility_version": "7.17.0", "minimum_index_compatibility_version": "7.0.0"},
            "tagline": "You Know, for Search",
        }),
    )
}

pub(super) async fn bulk(
    worker: Result<Worker, ApiError>,
    logs: State<Logs>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    taken(worker, logs, None, &headers, body).await
}

pub(super) async fn bulk_into(
    worker: Result<Worker, ApiError>,
    logs: State<Logs>,
    Path(index): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    taken(worker, logs, Some(index), &headers, body).await
}

pub(super) async fn one(
    worker: Result<Worker, ApiError>,
    logs: State<Logs>,
    Path(index): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    alone(worker, logs, (index, None), &headers, body).await
}

pub(super) async fn one_named(
    worker: Result<Worker, ApiError>,
    logs: State<Logs>,
    Path((index, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    alone(worker, logs, (index, Some(id)), &headers, body).await
}

/// One document: what is said of an item of many is said of the request.
async fn alone(
    worker: Result<Worker, ApiError>,
    State(logs): State<Logs>,
    (index, id): (String, Option<String>),
    headers: &HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(error) = worker {
        return forbidden(&error);
    }
    let body = match unpacked(headers, body) {
        Ok(body) => body,
        Err(refused) => return refuse(&refused),
    };
    let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let mut item = Item { action: "index", index, id, problem: None };
    let mut groups = Vec::new();
    match source(&body, &item.index) {
        Ok(entry) => put(&mut groups, &item.index, entry),
        Err(problem) => item.problem = Some(problem),
    }
    if let Some((kind, reason)) = item.problem {
        return refuse_as(StatusCode::BAD_REQUEST, kind, &reason);
    }
    match keep(&logs, groups).await {
        Ok(()) => answer(StatusCode::CREATED, &item.answer()["index"]),
        Err(refused) => refuse(&refused),
    }
}

async fn taken(
    worker: Result<Worker, ApiError>,
    State(logs): State<Logs>,
    index: Option<String>,
    headers: &HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(error) = worker {
        return forbidden(&error);
    }
    match unpacked(headers, body).and_then(|body| read(&body, index.as_deref())) {
        Ok(Bulk { items, groups }) => match keep(&logs, groups).await {
            Ok(()) => {
                let errors = items.iter().any(|item| item.problem.is_some());
                let items: Vec<_> = items.iter().map(Item::answer).collect();
                answer(StatusCode::OK, &json!({"took": 0, "errors": errors, "items": items}))
            }
            Err(refused) => refuse(&refused),
        },
        Err(refused) => refuse(&refused),
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let product = (HeaderName::from_static("x-elastic-product"), HeaderValue::from_static("Elasticsearch"));
    (status, [product], Json(body)).into_response()
}

fn forbidden(error: &ApiError) -> Response {
    refuse_as(error.status, "security_exception", &error.message)
}

fn refuse_as(status: StatusCode, kind: &str, reason: &str) -> Response {
    answer(status, &json!({"error": {"type": kind, "reason": reason}, "status": status.as_u16()}))
}

/// A request that failed as a whole. Senders try again after 429 and give up after 400.
fn refuse(refused: &Refused) -> Response {
    let (status, kind) = match refused.status {
        StatusCode::SERVICE_UNAVAILABLE => (StatusCode::TOO_MANY_REQUESTS, "es_rejected_execution_exception"),
        StatusCode::INTERNAL_SERVER_ERROR => (refused.status, "exception"),
        status => (status, "illegal_argument_exception"),
    };
    let mut response = refuse_as(status, kind, &refused.message);
    if let Some(retry_after_s) = refused.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
    }
    response
}

/// What a request asks for, and what it says of each item.
#[derive(Debug, Default, PartialEq)]
struct Bulk {
    items: Vec<Item>,
    groups: Vec<Entries>,
}

#[derive(Debug, PartialEq)]
struct Item {
    action: &'static str,
    index: String,
    id: String,
    problem: Option<(&'static str, String)>,
}

impl Item {
    fn answer(&self) -> Value {
        let told = match &self.problem {
            None => json!({"_index": self.index, "_id": self.id, "_version": 1, "result": "created", "status": 201,
                "_shards": {"total": 1, "successful": 1, "failed": 0}}),
            Some((kind, reason)) => json!({"_index": self.index, "_id": self.id, "status": 400,
                "error": {"type": kind, "reason": reason}}),
        };
        json!({self.action: told})
    }
}

const ACTIONS: [&str; 4] = ["index", "create", "update", "delete"];

fn read(body: &[u8], default_index: Option<&str>) -> Result<Bulk, Refused> {
    let mut bulk = Bulk::default();
    let mut lines = body.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    while let Some((number, line)) = lines.next() {
        check_count(bulk.items.len() + 1)?;
        let malformed =
            |problem: &str| Refused::bad(format!("Malformed action/metadata line [{}], {problem}", number + 1));
        let action: Map<String, Value> = serde_json::from_slice(line).map_err(|error| malformed(&error.to_string()))?;
        let named = ACTIONS.into_iter().find_map(|name| Some((name, action.get(name)?)));
        let (name, about) = named.ok_or_else(|| malformed("expected one of index, create, update, delete"))?;
        let text = |of: &str| about.get(of).and_then(Value::as_str);
        let index = text("_index").or(default_index).unwrap_or_default().to_owned();
        let id = text("_id").map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned);
        let mut item = Item { action: name, index, id, problem: None };
        match name {
            "delete" => {
                item.problem = Some(("illegal_argument_exception", "records of a log are not deleted".to_owned()))
            }
            "update" => {
                lines.next();
                item.problem = Some(("illegal_argument_exception", "records of a log are not changed".to_owned()));
            }
            _ => {
                let (_, line) = lines.next().ok_or_else(|| malformed("its source is missing"))?;
                match source(line, &item.index) {
                    Ok(entry) => put(&mut bulk.groups, &item.index, entry),
                    Err(problem) => item.problem = Some(problem),
                }
            }
        }
        bulk.items.push(item);
    }
    Ok(bulk)
}

fn source(line: &[u8], index: &str) -> Result<Entry, (&'static str, String)> {
    if index.is_empty() || index.len() > INDEX_BYTES_MAX {
        return Err(("illegal_argument_exception", format!("the name of an index has 1 to {INDEX_BYTES_MAX} bytes")));
    }
    match serde_json::from_slice::<Map<String, Value>>(line) {
        Ok(object) => Ok(of_object(object)),
        Err(error) => Err(("document_parsing_exception", format!("failed to parse: {error}"))),
    }
}

/// Records of one index belong together.
fn put(groups: &mut Vec<Entries>, index: &str, entry: Entry) {
    let is_same = |group: &Entries| group.resource.get(INDEX).and_then(Value::as_str) == Some(index);
    // Mostly that of the item before.
    let at = groups.iter().rposition(is_same).unwrap_or_else(|| {
        let resource = Map::from_iter([(INDEX.to_owned(), Value::from(index))]);
        groups.push(Entries { resource, entries: Vec::new() });
        groups.len() - 1
    });
    groups[at].entries.push(entry);
}

/// Reads a body and throws the outcome away: for fuzzing.
pub fn fuzz(body: &[u8]) {
    if let Ok(bulk) = read(body, Some("logs")) {
        bulk.items.iter().for_each(|item| drop(item.answer()));
        super::request(bulk.groups);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_own_answer() {
        let body = concat!(
            "{\"index\":{\"_index\":\"render\",\"_id\":\"7\"}}\n{\"message\":\"one\",\"@timestamp\":\"2025-11-22T12:00:00Z\"}\n",
            "{\"create\":{}}\n{\"message\":\"two\"}\n",
            "{\"delete\":{\"_id\":\"7\"}}\n",
            "{\"update\":{\"_id\":\"7\"}}\n{\"doc\":{}}\n",
            "{\"index\":{}}\n{broken\n",
            "{\"index\":{\"_index\":\"\"}}\n{}\n",
        );
        let bulk = read(body.as_bytes(), Some("logs")).unwrap();
        let status: Vec<_> = bulk
            .items
            .iter()
            .map(|item| (item.action, item.answer()[item.action]["status"].as_u64().unwrap(), item.index.as_str()))
            .collect();
        let expected = [
            ("index", 201, "render"),
            ("create", 201, "logs"),
            ("delete", 400, "logs"),
            ("update", 400, "logs"),
            ("index", 400, "logs"),
            ("index", 400, ""),
        ];
        assert_eq!(status, expected);
        let kept: Vec<_> =
            bulk.groups.iter().map(|group| (group.resource["index"].clone(), group.entries[0].body.clone())).collect();
        assert_eq!(kept, [(json!("render"), "one".to_owned()), (json!("logs"), "two".to_owned())]);
        assert_eq!(bulk.items[0].id, "7");
    }

    #[test]
    fn a_line_that_is_no_action_fails_the_request_and_is_named() {
        for (body, line) in [("{}\n", 1), ("\n{\"index\":{}}\n{}\nnonsense", 4), ("{\"index\":{}}\n", 1), ("[]", 1)] {
            let refused = read(body.as_bytes(), Some("logs")).unwrap_err();
            assert!(refused.message.contains(&format!("line [{line}]")), "{refused:?}");
        }
    }
}
