//! Jaeger's reading calls, as Grafana's Jaeger data source and Jaeger's own page send them.
//!
//! | call | answers |
//! | --- | --- |
//! | `/api/services` | names of services |
//! | `/api/services/{service}/operations`, `/api/operations?service=&spanKind=` | what a service does |
//! | `/api/traces?service=…` | traces with a span that answers, or those named by `traceID` |
//! | `/api/traces/{id}` | one trace |
//! | `/api/dependencies?endTs=&lookback=` | which service calls which |
//!
//! All stand below `/jaeger` and at the root, where no other route is theirs.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query as Parameters, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use backlot_windows::Query;
use backlot_windows::Unreached;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::dependencies::Calls;
use super::jaeger::{JaegerTrace, SERVICE_UNKNOWN};
use super::list::{Asked, LIMIT_MAX};
use super::params::between;
use super::query::duration_ns;
use super::schema::{NAME, SERVICE};
use super::store::ListOrder;
use super::{Traces, tags};
use crate::clock::Now;
use crate::edge::{ApiError, Viewer};
use crate::signals::duration_ms;

const LIMIT_DEFAULT: usize = 20;
/// How far dependencies are looked back when nobody says: a day, as in Jaeger.
const LOOKBACK_MS: i64 = 24 * 3_600_000;
/// Spans of one answer, as they are stored: all of them are in it.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Traces that are looked for together when they are named.
const IDS_AT_ONCE: usize = 20;

pub(super) fn routes(traces: Traces) -> Router {
    let mut router = Router::new();
    for below in ["", "/jaeger"] {
        router = router
            .route(&format!("{below}/api/services"), get(services))
            .route(&format!("{below}/api/services/{{service}}/operations"), get(operations_of))
            .route(&format!("{below}/api/operations"), get(operations))
            .route(&format!("{below}/api/traces"), get(search))
            .route(&format!("{below}/api/traces/{{id}}"), get(show))
            .route(&format!("{below}/api/dependencies"), get(dependencies));
    }
    router.with_state(traces)
}

/// What every answer is wrapped in.
#[derive(Serialize)]
struct Envelope<T> {
    data: Vec<T>,
    total: usize,
    limit: usize,
    offset: usize,
    errors: Option<Vec<Value>>,
}

fn answer<T: Serialize>(data: Vec<T>) -> Response {
    partial(data, Vec::new())
}

/// An answer, and what it lacks.
fn partial<T: Serialize>(data: Vec<T>, errors: Vec<Value>) -> Response {
    let errors = (!errors.is_empty()).then_some(errors);
    Json(Envelope { total: data.len(), data, limit: 0, offset: 0, errors }).into_response()
}

fn lacking(unreached: &[Unreached]) -> Vec<Value> {
    let told = |of: &Unreached| format!("spans in the window {} are not here: {}", of.window, of.reason);
    unreached.iter().map(|of| json!({"code": 503, "msg": told(of)})).collect()
}

/// A refusal in Jaeger's shape.
struct Refused {
    status: StatusCode,
    message: String,
    retry_after_s: Option<u32>,
}

impl Refused {
    fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), retry_after_s: None }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { status: error.status, message: error.message, retry_after_s: error.retry_after_s }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let errors = json!([{"code": self.status.as_u16(), "msg": self.message}]);
        let body = json!({"data": null, "total": 0, "limit": 0, "offset": 0, "errors": errors});
        let mut response = (self.status, Json(body)).into_response();
        if let Some(retry_after_s) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        response
    }
}

type Caller = Result<Viewer, ApiError>;
type Given = Result<Parameters<Vec<(String, String)>>, QueryRejection>;

async fn services(caller: Caller, State(traces): State<Traces>) -> Result<Response, Refused> {
    caller?;
    let found = traces.operations().await?;
    let names: BTreeSet<_> = found.into_iter().map(|(operation, _)| operation.service).collect();
    Ok(answer(names.into_iter().collect()))
}

async fn operations_of(
    caller: Caller,
    State(traces): State<Traces>,
    Path(service): Path<String>,
) -> Result<Response, Refused> {
    caller?;
    let found = traces.operations().await?.into_iter().filter(|(operation, _)| operation.service == service);
    let names: BTreeSet<_> = found.map(|(operation, _)| operation.name).collect();
    Ok(answer(names.into_iter().collect()))
}

async fn operations(caller: Caller, State(traces): State<Traces>, given: Given) -> Result<Response, Refused> {
    caller?;
    let given = Params::new(given)?;
    let service = given.get("service").ok_or_else(|| Refused::bad("the parameter `service` is needed"))?;
    let kind = given.get("spanKind");
    let found = traces.operations().await?.into_iter().map(|(operation, _)| operation);
    let found =
        found.filter(|operation| operation.service == service && kind.is_none_or(|kind| operation.kind == kind));
    let found: BTreeSet<_> = found.collect();
    let named = |operation: super::Operation| json!({"name": operation.name, "spanKind": operation.kind});
    Ok(answer(found.into_iter().map(named).collect()))
}

