//! The calls of Elasticsearch's HTTP API that read.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{self, FromRef, FromRequest, FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use backlot_windows::{Order, Search};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json, json};

use super::fields::{mapping, types};
use super::indexes::{Scope, scope};
use super::looks::Looks;
use super::question::{check, object};
use super::scrolls::{Scrolls, kept_ms};
use super::search::{Request, run, with_parameters};
use super::sources::{is_like, source_of};
use super::{Refused, answer};
use crate::edge::Viewer;
use crate::logs::Logs;

/// Most searches of one `_msearch`.
const SEARCHES_MAX: usize = 100;
/// Records whose attributes a mapping knows, and their bytes.
const SAMPLED: usize = 1000;
const SAMPLED_BYTES: usize = 8 << 20;
/// Parameters that change nothing here: what they are about does not exist, or is so already.
const HARMLESS: [&str; 16] = [
    "ignore_unavailable",
    "allow_no_indices",
    "expand_wildcards",
    "ignore_throttled",
    "max_concurrent_shard_requests",
    "max_concurrent_searches",
    "preference",
    "routing",
    "pretty",
    "human",
    "timeout",
    "request_cache",
    "search_type",
    "batched_reduce_size",
    "ccs_minimize_roundtrips",
    "error_trace",
];

/// Routes of the http door.
pub(in crate::logs) fn routes(logs: Logs) -> Router {
    Router::new()
        .route("/es/_cluster/health", get(health))
        .route("/es/_cluster/health/{index}", get(health))
        .route("/es/{index}", get(indexes))
        .route("/es/_refresh", get(refresh).post(refresh))
        .route("/es/{index}/_refresh", get(refresh).post(refresh))
        .route("/es/_search", get(search).post(search))
        .route("/es/{index}/_search", get(search).post(search))
        .route("/es/_search/scroll", get(scroll).post(scroll).delete(clear_scroll))
        .route("/es/_search/scroll/{id}", get(scroll).post(scroll).delete(clear_scroll))
        .route("/es/_msearch", get(searches).post(searches))
        .route("/es/{index}/_msearch", get(searches).post(searches))
        .route("/es/_count", get(count).post(count))
        .route("/es/{index}/_count", get(count).post(count))
        .route("/es/_mapping", get(mappings))
        .route("/es/{index}/_mapping", get(mappings))
        .route("/es/_field_caps", get(field_caps).post(field_caps))
        .route("/es/{index}/_field_caps", get(field_caps).post(field_caps))
        .with_state(Shared { logs, scrolls: Scrolls::default() })
}

/// What the calls share.
#[derive(Clone)]
struct Shared {
    logs: Logs,
    scrolls: Scrolls,
}

impl FromRef<Shared> for Logs {
    fn from_ref(shared: &Shared) -> Self {
        shared.logs.clone()
    }
}

impl FromRef<Shared> for Scrolls {
    fn from_ref(shared: &Shared) -> Self {
        shared.scrolls.clone()
    }
}

type Parameters = Vec<(String, String)>;

/// A call of somebody who may read.
struct Call {
    /// What the last part of the address names.
    name: Option<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = Response;

    async fn from_request(request: extract::Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let viewer = Viewer::from_request_parts(&mut parts, state).await;
        viewer.map_err(|error| Refused::from(error).into_response())?;
        let path = Option::<Path<String>>::from_request_parts(&mut parts, state).await;
        let name = path.map_err(IntoResponse::into_response)?.map(|Path(name)| name);
        let (uri, headers) = (parts.uri.clone(), parts.headers.clone());
        let body = Bytes::from_request(extract::Request::from_parts(parts, body), state).await;
        Ok(Self { name, uri, headers, body: body.map_err(IntoResponse::into_response)? })
    }
}

impl Call {
    /// The indexes that the address names; without a name, all.
    fn names(&self) -> &str {
        self.name.as_deref().unwrap_or("*")
    }

    /// The parameters of the address, if all of them are known.
    fn parameters(&self, known: &[&str]) -> Result<Parameters, Refused> {
        let mut parameters = Vec::new();
        for pair in self.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let decode = |text: &str| {
                let decoded = percent_decode_str(&text.replace('+', " ")).decode_utf8().map(|text| text.into_owned());
                decoded.map_err(|_| Refused::illegal("a parameter is no UTF-8"))
            };
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) && !HARMLESS.contains(&name.as_str()) {
                let name = backlot_windows::clip(&name, 80);
                return Err(Refused::illegal(format!(
                    "request [{}] contains unrecognized parameter: [{name}]",
                    self.uri.path()
                )));
            }
            parameters.push((name, value));
        }
        Ok(parameters)
    }

    fn json(&self) -> Result<Json, Refused> {
        body_of(&self.headers, &self.body)
    }
}