async fn show(caller: Caller, State(traces): State<Traces>, Path(id): Path<String>) -> Result<Response, Refused> {
    caller?;
    let id = trace_id(&id)?;
    let trace = traces.trace(&id).await?.ok_or_else(|| Refused {
        status: StatusCode::NOT_FOUND,
        message: format!("no span of the trace {id} is here"),
        retry_after_s: None,
    })?;
    let errors = lacking(&trace.unreached);
    Ok(partial(vec![JaegerTrace::of(&trace)], errors))
}

async fn search(caller: Caller, State(traces): State<Traces>, given: Given) -> Result<Response, Refused> {
    caller?;
    let given = Params::new(given)?;
    let mut ids = given.all("traceID").map(trace_id).collect::<Result<Vec<_>, _>>()?;
    let mut named = BTreeSet::new();
    ids.retain(|id| named.insert(id.clone()));
    if ids.is_empty() {
        let asked = asked(&given, traces.store.now())?;
        let page = traces.list(&asked, |trace| JaegerTrace::of(&trace)).await?;
        return Ok(partial(page.traces, lacking(&page.unreached)));
    }
    if ids.len() > LIMIT_MAX {
        return Err(Refused::bad(format!("at most {LIMIT_MAX} traces can be asked for at once")));
    }
    let (mut found, mut missing, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut left = ids.as_slice();
    while !left.is_empty() {
        let mut there = traces.together(left.get(..IDS_AT_ONCE).unwrap_or(left)).await?;
        let (some, others) = left.split_at(there.looked_for.clamp(1, left.len()));
        left = others;
        missing.extend(lacking(&there.unreached));
        for id in some {
            match there.traces.remove(id) {
                Some((trace, trace_bytes)) if found.is_empty() || bytes + trace_bytes <= ANSWER_BYTES_MAX => {
                    bytes += trace_bytes;
                    found.push(JaegerTrace::of(&trace));
                }
                Some(_) => missing.push(json!({"code": 413, "msg": "the answer would be too large", "traceID": id})),
                None => missing.push(json!({"code": 404, "msg": "no span of this trace is here", "traceID": id})),
            }
        }
    }
    Ok(partial(found, missing))
}

async fn dependencies(caller: Caller, State(traces): State<Traces>, given: Given) -> Result<Response, Refused> {
    caller?;
    let given = Params::new(given)?;
    let ms = |name: &str| {
        given
            .get(name)
            .map(str::parse::<i64>)
            .transpose()
            .map_err(|_| Refused::bad(format!("{name} is a number of milliseconds")))
    };
    let end_ms = ms("endTs")?.ok_or_else(|| Refused::bad("the parameter `endTs` is needed"))?;
    let lookback_ms = ms("lookback")?.unwrap_or(LOOKBACK_MS);
    let ns = |ms: i64| ms.saturating_mul(1_000_000);
    let calls = traces.calls(ns(end_ms.saturating_sub(lookback_ms)), ns(end_ms)).await?;
    let told = calls
        .into_iter()
        .map(|Calls { parent, child, count }| json!({"parent": parent, "child": child, "callCount": count}));
    Ok(answer(told.collect()))
}

/// An id in 32 hex digits; Jaeger leaves zeroes in front away.
fn trace_id(id: &str) -> Result<String, Refused> {
    let digits = !id.is_empty() && id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits {
        Ok(format!("{:0>32}", id.to_ascii_lowercase()))
    } else {
        Err(Refused::bad("a trace id has up to 32 hex digits"))
    }
}

struct Params(Vec<(String, String)>);

impl Params {
    fn new(given: Given) -> Result<Self, Refused> {
        given.map(|given| Self(given.0)).map_err(|error| Refused::bad(error.body_text()))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(of, text)| of == name && !text.is_empty()).map(|(_, text)| text.as_str())
    }

    fn get<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// A length of time such as `1.2s`.
    fn duration(&self, name: &str) -> Result<Option<f64>, Refused> {
        let read = |text| duration_ns(text).map_err(|problem| Refused::bad(format!("{name}: {problem}")));
        self.get(name).map(read).transpose()
    }

    /// Microseconds since 1970, as nanoseconds.
    fn moment(&self, name: &str) -> Result<Option<i64>, Refused> {
        let read = |text: &str| match text.parse::<i64>() {
            Ok(us) => Ok(us.saturating_mul(1_000)),
            Err(_) => Err(Refused::bad(format!("{name} is a moment in microseconds since 1970"))),
        };
        self.get(name).map(read).transpose()
    }
}