fn is_set(parameters: &Parameters, name: &str) -> bool {
    parameters.iter().any(|(known, value)| known == name && value == "true")
}

/// The body of a request; an empty one is an empty object.
fn body_of(headers: &HeaderMap, body: &[u8]) -> Result<Json, Refused> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let (status, kind) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type_header_exception");
        return Err(Refused { status, ..Refused::new(kind, "a search is not compressed") });
    }
    if body.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_slice(body)
        .map_err(|error| Refused::new("parse_exception", format!("request body is not JSON: {error}")))
}

async fn health(call: Call) -> Result<Response, Refused> {
    call.parameters(&["wait_for_status", "level", "local", "master_timeout"])?;
    Ok(answer(
        StatusCode::OK,
        &json!({
            "cluster_name": "backlot", "status": "green", "timed_out": false, "number_of_nodes": 1, "number_of_data_nodes": 1,
            "active_primary_shards": 1, "active_shards": 1, "relocating_shards": 0, "initializing_shards": 0, "unassigned_shards": 0,
            "delayed_unassigned_shards": 0, "number_of_pending_tasks": 0, "number_of_in_flight_fetch": 0,
            "task_max_waiting_in_queue_millis": 0, "active_shards_percent_as_number": 100.0,
        }),
    ))
}

impl Looks {
    fn of(parameters: &Parameters) -> Self {
        let [typed_keys, total_as_int] = Self::NAMES.map(|name| is_set(parameters, name));
        Self { typed_keys, total_as_int }
    }
}

async fn search(State(logs): State<Logs>, State(scrolls): State<Scrolls>, call: Call) -> Result<Response, Refused> {
    let names_known =
        [&["q", "size", "from", "_source", "sort", "track_total_hits", "scroll"], &Looks::NAMES[..]].concat();
    let parameters = call.parameters(&names_known)?;
    let now = logs.store.now();
    let mut request = with_parameters(Request::read(&call.json()?, now)?, &parameters, now)?;
    let scope = scope(&logs, call.names(), is_set(&parameters, "ignore_unavailable")).await?;
    scope.narrow(&mut request);
    let looks = Looks::of(&parameters);
    looks.ask(&mut request)?;
    let aggregations = Arc::clone(&request.aggregations);
    let mut told = match parameters.iter().find(|(name, _)| name == "scroll") {
        Some((_, text)) => scrolls.open(&logs, request, kept_ms(text)?, call.body.len()).await?,
        None => run(&logs, request).await?,
    };
    looks.apply(&aggregations, &mut told);
    Ok(answer(StatusCode::OK, &told))
}

/// What the body and the address of a call about scrolls say: ids, and how long to keep them.
fn scrolls_of(parameters: &Parameters, call: &Call) -> Result<(Vec<String>, Option<u64>), Refused> {
    let body = call.json()?;
    let body = object(&body, "scroll")?;
    check(body, "scroll", &["scroll", "scroll_id"])?;
    let given = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let of_text = |text: &str| text.split(',').map(str::to_owned).collect();
    let ids = match (body.get("scroll_id"), given("scroll_id"), &call.name) {
        (Some(Json::String(id)), ..) => vec![id.clone()],
        (Some(Json::Array(ids)), ..) => ids.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        (None, Some(text), _) => of_text(text),
        (None, None, Some(name)) => of_text(name),
        _ => Vec::new(),
    };
    if ids.is_empty() || ids.iter().any(String::is_empty) {
        let problem = "Validation Failed: 1: scrollId is missing;";
        return Err(Refused::new("action_request_validation_exception", problem));
    }
    let kept = body.get("scroll").and_then(Json::as_str).or_else(|| given("scroll"));
    Ok((ids, kept.map(kept_ms).transpose()?))
}