fn asked(given: &Params, now: Now) -> Result<Asked, Refused> {
    let service = given.get("service").ok_or_else(|| Refused::bad("the parameter `service` is needed"))?;
    let mut all = vec![if service == SERVICE_UNKNOWN {
        Query::Not(Box::new(Query::Exists { name: SERVICE.to_owned() }))
    } else {
        Query::keyword(SERVICE, service)
    }];
    all.extend(given.get("operation").map(|name| Query::keyword(NAME, name)));
    all.extend(tags::having(&wanted_tags(given)?).map_err(|problem| Refused::bad(format!("tags: {problem}")))?);
    let (min_ns, max_ns) = (given.duration("minDuration")?, given.duration("maxDuration")?);
    if let (Some(min_ns), Some(max_ns)) = (min_ns, max_ns)
        && min_ns > max_ns
    {
        return Err(Refused::bad("maxDuration is less than minDuration"));
    }
    all.extend(between(min_ns, max_ns));
    let limit = match given.get("limit") {
        None => LIMIT_DEFAULT,
        Some(text) => match text.parse::<usize>() {
            Ok(limit) if limit > 0 => limit.min(LIMIT_MAX), // Jaeger's page offers up to 1,500
            _ => return Err(Refused::bad("limit is a number of traces")),
        },
    };
    // Without a start, so far back from now; `custom` goes with a start.
    let since = given
        .get("lookback")
        .and_then(duration_ms)
        .map(|ms| i64::try_from(now.wall_ms.saturating_sub(ms)).unwrap_or(i64::MAX).saturating_mul(1_000_000));
    Ok(Asked {
        query: Query::And(all),
        from_ns: given.moment("start")?.or(since).unwrap_or(i64::MIN),
        to_ns: given.moment("end")?.unwrap_or(i64::MAX),
        trace_ns_min: None,
        trace_ns_max: None,
        order: ListOrder::Newest,
        limit,
        after: None,
        bytes_max: ANSWER_BYTES_MAX,
    })
}

/// `tags={"name":"value"}` and `tag=name:value`, both as often as wanted.
fn wanted_tags(given: &Params) -> Result<Map<String, Value>, Refused> {
    let mut tags = Map::new();
    for text in given.all("tags") {
        let object: BTreeMap<String, Value> = serde_json::from_str(text)
            .map_err(|error| Refused::bad(format!("tags: a JSON object of texts is expected: {error}")))?;
        tags.extend(object);
    }
    for text in given.all("tag") {
        let (name, value) = text.split_once(':').ok_or_else(|| Refused::bad("tag: `name:value` is expected"))?;
        tags.insert(name.to_owned(), Value::from(value));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_jaegers_page_sends_is_read() {
        let now = Now { mono_ms: 0, wall_ms: 10_000_000 };
        let found = asked(
            &params(&[
                ("service", "agent"),
                ("operation", "infer"),
                ("tags", r#"{"error":"true"}"#),
                ("tag", "gpu.index:3"),
                ("minDuration", "1.2s"),
                ("maxDuration", ""),
                ("start", "1763812800000000"),
                ("end", "1763812900000000"),
                ("lookback", "custom"),
                ("limit", "1500"),
            ]),
            now,
        );
        let found = found.unwrap_or_else(|refused| panic!("{}", refused.message));
        assert_eq!((found.from_ns, found.to_ns), (1_763_812_800_000_000_000, 1_763_812_900_000_000_000));
        assert!(found.limit == LIMIT_MAX && matches!(&found.query, Query::And(all) if all.len() == 5), "{found:?}");
        let found = asked(&params(&[("service", "agent"), ("lookback", "1h")]), now);
        assert_eq!(found.map(|found| (found.from_ns, found.limit)).ok(), Some((6_400_000_000_000, LIMIT_DEFAULT)));
    }

    #[test]
    fn what_is_asked_wrongly_is_refused_as_jaeger_does() {
        for (name, value) in [
            ("service", ""),
            ("minDuration", "5"),
            ("start", "now"),
            ("limit", "none"),
            ("limit", "0"),
            ("tags", "[]"),
            ("tag", "novalue"),
            ("tags", r#"{"error":"perhaps"}"#),
        ] {
            let given = if name == "service" { params(&[]) } else { params(&[("service", "a"), (name, value)]) };
            let refused = asked(&given, Now::default()).err().unwrap_or_else(|| panic!("{name}={value} was taken"));
            assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        }
        let turned = params(&[("service", "a"), ("minDuration", "2s"), ("maxDuration", "1s")]);
        assert!(asked(&turned, Now::default()).is_err());
        for (id, padded) in [("7B", Some("0000000000000000000000000000007b")), ("", None), ("xyz", None)] {
            assert_eq!(trace_id(id).ok().as_deref(), padded);
        }
    }
}