/// The next page of a scroll.
async fn scroll(State(logs): State<Logs>, State(scrolls): State<Scrolls>, call: Call) -> Result<Response, Refused> {
    let parameters = call.parameters(&[&["scroll", "scroll_id"], &Looks::NAMES[..]].concat())?;
    let (ids, kept_ms) = scrolls_of(&parameters, &call)?;
    let [id] = ids.as_slice() else {
        return Err(Refused::illegal("a page is one of one scroll"));
    };
    let mut told = scrolls.next(&logs, id, kept_ms).await?;
    Looks::of(&parameters).apply(&[], &mut told);
    Ok(answer(StatusCode::OK, &told))
}

async fn clear_scroll(
    State(logs): State<Logs>,
    State(scrolls): State<Scrolls>,
    call: Call,
) -> Result<Response, Refused> {
    let parameters = call.parameters(&["scroll_id"])?;
    let (ids, _) = scrolls_of(&parameters, &call)?;
    let freed = scrolls.clear(&logs, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let status = if freed > 0 { StatusCode::OK } else { StatusCode::NOT_FOUND };
    Ok(answer(status, &json!({"succeeded": true, "num_freed": freed})))
}

/// Several searches in NDJSON, each with a line before it that says where.
async fn searches(State(logs): State<Logs>, call: Call) -> Result<Response, Refused> {
    let looks = Looks::of(&call.parameters(&Looks::NAMES)?);
    let lines: Vec<&[u8]> = call.body.split(|byte| *byte == b'\n').collect();
    let lines: Vec<&[u8]> = match lines.as_slice() {
        [lines @ .., last] if last.trim_ascii().is_empty() => lines.to_vec(),
        lines => lines.to_vec(),
    };
    if lines.is_empty() || !lines.len().is_multiple_of(2) {
        return Err(Refused::new("parse_exception", "a search is two lines: where, and what"));
    }
    if lines.len() / 2 > SEARCHES_MAX {
        return Err(Refused::illegal(format!("a request has at most {SEARCHES_MAX} searches here")));
    }
    let began_ms = logs.store.now().mono_ms;
    let mut responses = Vec::with_capacity(lines.len() / 2);
    for pair in lines.chunks(2) {
        let [place, what] = pair else { continue };
        let told = match one_search(&logs, call.names(), &call.headers, (place, what), looks).await {
            Ok(mut told) => {
                told["status"] = json!(200);
                told
            }
            Err(refused) => refused.body(),
        };
        responses.push(told);
    }
    let took_ms = logs.store.now().mono_ms.saturating_sub(began_ms);
    Ok(answer(StatusCode::OK, &json!({"took": took_ms, "responses": responses})))
}

async fn one_search(
    logs: &Logs,
    default: &str,
    headers: &HeaderMap,
    (place, what): (&[u8], &[u8]),
    looks: Looks,
) -> Result<Json, Refused> {
    let place = body_of(headers, place)?;
    let place = object(&place, "msearch")?;
    let names: Vec<&str> = HARMLESS.into_iter().chain(["index", "indices"]).collect();
    check(place, "msearch", &names)?;
    let index = match place.get("index").or_else(|| place.get("indices")) {
        None | Some(Json::Null) => default.to_owned(),
        Some(Json::String(index)) => index.clone(),
        Some(Json::Array(indexes)) => indexes.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(","),
        Some(_) => return Err(Refused::parsing("[index] is a name or a list of names")),
    };
    let ignore_unavailable =
        place.get("ignore_unavailable").is_some_and(|value| *value == json!(true) || *value == "true");
    let mut request = Request::read(&body_of(headers, what)?, logs.store.now())?;
    let scope = scope(logs, &index, ignore_unavailable).await?;
    scope.narrow(&mut request);
    looks.ask(&mut request)?;
    let aggregations = Arc::clone(&request.aggregations);
    let mut told = run(logs, request).await?;
    looks.apply(&aggregations, &mut told);
    Ok(told)
}

async fn count(State(logs): State<Logs>, call: Call) -> Result<Response, Refused> {
    let parameters = call.parameters(&["q"])?;
    let body = call.json()?;
    check(object(&body, "count")?, "count", &["query"])?;
    let now = logs.store.now();
    let mut request = with_parameters(Request::read(&body, now)?, &parameters, now)?;
    let scope = scope(&logs, call.names(), is_set(&parameters, "ignore_unavailable")).await?;
    scope.narrow(&mut request);
    let matched = logs.store.tally(request.question.query, request.question.range, Vec::new()).await?.matched;
    let shards = json!({"total": 1, "successful": 1, "skipped": 0, "failed": 0});
    Ok(answer(StatusCode::OK, &json!({"count": matched, "_shards": shards})))
}

/// The types of the fields of each index: of the newest records, and of every stream.
async fn types_of(logs: &Logs, scope: &Scope) -> Result<BTreeMap<String, BTreeMap<String, &'static str>>, Refused> {
    let newest = Search {
        query: scope.query.clone(),
        from_ns: i64::MIN,
        to_ns: i64::MAX,
        order: Order::Newest,
        limit: SAMPLED,
        after: None,
        bytes_max: SAMPLED_BYTES,
    };
    let found = logs.store.search_within_reach(newest).await?;
    let mut attributes = BTreeMap::<String, Vec<Map<String, Json>>>::new();
    for hit in &found.hits {
        let source = source_of(hit)?;
        attributes.entry(source.index).or_default().push(source.fields);
    }
    let of_index = |index: &String| {
        let sampled = attributes.get(index).map(Vec::as_slice).unwrap_or_default();
        (index.clone(), types(sampled.iter()))
    };
    Ok(scope.indexes.iter().map(of_index).collect())
}

/// What clients ask before they use an index, by HEAD or GET.
async fn indexes(State(logs): State<Logs>, call: Call) -> Result<Response, Refused> {
    let parameters = call.parameters(&["local", "master_timeout", "flat_settings", "include_defaults"])?;
    let scope = scope(&logs, call.names(), is_set(&parameters, "ignore_unavailable")).await?;
    let types = types_of(&logs, &scope).await?;
    let settings = json!({"index": {"number_of_shards": "1", "number_of_replicas": "0"}});
    let about = |types| json!({"aliases": {}, "mappings": mapping(types), "settings": settings});
    let about: Map<String, Json> = types.iter().map(|(index, types)| (index.clone(), about(types))).collect();
    Ok(answer(StatusCode::OK, &Json::Object(about)))
}

/// There is nothing to do: a search finds what was acknowledged before it.
async fn refresh(State(logs): State<Logs>, call: Call) -> Result<Response, Refused> {
    let parameters = call.parameters(&[])?;
    scope(&logs, call.names(), is_set(&parameters, "ignore_unavailable")).await?;
    Ok(answer(StatusCode::OK, &json!({"_shards": {"total": 1, "successful": 1, "failed": 0}})))
}

async fn mappings(State(logs): State<Logs>, call: Call) -> Result<Response, Refused> {
    let parameters = call.parameters(&["local", "master_timeout"])?;
    let scope = scope(&logs, call.names(), is_set(&parameters, "ignore_unavailable")).await?;
    let types = types_of(&logs, &scope).await?;
    let mappings: Map<String, Json> =
        types.iter().map(|(index, types)| (index.clone(), json!({"mappings": mapping(types)}))).collect();
    Ok(answer(StatusCode::OK, &Json::Object(mappings)))
}

async fn field_caps(State(logs): State<Logs>, call: Call) -> Result<Response, Refused> {
    let parameters = call.parameters(&["fields", "include_unmapped"])?;
    let body = call.json()?;
    check(object(&body, "field_caps")?, "field_caps", &["fields"])?;
    let mut patterns: Vec<String> = match body.get("fields") {
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        Some(Json::String(names)) => names.split(',').map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let named = parameters.iter().filter(|(name, _)| name == "fields");
    patterns.extend(named.flat_map(|(_, names)| names.split(',').map(|name| name.trim().to_owned())));
    if patterns.is_empty() || patterns.len() > 1000 {
        let problem = "Validation Failed: 1: no fields specified;";
        return Err(Refused::new("action_request_validation_exception", problem));
    }
    let scope = scope(&logs, call.names(), is_set(&parameters, "ignore_unavailable")).await?;
    let of_indexes = types_of(&logs, &scope).await?;
    let mut fields = Map::new();
    for (name, kind) in of_indexes.values().flatten() {
        if patterns.iter().any(|pattern| is_like(name, pattern)) {
            let known = fields.entry(name.clone()).or_insert_with(|| json!({}));
            known[*kind] =
                json!({"type": kind, "metadata_field": false, "searchable": true, "aggregatable": *kind != "text"});
        }
    }
    Ok(answer(StatusCode::OK, &json!({"indices": scope.indexes, "fields": fields})))
}
